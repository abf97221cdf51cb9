"""The seam to Qdrant: where it is, how it is called, and what its failures are called here.

A server is called with the client's own coroutines; local mode is in :mod:`funnel.indexing.local`.
"""

import asyncio
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, SecretStr, model_validator

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
from funnel.indexing.filters import Condition, qdrant_filter
from funnel.indexing.terms import Bm25Settings, SparseTerms
from funnel.settings_model import SettingsModel

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, models

__all__ = ["Backend", "Bm25Settings", "QdrantSettings", "ServerBackend", "connect", "translated"]

T = TypeVar("T")
MEMORY = ":memory:"
DENSE, BM25, TOKENS = "dense", "bm25", "tokens"  # names of the vectors
_OLDEST_SERVER = (1, 16)  # collection metadata
_CONNECTIONS = 100  # as many as httpx opens
_WRITE_PAUSES_S = (0.5, 1.0, 2.0)
_WRITE_LIMIT_S = 60.0  # a busy server takes its time over a batch, and a cluster over a collection


_HOST_AND_PORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*:[0-9]+")


class QdrantSettings(SettingsModel):
    """Where the documents are: a server's ``url``, a local ``path``, or ``path: ":memory:"``.

    ``timeout_ms`` limits each read from a server; writes may take a minute. ``prefer_grpc`` uses
    the server's gRPC port.
    ``dense_vectors: false`` stores no document's vector: for BM25 alone, without an embedder.
    ``token_vectors`` also stores every document's token vectors, for ``late_interaction``.
    ``payload_indexes`` names metadata fields that a server indexes for fast filters, each with
    its type (``keyword``, ``integer``, ``float``, ``bool``, ``datetime``); those added later are
    made by the next indexing. ``shards`` and ``replicas`` apply when a server's collection is made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = None
    path: str | None = Field(default=None, min_length=1)
    api_key: SecretStr | None = None
    timeout_ms: float = Field(default=5_000, gt=0, le=600_000)
    prefer_grpc: bool = False
    grpc_port: int = Field(default=6334, ge=1, le=65_535)
    dense_vectors: bool = True
    token_vectors: bool = False
    payload_indexes: dict[str, str] = Field(default_factory=dict)
    shards: int | None = Field(default=None, ge=1)
    replicas: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url is not None and self.path is not None:
            raise ValueError("got both 'url' and 'path', expected one of them")
        if self.url is not None and not _is_server(self.url):
            got = "credentials in it" if "@" in self.url else repr(self.url)
            raise ValueError(f"url: got {got}, expected http://HOST:6333 or https://HOST")
        if self.path is not None and "://" in self.path:
            raise ValueError("path: got a URL, expected a folder; a server's address is 'url'")
        if self.path is not None and _HOST_AND_PORT.fullmatch(self.path):
            raise ValueError(
                f"path: got {self.path!r}, expected a folder; a server is http://{self.path}"
            )
        kinds = ("keyword", "integer", "float", "bool", "datetime", "uuid", "text")
        for field, kind in self.payload_indexes.items():
            if kind not in kinds:
                raise ValueError(
                    f"payload_indexes.{field}: got {kind!r}, expected one of {', '.join(kinds)}"
                )
        return self

    @property
    def embeds(self) -> bool:
        """Whether documents are embedded to be stored."""
        return self.dense_vectors or self.token_vectors

    @property
    def place(self) -> str:
        """How messages name it; never holds credentials."""
        if self.url is None:
            return self.path or MEMORY
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, half of an IPv6 address
        return False


@dataclass(frozen=True, slots=True)
class PointQuery:
    """What both sources are asked, in one round trip.

    ``dense`` and ``sparse`` are each asked if given; ``payload`` names the keys to bring back.
    """

    collection: str
    dense: Sequence[float] | None
    sparse: SparseTerms | None
    conditions: Sequence[Condition]
    limit: int
    payload: Sequence[str]

    def requests(self) -> "dict[str, models.QueryRequest]":
        """The same in Qdrant's terms, by the name of the vector."""
        from qdrant_client import models

        asked: dict[str, Any] = {}
        if self.dense is not None:
            asked[DENSE] = list(self.dense)
        if self.sparse is not None:
            asked[BM25] = models.SparseVector(indices=self.sparse.ids, values=self.sparse.values)
        return {
            source: models.QueryRequest(
                query=query,
                using=source,
                filter=qdrant_filter(self.conditions),
                limit=self.limit,
                with_payload=list(self.payload),
            )
            for source, query in asked.items()
        }


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
    async def search(self, query: "PointQuery", deadline: Deadline | None) -> dict[str, list[Any]]:
        """Scored points with their payloads for each source asked, best first."""

    async def warm_up(self, collection: str) -> None:  # noqa: B027
        """Prepare what the first search would otherwise wait for."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release connections, threads and locks."""


