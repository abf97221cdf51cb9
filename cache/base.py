"""The seam between the engine and a cache of answers.

The engine hands over a request and a way to compute the answer; the cache decides whether to
compute. So a cache can let concurrent callers of the same question share one computation.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from funnel.deadline import Deadline
from funnel.query import Query
from funnel.types import CacheInfo, Document, Hit, StageTrace, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """What the stages computed, or what was kept of it.

    From the cache ``trace`` is empty and ``usage`` zero: nothing ran. ``degraded`` reasons make an
    answer uncacheable. ``elapsed_ms`` is what computing it took, so that savings can be counted.
    """

    hits: tuple[Hit, ...]
    trace: tuple[StageTrace, ...] = ()
    usage: Usage = field(default_factory=Usage)
    degraded: tuple[str, ...] = ()
    elapsed_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """What is looked up.

    ``partition`` holds everything that makes an answer differ for the same text (tenant, filters,
    k, stage settings, model ids and revisions): JSON-ready, hashed by the cache. Two requests with
    different partitions never see each other's entries.
    """

    query: Query
    partition: Mapping[str, Any]
    scope: str | None = None
    deadline: Deadline = field(default_factory=Deadline)


@dataclass(frozen=True, slots=True)
class Served:
    """An answer and what the cache did to get it."""

    answer: Answer
    info: CacheInfo


Compute: TypeAlias = Callable[[], Awaitable[Answer]]


class QueryCache(ABC):
    """A cache of answers. No method but ``serve`` may be slow, and none may break a query."""

    @abstractmethod
    async def serve(self, request: CacheRequest, compute: Compute) -> Served:
        """Return a kept answer, or compute one.

        Only ``compute``'s own exceptions leave this method: a broken cache is a miss that says so.
        """

    async def start(self) -> None:  # noqa: B027
        """Connect and warm up; never raises for an unreachable store."""

    async def aclose(self) -> None:  # noqa: B027
        """Stop background work and close connections."""

    async def documents_changed(  # noqa: B027
        self, *, upserted: Sequence[Document] = (), deleted: Sequence[str] = ()
    ) -> None:
        """Forget what a write to the index may have changed; all of it if neither is given."""

    def documents_changing(self) -> AbstractAsyncContextManager[None]:
        """Enter before a write to the index, leave when ``documents_changed`` has told of it.

        If the process dies in between, nobody serves for long what the write may have changed.
        """
        return nullcontext()

    async def purge(self, *, scope: str | None = None) -> int:  # noqa: ARG002
        """Drop all entries (of one scope). Returns how many were dropped."""
        return 0

    async def forget(self, request: CacheRequest) -> bool:  # noqa: ARG002
        """Drop the entry that answers one query. Returns whether there was one."""
        return False

    async def stats(self) -> Mapping[str, Any]:
        """Counters and gauges, JSON-ready."""
        return {"store": "none"}

    async def explain(self, request: CacheRequest) -> Mapping[str, Any]:  # noqa: ARG002
        """Why a lookup would hit or miss, JSON-ready; changes nothing."""
        return {"status": "bypass", "reason": "no cache is configured"}
