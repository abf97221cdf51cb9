"""When scoring more candidates would change nothing that is kept.

Candidates come best first by the previous stage, so scores tend to fall with the rank. After each
block a line is fitted, score against the logarithm of the rank, and from it follows how many of the
candidates left would still be expected among the ``k`` best. When that number is below what the
confidence allows, scoring stops. By Markov's inequality the number also bounds the probability
that any of them would. The bound holds as far as the scores scatter about the line as those seen
did, in a normal distribution; ``benchmarks/early_stop.py`` measures what stopping costs on given
data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from funnel.models.base import ScoredPairs

Floats = NDArray[np.float64]
NOTHING_SCORED = ScoredPairs(np.empty(0, np.float32), 0, 0)
MIN_SCORED = 16
"""Fewer points make no line."""
_EXACT = 1e-6
"""Scatter below this share of a score is rounding."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Scoring stopped although ``left`` were left, ``entrants`` of which were still expected."""

    entrants: float
    left: int


def joined(done: ScoredPairs, more: ScoredPairs) -> ScoredPairs:
    """Two blocks as one, the first of which is scored to its end."""
    return ScoredPairs(
        np.concatenate([done.values, more.values[: more.scored]]),
        done.truncated + more.truncated,
        done.scored + more.scored,
        done.remembered + more.remembered,
        done.left_out + more.left_out,
    )


def expected_entrants(scores: Sequence[float], k: int, total: int) -> float:
    """How many of the candidates left are expected to score above the k-th best so far.

    Args:
        scores: of the first candidates, in the previous stage's order.
        k: how many are kept.
        total: how many candidates there are.

    Returns:
        At most ``total - len(scores)``, which it also is while too few are scored.
    """
    left = total - len(scores)
    if left <= 0:
        return 0.0
    if len(scores) < max(MIN_SCORED, k + 1):
        return float(left)
    seen = np.asarray(scores, np.float64)
    places = np.log(np.arange(1, total + 1))
    level, slope, scatter = _line(places[: len(seen)], seen)
    kth = float(np.partition(seen, -k)[-k])
    rest = places[len(seen) :]
    if scatter <= _EXACT * max(1.0, abs(kth)):
        return float((level + slope * rest > kth + _EXACT).sum())
    gaps = (kth - level - slope * rest) / (scatter * _widening(places, len(seen)))
    return float(sum(NormalDist().cdf(-gap) for gap in gaps))


def _line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Level, slope and scatter of a least squares line that never rises.

    Scatter is the larger of both sides': relevant documents far down make scores skewed.
    """
    centred = x - x.mean()
    slope = min(0.0, float(centred @ y / (centred @ centred)))
    level = float(y.mean() - slope * x.mean())
    residuals = y - level - slope * x
    freedom = len(y) / (len(y) - 2)
    above, below = residuals[residuals > 0], residuals[residuals <= 0]
    sides = [float((side**2).mean()) for side in (above, below) if len(side)]
    return level, slope, math.sqrt(max(sides) * freedom)


def _widening(x: Floats, n: int) -> Floats:
    """By how much a prediction scatters more than the points seen, for each candidate left."""
    seen = x[:n]
    spread = ((seen - seen.mean()) ** 2).sum()
    widening: Floats = np.sqrt(1 + 1 / n + (x[n:] - seen.mean()) ** 2 / spread)
    return widening
