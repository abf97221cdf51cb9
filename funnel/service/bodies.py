"""What callers send: read with a bound, decoded strictly, told exactly what is wrong."""

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from funnel.errors import FunnelError, InputError

T = TypeVar("T")

_DIGITS = 18
"""A length of more is too long for all, and might be for ``int``."""
_PATIENCE_S = 10.0
_SLOWEST_BYTES_PER_S = 256 * 1024
"""A body may take ``_PATIENCE_S``, and what its greatest length takes at this pace."""


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


async def read(request: Request, shape: type[T], max_bytes: int) -> T:
    """Read and decode the body.

    Raises:
        NotJson: another content type.
        BodyTooLarge: more than ``max_bytes``; what follows is not read.
        BodyTooSlow: it did not arrive in time.
        InputError: not JSON, or not of this shape.
        ClientDisconnect: the caller left before the end.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise NotJson(f"content-type: got {kind!r}, expected application/json")
    patience = _PATIENCE_S + max_bytes / _SLOWEST_BYTES_PER_S
    try:
        async with asyncio.timeout(patience):
            body = await _bytes(request, max_bytes)
    except TimeoutError as error:
        raise BodyTooSlow(f"body: not complete after {patience:.0f} s; send it faster") from error
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"body: {error or type(error).__name__}") from error


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
