"""A signal ends `funnel train` between two steps and keeps a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from funnel.errors import ConfigError
from funnel.training import LabelledPair, RunOptions, TrainSettings
from funnel.training.session import check_place

_LONG = ["--epochs", "2000", "--evaluations", "500", "--precision", "fp32"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_a_checkpoint_to_resume_from(
    tmp_path: Path, tiny_base: str, pairs: list[LabelledPair], number: signal.Signals
) -> None:
    """Exit code 1 and one sentence that says how to go on; no output is written.

    While it runs, no other run may have its output.
    """
    output = tmp_path / "m"
    data = tmp_path / "pairs.jsonl"
    rows = [{"query": p.query, "document": p.document, "label": p.score} for p in pairs]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "funnel", "train", "cross-encoder", str(data), *_LONG]
    running = subprocess.Popen(
        [*command, "--base", tiny_base, "-o", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        _wait_for_checkpoint(tmp_path, running)
        for options in (
            RunOptions(output=output, overwrite=True),
            RunOptions(output=output, resume=True),
        ):
            with pytest.raises(ConfigError, match="another run is training .*wait for it"):
                check_place(tiny_base, TrainSettings(), options)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 1, said
    assert "--resume" in said and "Traceback" not in said
    assert not output.exists()
    assert list((tmp_path / "m.checkpoints").glob("checkpoint-*/complete"))
    check_place(tiny_base, TrainSettings(), RunOptions(output=output, resume=True))


def _wait_for_checkpoint(folder: Path, running: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 200
    while not list(folder.glob("m.checkpoints/checkpoint-*/complete")):
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)
