"""The seam to Qdrant: where it is, how it is called, and what its failures are called here.

Local mode (a path, or ``:memory:``) is synchronous and not thread-safe, so all its calls run in
one worker thread of their own. A server is called with the client's own coroutines.
"""

import asyncio
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from funnel.deadline import Deadline
from funnel.errors import (
    AuthError,
    BackendUnavailable,
    Closed,
    ConfigError,
    FunnelError,
    RateLimited,
    StageError,
    StageTimeout,
)
from funnel.terms import Bm25Settings

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

__all__ = ["Backend", "Bm25Settings", "LocalBackend", "QdrantSettings", "ServerBackend", "connect"]

MEMORY = ":memory:"
_OLDEST_SERVER = (1, 16)  # collection metadata
_WRITE_PAUSES_S = (0.5, 1.0, 2.0)


class QdrantSettings(BaseModel):
    """Where the documents are: a server's ``url``, a local ``path``, or ``path: ":memory:"``.

    ``timeout_ms`` limits each call to a server. ``prefer_grpc`` uses the server's gRPC port.
    ``token_vectors`` also stores every document's token vectors, for ``late_interaction``.
    ``payload_indexes`` names metadata fields that a server indexes for fast filters, each with
    its type (``keyword``, ``integer``, ``float``, ``bool``, ``datetime``). ``shards`` and
    ``replicas`` apply when a server's collection is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = None
    path: str | None = None
    api_key: SecretStr | None = None
    timeout_ms: float = Field(default=5_000, gt=0, le=600_000)
    prefer_grpc: bool = False
    grpc_port: int = Field(default=6334, ge=1, le=65_535)
    token_vectors: bool = False
    payload_indexes: dict[str, str] = Field(default_factory=dict)
    shards: int | None = Field(default=None, ge=1)
    replicas: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url is not None and self.path is not None:
            raise ValueError("got both 'url' and 'path', expected one of them")
        if self.url is not None and urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"url: got {self.url!r}, expected http://HOST:6333 or https://HOST")
        kinds = ("keyword", "integer", "float", "bool", "datetime", "uuid", "text")
        for field, kind in self.payload_indexes.items():
            if kind not in kinds:
                raise ValueError(
                    f"payload_indexes.{field}: got {kind!r}, expected one of {', '.join(kinds)}"
                )
        return self

    @property
    def place(self) -> str:
        """How messages name it; never holds credentials."""
        if self.url is None:
            return self.path or MEMORY
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


class Backend(ABC):
    """Calls the client's methods by name; raises only this library's errors."""

    is_local: bool

    @abstractmethod
    async def open(self) -> None:
        """Connect and check the version."""

    @abstractmethod
    async def call(self, method: str, *, deadline: Deadline | None = None, **arguments: Any) -> Any:
        """Read something; one try."""

    @abstractmethod
    async def write(self, method: str, **arguments: Any) -> Any:
        """Write something idempotent; tried again while the server is away."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release connections, threads and locks."""


def connect(settings: QdrantSettings) -> Backend:
    """The backend for the settings; connects in ``open``."""
    return LocalBackend(settings) if settings.url is None else ServerBackend(settings)


class LocalBackend(Backend):
    """The client's local mode behind one worker thread."""

    is_local = True

    def __init__(self, settings: QdrantSettings) -> None:
        self._place = settings.place
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="funnel-qdrant")
        self._client: QdrantClient | None = None

    async def open(self) -> None:
        """Load the collections and take the directory's lock.

        Raises:
            BackendUnavailable: another process holds the directory, or it cannot be read.
        """
        if self._client is None:
            self._client = await self._in_thread(self._connect, None)

    async def call(self, method: str, *, deadline: Deadline | None = None, **arguments: Any) -> Any:
        """Run in the worker thread; past the deadline the caller stops waiting."""
        if self._client is None:
            raise Closed("the index is closed or was not started; call start() first")
        return await self._in_thread(partial(getattr(self._client, method), **arguments), deadline)

    async def write(self, method: str, **arguments: Any) -> Any:
        """As ``call``: what failed locally once will fail again."""
        return await self.call(method, **arguments)

    async def aclose(self) -> None:
        """Close the files after the calls in flight."""
        client, self._client = self._client, None
        if client is not None:
            await self._in_thread(client.close, None)
        self._thread.shutdown(wait=False)

    def _connect(self) -> "QdrantClient":
        from qdrant_client import QdrantClient

        # The index logs this once itself, with the mend; see DocumentIndex.
        warnings.filterwarnings("ignore", message="Local mode is not recommended")
        if self._place == MEMORY:
            return QdrantClient(MEMORY)
        Path(self._place).mkdir(parents=True, exist_ok=True)
        return QdrantClient(path=self._place)

    async def _in_thread(self, work: Callable[[], Any], deadline: Deadline | None) -> Any:
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        return await _translated(future, self._place, deadline, None)


