"""The figures of the duplicate card are of what is served."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("torch")

from funnel.models.pair_models import CombinedPairs, PairParts
from recipes.measures import LEVELS, Model, calibrated, scores, thinned
from recipes.pairs import Pair


class Lengths:
    """Says of each pair how long its texts are, and remembers what it was asked."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def prepare(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return pairs

    def parts(self, items: list[tuple[str, str]]) -> PairParts:
        self.read += items
        first, second = np.array([[len(a), len(b)] for a, b in items], np.float32).T
        return PairParts(np.stack([first, second]), first + second, None, first - second)


def _pairs(texts: list[tuple[str, str]]) -> list[Pair]:
    return [Pair(first, second, 1.0, "real") for first, second in texts]


def test_each_pair_is_read_once_and_answered_in_its_place() -> None:
    """Whatever the batches: sets overlap, and some pairs occur twice."""
    served = Lengths()
    model = Model(cast("CombinedPairs", cast("Any", served)))
    texts = [("a" * (n * 7 % 11 + 1), "b" * (n % 5 + 1)) for n in range(600)]
    for some in (texts, texts[::-1], texts[:3]):
        parts = model.parts(_pairs(some))
        expected = np.array([[len(a), len(b)] for a, b in some], np.float32).T
        np.testing.assert_array_equal(parts.cross, expected)
        np.testing.assert_array_equal(parts.cosine, expected.sum(axis=0))
        np.testing.assert_array_equal(parts.tuned, expected[0] - expected[1])
    assert len(served.read) == len(set(texts))


def test_calibration_finds_the_log_odds_under_the_given_levels() -> None:
    """The base's cosine keeps its weight, and the rest makes up for it."""
    chance = np.random.default_rng(0)
    parts = PairParts(
        chance.normal(0, 2, (2, 20_000)).astype(np.float32),
        chance.uniform(0.3, 1, 20_000).astype(np.float32),
        None,
        chance.uniform(0.3, 1, 20_000).astype(np.float32),
    )
    truth = replace(LEVELS, cross=1.5, tuned=9.0, bias=-6.0)
    labels = chance.random(20_000) < 1 / (1 + np.exp(-scores(truth, parts)))
    found = calibrated(parts, labels.astype(float).tolist())
    assert (found.ceiling, found.slope, found.cosine) == (LEVELS.ceiling, LEVELS.slope, 2.0)
    assert found.cross == pytest.approx(1.5, abs=0.1)
    assert found.tuned == pytest.approx(9.0, abs=0.6)


def test_thinning_leaves_all_that_differ() -> None:
    """Duplicates are left out until they have their share."""
    same = [Pair(f"a{n}", "b", 1.0, "real") for n in range(500)]
    other = [Pair(f"c{n}", "d", 0.0, "real") for n in range(74)]
    kept = thinned([*same, *other], 0.26)
    assert [pair for pair in kept if not pair.label] == other
    assert len(kept) == 100
