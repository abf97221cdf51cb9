"""What the training commands make of their arguments."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from funnel.cli.train_inputs import encoder, taught_pairs
from funnel.errors import ConfigError, TrainingStopped
from funnel.models.source import EMBEDDED_ENCODER
from funnel.training import (
    LabelledPair,
    RunOptions,
    TrainReport,
    TrainSettings,
    train_cross_encoder,
)
from funnel.training.judges import Score
from tests.training.terminal import stderr_terminal


def test_encoding_for_mining_shows_a_bar_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole corpus takes long; a log file is no place for a bar."""
    encode = encoder(EMBEDDED_ENCODER, "document")
    assert encode(["find alpha"]).shape == (1, 384)
    assert "embedding" not in capsys.readouterr().err
    terminal = stderr_terminal(monkeypatch)
    encode(["find alpha", "about beta"])
    assert "embedding" in terminal.getvalue()


def test_none_is_no_encoder() -> None:
    """Mining goes by words alone then."""
    assert encoder("none", "query") is None


def test_a_run_goes_on_with_what_its_teacher_said_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_base: str,
    pairs: list[LabelledPair],
    quick: TrainSettings,
) -> None:
    """Asked again, a model rounds otherwise; the rows of a run must not change for that."""
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(f'{{"query": "{p.query}", "text": "{p.document}"}}\n' for p in pairs))
    asked = count()

    def scores(_name: str) -> Score:
        rounding = 1e-6 * next(asked)
        return lambda texts: np.array([len(text) % 3 + rounding for _, text in texts], np.float32)

    monkeypatch.setattr("funnel.training.teacher.logit_scores", scores)
    output = tmp_path / "m"

    def train(teacher: str, settings: TrainSettings, *, resume: bool) -> TrainReport:
        taught = taught_pairs(str(data), teacher, "fail", output)
        options = RunOptions(output=output, resume=resume)
        return train_cross_encoder(taught, options, base=tiny_base, loss="mse", settings=settings)

    with pytest.raises(TrainingStopped):
        train("embedded:relevance", replace(quick, max_steps=8), resume=False)
    with pytest.raises(ConfigError, match="the run has changed"):
        train("embedded:duplicate", quick, resume=True)
    assert train("embedded:relevance", quick, resume=True).steps > 8
    assert next(asked) == 2
    assert not list(tmp_path.glob("*.checkpoints"))
