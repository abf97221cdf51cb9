"""Single flight across processes: the lease to compute, and waiting for who holds it."""

import asyncio
import hashlib
import time
from dataclasses import replace

from funnel.cache.guarded_store import GuardedStore, StoreFault
from funnel.cache.local import LocalTier
from funnel.cache.lookup import Found, Looking, Lookup
from funnel.cache.place import Place
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Lease

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.1


class Leases:
    """Takes and gives back leases where a store is shared; elsewhere there are none.

    A lease is for one query under one epoch: what was computed before an index write is not kept
    after it, so nobody waits for that.
    """

    def __init__(
        self, settings: CacheSettings, store: GuardedStore, lookup: Lookup, local: LocalTier
    ) -> None:
        self._settings = settings
        self._store = store
        self._lookup = lookup
        self._local = local

    async def take(self, looking: Looking) -> Lease | Found | None:
        """The lease; or what its holder kept meanwhile; or None, to compute without one.

        None when the store is not shared or not well, and when the wait was too long.
        """
        if not self._store.store.shared or looking.fault is not None or looking.epoch is None:
            return None
        end = time.monotonic() + self._patience_s(looking)
        pause = _FIRST_PAUSE_S
        while True:
            lease = await self._acquire(looking)
            if isinstance(lease, Lease) or looking.fault is not None or time.monotonic() >= end:
                return lease if pause == _FIRST_PAUSE_S else await self._or_kept(lease, looking)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            looking.budget = self._store.budget(looking.request.deadline)
            found = await self._lookup.exact(looking)
            if found is not None:
                return replace(found, tier="flight")

    async def try_take(self, place: Place) -> Lease | None:
        """The lease if it is free right now."""
        epoch = self._local.epoch.current if self._local.epoch else 0
        try:
            return await self._store.call(
                lambda store: store.acquire(_name(place, epoch), ttl_s=self._settings.lease_s)
            )
        except StoreFault:
            return None

    async def release(self, lease: Lease) -> None:
        """Give it back; a store that does not answer lets it expire."""
        try:
            await self._store.call(lambda store: store.release(lease))
        except StoreFault:
            return

    async def _acquire(self, looking: Looking) -> Lease | None:
        name = _name(looking.place, looking.epoch or 0)
        try:
            return await self._store.call(
                lambda store: store.acquire(name, ttl_s=self._settings.lease_s),
                looking.budget,
            )
        except StoreFault as fault:
            looking.fault = fault.reason
            return None

    async def _or_kept(self, lease: Lease | None, looking: Looking) -> Lease | Found | None:
        """After a wait: the former holder may have kept its answer just before letting go."""
        found = None if looking.fault else await self._lookup.exact(looking)
        if found is None:
            return lease
        if lease is not None:
            await self.release(lease)
        return replace(found, tier="flight")

    def _patience_s(self, looking: Looking) -> float:
        left = looking.request.deadline.remaining_s()
        wait = self._settings.lease_wait_s
        return wait if left is None else min(wait, left / 2)


def _name(place: Place, epoch: int) -> str:
    whole = f"{place.partition}{place.key}{epoch}"
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()
