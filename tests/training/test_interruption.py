"""A signal ends `funnel train` between two steps and keeps a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from funnel.errors import ConfigError
from funnel.training import LabelledPair, RunOptions, TrainSettings
from funnel.training.session import check_place

_LONG = ["--epochs", "2000", "--evaluations", "500", "--precision", "fp32"]


# Two runs one after the other, as what they import takes longer than both. The last argument is
# the output, the first run's has "-first" behind it.
_TWO_RUNS = """
import sys
from funnel.cli.app import main, run
*_, output = sys.argv
sys.argv[-1] = f"{output}-first"
assert run() == 130
sys.argv[-1] = output
main()
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_signal_stops_with_a_checkpoint_to_resume_from(
    tmp_path: Path, tiny_base: str, pairs: list[LabelledPair]
) -> None:
    """Exit code 130 and one sentence that says how to go on; no output is written.

    While it runs, no other run may have its output.
    """
    output = tmp_path / "m"
    data = tmp_path / "pairs.jsonl"
    rows = [{"query": p.query, "document": p.document, "label": p.score} for p in pairs]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-c", _TWO_RUNS, "train", "cross-encoder", str(data), *_LONG]
    running = subprocess.Popen(
        [*command, "--base", tiny_base, "-o", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        for place, number in ((tmp_path / "m-first", signal.SIGINT), (output, signal.SIGTERM)):
            _wait_for_checkpoint(place, running)
            for options in (
                RunOptions(output=place, overwrite=True),
                RunOptions(output=place, resume=True),
            ):
                with pytest.raises(ConfigError, match="another run is training .*wait for it"):
                    check_place(tiny_base, TrainSettings(), options)
            running.send_signal(number)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, said
    assert "Traceback" not in said
    for place in (tmp_path / "m-first", output):
        assert "interrupted: training stopped at step" in said
        assert f"--resume (checkpoint in {place}.checkpoints)" in said
        assert not place.exists()
        assert list(_checkpoints(place))
        check_place(tiny_base, TrainSettings(), RunOptions(output=place, resume=True))


def _wait_for_checkpoint(output: Path, running: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 200
    while not list(_checkpoints(output)):
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def _checkpoints(output: Path) -> Iterator[Path]:
    return output.with_name(f"{output.name}.checkpoints").glob("checkpoint-*/complete")
