"""How far a difference between two runs can be trusted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from funnel.errors import InputError
from funnel.evaluation.metrics import PerQuery

_EXACT_UP_TO = 14  # 2**14 assignments are cheaper than the random ones
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a mean."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run ``b`` against run ``a`` over the same queries.

    ``difference`` is the mean of b minus a, ``p_value`` two-sided; ``wins``, ``losses`` and
    ``ties`` count queries from b's side.
    """

    difference: float
    p_value: float
    interval: Interval
    wins: int
    losses: int
    ties: int


def compare(a: PerQuery, b: PerQuery, *, samples: int = 10_000, seed: int = 0) -> Comparison:
    """Paired randomisation test (Smucker, Allan and Carterette 2007) with a bootstrap interval.

    Raises:
        InputError: the runs do not hold the same queries, or none.
    """
    if set(a) != set(b) or not a:
        raise InputError(
            f"compare: got runs over {len(a)} and {len(b)} queries, expected the same ones, "
            "at least one"
        )
    differences = np.array([b[query] - a[query] for query in sorted(a)])
    return Comparison(
        difference=float(differences.mean()),
        p_value=randomisation_p(differences, samples=samples, seed=seed),
        interval=bootstrap_interval(differences, samples=samples, seed=seed),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
    )


def randomisation_p(
    differences: NDArray[np.float64], *, samples: int = 10_000, seed: int = 0
) -> float:
    """How often random signs give a mean at least as far from 0; exact for few queries.

    Args:
        differences: one for each query, shape (n,).
        samples: random sign assignments, where there are too many to try all.
        seed: of the random signs.
    """
    moved = differences[differences != 0]
    if not moved.size:
        return 1.0
    reached = abs(moved.sum()) - 1e-12  # rounding must not make the observed signs a miss
    if moved.size <= _EXACT_UP_TO:
        bits = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        return float((np.abs((1 - 2 * bits) @ moved) >= reached).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for size in _batches(samples):
        signs = rng.integers(0, 2, (size, moved.size), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ moved) >= reached).sum())
    return (hits + 1) / (samples + 1)  # the observed assignment is one of them


def bootstrap_interval(
    values: NDArray[np.float64], *, confidence: float = 0.95, samples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean of ``values``, shape (n,), n at least 1."""
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, values.size, (size, values.size))].mean(axis=1)
            for size in _batches(samples)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _batches(samples: int) -> list[int]:
    whole, rest = divmod(samples, _BATCH)
    return [_BATCH] * whole + [rest] * bool(rest)
