"""Fine-tuning a cross-encoder: it learns, resumes, and what it writes can be served."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from structlog.testing import capture_logs
from transformers import AutoModel, AutoTokenizer

from funnel.errors import ConfigError, ModelError, TrainingStopped
from funnel.models import CrossEncoderScorer
from funnel.models.bert import read_weights
from funnel.training import LabelledPair, RunOptions, TrainSettings, train_cross_encoder
from funnel.training.devices import Hardware
from funnel.training.exports import Form
from funnel.training.figures import roc_auc
from funnel.training.students import load_cross_student
from tests.models.tiny import save_cross_encoder
from tests.training.conftest import QUICK

Pairs = list[LabelledPair]

LONG = 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: str, pairs: Pairs) -> Path:
    """What a good run writes."""
    output = tmp_path_factory.mktemp("trained") / "m"
    settings = replace(QUICK, epochs=LONG)
    train_cross_encoder(pairs, RunOptions(output=output), base=tiny_base, settings=settings)
    return output


def scores(model: Path, pairs: Pairs) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Logits in full precision, as the funnel's own scorer gives them."""
    scorer = CrossEncoderScorer(str(model), backend="torch-fp32")
    return scorer.score([(pair.query, pair.document) for pair in pairs])


def test_training_lowers_the_loss_and_separates_held_out_pairs(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """Mean loss falls, and the development AUC ends above where it began."""
    settings = replace(quick, epochs=LONG, dev_share=0.2)
    report = train_cross_encoder(
        pairs, RunOptions(output=tmp_path / "m"), base=tiny_base, settings=settings
    )
    assert report.losses[-1].loss < report.losses[0].loss - 0.05
    assert report.after["auc"] > max(0.8, report.before["auc"])


@pytest.mark.parametrize("residual", [False, True])
def test_where_there_are_several_devices_one_trains(
    tmp_path: Path, tiny_base: str, pairs: Pairs, monkeypatch: pytest.MonkeyPatch, residual: bool
) -> None:
    """The trainer would wrap the model for all of them, and no loss can read through that."""
    from sentence_transformers.base.training_args import BaseTrainingArguments

    checked: Any = BaseTrainingArguments.__post_init__

    def with_two(arguments: Any) -> None:
        checked(arguments)
        arguments._n_gpu = 2

    monkeypatch.setattr(BaseTrainingArguments, "__post_init__", with_two)
    settings = TrainSettings(epochs=1, device="cpu", precision="fp32", evaluations=1)
    options = RunOptions(output=tmp_path / "m")
    report = train_cross_encoder(
        pairs, options, base=tiny_base, residual=residual, settings=settings
    )
    assert report.steps == 8


def test_the_written_model_is_served_by_the_scorer(trained: Path) -> None:
    """A trained directory scores new pairs the way it was trained."""
    fresh = [LabelledPair("find alpha 7", "about alpha", 1.0)]
    fresh += [LabelledPair("find alpha 7", "about kappa", 0.0)]
    matching, other = scores(trained, fresh)
    assert matching > other


@pytest.mark.parametrize("rank", [None, 4])
def test_a_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, tiny_base: str, pairs: Pairs, exact: TrainSettings, rank: int | None
) -> None:
    """Stopping in the middle of an epoch and resuming changes no bit of the result."""
    settings = replace(exact, lora_rank=rank)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_cross_encoder(pairs, RunOptions(output=whole), base=tiny_base, settings=settings)
    with pytest.raises(TrainingStopped, match="step 7 of"):
        train_cross_encoder(
            pairs,
            RunOptions(output=parts),
            base=tiny_base,
            settings=replace(settings, max_steps=7),
        )
    assert not parts.exists()
    (last,) = (tmp_path / "parts.checkpoints").glob("checkpoint-7/complete")
    last.write_text("3600")  # as if the first leg had taken an hour
    report = train_cross_encoder(
        pairs, RunOptions(output=parts, resume=True), base=tiny_base, settings=settings
    )
    assert report.seconds > 3600
    first, second = (load_file(path / "model.safetensors") for path in (whole, parts))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_resuming_with_other_settings_is_refused(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """The message names the setting that changed."""
    output = tmp_path / "m"
    with pytest.raises(TrainingStopped):
        train_cross_encoder(
            pairs, RunOptions(output=output), base=tiny_base, settings=replace(quick, max_steps=2)
        )
    with pytest.raises(ConfigError, match="epochs: was 2, is 5"):
        train_cross_encoder(
            pairs,
            RunOptions(output=output, resume=True),
            base=tiny_base,
            settings=replace(quick, epochs=5),
        )
    with pytest.raises(ConfigError, match="rows of train"):
        train_cross_encoder(
            pairs[:-2], RunOptions(output=output, resume=True), base=tiny_base, settings=quick
        )


def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """Instead of the stack trace of whatever reads it."""
    output = tmp_path / "m"
    with pytest.raises(TrainingStopped):
        train_cross_encoder(
            pairs, RunOptions(output=output), base=tiny_base, settings=replace(quick, max_steps=2)
        )
    (newest,) = tmp_path.glob("m.checkpoints/checkpoint-2")
    for file in ("optimizer.pt", "scheduler.pt", "trainer_state.json"):
        content = (newest / file).read_bytes()
        (newest / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(ModelError, match="checkpoint-2 .* damaged"):
            train_cross_encoder(
                pairs, RunOptions(output=output, resume=True), base=tiny_base, settings=quick
            )
        (newest / file).write_bytes(content)


def test_an_unfinished_run_is_not_lost_by_starting_again(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """Without --resume or --overwrite, an earlier run's checkpoints are left alone."""
    output = tmp_path / "m"
    with pytest.raises(TrainingStopped) as stopped:
        train_cross_encoder(
            pairs, RunOptions(output=output), base=tiny_base, settings=replace(quick, max_steps=2)
        )
    assert not stopped.value.interrupted
    with pytest.raises(ConfigError, match="unfinished run"):
        train_cross_encoder(pairs, RunOptions(output=output), base=tiny_base, settings=quick)


def test_the_same_seed_gives_the_same_model(
    tmp_path: Path, tiny_base: str, pairs: Pairs, exact: TrainSettings
) -> None:
    """Head, data order and dropout are all drawn from the seed."""
    weights = []
    for name, seed in (("a", 13), ("b", 13), ("c", 14)):
        output = tmp_path / name
        train_cross_encoder(
            pairs, RunOptions(output=output), base=tiny_base, settings=replace(exact, seed=seed)
        )
        weights.append(load_file(output / "model.safetensors")["classifier.weight"])
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_mse_imitates_soft_scores(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """With a teacher's scores the error to them shrinks."""
    soft = [replace(pair, score=0.2 + 0.6 * pair.score) for pair in pairs]
    report = train_cross_encoder(
        soft,
        RunOptions(output=tmp_path / "m"),
        base=tiny_base,
        loss="mse",
        settings=replace(quick, epochs=LONG, dev_share=0.2),
    )
    assert report.after["mse"] < report.before["mse"]
    assert report.after["spearman"] > 0.5


def test_an_adapter_comes_back_with_equal_scores(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """What the adapter scores after a round trip is what was measured before it was written."""
    output = tmp_path / "adapter"
    train_cross_encoder(
        pairs,
        RunOptions(output=output),
        base=tiny_base,
        form="adapter",
        settings=replace(quick, lora_rank=4),
    )
    student = load_cross_student(
        str(output), residual=None, max_tokens=64, hardware=Hardware("cpu", bf16=False), seed=0
    )
    texts = [(pair.query, pair.document) for pair in pairs]
    assert np.allclose(student.scores(texts, None), scores(output, pairs), atol=1e-4)
    assert not student.fresh_head
    assert (output / "adapter.safetensors").stat().st_size < 200_000


def test_the_head_survives_low_rank_training(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """The saved head is the trained one, not the one that was drawn at the start."""
    output = tmp_path / "m"
    train_cross_encoder(
        pairs,
        RunOptions(output=output),
        base=tiny_base,
        settings=replace(quick, epochs=LONG, lora_rank=8, learning_rate=1e-2),
    )
    drawn = load_cross_student(
        tiny_base, residual=None, max_tokens=64, hardware=Hardware("cpu", bf16=False), seed=13
    )
    head = drawn.network.classifier.weight.detach().numpy()
    assert not np.allclose(load_file(output / "model.safetensors")["classifier.weight"], head)
    assert roc_auc(scores(output, pairs), [pair.score for pair in pairs]) > 0.7


def test_a_residual_starts_from_what_the_base_knows(
    tmp_path: Path, tiny_bi: str, matching: Pairs, quick: TrainSettings
) -> None:
    """Before the first step the score already ranks by the base's similarities."""
    output = tmp_path / "m"
    report = train_cross_encoder(
        matching,
        RunOptions(output=output),
        base=tiny_bi,
        residual=True,
        settings=replace(quick, lora_rank=4, dev_share=0.3),
    )
    assert report.form.startswith("adapter")
    assert report.before["auc"] > 0.9
    assert report.after["auc"] >= report.before["auc"] - 0.05
    again = load_cross_student(
        str(output), residual=None, max_tokens=64, hardware=Hardware("cpu", bf16=False), seed=0
    )
    texts = [(pair.query, pair.document) for pair in matching]
    assert again.dense is not None
    assert np.allclose(
        again.scores(texts, again.dense.of(texts)), scores(output, matching), atol=5e-2
    )


def test_a_residual_cannot_become_a_plain_directory(
    tmp_path: Path, tiny_bi: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """The fixed part of its score would be lost; nothing is trained or written."""
    with pytest.raises(ConfigError, match="--form adapter"):
        train_cross_encoder(
            pairs,
            RunOptions(output=tmp_path / "m"),
            base=tiny_bi,
            residual=True,
            form="model",
            settings=quick,
        )
    assert not (tmp_path / "m").exists()


def test_the_card_tells_data_settings_and_figures(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """The README of the output names the base, the rows, the seed and before and after."""
    output = tmp_path / "m"
    report = train_cross_encoder(pairs, RunOptions(output=output), base=tiny_base, settings=quick)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"base_model: {tiny_base}" in card
    assert f"| train rows | {report.rows['train']} |" in card
    assert "| seed | 13 |" in card
    assert "| loss | bce |" in card
    assert f"| auc | {report.before['auc']:.4f} | {report.after['auc']:.4f} |" in card


@pytest.mark.parametrize("form", ["model", "adapter"])
def test_a_model_made_worse_is_called_so(
    tmp_path: Path, trained: Path, pairs: Pairs, quick: TrainSettings, form: Form
) -> None:
    """Trained on wrong labels, it loses on held-out ones, and the report and the card say it."""
    wrong = [replace(pair, score=1 - pair.score) for pair in pairs]
    report = train_cross_encoder(
        wrong,
        RunOptions(output=tmp_path / "m"),
        base=str(trained),
        settings=replace(quick, epochs=LONG),
        dev=pairs,
        form=form,
    )
    (note,) = (note for note in report.notes if "do not serve this model" in note)
    assert f"from {report.before['auc']:.4f} to {report.after['auc']:.4f}" in note
    assert "do not serve this model" in (tmp_path / "m" / "README.md").read_text(encoding="utf-8")


def test_a_missing_base_is_a_clear_error(
    tmp_path: Path, pairs: Pairs, quick: TrainSettings
) -> None:
    """No stack trace of a dependency, and no output."""
    with pytest.raises(ModelError, match="no such folder"):
        train_cross_encoder(
            pairs, RunOptions(output=tmp_path / "m"), base=str(tmp_path / "no"), settings=quick
        )
    assert not (tmp_path / "m").exists()


def test_a_base_in_halves_is_trained_in_full_precision(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """A step of 1e-6 is less than bfloat16 tells apart: in it most weights would not move."""
    base = copy_of(tiny_base, tmp_path / "half", tensors_as="bfloat16")
    settings = replace(quick, epochs=1, learning_rate=1e-6, keep_best=False)
    train_cross_encoder(pairs, RunOptions(output=tmp_path / "m"), base=str(base), settings=settings)
    before, after = read_weights(base), read_weights(tmp_path / "m")
    name = "encoder.layer.1.output.dense.weight"
    assert float((before[name] != after[name]).float().mean()) > 0.9


def test_a_classifier_is_no_base(tmp_path: Path, pairs: Pairs) -> None:
    """Its outputs are no score; the message does not speak of a library's switches."""
    base = save_cross_encoder(tmp_path / "base", labels=3)
    with pytest.raises(ModelError, match="classifier with 3 labels, expected .* one score"):
        train_cross_encoder(pairs, RunOptions(output=tmp_path / "m"), base=str(base))


def test_a_window_that_gets_smaller_is_said(tmp_path: Path, tiny_base: str) -> None:
    """What is served later has the window of training: long documents are cut sooner.

    What gave no scores before has no window to lose.
    """
    base = str(save_cross_encoder(tmp_path))
    options: dict[str, Any] = {"residual": None, "hardware": Hardware("cpu", bf16=False), "seed": 0}
    with capture_logs() as logs:
        load_cross_student(base, max_tokens=64, **options)
        load_cross_student(tiny_base, max_tokens=32, **options)
        load_cross_student(base, max_tokens=32, **options)
    told = {"was": 64, "now": 32, "mend": "--max-tokens 64 keeps it"}
    assert [told.items() <= entry.items() for entry in logs] == [True]


def test_a_base_of_no_numbers_is_named_as_the_fault(
    tmp_path: Path, tiny_base: str, pairs: Pairs
) -> None:
    """Not the learning rate: nothing was learnt yet."""
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][:] = np.nan
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="base has weights that are NaN or infinite"):
        train_cross_encoder(pairs, RunOptions(output=tmp_path / "m"), base=str(base))


def copy_of(base: str, folder: Path, *, tensors_as: str) -> Path:
    """A model saved in another number format."""
    model = AutoModel.from_pretrained(base, dtype=tensors_as)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
