"""The command line: results on standard output, errors as one message and an exit code."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer.main

from funnel.cli.app import app, configure_logging, prepare_streams, run
from funnel.cli.query import parse_filters
from funnel.errors import InputError

ROOT = Path(__file__).parents[2]
YAML = """
collection: small
stages:
  - {kind: hybrid, k: 5}
qdrant: {path: INDEX}
"""
LINES = [
    {"_id": "reset", "title": "Reset a password", "text": "Press forgot password."},
    {"_id": "ship", "title": "Shipping", "text": "A parcel takes three days."},
]
pytestmark = pytest.mark.slow


def funnel(*arguments: str) -> int:
    """The command line in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["funnel", *arguments])
        return run()


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with settings and an indexed corpus."""
    path = tmp_path_factory.mktemp("cli")
    (path / "small.yaml").write_text(YAML.replace("INDEX", str(path / "index")))
    (path / "corpus.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    with redirect_stdout(io.StringIO()) as said:
        assert funnel("index", f"{path}/corpus.jsonl", "-c", f"{path}/small.yaml", "--json") == 0
    assert json.loads(said.getvalue())["new"] == 2
    return path


@pytest.fixture
def folder(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the one where commands are given."""
    monkeypatch.chdir(indexed)
    return indexed


def test_query_prints_one_json_object(folder: Path) -> None:
    """Hits with what every source and stage said, trace, cache, and the explanation asked for."""
    done = python(
        "-m",
        "funnel",
        "query",
        "forgot password",
        "-c",
        "small.yaml",
        "-k",
        "1",
        "--explain",
        "ship",
        "--json",
        cwd=folder,
    )
    answer = json.loads(done.stdout)
    hit = answer["hits"][0]
    assert hit["id"] == "reset"
    assert {"hybrid.dense", "hybrid.bm25"} <= set(hit["sources"])
    assert hit["snippet"] == "Press forgot password."
    assert "ship" not in [h["id"] for h in answer["hits"]]
    assert answer["explain"]


@pytest.mark.parametrize("cache", ["", "cache: {store: memory, semantic: false}\n"])
def test_bm25_alone_imports_no_torch(folder: Path, cache: str) -> None:
    """Not even to check that the index is of the embedder that the settings name."""
    settings = YAML.replace("INDEX", str(folder / "index")).replace("hybrid", "bm25")
    (folder / "bm25.yaml").write_text(settings + cache)
    code = (
        "import sys; from funnel import Funnel\n"
        "with Funnel.from_yaml('bm25.yaml') as funnel:\n"
        "    print(*funnel.run('password').ids, 'torch' in sys.modules)"
    )
    done = python("-c", code, cwd=folder)
    assert done.stdout.split() == ["reset", "False"], done.stderr


def test_query_shows_a_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """For people: ranks and scores of each source, and what the cache did."""
    assert funnel("query", "forgot password", "-c", "small.yaml") == 0
    shown = capfd.readouterr().out
    assert "bm25 #1" in shown
    assert "cache: bypass" in shown