def connect(settings: QdrantSettings) -> Backend:
    """The backend for the settings; connects in ``open``."""
    if settings.url is not None:
        return ServerBackend(settings)
    from funnel.indexing.local import LocalBackend

    return LocalBackend(settings.place)


class ServerBackend(Backend):
    """A Qdrant server."""

    is_local = False

    def __init__(self, settings: QdrantSettings) -> None:
        self._settings = settings
        self._timeout_s = settings.timeout_ms / 1000
        self._client: AsyncQdrantClient | None = None
        # In httpx every call looks through all that wait, and the loop stands still for seconds.
        self._places = asyncio.Semaphore(_CONNECTIONS)

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
            return await self._once(method, deadline, self._timeout_s, arguments)
        except BackendUnavailable as error:
            if not _stale_connection(error):
                raise
        return await self._once(method, deadline, self._timeout_s, arguments)

    async def write(self, method: str, **arguments: Any) -> Any:
        """Await the client's coroutine, again after pauses while the server is away or busy."""
        limit_s = max(self._timeout_s, _WRITE_LIMIT_S)
        for pause in _WRITE_PAUSES_S:
            try:
                return await self._once(method, None, limit_s, arguments)
            except RateLimited as error:
                await asyncio.sleep(min(error.retry_after or pause, 30.0))
            except BackendUnavailable:
                await asyncio.sleep(pause)
        return await self._once(method, None, limit_s, arguments)

    async def search(self, query: PointQuery, deadline: Deadline | None) -> dict[str, list[Any]]:
        """One batch request."""
        requests = query.requests()
        if not requests:
            return {}
        answers = await self.call(
            "query_batch_points",
            deadline=deadline,
            collection_name=query.collection,
            requests=list(requests.values()),
        )
        return {s: answer.points for s, answer in zip(requests, answers, strict=True)}

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
            timeout=math.ceil(max(self._timeout_s, _WRITE_LIMIT_S)),  # each call has its own limit
            prefer_grpc=self._settings.prefer_grpc,
            grpc_port=self._settings.grpc_port,
            check_compatibility=False,
        )

    async def _once(
        self, method: str, deadline: Deadline | None, limit_s: float, arguments: dict[str, Any]
    ) -> Any:
        return await translated(
            self._in_turn(method, arguments), self._settings.place, deadline, limit_s
        )

    async def _in_turn(self, method: str, arguments: dict[str, Any]) -> Any:
        async with self._places:
            if self._client is None:
                raise Closed("the index is closed or was not started; call start() first")
            return await getattr(self._client, method)(**arguments)

    def _check_version(self, version: str) -> None:
        try:
            numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2])
        except ValueError as error:
            raise _strange(self._settings.place, error) from error
        if numbers < _OLDEST_SERVER:
            raise ConfigError(
                f"Qdrant at {self._settings.place} is version {version}, expected at least "
                f"{_OLDEST_SERVER[0]}.{_OLDEST_SERVER[1]}; use the one in docker-compose.yml"
            )


async def translated(
    call: Awaitable[T], place: str, deadline: Deadline | None, limit_s: float | None
) -> T:
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
        error = error.source
        if isinstance(error, ValueError):
            return _strange(place, error)
        return _unreachable(place, error)
    if isinstance(error, JSONDecodeError):
        return _strange(place, error)
    if isinstance(error, HTTPError | OSError):
        return _unreachable(place, error)
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


def _strange(place: str, error: ValueError) -> BackendUnavailable:
    return BackendUnavailable(
        f"what answers at {place} does not answer as a Qdrant server does "
        f"({type(error).__name__}); check qdrant.url and the server's version",
        cause=error,
    )


def _stale_connection(error: BackendUnavailable) -> bool:
    from httpx import ReadError, RemoteProtocolError

    return isinstance(error.cause, RemoteProtocolError | ReadError)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.200}" if text else type(error).__name__
