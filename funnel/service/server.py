"""One process that listens: uvicorn around the app."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn
from starlette.applications import Starlette

from funnel.errors import ConfigError
from funnel.log import get_logger
from funnel.service.app import make_app
from funnel.service.options import ServiceOptions, check_reach, is_loopback

if TYPE_CHECKING:
    from funnel.engine import Funnel

log = get_logger(__name__)

_DRAIN_S = 20
"""How long running queries may take to end after a signal; orchestrators kill after 30."""
_ENDING_S = 5
"""How long their callers may take to be told, after that."""
_IDLE_S = 75
"""How long a connection waits for its next call: longer than gateways keep theirs (60 s), or now
and then a call would meet a connection that is just being closed."""


def serve(
    funnel: "Funnel",
    options: ServiceOptions,
    *,
    host: str,
    port: int,
    listening: Callable[[str], None] = lambda _: None,
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Listen until SIGINT or SIGTERM, then let running queries end; call from the main thread.

    Args:
        funnel: opened here, closed by its owner.
        options: limits and permissions.
        host: a name or address of this machine.
        port: 0 takes a free one.
        listening: called with the address as a URL once connections are taken.
        ending: called when a signal asks for the end.

    Raises:
        ConfigError: the address is not to be had, or would let strangers write.
        KeyboardInterrupt: ended by SIGINT.
        SystemExit: ended by SIGTERM, with 0.
    """
    check_reach(host, options)
    if options.token is None and is_loopback(host):
        options = replace(options, local_only=True)
    app = make_app(funnel, options)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_DRAIN_S + _ENDING_S,
    )
    with _terminated_as_exit(ending):
        funnel.start()  # here its errors reach the caller as they are
        with _listen(host, port, config.backlog) as door:
            name, number = door.getsockname()[:2]
            listening(f"http://{f'[{name}]' if ':' in name else name}:{number}")
            _Server(config, app, funnel, ending).run([door])


class _Server(uvicorn.Server):
    """Tells the callers of what outlives the drain, instead of dropping them with a stack trace."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: Starlette,
        funnel: "Funnel",
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._funnel = funnel
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn does, once it is said that this is the end."""
        self._ending()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; calls that run past the drain end with ``Closed``, which is a 503.

        So do those that run when SIGINT comes a second time, which waits for no drain.
        """
        self._app.state.end()
        closing = asyncio.create_task(self._close_late())
        try:
            await super().shutdown(sockets)
        finally:
            closing.cancel()
        if self.force_exit:
            await self._cut_short()

    async def _cut_short(self) -> None:
        if running := set(self.server_state.tasks):
            await self._funnel.aclose()
            await asyncio.wait(running, timeout=_ENDING_S)
        await self.lifespan.shutdown()  # which uvicorn then leaves out, for a stack trace

    async def _close_late(self) -> None:
        await asyncio.sleep(_DRAIN_S)
        log.warning("drain_over", after_s=_DRAIN_S)
        await self._funnel.aclose()


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that takes connections already: they wait until they are served.

    Its connections send at once. asyncio asks that of its own sockets only, and an answer's body
    would wait some 40 ms for the caller's kernel to acknowledge the head.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        door = socket.create_server((host, port), family=family, backlog=backlog)
        door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit it
        return door
    except OSError as error:
        raise ConfigError(
            f"--host, --port: cannot listen on {host}:{port} ({error.strerror or error}); "
            "expected a free port of an address of this machine"
        ) from error


@contextmanager
def _terminated_as_exit(ending: Callable[[], None]) -> Iterator[None]:
    """SIGTERM as SystemExit, or nothing would close: uvicorn raises it again when it has ended.

    A start takes it too, which the first process of a container would otherwise not notice. A
    second one is not needed, and must not kill while the index and the cache are being closed.
    """
    before = signal.getsignal(signal.SIGTERM)
    after = before

    def end(*_: Any) -> NoReturn:
        nonlocal after
        after = signal.SIG_IGN
        ending()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, after)
