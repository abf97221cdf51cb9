"""Whole writes: a corpus into the live collection, a corpus instead of it, documents out of it.

One at a time, here and among processes that share a server. What one window of documents takes is
in :mod:`funnel.indexing.ingest`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from funnel.indexing.catalogue import Catalogue
from funnel.indexing.collection import next_epoch
from funnel.indexing.ingest import WINDOW, Tally, Writer
from funnel.indexing.lease import Lease
from funnel.indexing.live import Live
from funnel.indexing.qdrant import Backend
from funnel.indexing.spool import Spool, Windows
from funnel.indexing.upkeep import Upkeep
from funnel.log import get_logger
from funnel.progress import bar

log = get_logger(__name__)
_LOCAL_COMFORT = 20_000


class Updates:
    """Changes what is behind one name, and keeps ``live`` true to it.

    Every method is called by the holder of ``live.writing``; the lease is taken here.
    """

    def __init__(
        self,
        collection: str,
        backend: Backend,
        catalogue: Catalogue,
        upkeep: Upkeep,
        writer: Writer,
        lease: Lease,
        live: Live,
    ) -> None:
        self._collection = collection
        self._backend = backend
        self._catalogue = catalogue
        self._upkeep = upkeep
        self._writer = writer
        self._lease = lease
        self._live = live

    async def add(self, spool: Spool, *, progress: bool) -> Tally:
        """Bring the live collection up to a corpus; documents that the corpus lacks stay.

        In one piece, unless another process wants to write: then it goes first, again and again.
        Each piece is whole in itself, so what the other one does to state or documents is built on.
        """
        tally, windows = Tally(), spool.windows(WINDOW)
        with bar("indexing", spool.documents, enabled=progress) as advance:
            while windows:
                async with self._lease.held(tally.written):
                    tally += await self._add_piece(spool, windows, advance)
                if windows:
                    log.info("indexing_lets_others_write", collection=self._collection)
                    await self._lease.let_others()
        return tally

    async def replace(self, spool: Spool, *, progress: bool) -> Tally:
        """Write a corpus into a new collection, or one that a killed run left, and switch to it."""
        async with self._lease.held():
            old = await self._catalogue.live(self._backend.write)
            target, state = await self._catalogue.unfinished() or await self._catalogue.create(
                spool, building=True
            )
            await self._catalogue.index_payload(target)
            with bar("indexing", spool.documents, enabled=progress) as advance:
                state, tally = await self._writer.write(
                    target, state, spool.windows(WINDOW), spool.fields, advance=advance
                )
            pruned = await self._upkeep.prune(target, spool.holds)
            if pruned or state.documents != spool.documents:  # a killed run may not have counted
                state = await self._upkeep.recounted(target, state)
                state = await self._upkeep.settled(target, state)
            known = self._live.state
            epoch = next_epoch(max(known.epoch if known else 0, state.epoch))
            state = replace(state, building=False, epoch=epoch)
            await self._upkeep.save(target, state)
            await self._catalogue.switch_to(target, instead_of=old)
            self._live.keep(target, state)
            self._warn_if_large()
            return tally

    async def delete(self, ids: Sequence[str]) -> int:
        """Remove documents by id. Returns how many there were."""
        async with self._lease.held():
            state = await self._live.refresh(self._backend.write)
            if state is None:
                return 0
            target = await self._catalogue.live(self._backend.write) or self._collection
            state, gone = await self._upkeep.delete(target, state, ids)
            self._live.keep(target, state)
            return gone

    async def _add_piece(
        self, spool: Spool, windows: Windows, advance: Callable[[int], None]
    ) -> Tally:
        state = await self._live.refresh(self._backend.write)
        target = await self._catalogue.live(self._backend.write)
        if state is None or target is None:
            target, state = await self._catalogue.create(spool, building=False)
            await self._catalogue.switch_to(target)
        await self._catalogue.index_payload(target)
        state, tally = await self._writer.write(
            target, state, windows, spool.fields, advance=advance, stop=self._lease.wanted
        )
        self._live.keep(target, state)
        self._warn_if_large()
        return tally

    def _warn_if_large(self) -> None:
        state = self._live.state
        if self._backend.is_local and state and state.documents > _LOCAL_COMFORT:
            log.warning(
                "local_index_is_large",
                documents=state.documents,
                mend="searches are exact and slow down with size; run a Qdrant server (qdrant.url)",
            )
