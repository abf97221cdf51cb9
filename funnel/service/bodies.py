"""What callers send: read with a bound, decoded strictly, told exactly what is wrong."""

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from funnel.errors import Closed, FunnelError, InputError

T = TypeVar("T")

_DIGITS = 18
"""A length of more is too long for all, and might be for ``int``."""
_PATIENCE_S = 10.0
_SLOWEST_BYTES_PER_S = 256 * 1024
"""A body may take ``_PATIENCE_S``, and what its greatest length takes at this pace."""
_LAST_PATIENCE_S = 2.0
"""What is still on its way when the service ends may take this long."""


class BodyTooLarge(FunnelError):
    """A body is longer than the service takes."""


class BodyTooSlow(FunnelError):
    """A body did not arrive in time."""


class NotJson(FunnelError):
    """A body is not declared as JSON.

    A page in a browser may send other types to this machine without asking; JSON it may not.
    """


class CacheBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A query as the cache knows it; fields as the arguments of ``Funnel.explain_cache``."""

    query: str
    k: int | None = None
    filters: dict[str, Any] | None = None
    scope: str | None = None


class QueryBody(CacheBody, kw_only=True, forbid_unknown_fields=True):
    """One query; fields as the arguments of ``Funnel.run``.

    ``trace``: whether the answer carries each stage's trace. ``explain``: the id of a document
    whose fate the answer is to tell.
    """

    deadline_ms: float | None = None
    overrides: dict[str, dict[str, Any]] | None = None
    cache: bool = True
    trace: bool = True
    explain: str | None = None


class DocumentsBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Documents to insert or replace; ``on_bad`` as in ``Funnel.index``."""

    documents: list[dict[str, Any]]
    on_bad: str = "fail"


class IdsBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Ids of documents to delete."""

    ids: list[str]


class ScopeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whose kept answers to drop; without a scope, everybody's."""

    scope: str | None = None


class Bodies:
    """Reads the bodies of one service, until it ends."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self._end: float | None = None

    async def read(self, request: Request, shape: type[T], max_bytes: int) -> T:
        """Read and decode a body.

        Raises:
            NotJson: another content type.
            BodyTooLarge: more than ``max_bytes``; what follows is not read.
            BodyTooSlow: it did not arrive in time.
            Closed: it did not arrive before the service's end.
            InputError: not JSON, or not of this shape.
            ClientDisconnect: the caller left before the end.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise NotJson(f"content-type: got {kind!r}, expected application/json")
        body = await self._in_time(request, max_bytes)
        try:
            return msgspec.json.decode(body, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"body: {error or type(error).__name__}") from error

    def end(self) -> None:
        """Wait for those still on their way only a moment: a stalled one would hold the end."""
        self._end = asyncio.get_running_loop().time() + _LAST_PATIENCE_S
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(self._end_of(limit.when()))

    async def _in_time(self, request: Request, max_bytes: int) -> bytes:
        patience = _PATIENCE_S + max_bytes / _SLOWEST_BYTES_PER_S
        limit = asyncio.timeout_at(self._end_of(asyncio.get_running_loop().time() + patience))
        self._limits.add(limit)
        try:
            async with limit:
                return await _bytes(request, max_bytes)
        except TimeoutError as error:
            if self._end is not None:
                raise Closed("this service is ending; send it again, to another") from error
            raise BodyTooSlow(
                f"body: not complete after {patience:.0f} s; send it faster"
            ) from error
        finally:
            self._limits.discard(limit)

    def _end_of(self, when: float | None) -> float:
        """The earlier of a body's own time and the service's end."""
        return min(end for end in (when, self._end) if end is not None)


async def _bytes(request: Request, max_bytes: int) -> bytes:
    too_large = BodyTooLarge(f"body: longer than {max_bytes} bytes; send less at once")
    declared = request.headers.get("content-length", "").lstrip("0")
    if declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > max_bytes):
        raise too_large
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > max_bytes:
            raise too_large
    return bytes(parts)
