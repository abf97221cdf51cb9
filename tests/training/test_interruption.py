"""A signal ends a run between two steps and keeps a checkpoint."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from funnel.errors import TrainingStopped
from funnel.training import LabelledPair, RunOptions, TrainSettings, train_cross_encoder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_a_checkpoint_to_resume_from(
    tmp_path: Path,
    tiny_base: str,
    pairs: list[LabelledPair],
    quick: TrainSettings,
    number: signal.Signals,
) -> None:
    """The message says how to go on; no output is written; the handlers are put back."""
    usual = signal.getsignal(number)
    output = tmp_path / "m"
    watcher = threading.Thread(target=_signal_when_running, args=(tmp_path, number), daemon=True)
    watcher.start()
    with pytest.raises(TrainingStopped, match="--resume"):
        train_cross_encoder(
            pairs,
            RunOptions(output=output),
            base=tiny_base,
            settings=replace(quick, epochs=400, evaluations=100),
        )
    watcher.join(timeout=10)
    assert not output.exists()
    assert list((tmp_path / "m.checkpoints").glob("checkpoint-*/complete"))
    assert signal.getsignal(number) is usual


def _signal_when_running(folder: Path, number: signal.Signals) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if list(folder.glob("m.checkpoints/checkpoint-*/complete")):
            os.kill(os.getpid(), number)
            return
        pause.wait(0.05)
