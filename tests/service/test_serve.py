"""``funnel serve`` as a process: it listens, answers, ends in order, and says why it cannot."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, cast

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from typer.testing import CliRunner

from funnel import Funnel
from funnel.cli.app import app
from funnel.errors import ConfigError
from funnel.service import ServiceOptions, bodies, make_app
from funnel.service import server as service_server
from funnel.service.server import _listen, _Server, serve
from funnel.settings import FunnelSettings

ROOT = Path(__file__).parents[2]
YAML = """
collection: small
stages:
  - {kind: bm25, k: 5}
qdrant: {path: INDEX}
"""
SMALL: dict[str, Any] = {
    "collection": "small",
    "stages": [{"kind": "bm25", "k": 5}],
    "qdrant": {"path": ":memory:"},
}
pytestmark = pytest.mark.slow


@contextmanager
def _serving(
    folder: Path, *arguments: str, code: str | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    program = ["-m", "funnel"] if code is None else ["-c", code]
    process = subprocess.Popen(
        [sys.executable, *program, "serve", *arguments],
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
        rebound = {"host": "rebound.example"}
        assert httpx.get(f"{url}/metrics", headers=rebound).status_code == 403


def test_it_ends_whatever_hangs(folder: Path) -> None:
    """A thread that never comes back is named, and left behind."""
    stuck = """
import time
from funnel.cli import app, serve
from funnel.threads import Threads
serve._END_S, say = 1.0, serve._say
pool = Threads(1, "stuck")
serve._say = lambda url: (pool.submit(time.sleep, 600), say(url))
app.main()
"""
    with _serving(folder, "-c", "small.yaml", "--port", "0", code=stuck) as (process, _):
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "end_forced" in said
    assert "stuck-0" in said


def test_answers_are_sent_at_once() -> None:
    """A body does not wait for the caller's kernel to acknowledge the head: 40 ms an answer."""
    with (
        _listen("127.0.0.1", 0, 1) as door,
        socket.create_connection(door.getsockname()),
        door.accept()[0] as taken,
    ):
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_caller_who_hangs_up_frees_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real connection: the query is given up, and the service takes the next one."""
    running, given_up = asyncio.Event(), asyncio.Event()

    async def endless(*_: Any, **__: Any) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    body = b'{"query": "x"}'
    head = "POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with Funnel(FunnelSettings.model_validate(SMALL)) as funnel, socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        service = make_app(funnel, ServiceOptions(max_in_flight=1))
        server = uvicorn.Server(uvicorn.Config(service, log_config=None, lifespan="on"))
        serving = asyncio.ensure_future(server.serve([door]))
        host, port = door.getsockname()
        async with asyncio.timeout(60), httpx.AsyncClient() as client:
            url = f"http://{host}:{port}/query"
            with monkeypatch.context() as patched:
                patched.setattr(funnel, "arun", endless)
                _, caller = await asyncio.open_connection(host, port)
                caller.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                await running.wait()
                assert (await client.post(url, json={"query": "x"})).status_code == 429
                caller.close()
                await given_up.wait()
            assert (await client.post(url, json={"query": "x"})).status_code == 200
        server.should_exit = True
        await serving


async def test_a_caller_who_stalls_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a query, then nothing: the end does not wait as long as a running service does."""
    reading, read = asyncio.Event(), bodies._bytes

    async def noted(request: Request, max_bytes: int) -> bytes:
        reading.set()
        return await read(request, max_bytes)

    monkeypatch.setattr(bodies, "_bytes", noted)
    monkeypatch.setattr(bodies, "_LAST_PATIENCE_S", 0.05)
    head = "POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with Funnel(FunnelSettings.model_validate(SMALL)) as funnel, socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        service = make_app(funnel)
        server = _Server(uvicorn.Config(service, log_config=None), service, funnel)
        serving = asyncio.ensure_future(server.serve([door]))
        answer, caller = await asyncio.open_connection(*door.getsockname())
        caller.write(f'{head}Content-Length: 50\r\n\r\n{{"query'.encode())
        await reading.wait()
        server.should_exit = True
        async with asyncio.timeout(5):
            await serving
        told = (await answer.read()).decode()
        caller.close()
    assert told.startswith("HTTP/1.1 503 ")
    assert '"type":"Closed"' in told


