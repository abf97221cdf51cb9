"""A real HTTP server on loopback that answers as OpenRouter's chat completions do, by script."""

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEST_KEY = "sk-or-test-3f1c"


@dataclass(frozen=True)
class Answer:
    """What the server sends. ``body`` is JSON unless it is bytes; ``drip_s`` pauses within it."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0
    hang_up: bool = False

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def size(self) -> int:
        """How many passages it holds."""
        return int(self.text.count("<passage "))

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.body["messages"])


Script = Answer | Callable[[Asked], Answer]


def completion(
    content: Any, *, cost: float | None = 0.001, model: str = "served/model", **choice: Any
) -> Answer:
    """A chat completion with this content."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    return Answer(
        {
            "model": model,
            "choices": [{"message": {"role": "assistant", "content": content}, **choice}],
            "usage": usage if cost is None else {**usage, "cost": cost},
        }
    )


def ranking(*ids: Any, cost: float = 0.001) -> Answer:
    """A well-formed ranking."""
    return completion(json.dumps({"ranking": ids}), cost=cost)


def reverse(asked: Asked) -> Answer:
    """Rank the passages from the last to the first."""
    return ranking(*range(asked.size, 0, -1))


def failure(status: int, message: str = "no", *, inside_200: bool = False, **more: Any) -> Answer:
    """An error in OpenRouter's shape, as a status or inside a 200."""
    headers = more.pop("headers", {})
    body = {"error": {"code": status, "message": message, **more}}
    return Answer(body, 200 if inside_200 else status, headers)


class OpenRouterServer:
    """Answers by ``script``, one item a request; the last one repeats. Keeps what was asked."""

    def __init__(self, http: ThreadingHTTPServer) -> None:
        self._http = http
        self._lock = threading.Lock()
        self.script: list[Script] = [reverse]
        self.asked: list[Asked] = []
        self.arrived = threading.Event()
        self.client_left = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/api/v1"

    def take(self, asked: Asked) -> Answer:
        with self._lock:
            step = self.script[min(len(self.asked), len(self.script) - 1)]
            self.asked.append(asked)
        self.arrived.set()
        return step(asked) if callable(step) else step


@contextmanager
def openrouter_server() -> Iterator[OpenRouterServer]:
    """Serve on a free port of loopback until the block ends."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    server = OpenRouterServer(http)
    http.script_server = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: OpenRouterServer = self.server.script_server  # type: ignore[attr-defined]
        answer = server.take(Asked(self.path, dict(self.headers), json.loads(body)))
        if not self._wait(answer.delay_s) or answer.hang_up:
            server.client_left.set()
            self.close_connection = True
            return
        self._send(answer)

    def _wait(self, seconds: float) -> bool:
        """Wait; False as soon as the client closes its end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select([self.connection], [], [], min(left, 0.02))
            if readable and self.connection.recv(1, socket.MSG_PEEK) == b"":
                return False
        return True

    def _send(self, answer: Answer) -> None:
        payload = answer.encoded()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        for start in range(0, len(payload), 1 if answer.drip_s else 1 << 20):
            try:
                self.wfile.write(payload[start : start + (1 if answer.drip_s else 1 << 20)])
            except OSError:
                return
            time.sleep(answer.drip_s)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Stay quiet."""
