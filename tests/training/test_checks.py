"""Data that cannot be trained on is refused before a model is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from funnel.errors import ConfigError, InputError
from funnel.training import (
    LabelledPair,
    RunOptions,
    Triple,
    from_pairs,
    from_triples,
    train_bi_encoder,
    train_cross_encoder,
    train_duplicate,
)
from funnel.training.devices import resolve_hardware
from funnel.training.settings import TrainSettings

Pairs = list[LabelledPair]
NO_MODEL = "/no/such/model"


def test_a_mistyped_choice_is_not_taken_for_another(tmp_path: Path, pairs: Pairs) -> None:
    """The message names what was got and what is known."""
    wrong = {"loss": "BCE", "scale": "prob", "form": "adaptor"}
    for name, value in wrong.items():
        with pytest.raises(ConfigError, match=f"{name} is '{value}', expected one of"):
            train_cross_encoder(
                pairs,
                RunOptions(output=tmp_path / "m"),
                base=NO_MODEL,
                **{name: value},  # type: ignore[arg-type]
            )
    for name in ("device", "precision"):
        with pytest.raises(ConfigError, match=f"{name} is 'gpu'"):
            TrainSettings(**{name: "gpu"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scale is 'prob'"):
        from_pairs(pairs, scale="prob")  # type: ignore[arg-type]


def test_ten_rows_are_too_few(tmp_path: Path, pairs: Pairs) -> None:
    """The message says how many there are and how many are expected."""
    with pytest.raises(InputError, match="10 pairs, expected at least 32"):
        train_cross_encoder(pairs[:10], RunOptions(output=tmp_path / "m"), base=NO_MODEL)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_only_is_refused(tmp_path: Path, pairs: Pairs, label: float) -> None:
    """A model that sees one class learns a constant."""
    same = [replace(pair, score=label) for pair in pairs]
    with pytest.raises(InputError, match="needs both classes"):
        train_duplicate(same, RunOptions(output=tmp_path / "m"), base=NO_MODEL)


def test_scores_outside_zero_and_one_are_named_with_their_lines(
    tmp_path: Path, pairs: Pairs
) -> None:
    """Where probabilities are asked for; logits have their own option."""
    bad = [*pairs, replace(pairs[0], score=7.5, place="line 97")]
    for loss in ("bce", "mse"):
        with pytest.raises(InputError, match=r"line 97: score 7\.5 is outside \[0, 1\]"):
            train_cross_encoder(bad, RunOptions(output=tmp_path / "m"), base=NO_MODEL, loss=loss)
    with pytest.raises(InputError, match=r"within \[0, 1\] \(use 0 and 1\):\n  line 97"):
        train_duplicate(bad, RunOptions(output=tmp_path / "m"), base=NO_MODEL)  # has no other loss
    with pytest.raises(InputError, match="line 97"):
        from_pairs(bad, scale="probability")
    assert max(from_pairs(bad, scale="logit").values) < 1.0


def test_constant_scores_are_refused(tmp_path: Path, pairs: Pairs) -> None:
    """There is nothing to imitate."""
    flat = [replace(pair, score=0.4) for pair in pairs]
    with pytest.raises(InputError, match=r"all 128 scores are 0\.4"):
        train_cross_encoder(flat, RunOptions(output=tmp_path / "m"), base=NO_MODEL, loss="mse")


def test_triples_need_a_teacher_and_two_documents() -> None:
    """MarginMSE without scores, with half of them, or with equal texts is refused."""
    bare, scored = Triple("q", "a", "b"), Triple("q", "a", "b", 0.9, 0.1)
    with pytest.raises(InputError, match="--teacher"):
        from_triples([bare], scale="probability")
    with pytest.raises(InputError, match="1 of 2 triples"):
        from_triples([bare, scored], scale="probability")
    with pytest.raises(InputError, match="line 3: positive and negative are the same"):
        from_triples([Triple("q", "a", "a", 0.9, 0.1, place="line 3")], scale="probability")
    with pytest.raises(InputError, match="outside"):
        from_triples([Triple("q", "a", "b", 4.0, 0.1)], scale="probability")


def test_too_few_examples_to_distil(tmp_path: Path, pairs: Pairs) -> None:
    """Distillation has the same lower bound."""
    with pytest.raises(InputError, match="expected at least 32"):
        train_bi_encoder(
            from_pairs(pairs[:8], scale="probability"), RunOptions(output=tmp_path / "m")
        )


def test_cuda_asked_for_and_missing(
    tmp_path: Path, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that names the way out, before any output is made."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cpu"):
        train_cross_encoder(
            pairs,
            RunOptions(output=tmp_path / "m"),
            base=NO_MODEL,
            settings=TrainSettings(device="cuda"),
        )
    assert list(tmp_path.iterdir()) == []


def test_bf16_is_used_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto follows the CPU; asking for it on another CPU is an error."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(f"torch.cpu.{name}", lambda: False)
    assert not resolve_hardware("cpu", "auto").bf16
    with pytest.raises(ConfigError, match="--precision fp32"):
        resolve_hardware("cpu", "bf16")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    assert resolve_hardware("cpu", "auto").bf16
    assert not resolve_hardware("cpu", "fp32").bf16


def test_an_existing_output_is_not_overwritten(tmp_path: Path, pairs: Pairs) -> None:
    """Unless it is asked for."""
    (tmp_path / "m").mkdir()
    with pytest.raises(ConfigError, match="--overwrite"):
        train_cross_encoder(pairs, RunOptions(output=tmp_path / "m"), base=NO_MODEL)


def test_nothing_to_resume(tmp_path: Path, pairs: Pairs) -> None:
    """--resume without a checkpoint says so instead of starting over."""
    with pytest.raises(ConfigError, match="nothing to resume"):
        train_cross_encoder(pairs, RunOptions(output=tmp_path / "m", resume=True), base=NO_MODEL)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"dev_share": 1.0}, "dev_share is 1.0"),
        ({"lora_rank": 0}, "lora_rank is 0"),
        ({"max_tokens": 2}, "max_tokens is 2"),
        ({"epochs": float("nan")}, "epochs is nan, expected a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate is inf, expected a finite number"),
        ({"seed": -1}, "seed is -1, expected 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_impossible_settings_are_refused_when_made(wrong: dict[str, float], named: str) -> None:
    """With the name and the value."""
    with pytest.raises(ConfigError, match=named):
        TrainSettings(**wrong)  # type: ignore[arg-type]
