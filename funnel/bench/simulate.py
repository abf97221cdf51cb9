"""The ladder of rates without running models: a queue fed with measured service times.

One first-come-first-served server, as the model worker is. A query occupies it for what the
measured capacity leaves to each, and takes what it took alone. The same arrivals and questions as
in the measured run, so the difference is the simulation's error and not luck.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from funnel.bench.load import half_depth, poisson, stretched, zipf_queries
from funnel.errors import ConfigError
from funnel.models.pressure import Pressure, fitting_share
from funnel.stages.cross_encoder import CrossEncoderSettings

_NEEDED = ("capacity_per_s", "profile_ms", "half_depth_p50_ms", "hit_p50_ms", "target_ms")
_MIN_DEPTH = CrossEncoderSettings.model_fields["min_depth"].default  # what the ladder runs with


@dataclass(frozen=True, slots=True)
class Profile:
    """Measured by ``funnel bench load``, times in seconds.

    ``fixed`` is the share of a query's time that does not shrink with depth, ``least`` that of the
    candidates that are always scored. ``trace``: the measured run's due times, if it was given any.
    """

    service: Sequence[float]
    capacity: float
    fixed: float
    least: float
    hit: float
    target: float
    warm_up: float
    seconds: float
    seed: int
    trace: Sequence[float] | None = None

    @property
    def occupancy(self) -> float:
        """Of a query's own time, the share during which no other query can run."""
        return min(1.0, 1 / (self.capacity * float(np.mean(self.service))))


@dataclass(frozen=True, slots=True)
class SimulatedPoint:
    """One rate: simulated percentiles, and the relative errors against the measured ones.

    ``arrivals``: ``trace`` if the measured run had one, else ``poisson``.
    """

    share: float
    rate: float
    cache: bool
    adapt: bool
    p50_ms: float
    p95_ms: float
    p99_ms: float
    degraded: float
    arrivals: str
    p50_error: float | None = None
    p99_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def read_profile(path: Path) -> tuple[Profile, list[Mapping[str, Any]]]:
    """A profile and the measured points from the JSON of ``funnel bench load``.

    Raises:
        ConfigError: the file is missing or is no such JSON.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in _NEEDED if key not in data]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: got {error}, expected the JSON of funnel bench load") from error
    if missing:
        raise ConfigError(f"{path}: lacks {', '.join(missing)}; make it with funnel bench load")
    depth = data.get("depth", 100)
    profile = Profile(
        service=[each / 1000 for each in data["profile_ms"]],
        capacity=data["capacity_per_s"],
        fixed=_fixed(data["half_depth_p50_ms"] / float(np.median(data["profile_ms"])), depth),
        least=min(1.0, _MIN_DEPTH / depth),
        hit=data["hit_p50_ms"] / 1000,
        target=data["target_ms"] / 1000,
        warm_up=data.get("warm_up_s", 0.0),
        seconds=data.get("seconds", 30.0),
        seed=data.get("seed", 0),
        trace=data.get("trace_s"),
    )
    return profile, data.get("points", [])


def _fixed(time: float, depth: int) -> float:
    """The share of a query's time at full depth that is fixed, by what half the depth takes of it.

    At depth 1 there is no half, and nothing that could shrink.
    """
    part = half_depth(depth) / depth
    return float(np.clip((time - part) / (1 - part), 0.0, 1.0)) if part < 1 else 1.0


def simulate_point(
    profile: Profile, share: float, *, cache: bool = False, adapt: bool = False
) -> SimulatedPoint:
    """One rate of the ladder."""
    rate = share * profile.capacity
    if profile.trace is None:
        due = poisson(rate, profile.seconds, profile.seed, warm_up=profile.warm_up)
    else:
        due = stretched(profile.trace, rate)
    asked = zipf_queries(len(due), len(profile.service), profile.seed)
    latencies, degraded = _queue(profile, due, asked, cache=cache, adapt=adapt)
    skip = sum(at < profile.warm_up for at in due)
    if skip == len(due):
        raise ConfigError(f"no request was due at {rate:.2f} per second; measure with more seconds")
    p50, p95, p99 = (
        float(np.percentile(latencies[skip:], p, method="higher")) * 1000 for p in (50, 95, 99)
    )
    cut = float(np.mean(degraded[skip:]))
    arrivals = "poisson" if profile.trace is None else "trace"
    return SimulatedPoint(share, rate, cache, adapt, p50, p95, p99, cut, arrivals)


def _queue(
    profile: Profile, due: Sequence[float], asked: Sequence[int], *, cache: bool, adapt: bool
) -> tuple[list[float], list[bool]]:
    pressure = Pressure()
    started = pressure.now()
    needs = [profile.service[query] * profile.occupancy for query in asked]
    free, come, ready = 0.0, 0, dict[int, float]()
    latencies, degraded = [], []
    for number, (at, query) in enumerate(zip(due, asked, strict=True)):
        if cache and query in ready:
            latencies.append(max(ready[query] - at, 0.0) + profile.hit)
            degraded.append(False)
            continue
        start = max(free, at)
        while come < len(due) and due[come] <= start:
            if asked[come] not in ready:
                pressure.offer(needs[come], started + due[come])
            come += 1
        waiting = sum(needs[each] for each in range(number, come) if asked[each] not in ready)
        depth = 1.0
        if adapt and pressure.overloaded(waiting, started + start):
            left = profile.target - (start - at)
            share = fitting_share(profile.target, left, waiting, needs[number])
            depth = max(profile.least, share)
        shrink = profile.fixed + (1 - profile.fixed) * depth
        free = start + needs[number] * shrink
        latencies.append(start - at + profile.service[query] * shrink)
        degraded.append(depth < 1.0)
        if cache and depth == 1.0:
            ready[query] = at + latencies[-1]
    return latencies, degraded


def simulate(path: Path, shares: Sequence[float]) -> list[SimulatedPoint]:
    """Every measured point again, with its error, and the other ``shares`` without cache.

    Raises:
        ConfigError: the file is not the JSON of ``funnel bench load``.
    """
    profile, measured = read_profile(path)
    points = [_compared(profile, row) for row in measured]
    known = {row["share"] for row in measured}
    extra = [share for share in shares if share not in known]
    points += [
        simulate_point(profile, share, adapt=adapt) for share in extra for adapt in (False, True)
    ]
    return points


def _compared(profile: Profile, row: Mapping[str, Any]) -> SimulatedPoint:
    point = simulate_point(profile, row["share"], cache=row["cache"], adapt=row["adapt"])
    plain = point.to_dict()
    for name in ("p50", "p99"):  # no time was measured where requests failed
        measured = row[f"{name}_ms"]
        plain[f"{name}_error"] = measured and plain[f"{name}_ms"] / measured - 1
    return SimulatedPoint(**plain)
