"""Exact binomial confidence limits (Clopper and Pearson 1934), without SciPy."""

from collections.abc import Callable
from functools import lru_cache
from math import exp, lgamma, log, log1p

_STEPS = 300
_TINY = 1e-300
_EPSILON = 1e-15


@lru_cache(maxsize=65_536)
def lower_limit(successes: int, trials: int, *, confidence: float = 0.95) -> float:
    """The one-sided exact lower limit of a success rate; 0 without trials.

    >>> round(lower_limit(299, 299), 4)
    0.99
    """
    _check(successes, trials, confidence)
    if successes == 0:
        return 0.0
    return _solve(lambda p: beta_cdf(p, successes, trials - successes + 1), 1 - confidence)


def upper_limit(successes: int, trials: int, *, confidence: float = 0.95) -> float:
    """The one-sided exact upper limit of a success rate; 1 without trials."""
    _check(successes, trials, confidence)
    return 1.0 - lower_limit(trials - successes, trials, confidence=confidence)


def interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided exact interval; each side has half of what ``confidence`` leaves."""
    one_sided = (1 + confidence) / 2
    return (
        lower_limit(successes, trials, confidence=one_sided),
        upper_limit(successes, trials, confidence=one_sided),
    )


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    By Lentz's continued fraction (Numerical Recipes, section 6.4); relative error about 1e-13.
    """
    if x <= 0 or b <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1.0 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, _STEPS):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + numerator * d)
            c = _away_from_zero(1.0 + numerator / c)
            total *= c * d
        if abs(c * d - 1.0) < _EPSILON:
            break
    return total


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _solve(rising: Callable[[float], float], target: float) -> float:
    """The p in [0, 1] at which a rising function reaches ``target``, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(44):  # to 1e-13
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > target else (middle, high)
    return low


def _check(successes: int, trials: int, confidence: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"got {successes} successes of {trials} trials, expected 0 to {trials}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence}, expected a number between 0 and 1")
