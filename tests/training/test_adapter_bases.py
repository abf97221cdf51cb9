"""Tuning an adapter further: what its base knows is kept, and what cannot be adapted is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, BertForPreTraining

from funnel.errors import ConfigError, TrainingStopped
from funnel.models import CrossEncoderScorer
from funnel.models.adapters import (
    ENCODER,
    Adapter,
    BaseModel,
    Combination,
    read_adapter,
    save_adapter,
)
from funnel.models.bert import read_weights
from funnel.models.low_rank import four_bit_part, quantised_difference
from funnel.models.source import sha256
from funnel.training import (
    LabelledPair,
    RunOptions,
    TrainSettings,
    train_cross_encoder,
    train_duplicate,
)
from funnel.training.devices import Hardware
from funnel.training.exports import settled_form
from funnel.training.figures import log_loss
from funnel.training.report import TrainReport
from funnel.training.students import CrossStudent, load_cross_student

Pairs = list[LabelledPair]
TEXTS = [("find alpha 7", "about alpha"), ("find beta 3", "about kappa"), ("how a", "what b")]


def scores(model: Path) -> Any:
    return CrossEncoderScorer(str(model), backend="torch-fp32").score(TEXTS)


def logits(model: Path) -> Any:
    """The cross-encoder's part alone: the weights of the rest are fitted to the data."""
    hardware = Hardware("cpu", bf16=False)
    student = load_cross_student(
        str(model), residual=None, max_tokens=64, hardware=hardware, seed=0
    )
    return student.cross_logits(TEXTS)


@pytest.fixture
def four_bits(tmp_path: Path, tiny_bi: str, request: pytest.FixtureRequest) -> Path:
    """An adapter that changes every matrix in all directions, scored in both orders.

    A parameter is the ceiling of its cross-encoder's logit, and how it rises with what the
    adapter's own encoder sees.
    """
    import torch

    torch.manual_seed(3)
    base = read_weights(Path(tiny_bi))
    head = {
        "bert.pooler.dense.weight": torch.randn(32, 32) * 0.2,
        "bert.pooler.dense.bias": torch.zeros(32),
        "classifier.weight": torch.randn(1, 32),
        "classifier.bias": torch.zeros(1),
    }
    tuned = {
        f"bert.{name}": weight + 0.1 * torch.randn_like(weight) if weight.ndim == 2 else weight
        for name, weight in base.items()
        if ".layer." in name
    }
    digest = sha256(Path(tiny_bi) / "model.safetensors")
    ceiling, slope = getattr(request, "param", (None, 0.0))
    combine = Combination(cosine=1.0, order="both_mean", ceiling=ceiling, slope=slope)
    tensors = dict(quantised_difference(base, {**tuned, **head}))
    if slope:
        combine = replace(combine, tuned=2.0)
        own = quantised_difference(base, tuned)
        tensors |= {ENCODER + name: each for name, each in own.items()}
    adapter = Adapter("full", BaseModel(tiny_bi, digest), 1, 1.0, 64, tensors, combine)
    save_adapter(tmp_path / "full", adapter, card="")
    return tmp_path / "full"


def test_tuning_keeps_what_the_base_has_in_four_bits(
    tmp_path: Path, four_bits: Path, pairs: Pairs, quick: TrainSettings
) -> None:
    """With hardly any training the scores are the base's, although its difference has full rank."""
    settings = replace(quick, epochs=1, learning_rate=1e-9, lora_rank=4, evaluations=1)
    output = tmp_path / "m"
    train_duplicate(pairs[:64], RunOptions(output=output), base=str(four_bits), settings=settings)
    np.testing.assert_allclose(logits(output), logits(four_bits), atol=2e-3)
    assert np.abs(logits(output)).max() > 0.1
    kept = [four_bit_part(read_adapter(path)).keys() for path in (four_bits, output)]
    assert kept[0] == kept[1] != set()


def test_what_is_learnt_lies_on_top(
    tmp_path: Path, four_bits: Path, pairs: Pairs, quick: TrainSettings
) -> None:
    """Real training changes scores, and the tuned adapter can be tuned again."""
    settings = replace(quick, epochs=4)
    first, second = tmp_path / "first", tmp_path / "second"
    train_duplicate(pairs, RunOptions(output=first), base=str(four_bits), settings=settings)
    assert np.abs(scores(first) - scores(four_bits)).max() > 0.1
    report = train_duplicate(
        pairs, RunOptions(output=second), base=str(first), settings=replace(quick, epochs=1),
        dev=pairs,
    )  # fmt: skip
    assert report.before["auc"] > 0.8
    assert report.after["auc"] > 0.8


