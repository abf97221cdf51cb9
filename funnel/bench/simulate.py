"""The ladder of rates without running models: a queue fed with measured service times.

One first-come-first-served server, as the model worker is. A query occupies it for what the
measured capacity leaves to each, and takes what it took alone. The same arrivals and questions as
in the measured run, so the difference is the simulation's error and not luck.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from funnel.bench.load import half_depth, poisson, stretched, zipf_queries
from funnel.errors import ConfigError
from funnel.models.pressure import Pressure, fitting_share
from funnel.stages.cross_encoder import CrossEncoderSettings

_MIN_DEPTH = CrossEncoderSettings.model_fields["min_depth"].default  # what the ladder runs with


class _Row(BaseModel):
    """A measured point; a time is None where requests failed."""

    model_config = ConfigDict(allow_inf_nan=False)

    share: float = Field(gt=0)
    cache: bool
    adapt: bool
    p50_ms: float | None
    p99_ms: float | None


class _Report(BaseModel):
    """What of the JSON of ``funnel bench load`` is read."""

    model_config = ConfigDict(allow_inf_nan=False)

    capacity_per_s: float = Field(gt=0)
    profile_ms: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    half_depth_p50_ms: float = Field(gt=0)
    hit_p50_ms: float = Field(ge=0)
    target_ms: float = Field(gt=0)
    depth: int = Field(default=100, ge=1)
    warm_up_s: float = Field(default=0.0, ge=0)
    seconds: float = Field(default=30.0, gt=0)
    seed: int = Field(default=0, ge=0)
    trace_s: list[float] | None = Field(default=None, min_length=2)
    points: list[_Row] = []


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


def read_profile(path: Path) -> tuple[Profile, list[_Row]]:
    """A profile and the measured points from the JSON of ``funnel bench load``.

    Raises:
        ConfigError: the file is missing or is no such JSON.
    """
    try:
        data = _Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: got {error}, expected the JSON of funnel bench load") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            f"{path}: {place}: got {first['input']!r:.40}; {first['msg']}; expected the JSON of "
            "funnel bench load"
        ) from error
    half = data.half_depth_p50_ms / float(np.median(data.profile_ms))
    profile = Profile(
        service=[each / 1000 for each in data.profile_ms],
        capacity=data.capacity_per_s,
        fixed=_fixed(half, data.depth),
        least=min(1.0, _MIN_DEPTH / data.depth),
        hit=data.hit_p50_ms / 1000,
        target=data.target_ms / 1000,
        warm_up=data.warm_up_s,
        seconds=data.seconds,
        seed=data.seed,
        trace=data.trace_s,
    )
    return profile, data.points


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
    known = {row.share for row in measured}
    extra = [share for share in shares if share not in known]
    points += [
        simulate_point(profile, share, adapt=adapt) for share in extra for adapt in (False, True)
    ]
    return points


def _compared(profile: Profile, row: _Row) -> SimulatedPoint:
    point = simulate_point(profile, row.share, cache=row.cache, adapt=row.adapt)
    return replace(
        point,
        p50_error=_error(point.p50_ms, row.p50_ms),
        p99_error=_error(point.p99_ms, row.p99_ms),
    )


def _error(simulated_ms: float, measured_ms: float | None) -> float | None:
    """Relative to what was measured; None if no time was, as requests failed."""
    return simulated_ms / measured_ms - 1 if measured_ms else None
