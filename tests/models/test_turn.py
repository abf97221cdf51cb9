"""Processes of one machine that measure, one after the other."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from funnel.models import turn
from funnel.models.turn import measuring


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path / "cache"))


@contextmanager
def _measuring_elsewhere() -> Iterator[subprocess.Popen[str]]:
    """A process that measures until its input ends."""
    code = (
        "import sys; from funnel.models.turn import measuring\n"
        "with measuring(): print('measuring', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "measuring\n"
        try:
            yield process
        finally:
            process.kill()


def _waits(seconds: float = 0.3) -> tuple[threading.Thread, bool]:
    """A thread that measures, and whether it had to wait that long."""
    begun = threading.Event()

    def measure() -> None:
        with measuring():
            begun.set()

    thread = threading.Thread(target=measure)
    thread.start()
    return thread, not begun.wait(seconds)


def test_one_process_waits_for_the_other() -> None:
    """Until it is done, or dead."""
    with _measuring_elsewhere() as process:
        thread, waited = _waits()
        assert waited
        process.kill()
        thread.join(20)
        assert not thread.is_alive()


def test_threads_of_a_process_do_not_wait_for_each_other() -> None:
    """What one measures may open models, which measure too."""
    with measuring():
        thread, waited = _waits(5)
        assert not waited
        thread.join()
    with _measuring_elsewhere():  # both have given it back
        pass


def test_a_stopped_process_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said that measurements may now disturb each other."""
    monkeypatch.setattr(turn, "LONGEST_WAIT_S", 0.2)
    with _measuring_elsewhere(), capture_logs() as logs, measuring():
        assert [entry["event"] for entry in logs] == ["measuring_beside_another"]


def test_without_a_folder_there_is_no_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be kept, nothing is locked."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path / "file"))
    began = time.monotonic()
    with measuring():
        assert time.monotonic() - began < 5
