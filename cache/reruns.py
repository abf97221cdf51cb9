"""Computations that no caller waits for: refreshing entries, and auditing hits."""

from typing import TYPE_CHECKING

from funnel.cache.audit import Auditor
from funnel.cache.background import Background
from funnel.cache.base import Compute, Served
from funnel.cache.counters import Counters
from funnel.cache.guarded_store import GuardedStore
from funnel.cache.leases import Leases
from funnel.cache.local import LocalTier
from funnel.cache.lookup import Found, Looking
from funnel.cache.writer import Writer

if TYPE_CHECKING:
    from funnel.cache.place import Place

_AT_ONCE = 4


class Reruns:
    """At most four at once; when there is no room, a refresh or audit is left out and counted.

    They run within what is left of the deadline of the query that caused them: a rerun that is
    degraded by it changes nothing.
    """

    def __init__(
        self,
        store: GuardedStore,
        writer: Writer,
        leases: Leases,
        local: LocalTier,
        auditor: Auditor,
        counters: Counters,
    ) -> None:
        self._shared = store.store.shared
        self._writer = writer
        self._leases = leases
        self._local = local
        self._auditor = auditor
        self._counters = counters
        self._background = Background(_AT_ONCE)
        self._refreshing: set[Place] = set()

    def refresh(self, looking: Looking, compute: Compute) -> None:
        """Compute this query's answer again and keep it, unless that is under way."""
        if looking.place in self._refreshing:
            return
        self._refreshing.add(looking.place)
        if not self._background.start(lambda: self._refresh(looking, compute), "refresh"):
            self._refreshing.discard(looking.place)
            self._counters.event("refresh_dropped")

    def audit(self, found: Found, served: Served, looking: Looking, compute: Compute) -> None:
        """Compute the answer of a hit after all, and compare."""
        if not self._background.start(
            lambda: self._audit(found, served, looking, compute), "audit"
        ):
            self._counters.event("audit_dropped")

    async def aclose(self) -> None:
        """End what runs."""
        await self._background.aclose()

    async def _refresh(self, looking: Looking, compute: Compute) -> None:
        try:
            lease = await self._leases.try_take(looking.place) if self._shared else None
            if self._shared and lease is None:
                return
            try:
                await self._compute_and_keep(looking, compute, lease.token if lease else 0)
            finally:
                if lease is not None:
                    await self._leases.release(lease)
        finally:
            self._refreshing.discard(looking.place)

    async def _compute_and_keep(self, looking: Looking, compute: Compute, token: int) -> None:
        epoch = self._local.epoch
        answer = await compute()
        kept = epoch is not None and await self._writer.keep(
            looking.place, looking.request, answer, epoch=epoch.current, token=token
        )
        self._counters.event("refreshed" if kept else "refresh_not_kept")

    async def _audit(
        self, found: Found, served: Served, looking: Looking, compute: Compute
    ) -> None:
        epoch = self._local.epoch
        answer = await compute()
        # Of another corpus: the lists may differ although the questions are the same.
        moved = self._local.epoch is None or self._local.epoch.current != found.entry.epoch
        if answer.degraded or found.score is None or moved:
            self._counters.event("audit_unusable")
            return
        agreed = self._auditor.agrees(
            [hit.id for hit in served.answer.hits], [hit.id for hit in answer.hits]
        )
        self._auditor.record(found.score - found.margin, agreed)
        if not agreed and epoch is not None:  # from now on this wording has its own answer
            await self._writer.keep(looking.place, looking.request, answer, epoch=epoch.current)
