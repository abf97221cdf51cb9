"""The fixed part of a residual's score."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from funnel.models.adapters import BaseModel, Combination
from funnel.models.source import locate, sha256
from funnel.training.dense import DensePart, FixedPart, logistic_weights


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_weights_agree_with_scikit_learn(seed: int) -> None:
    """The ridge is so weak that only separable data would show it."""
    chance = np.random.default_rng(seed)
    features = chance.normal(size=(400, 2))
    labels = (features @ [2.0, -1.0] + 0.5 + chance.logistic(size=400) > 0).astype(float)
    weights = logistic_weights(features, labels, np.zeros(3), np.zeros(400))
    model = LogisticRegression(C=1e6).fit(features, labels)
    assert weights == pytest.approx([*model.coef_[0], model.intercept_[0]], rel=0.1, abs=0.05)


def test_weights_stay_where_they_started_if_the_data_agree() -> None:
    """Targets made by the old weights give the old weights back."""
    features = np.random.default_rng(0).normal(size=(200, 2))
    start = np.array([1.5, -0.5, 0.25])
    targets = 1 / (1 + np.exp(-(features @ start[:2] + start[2])))
    assert logistic_weights(features, targets, start, np.zeros(200)) == pytest.approx(start)


def test_the_known_part_is_not_learned_again() -> None:
    """What the cross-encoder says already needs no weight."""
    features = np.random.default_rng(1).normal(size=(300, 1))
    known = 2.0 * features[:, 0]
    targets = 1 / (1 + np.exp(-known))
    weights = logistic_weights(features, targets, np.zeros(2), known)
    assert weights == pytest.approx([0.0, 0.0], abs=1e-6)


def test_separable_data_do_not_run_away() -> None:
    """Weights stay finite where the likelihood alone has no maximum."""
    features = np.array([[-1.0], [-0.5], [0.5], [1.0]])
    weights = logistic_weights(features, np.array([0.0, 0.0, 1.0, 1.0]), np.zeros(2), np.zeros(4))
    assert 0 < weights[0] < 1e3


def test_parts_that_an_adapter_does_without_stay_out(tiny_bi: str) -> None:
    """MaxSim costs time at serving; fitting must not bring it in."""
    source = locate(tiny_bi)
    base = BaseModel(tiny_bi, sha256(source.folder / "model.safetensors"))
    texts = [("find alpha", "about alpha"), ("find alpha", "about kappa")] * 10
    part = DensePart(Combination(cosine=3.0), base, source, 64)
    bare = DensePart(Combination(bias=0.5), base, source, 64)
    assert bare.of(texts).offsets == pytest.approx([0.5] * 20)
    assert part.fitted(texts, [1.0, 0.0] * 10, None).combine.maxsim == 0.0
    both = DensePart(Combination(), base, source, 64).fitted(texts, [1.0, 0.0] * 10, None)
    assert both.combine.cosine and both.combine.maxsim
    up, down = both.of(texts[:2]).offsets
    assert up > 0 > down


def test_labels_carry_what_the_loss_needs() -> None:
    """The target, what is added to the logit, and where it levels off if it does."""
    free = FixedPart(2.0, np.array([0.5, -0.5]))
    assert free.labels([1.0, 0.0]) == [[1.0, 0.5], [0.0, -0.5]]
    assert free.scores(np.array([3.0, 3.0])) == pytest.approx([6.5, 5.5])
    capped = FixedPart(2.0, np.array([0.5, -0.5]), np.array([30.0, -30.0]))
    assert capped.labels([1.0, 0.0]) == [[1.0, 0.5, 30.0], [0.0, -0.5, -30.0]]
    assert capped.scores(np.array([3.0, 3.0])) == pytest.approx([0.5 - 54.0, -0.5])


@pytest.mark.parametrize("slope", [0.0, 5.0])
def test_lifting_a_ceiling_leaves_what_is_far_below_it(tiny_bi: str, slope: float) -> None:
    """Scores of pairs that the cross-encoder refuses do not move; others may rise."""
    combine = Combination(cross=2.0, tuned=3.0, bias=1.0, ceiling=-1.0, slope=slope)
    source = locate(tiny_bi)
    free = DensePart(combine, BaseModel(tiny_bi, ""), source, 64).uncapped().combine
    tuned = np.array([0.1, 0.9], np.float32)
    refused, sure = np.full(2, -40.0, np.float32), np.full(2, 40.0, np.float32)
    assert free.ceiling is None and free.slope == 0.0
    np.testing.assert_allclose(
        free.logits(refused, tuned=tuned), combine.logits(refused, tuned=tuned), rtol=1e-5
    )
    assert (free.logits(sure, tuned=tuned) > combine.logits(sure, tuned=tuned) + 10).all()
