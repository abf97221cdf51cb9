"""The scorer: the library's own logits, whatever the batch, the order and the company."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from funnel.deadline import Deadline
from funnel.errors import ConfigError, InputError, ModelError
from funnel.models import CrossEncoderScorer
from funnel.models.base import Shortening
from funnel.models.pair_models import PairItem
from funnel.models.scorer import revision_of
from funnel.models.worker import ModelWorker
from tests.models.leaving import Held, leaves_no_work
from tests.models.tiny import WORDS, save_cross_encoder, save_headless, save_tokenizer

if TYPE_CHECKING:
    from funnel.models.pair_models import PairModel

pytestmark = pytest.mark.slow
QUERY = "how do i reset my password"
PAIRS = [
    (QUERY, "reset the password"),
    (QUERY, ""),
    (QUERY, "a"),
    (QUERY, "delete all data " * 7_000),
    ("x", "close the account and the door " * 3),
    ("pay with card " * 60, "pay with voucher " * 60),
]


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind: str = request.param
    return save_cross_encoder(tmp_path_factory.mktemp(kind), kind=kind)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("plain"))


def test_logits_equal_those_of_the_library(folder: Path) -> None:
    """CrossEncoder.predict without activation gives the same numbers, long and empty texts too."""
    import torch
    from sentence_transformers import CrossEncoder

    library = CrossEncoder(str(folder), device="cpu")
    expected = library.predict(PAIRS, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    scores = CrossEncoderScorer(str(folder), backend="torch-fp32").score(PAIRS)
    assert scores.dtype == np.float32
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_bf16_keeps_scores_close(folder: Path) -> None:
    """Half precision moves a score by a few per cent of the spread."""
    exact = CrossEncoderScorer(str(folder), backend="torch-fp32").score(PAIRS)
    rough = CrossEncoderScorer(str(folder), backend="torch-bf16").score(PAIRS)
    np.testing.assert_allclose(rough, exact, atol=0.1 * float(np.ptp(exact)))


def test_a_pair_scores_the_same_in_any_company(bert: Path) -> None:
    """Neither batch composition nor budget nor order moves a score beyond rounding."""
    together = CrossEncoderScorer(str(bert), backend="torch-fp32").score(PAIRS)
    small = CrossEncoderScorer(str(bert), backend="torch-fp32", token_budget=16)
    backwards = small.score(PAIRS[::-1])[::-1]
    alone = np.concatenate([small.score([pair]) for pair in PAIRS])
    np.testing.assert_allclose(backwards, together, atol=1e-5)
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_no_pairs_give_no_scores(bert: Path) -> None:
    """An empty list needs no model."""
    assert CrossEncoderScorer(str(bert)).score([]).shape == (0,)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("text", "expected a list of pairs"),
        ([("a",)], r"pairs\[0\]: got \(str\)"),
        ([("a", "b"), ("a", None)], r"pairs\[1\]: got \(str, NoneType\)"),
        ([3], r"pairs\[0\]: got int"),
        (None, "got NoneType, expected a list or another iterable"),
    ],
)
def test_what_is_no_pair_is_refused(bert: Path, pairs: object, message: str) -> None:
    """The message says where and what."""
    with pytest.raises(InputError, match=message):
        CrossEncoderScorer(str(bert)).score(pairs)  # type: ignore[arg-type]


async def test_truncation_is_counted(bert: Path) -> None:
    """Two of the pairs are longer than the window."""
    scorer = CrossEncoderScorer(str(bert), backend="torch-fp32")
    scored = await scorer.ascore(PAIRS, deadline=Deadline())
    assert (scored.truncated, scored.scored) == (2, len(PAIRS))


class _SlowScorer(CrossEncoderScorer):
    """Takes at least 20 ms for a pair."""

    def _run(self, items: Sequence[PairItem]) -> Sequence[np.float32]:
        time.sleep(0.02 * len(items))
        return super()._run(items)


async def test_a_passed_deadline_scores_a_beginning(bert: Path) -> None:
    """What is there is a prefix, the rest is NaN."""
    scorer = _SlowScorer(str(bert), backend="torch-fp32", token_budget=8)
    scorer.load()
    many = [(QUERY, " ".join(WORDS[:20]))] * 1_000
    scored = await scorer.ascore(many, deadline=Deadline.after_ms(1_500))
    assert 0 < scored.scored < len(many)
    assert np.isfinite(scored.values[: scored.scored]).all()
    assert np.isnan(scored.values[scored.scored :]).all()


async def test_concurrent_callers_get_their_own_scores(bert: Path) -> None:
    """Pairs of several callers share batches and come back to whom they belong."""
    scorer = CrossEncoderScorer(str(bert), backend="torch-fp32")
    lists = [[(word, other) for other in WORDS[:9]] for word in WORDS[:12]]
    results = await asyncio.gather(*(scorer.ascore(each, deadline=Deadline()) for each in lists))
    for pairs, result in zip(lists, results, strict=True):
        np.testing.assert_allclose(result.values, scorer.score(pairs), atol=1e-5)


async def test_a_cancelled_caller_is_dropped(bert: Path) -> None:
    """Its waiting pairs do not hold up the next caller."""
    scorer = _SlowScorer(str(bert), backend="torch-fp32", token_budget=8)
    scorer.load()
    many = [(QUERY, " ".join(WORDS[:20]))] * 2_000
    task = asyncio.create_task(scorer.ascore(many, deadline=Deadline()))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        await scorer.ascore(PAIRS, deadline=Deadline())


async def test_a_caller_that_leaves_while_pairs_are_tokenised_leaves_no_work(bert: Path) -> None:
    """What it would have submitted afterwards is not submitted."""
    worker = ModelWorker(streams=1)
    scorer = CrossEncoderScorer(str(bert), backend="torch-fp32", worker=worker)
    held = Held(scorer._loaded(), "prepare")
    scorer._model = cast("PairModel", held)
    await leaves_no_work(scorer.ascore(PAIRS, deadline=Deadline()), held, worker)


def test_a_random_head_is_refused(tmp_path: Path) -> None:
    """An encoder without a trained head would rank at random."""
    with pytest.raises(ModelError, match="no trained head"):
        CrossEncoderScorer(str(save_headless(tmp_path))).load()


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_classifier_is_refused(tmp_path: Path, kind: str) -> None:
    """Two labels are no score."""
    folder = save_cross_encoder(tmp_path, kind=kind, labels=2)
    with pytest.raises(ModelError, match="2 labels, expected 1"):
        CrossEncoderScorer(str(folder)).load()


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_damaged_weights_are_a_clear_error(tmp_path: Path, kind: str) -> None:
    """A cut file does not show a library's trace."""
    weights = save_cross_encoder(tmp_path, kind=kind) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="damaged|cannot be loaded: .*deserializing"):
        CrossEncoderScorer(str(tmp_path)).load()


