"""The relevance recipe: weights that rank best, calibrated, on rankings one can read."""

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.logistic import logistic_regression
from recipes.passages import Ranking
from recipes.relevance import Similarities, fitted, mean_ndcg, rarity_weights

if TYPE_CHECKING:
    from recipes.network import Base


class KnownSimilarities:
    """Similarities of which only the weighted MaxSim tells relevant from other passages."""

    def read(self, rankings: list[Ranking]) -> None:
        """Nothing to compute."""

    def of(self, ranking: Ranking) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cosine is noise, MaxSim nothing, weighted it follows the judgements nine times in ten."""
        rng = np.random.default_rng(len(ranking.query))
        truth = np.array([ranking.judged[each] for each in ranking.ids], dtype=np.float32)
        return (
            rng.uniform(0, 1, len(truth)).astype(np.float32),
            np.zeros(len(truth), np.float32),
            (0.2 * np.where(rng.random(len(truth)) < 0.1, 1 - truth, truth)).astype(np.float32),
        )


def _rankings() -> list[Ranking]:
    ids = [str(place) for place in range(20)]
    judged = {each: int(int(each) % 4 == 0) for each in ids}
    return [Ranking("q" * length, ids, ids, judged) for length in range(1, 12)]


def test_fitted_prefers_what_tells_relevance() -> None:
    """The parts have their shares of the spread; the bias makes relevance the exception it is."""
    combine = fitted({"known": _rankings()}, cast("Similarities", KnownSimilarities()))
    spreads = [
        np.sqrt(np.mean([KnownSimilarities().of(each)[part].var() for each in _rankings()]))
        for part in (0, 2)
    ]
    cosine, matches = combine.cosine * spreads[0], combine.maxsim * spreads[1]
    assert matches == pytest.approx(2 * cosine, rel=1e-3)
    assert cosine > 0
    assert combine.bias < 0
    assert combine.cross == 0


def test_rare_tokens_count_more_and_special_ones_only_their_share() -> None:
    """By document frequency among the passages, each with the queries' mean on top."""
    passages = ["1 5 2", "1 5 6 2", "1 5 2 7"]
    rankings = [Ranking("1 5 6 2", ["a", "b", "c"], passages, {})]
    weights = rarity_weights([rankings], cast("Base", NumberedWords()), 9)
    rarity = weights - weights[1]
    assert weights.shape == (9,)
    assert rarity[2] == rarity[5] == rarity[1]
    assert rarity[6] == rarity[7] > rarity[5]
    assert rarity[8] > rarity[6]
    in_all, in_one = np.log(1 + 0.5 / 3.5), np.log(1 + 2.5 / 1.5)
    assert weights[1] == pytest.approx(in_all + (3 * in_all + in_one) / 4, rel=1e-5)


class NumberedWords:
    """A base whose texts are token ids."""

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """As written."""
        return [[int(word) for word in text.split()] for text in texts]


def test_mean_ndcg_of_a_perfect_order_is_one() -> None:
    """Scores equal to the judgements cannot be beaten; turned round they are worse."""
    rankings = _rankings()
    perfect = [np.array([r.judged[i] for i in r.ids], dtype=np.float32) for r in rankings]
    assert mean_ndcg(rankings, perfect) == 1.0
    assert mean_ndcg(rankings, [-each for each in perfect]) < 0.5


@given(st.floats(-3, 3), st.floats(-2, 2))
def test_logistic_regression_finds_the_truth(weight: float, bias: float) -> None:
    """Given the true probabilities, it returns the weights that made them."""
    inputs = np.linspace(-2, 2, 50)[:, None]
    chance = 1 / (1 + np.exp(-(weight * inputs[:, 0] + bias)))
    (found,), offset = logistic_regression(inputs, chance)
    assert found == pytest.approx(weight, abs=1e-3)
    assert offset == pytest.approx(bias, abs=1e-3)
