"""A query on its way: normalised text, scope, filters, and one embedding shared by all."""

import asyncio
import hashlib
import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from funnel.errors import InputError
from funnel.marks import few_marks
from funnel.types import EMPTY, Filters

Vector: TypeAlias = NDArray[np.float32]
"""A float32 array of shape (dim,), of unit length."""

MAX_QUERY_CHARS = 8_192
_READ_CHARS = 4 * MAX_QUERY_CHARS
"""More is not looked at: what is dropped or joined seldom leaves less than the most of it."""
_KEEP = "\t\n\r"
_BLANKS = re.compile(r"\s{2,}")


def normalise_query(text: object) -> str:
    """NFC text with control characters and lone surrogates removed and white space folded.

    Of a very long text only a beginning, itself longer than a :class:`Query` keeps.

    Raises:
        InputError: not a string, or nothing is left of it.
    """
    if not isinstance(text, str):
        raise InputError(f"query: got {type(text).__name__}, expected a string")
    read = text if len(text) <= _READ_CHARS else _BLANKS.sub(" ", text)[:_READ_CHARS]
    clean = "".join(" " if c in _KEEP else c for c in read if c in _KEEP or _printable(c))
    folded = " ".join(unicodedata.normalize("NFC", few_marks(clean)).split())
    if not folded:
        raise InputError(f"query: got {text[:40]!r}, expected a text with at least one character")
    return folded


def _printable(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cs")


class Query:
    """One query of one call.

    Args:
        text: normalised text (see :func:`normalise_query`), at most ``MAX_QUERY_CHARS`` long.
        query_id: what log events and traces are bound to.
        embed: computes the embedding; called at most once, however many stages ask.
        filters: restrictions on metadata, already joined with the scope's.
        scope: the tenant or other hard partition.
    """

    __slots__ = (
        "_embed",
        "_left",
        "_others",
        "_task",
        "_waiting",
        "asked",
        "filters",
        "id",
        "scope",
        "shortened",
        "text",
    )

    def __init__(
        self,
        text: str,
        *,
        query_id: str,
        embed: Callable[[str], Awaitable[Vector]],
        filters: Filters | None = None,
        scope: str | None = None,
    ) -> None:
        self.shortened = len(text) > MAX_QUERY_CHARS
        self.text = self.asked = text[:MAX_QUERY_CHARS]
        self.id = query_id
        self.filters: Mapping[str, Any] = filters or EMPTY
        self.scope = scope
        self._embed = embed
        self._task: asyncio.Task[Vector] | None = None
        self._waiting = 0
        self._left = False
        self._others: list[Query] = []

    @property
    def is_embedded(self) -> bool:
        """Whether somebody has asked for the embedding, so that it costs nothing more."""
        return self._task is not None

    async def vector(self) -> Vector:
        """The query's embedding, a float32 array of shape (dim,) and unit length.

        Computed once and shared; a caller that gives up waiting does not stop it for the others,
        nor for those still to come, until the call is over: see :meth:`leave`.
        """
        if self._task is None:
            self._task = asyncio.ensure_future(self._compute())
            self._task.add_done_callback(_seen)  # nobody may be waiting any more
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            self._stop_if_unwanted()

    def leave(self) -> None:
        """The call is over: from now on the embedding is computed only while somebody waits for it.

        Else those of callers who went away would queue before those of all who come.
        """
        self._left = True
        self._stop_if_unwanted()
        for other in self._others:
            other.leave()

    def _stop_if_unwanted(self) -> None:
        if self._left and not self._waiting and self._task is not None and not self._task.done():
            self._task.cancel()
            self._task = None

    async def _compute(self) -> Vector:
        return await self._embed(self.text)

    def reworded(self, text: str) -> "Query":
        """The same in other words, with an embedding of its own; ``asked`` stays."""
        made = Query(
            text, query_id=self.id, embed=self._embed, filters=self.filters, scope=self.scope
        )
        made.asked = self.asked
        made._left = self._left
        self._others.append(made)
        return made

    @property
    def fingerprint(self) -> str:
        """A short hash of the text, for logs that must not hold the text itself."""
        return hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()


def _seen(task: "asyncio.Task[Vector]") -> None:
    """Let a failure count as seen: who still waits for it reports it."""
    if not task.cancelled():
        task.exception()