class ServerBackend(Backend):
    """A Qdrant server."""

    is_local = False

    def __init__(self, settings: QdrantSettings) -> None:
        self._settings = settings
        self._timeout_s = settings.timeout_ms / 1000
        self._client: AsyncQdrantClient | None = None

    async def open(self) -> None:
        """Connect and ask for the version.

        Raises:
            BackendUnavailable: nothing answers.
            ConfigError: the server is too old.
        """
        if self._client is not None:
            return
        self._client = self._connect()
        try:
            self._check_version((await self.call("info")).version)
        except BaseException:
            await self.aclose()
            raise

    async def call(self, method: str, *, deadline: Deadline | None = None, **arguments: Any) -> Any:
        """Await the client's coroutine, once more if a kept connection turns out closed."""
        try:
            return await self._once(method, deadline, arguments)
        except BackendUnavailable as error:
            if not _stale_connection(error):
                raise
        return await self._once(method, deadline, arguments)

    async def write(self, method: str, **arguments: Any) -> Any:
        """Await the client's coroutine, again after pauses while the server is away or busy."""
        for pause in _WRITE_PAUSES_S:
            try:
                return await self._once(method, None, arguments)
            except RateLimited as error:
                await asyncio.sleep(min(error.retry_after or pause, 30.0))
            except BackendUnavailable:
                await asyncio.sleep(pause)
        return await self._once(method, None, arguments)

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _connect(self) -> "AsyncQdrantClient":
        from qdrant_client import AsyncQdrantClient

        key = self._settings.api_key
        return AsyncQdrantClient(
            url=self._settings.url,
            api_key=key.get_secret_value() if key else None,
            timeout=math.ceil(self._timeout_s),
            prefer_grpc=self._settings.prefer_grpc,
            grpc_port=self._settings.grpc_port,
            check_compatibility=False,
        )

    async def _once(self, method: str, deadline: Deadline | None, arguments: dict[str, Any]) -> Any:
        if self._client is None:
            raise Closed("the index is closed or was not started; call start() first")
        call = getattr(self._client, method)(**arguments)
        return await _translated(call, self._settings.place, deadline, self._timeout_s)

    def _check_version(self, version: str) -> None:
        numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2])
        if numbers < _OLDEST_SERVER:
            raise ConfigError(
                f"Qdrant at {self._settings.place} is version {version}, expected at least "
                f"{_OLDEST_SERVER[0]}.{_OLDEST_SERVER[1]}; use the one in docker-compose.yml"
            )


async def _translated(
    call: Awaitable[Any], place: str, deadline: Deadline | None, limit_s: float | None
) -> Any:
    """Await a client's call within a time; its own exceptions end here."""
    end = (deadline or Deadline()).within(limit_s)
    began = time.monotonic()
    try:
        async with asyncio.timeout(end.remaining_s()):
            return await call
    except FunnelError:
        raise
    except TimeoutError as error:
        raise _late(place, deadline, time.monotonic() - began) from error
    except Exception as error:
        raise _named(error, place) from error


def _late(place: str, deadline: Deadline | None, seconds: float) -> StageError:
    waited = f"Qdrant at {place} did not answer within {seconds * 1000:.0f} ms"
    if deadline is not None and deadline.expired:
        return StageTimeout(f"{waited}, what the deadline left")
    return BackendUnavailable(f"{waited}; is it overloaded? see qdrant.timeout_ms")


def _named(error: Exception, place: str) -> FunnelError:
    from grpc import RpcError
    from httpx import HTTPError
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, UnexpectedResponse):
        return _by_status(error.status_code or 0, str(error), place, error)
    if isinstance(error, ResourceExhaustedResponse):
        wait = float(error.retry_after_s)
        return RateLimited(f"Qdrant at {place} is busy: {error}", cause=error, retry_after=wait)
    if isinstance(error, RpcError):
        return _by_grpc_code(error, place)
    if isinstance(error, ResponseHandlingException):
        return _unreachable(place, error.source)
    if isinstance(error, HTTPError | OSError):
        return _unreachable(place, error)
    if isinstance(error, RuntimeError) and "already accessed" in str(error):
        return BackendUnavailable(
            f"the local index {place} is in use by another process, or by another Funnel in this "
            "one; close that first, or run a Qdrant server and set qdrant.url",
            cause=error,
        )
    return StageError(f"Qdrant at {place} refused: {_short(error)}", cause=error)


def _by_status(status: int, text: str, place: str, error: Exception) -> FunnelError:
    if status in (401, 403):
        return AuthError(
            f"Qdrant at {place} refused the key (HTTP {status}); set qdrant.api_key to ${{ENV}}",
            cause=error,
        )
    if status == 429:
        return RateLimited(f"Qdrant at {place} is busy (HTTP 429)", cause=error)
    if status >= 500:
        return BackendUnavailable(f"Qdrant at {place} failed (HTTP {status})", cause=error)
    return StageError(f"Qdrant at {place} refused (HTTP {status}): {text:.300}", cause=error)


_GRPC_STATUS = {
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "NOT_FOUND": 404,
}


def _by_grpc_code(error: Exception, place: str) -> FunnelError:
    code: Any = getattr(error, "code", lambda: None)()
    details: Any = getattr(error, "details", lambda: "")()
    status = _GRPC_STATUS.get(getattr(code, "name", ""), 400)
    return _by_status(status, str(details), place, error)


def _unreachable(place: str, error: BaseException) -> BackendUnavailable:
    return BackendUnavailable(
        f"Qdrant at {place} cannot be reached: {_short(error)}; is it running? "
        "(docker compose up -d qdrant, or set qdrant.path)",
        cause=error,
    )


def _stale_connection(error: BackendUnavailable) -> bool:
    from httpx import ReadError, RemoteProtocolError

    return isinstance(error.cause, RemoteProtocolError | ReadError)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.200}" if text else type(error).__name__
