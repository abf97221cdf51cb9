"""What the training commands make of their arguments."""

import pytest

from funnel.cli.train_inputs import encoder
from funnel.models.source import EMBEDDED_ENCODER
from tests.training.terminal import stderr_terminal


def test_encoding_for_mining_shows_a_bar_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole corpus takes long; a log file is no place for a bar."""
    encode = encoder(EMBEDDED_ENCODER)
    assert encode(["find alpha"]).shape == (1, 384)
    assert "embedding" not in capsys.readouterr().err
    terminal = stderr_terminal(monkeypatch)
    encode(["find alpha", "about beta"])
    assert "embedding" in terminal.getvalue()


def test_none_is_no_encoder() -> None:
    """Mining goes by words alone then."""
    assert encoder("none") is None
