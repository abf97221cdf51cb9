"""``funnel serve`` as a process: it listens, answers, ends in order, and says why it cannot."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from funnel.cli.app import app
from funnel.errors import ConfigError

ROOT = Path(__file__).parents[2]
YAML = """
collection: small
stages:
  - {kind: bm25, k: 5}
qdrant: {path: INDEX}
"""
pytestmark = pytest.mark.slow


@contextmanager
def _serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "funnel", "serve", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = ""
        while "listening on " not in said and process.poll() is None:
            said = process.stderr.readline()
        yield process, said.partition("listening on ")[2].strip()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(YAML)
    return tmp_path


def test_it_listens_answers_and_ends(folder: Path) -> None:
    """On a free port; SIGTERM ends it with 0 and the index closed: the next one opens it."""
    arguments = ("-c", "small.yaml", "--port", "0", "--allow-writes")
    with _serving(folder, *arguments) as (process, url):
        written = {"documents": [{"id": "ship", "text": "A parcel takes three days."}]}
        assert httpx.post(f"{url}/documents", json=written, timeout=60).json()["new"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with _serving(folder, *arguments) as (process, url):
        answer = httpx.post(f"{url}/query", json={"query": "parcel"}, timeout=60).json()
        assert [hit["id"] for hit in answer["hits"]] == ["ship"]
        assert httpx.get(f"{url}/readyz").json()["ready"]


def test_a_caller_who_hangs_up_frees_the_place(folder: Path) -> None:
    """The query is given up; the service takes the next one."""
    arguments = ("-c", "small.yaml", "--port", "0", "--max-in-flight", "1")
    with _serving(folder, *arguments) as (_, url):
        host, _, port = url.removeprefix("http://").partition(":")
        head = "POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as half:
            half.sendall((head + "Content-Length: 99\r\n\r\n{").encode())
            _until(lambda: httpx.post(f"{url}/query", json={"query": "x"}).status_code == 429)
        _until(lambda: httpx.post(f"{url}/query", json={"query": "x"}).status_code == 200)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-c", "small.yaml", "--port", "TAKEN"), "cannot listen on 127.0.0.1"),
        (("-c", "small.yaml", "--host", "0.0.0.0", "--allow-writes"), "FUNNEL_SERVICE_TOKEN"),
        (("-c", "none.yaml"), "none.yaml"),
    ],
)
def test_what_it_cannot_is_a_configuration_error(
    folder: Path, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the command line tells in one message, with exit code 2."""
    monkeypatch.chdir(folder)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = [port if each == "TAKEN" else each for each in arguments]
        with pytest.raises(ConfigError, match=said):
            CliRunner().invoke(app, ["serve", *given], catch_exceptions=False)


def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