@pytest.mark.parametrize(
    ("second", "status", "codes"), [(signal.SIGINT, 503, (130, 0)), (signal.SIGTERM, 200, (0,))]
)
def test_a_second_signal(
    folder: Path, second: signal.Signals, status: int, codes: tuple[int, ...]
) -> None:
    """SIGINT waits no longer for what runs, and tells its caller; SIGTERM changes nothing."""
    slow = """
import asyncio
from funnel import Funnel
from funnel.cli import app
run = Funnel.arun
async def slow(self, *args, **kwargs):
    async def work():
        print("running", file=sys.stderr, flush=True)
        await asyncio.sleep(3)
    await self._loop.acall(work())
    return await run(self, *args, **kwargs)
Funnel.arun = slow
app.main()
"""
    arguments = ("-c", "small.yaml", "--port", "0")
    with (
        _serving(folder, *arguments, code=f"import sys{slow}") as (process, url),
        ThreadPoolExecutor(1) as callers,
    ):
        call = callers.submit(httpx.post, f"{url}/query", json={"query": "x"}, timeout=60)
        assert process.stderr is not None
        while "running" not in process.stderr.readline():
            pass
        process.send_signal(second)
        time.sleep(0.5)
        process.send_signal(second)
        assert call.result(30).status_code == status
        said = process.communicate(timeout=30)[1]
    assert process.returncode in codes  # 0 was seen once in fifty, on a busy machine
    assert "Traceback" not in said


def test_a_second_sigterm_does_not_cut_the_closing_short(folder: Path) -> None:
    """It comes while the index is being closed, and the process still ends in order."""
    slow = """
import sys, time
from funnel import Funnel
from funnel.cli import app
close = Funnel.close
def slow(self):
    print("closing", file=sys.stderr, flush=True)
    time.sleep(1)
    close(self)
    print("closed", file=sys.stderr, flush=True)
Funnel.close = slow
app.main()
"""
    with _serving(folder, "-c", "small.yaml", "--port", "0", code=slow) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while "closing" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, "closed" in said) == (0, True)


async def test_what_outlives_the_drain_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that is still running then ends as a 503 in JSON, and the server after it."""
    monkeypatch.setattr(service_server, "_DRAIN_S", 0.05)
    running = asyncio.Event()
    here = asyncio.get_running_loop()

    async def endless(*_: Any) -> list[float]:
        here.call_soon_threadsafe(running.set)
        await asyncio.Event().wait()
        return []

    stages = [*SMALL["stages"], {"kind": "callable", "function": "endless", "k": 1}]
    settings = FunnelSettings.model_validate({**SMALL, "stages": stages})
    funnel = Funnel(settings, functions={"endless": endless})
    await funnel.aindex([{"id": "ship", "text": "A parcel takes three days."}])
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        service = make_app(funnel)
        server = _Server(uvicorn.Config(service, log_config=None), service, funnel)
        serving = asyncio.ensure_future(server.serve([door]))
        url = "http://{}:{}/query".format(*door.getsockname())
        async with asyncio.timeout(60), httpx.AsyncClient(timeout=60) as client:
            body = {"query": "parcel", "deadline_ms": 60_000}
            call = asyncio.ensure_future(client.post(url, json=body))
            await running.wait()
            server.should_exit = True
            answer = await call
            await serving
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "Closed")


def test_idle_connections_outlive_those_of_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who keeps connections for a minute, as they do, meets none that is just being closed."""
    served: list[uvicorn.Config] = []
    monkeypatch.setattr(_Server, "run", lambda self, _: served.append(self.config))
    with Funnel(FunnelSettings.model_validate(SMALL)) as funnel:
        serve(funnel, ServiceOptions(), host="127.0.0.1", port=0)
    assert served[0].timeout_keep_alive > 60


def test_a_start_can_be_ended() -> None:
    """By SIGTERM, in order: the owner closes what was opened.

    The handler is called, not the signal raised: native code of other tests may not stand that.
    """
    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))

    class Starting(Funnel):
        def start(self) -> Self:
            handler = cast("Callable[[int, None], None]", signal.getsignal(signal.SIGTERM))
            handler(signal.SIGTERM, None)
            raise AssertionError("it went on")

    try:
        with (
            pytest.raises(SystemExit) as ended,
            Starting(FunnelSettings.model_validate(SMALL)) as funnel,
        ):
            serve(funnel, ServiceOptions(), host="127.0.0.1", port=0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (ended.value.code, noted) == (0, [])


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