def test_a_query_of_what_was_never_indexed_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beside the answer, which is empty for another reason than the query's."""
    monkeypatch.setenv("FUNNEL__COLLECTION", "typo")
    assert funnel("query", "password", "-c", "small.yaml", "--json") == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["hits"] == []
    assert "collection 'typo' in" in said.err and "funnel index" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["query", "x", "-c", "none.yaml"], 2, "no such file"),
        (["query", " ", "-c", "small.yaml"], 2, "at least one character"),
        (["query", "x", "-c", "small.yaml", "--filter", "{"], 2, "expected JSON"),
        (["query", "x", "-c", "small.yaml", "--filter", "[extra]"], 2, "got '[extra]'"),
        (["query", "x", "-c", "small.yaml", "--filter", "[/b]"], 2, "got '[/b]'"),
        (["query", "x", "-c", "small.yaml", "--filter", '{"colour": 1}'], 2, "colour"),
        (["index", "missing.jsonl", "-c", "small.yaml"], 2, "missing.jsonl"),
        (["cache", "purge", "-c", "small.yaml"], 2, "it has no cache: block"),  # and no question
    ],
)
def test_errors_are_one_message(
    folder: Path, arguments: list[str], code: int, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """No stack trace, nothing on standard output, and an exit code that says whose mistake."""
    ended = funnel(*arguments)
    said = capfd.readouterr()
    assert ended == code, said.err
    assert part in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_doctor_says_what_is_there(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Core packages, hardware, the opened index and a timed query; healthy means exit code 0."""
    ended = funnel("doctor", "-c", "small.yaml", "--json")
    report = json.loads(capfd.readouterr().out)
    status = {check["name"]: check["status"] for check in report["checks"]}
    assert report["healthy"] is True
    assert ended == 0
    assert status["torch"] == status["configuration"] == status["query"] == "ok"


def test_doctor_fails_with_the_mend(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A configuration that cannot load is a failed check, not a crash."""
    (folder / "broken.yaml").write_text("stages: [{kind: bm52, k: 3}]")
    ended = funnel("doctor", "-c", "broken.yaml", "--json")
    report = json.loads(capfd.readouterr().out)
    assert ended == 1
    failed = [check for check in report["checks"] if check["status"] == "fail"]
    assert "did you mean 'bm25'" in failed[0]["detail"]


@pytest.mark.parametrize("text", ['{"a": ' + "9" * 5_000 + "}", "[" * 100_000])
def test_filters_beyond_all_reason_are_the_callers_mistake(text: str) -> None:
    """What Python's reader of JSON gives up on is no crash."""
    with pytest.raises(InputError, match="expected JSON"):
        parse_filters(text)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_escaped_as_in_json(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locale without UTF-8, or half a character of a file name, is no crash; JSON stays JSON."""
    text = "caf\xe9 \u2192 \U0001f600 \udcff"
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    prepare_streams()
    sys.stdout.write(json.dumps(text, ensure_ascii=False))
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode(encoding)) == text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_disk_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where standard output goes may be full."""
    monkeypatch.setattr(sys, "argv", ["funnel", "--version"])
    with pytest.raises(OSError, match="No space"), Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run() == 1
    assert (
        "error: the output cannot be written (No space left on device)" in capsys.readouterr().err
    )


def test_closed_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no stream where a process was started with it closed, as daemons are."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    monkeypatch.setattr(sys, "argv", ["funnel", "--version"])
    prepare_streams()
    assert run() == 0
    assert sys.stdin.buffer.read() == b""  # what "-" reads
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def test_an_interrupt_during_imports_shows_no_trace(folder: Path) -> None:
    """They take the first moments of a command, when people notice that it is the wrong one."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'funnel.cli.app':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from funnel.cli import main\n"
        "main()\n"
    )
    done = python("-c", code, cwd=folder)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_an_interrupt_says_how_to_go_on(folder: Path) -> None:
    """In one line, and at once: whatever is still being read is not waited for."""
    code = (
        "import io, os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background
        "class Waiting(io.RawIOBase):\n"
        "    def readable(self):\n"
        "        return True\n"
        "    def readinto(self, buffer):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(100)\n"
        "sys.stdin = io.TextIOWrapper(io.BufferedReader(Waiting()))\n"
        "sys.argv = ['funnel', 'index', '-', '-c', 'small.yaml']\n"
        "from funnel.cli import main\n"
        "main()\n"
    )
    began = time.monotonic()
    done = python("-c", code, cwd=folder)
    assert time.monotonic() - began < 60
    assert (done.returncode, done.stdout) == (130, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("interrupted; ") and "the same command goes on" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "cross-encoder", "x.jsonl", "-o", "m"], "interrupted; if OUTPUT.checkpoints is"),
        (["doctor", "-c", "small.yaml"], "interrupted\n"),  # keeps nothing
        (["query", "train", "-c", "small.yaml"], "interrupted\n"),
    ],
)
def test_an_interrupt_says_what_a_command_keeps(
    folder: Path,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nothing where it keeps nothing."""

    def interrupted(_level: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("funnel.cli.app.configure_logging", interrupted)
    assert funnel(*arguments) == 130
    assert capsys.readouterr().err.startswith(said)


def every(command: Any, path: str = "funnel") -> Iterator[tuple[str, Any]]:
    """A command and those below it, by what one types."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from every(inner, f"{path} {name}")


@pytest.mark.parametrize(("path", "command"), [*every(typer.main.get_command(app))])
def test_all_help_reads_well(path: str, command: Any) -> None:
    """Paragraphs flow, each option says what it is for, and none is named '--no-no-…'."""
    paragraphs = (command.help or "").split("\n\n")
    assert all(paragraph and "\n" not in paragraph for paragraph in paragraphs)
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path} {parameter.name} says nothing"
        assert not any("no-no-" in name for name in parameter.secondary_opts)


@pytest.mark.parametrize("variable", ["", "1"])
def test_a_log_takes_no_colour_where_none_is_wanted(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, too, with NO_COLOR set."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    configure_logging("info")
    structlog.get_logger().info("opened", collection="x")
    assert "opened" in (said := terminal.getvalue())
    assert ("\x1b" in said) == (not variable)