@pytest.mark.parametrize(
    ("four_bits", "train", "kept"),
    [
        ((None, 0.0), train_duplicate, (None, 0.0)),
        ((0.5, 0.0), train_duplicate, (0.5, 0.0)),
        ((0.5, 3.0), train_duplicate, (0.5, 3.0)),
        ((0.5, 3.0), train_cross_encoder, (None, 0.0)),  # it has to raise documents that answer
    ],
    indirect=["four_bits"],
)
def test_before_is_the_base_as_it_was(
    tmp_path: Path,
    four_bits: Path,
    train: Callable[..., TrainReport],
    kept: tuple[float | None, float],
    pairs: Pairs,
    quick: TrainSettings,
) -> None:
    """Not the base whose bias was already fitted to the training rows; after is what is served."""
    output = tmp_path / "m"
    dev = pairs[:40]
    report = train(
        pairs[40:], RunOptions(output=output), base=str(four_bits), dev=dev,
        settings=replace(quick, precision="fp32"),
    )  # fmt: skip
    for model, said in ((four_bits, report.before), (output, report.after)):
        scorer = CrossEncoderScorer(str(model), backend="torch-fp32")
        own = scorer.score([(pair.query, pair.document) for pair in dev])
        expected = log_loss(own, [pair.score for pair in dev])
        assert said["log_loss"] == pytest.approx(expected, abs=1e-3)
    combine = read_adapter(output).combine
    assert (combine.ceiling, combine.slope) == kept


@pytest.mark.parametrize(
    ("kind", "files", "said"),
    [("roberta", ["model.safetensors"], "only be made over a plain BERT"),
     ("bert", ["model-00001-of-00002.safetensors"], "in one piece")],
)  # fmt: skip
def test_a_base_that_adapters_cannot_belong_to_is_refused_before_training(
    tmp_path: Path, kind: str, files: list[str], said: str
) -> None:
    """The form is settled first; a plain directory is still possible."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for name in files:
        (tmp_path / name).touch()
    student = CrossStudent(None, str(tmp_path), None, rank=0, fresh_head=True)
    with pytest.raises(ConfigError, match=said):
        settled_form("adapter", student)
    assert settled_form("auto", student) == "model"


def test_an_adapter_over_a_base_that_fills_gaps(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """As BERT was published: with heads for its pre-training, and with TensorFlow's names."""
    base = tmp_path / "base"
    BertForPreTraining.from_pretrained(tiny_base).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(base)
    tensors = load_file(base / "model.safetensors")
    turns = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    for today, before in turns:
        tensors = {name.replace(today, before): each for name, each in tensors.items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    output = tmp_path / "m"
    report = train_cross_encoder(
        pairs, RunOptions(output=output), base=str(base), form="adapter", dev=pairs, settings=quick
    )
    scorer = CrossEncoderScorer(str(output), backend="torch-fp32")
    served = scorer.score([(pair.query, pair.document) for pair in pairs])
    expected = log_loss(served, [pair.score for pair in pairs])
    assert report.after["log_loss"] == pytest.approx(expected, abs=1e-4)


def test_a_residual_over_an_adapter_without_one_is_refused(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """Asked for, it must not be left out without a word."""
    plain = tmp_path / "plain"
    train_cross_encoder(
        pairs, RunOptions(output=plain), base=tiny_base, form="adapter", settings=quick
    )
    with pytest.raises(ConfigError, match="no fixed part"):
        train_cross_encoder(
            pairs, RunOptions(output=tmp_path / "m"), base=str(plain), residual=True, settings=quick
        )


def test_a_run_over_an_adapter_resumes_to_the_same_scores(
    tmp_path: Path, four_bits: Path, pairs: Pairs, exact: TrainSettings
) -> None:
    """The fixed part is fitted again from the same rows, and nothing of the rest is lost."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def train(output: Path, settings: TrainSettings, *, resume: bool = False) -> None:
        options = RunOptions(output=output, resume=resume)
        train_duplicate(pairs, options, base=str(four_bits), settings=settings, dev=pairs)

    train(whole, exact)
    with pytest.raises(TrainingStopped):
        train(parts, replace(exact, max_steps=7))
    train(parts, exact, resume=True)
    first, second = (load_file(path / "adapter.safetensors") for path in (whole, parts))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert read_adapter(whole).combine == read_adapter(parts).combine