def test_weights_with_nan_are_a_clear_error(tmp_path: Path) -> None:
    """Scores that are no numbers never reach a ranking."""
    from safetensors.torch import load_file, save_file

    weights = save_cross_encoder(tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.weight"][:] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="NaN or infinite"):
        CrossEncoderScorer(str(tmp_path)).score(PAIRS[:1])


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    """Only safetensors are opened."""
    save_cross_encoder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        CrossEncoderScorer(str(tmp_path)).load()


def test_an_unknown_backend_is_named(bert: Path) -> None:
    """With the nearest known one."""
    with pytest.raises(ConfigError, match="did you mean 'torch-bf16'"):
        CrossEncoderScorer(str(bert), backend="torch-bf61").load()


def test_a_window_larger_than_the_model_is_refused(bert: Path) -> None:
    """It has no positions for more."""
    with pytest.raises(ModelError, match="expected at most"):
        CrossEncoderScorer(str(bert), max_tokens=4096).load()


def test_positions_that_count_from_the_padding_are_no_room(tmp_path: Path) -> None:
    """MPNet has two fewer than its config says; a long text is cut, not an index error."""
    import torch
    from transformers import MPNetConfig, MPNetForSequenceClassification

    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": 160, "intermediate_size": 16, "num_labels": 1}
    torch.manual_seed(1)
    network = MPNetForSequenceClassification(MPNetConfig(**sizes, max_position_embeddings=34))
    network.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, typed=False)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    scores = CrossEncoderScorer(str(tmp_path)).score([("open a", "new account " * 40)])
    assert scores.shape == (1,)


def test_revision_follows_the_weights(bert: Path, tmp_path: Path) -> None:
    """The same weights give the same revision, others another."""
    from safetensors.torch import load_file, save_file

    def revision(folder: Path) -> str:
        return CrossEncoderScorer(str(folder), backend="torch-fp32").revision

    other = save_cross_encoder(tmp_path)
    assert revision(other) == revision(bert) == revision_of(str(bert))
    tensors = load_file(other / "model.safetensors")
    tensors["classifier.bias"] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert revision(other) != revision(bert)
    assert revision(other) == revision_of(str(other))


async def test_depth_is_cut_under_lasting_pressure_only(bert: Path) -> None:
    """A burst is waited for; more than that is not, until the excess has run dry."""
    worker = ModelWorker(streams=1, threads_per_stream=1)
    scorer = CrossEncoderScorer(str(bert), backend="torch-fp32", worker=worker)
    pairs = [(QUERY, "reset the password " * 4)] * 100

    async def left_out(target_s: float, least: int = 10) -> int:
        rule = Shortening(Deadline().within(target_s), least)
        scored = await scorer.ascore(pairs, deadline=Deadline(), shortening=rule)
        assert scored.scored == np.isfinite(scored.values).sum() == 100 - scored.left_out
        return scored.left_out

    assert await left_out(1e-6) == 0
    for _ in range(30):
        worker.pressure.offer(100.0)
    assert worker.pressure.overloaded(2_000.0)
    assert await left_out(1e-6) == 90
    assert await left_out(1e-6, least=0) == 99
    assert await left_out(1_000.0) == 0
    worker.close()
