"""One writer at a time, also among processes that share a server.

Statistics, fields, weights and builds are read, changed and stored back: two writers at once would
undo each other's. Qdrant has no locks, but it can store a point on a condition on what is stored
under its id, one such request after another. So each collection of documents has one point, in a
collection that holds nothing else, and whose token gets into it may write. The token is renewed
while the writer lives; one that was killed is forgotten after ``LEASE_S``.

Who waits leaves a mark beside the token. A writer of many documents looks for it between two pieces
of its work, and lets the others go first; any token that is stored takes the mark away.

The machines' clocks must agree within a few seconds. One that was killed while its clock ran ahead
is forgotten once another one has waited that long for it. Local mode has its directory's lock
instead.
"""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from funnel.errors import BackendUnavailable, FunnelError, StageError
from funnel.indexing.collection import point_id
from funnel.indexing.qdrant import Backend, QdrantSettings
from funnel.log import get_logger

if TYPE_CHECKING:
    from qdrant_client import models

log = get_logger(__name__)
LEASE_S = 30.0
RENEW_S = 6.0
WRITERS = "funnel--writers"
_FREE, _UNKNOWN = "free", ""
_WANTED = "wanted"
_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class AnotherWrites(BackendUnavailable):
    """Another process went on writing for too long; nothing was written."""


class Lease:
    """The right to write one collection of documents."""

    def __init__(self, backend: Backend, settings: QdrantSettings, collection: str) -> None:
        self._backend = backend
        self._settings = settings
        self._collection = collection
        self._token = uuid.uuid4().hex
        self._writer = f"{socket.gethostname()}, process {os.getpid()}"
        self._is_ready = False

    async def wanted(self) -> bool:
        """Whether another process waits for this one; for the writer to ask between two pieces."""
        if self._backend.is_local:
            return False
        with suppress(FunnelError):  # the writing itself meets whatever is wrong
            return bool((await self._stored()).get(_WANTED))
        return False

    async def let_others(self) -> None:
        """Leave those who wait the time to notice that nobody writes."""
        if not self._backend.is_local:
            await asyncio.sleep(1.5 * _LONGEST_PAUSE_S)

    @asynccontextmanager
    async def held(self, written: int = 0) -> AsyncIterator[None]:
        """Write inside; waits while another one writes, as long as a killed one is remembered.

        ``written`` is how many documents the same call has written before.

        Raises:
            AnotherWrites: another one is still writing, and this call wrote nothing yet.
            BackendUnavailable: another one is still writing, or this one could not renew its token
                in time, and stopped before another one begins.
        """
        if self._backend.is_local:
            yield
            return
        try:
            taken = await self._take(written)
        except asyncio.CancelledError:  # the token may have got in
            await self._release()
            raise
        try:
            async with asyncio.timeout_at(taken + LEASE_S - RENEW_S) as limit:
                renewing = asyncio.create_task(self._renew(limit))
                try:
                    yield
                finally:
                    renewing.cancel()
                    await asyncio.wait({renewing})
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BackendUnavailable(
                f"writing {self._collection!r} was given up: Qdrant at {self._settings.place} did "
                f"not confirm in time that no other process writes; run the same again, it "
                "continues"
            ) from error
        finally:
            await self._release()

    async def _take(self, written: int = 0) -> float:
        """Become the writer; returns the loop's time when that was asked for."""
        known = self._is_ready
        if not known:
            await self._make_collection()
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + LEASE_S + RENEW_S, _PAUSE_S
        until, since = 0.0, end
        while True:
            asked = loop.time()
            idle = until if asked - since > LEASE_S else None
            try:
                stored = await self._claimed(or_expired=True, idle=idle)
            except StageError:
                self._is_ready = False
                if not known:
                    raise
                known = False
                await self._make_collection()  # an operator may have removed it
                continue
            if stored["token"] == self._token:
                return asked
            if stored["until"] != until:
                until, since = stored["until"], asked
            if asked > end:
                raise self._refusal(stored, written)
            await self._ask_for_it()
            if pause == _PAUSE_S:
                log.info("waiting_for_writer", collection=self._collection, by=stored["writer"])
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _renew(self, limit: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        pause = RENEW_S
        while True:
            await asyncio.sleep(pause)
            asked = loop.time()
            try:
                async with asyncio.timeout(2 * RENEW_S):  # a lost answer leaves time for another
                    stored = await self._claimed(or_expired=False)
            except (FunnelError, TimeoutError) as error:  # until the limit
                log.warning("writer_not_renewed", collection=self._collection, error=str(error))
                pause = RENEW_S / 6
                continue
            if limit.expired():
                return
            if stored["token"] == _UNKNOWN:
                pause = RENEW_S / 6
                continue
            pause = RENEW_S
            is_mine = stored["token"] == self._token
            limit.reschedule(asked + LEASE_S - RENEW_S if is_mine else asked)

    async def _release(self) -> None:
        with suppress(FunnelError, TimeoutError):  # then it expires
            async with asyncio.timeout(RENEW_S):
                await self._backend.write("upsert", **self._storing(_FREE, 0.0, or_expired=False))

    async def _claimed(self, *, or_expired: bool, idle: float | None = None) -> Mapping[str, Any]:
        """Put the own token in if that is allowed; returns what is stored then.

        ``idle`` is an ``until`` that nobody has moved for long.
        """
        until = time.time() + LEASE_S
        storing = self._storing(self._token, until, or_expired=or_expired, idle=idle)
        await self._backend.write("upsert", **storing)
        return await self._stored()

    async def _stored(self) -> Mapping[str, Any]:
        records = await self._backend.write(
            "retrieve", collection_name=WRITERS, ids=[point_id(self._collection)]
        )
        if not records:  # a replica that is behind
            return {"token": _UNKNOWN, "until": 0.0, "writer": "unknown"}
        return dict(records[0].payload)

    async def _ask_for_it(self) -> None:
        with suppress(FunnelError):  # a courtesy: without it the other one goes on to its end
            await self._backend.write(
                "set_payload",
                collection_name=WRITERS,
                payload={_WANTED: True},
                points=[point_id(self._collection)],
                wait=True,
            )

    def _storing(
        self, token: str, until: float, *, or_expired: bool, idle: float | None = None
    ) -> dict[str, Any]:
        """The request that stores a token, if the stored one is the own, or free or expired."""
        from qdrant_client import models

        values = {"token": token, "until": until, "writer": self._writer}
        values["collection"] = self._collection
        point = models.PointStruct(id=point_id(self._collection), vector={}, payload=values)
        return {
            "collection_name": WRITERS,
            "points": [point],
            "update_filter": self._condition(or_expired=or_expired, idle=idle),
            "wait": True,
            "ordering": models.WriteOrdering.STRONG,
        }

    def _condition(self, *, or_expired: bool, idle: float | None) -> "models.Filter":
        from qdrant_client import models

        tokens = [self._token, _FREE] if or_expired else [self._token]
        held = models.FieldCondition(key="token", match=models.MatchAny(any=tokens))
        if not or_expired:
            return models.Filter(must=[held])
        ranges = [models.Range(lt=time.time())]
        if idle is not None:
            ranges.append(models.Range(gte=idle, lte=idle))
        expired = [models.FieldCondition(key="until", range=range_) for range_ in ranges]
        return models.Filter(should=[held, *expired])

    async def _make_collection(self) -> None:
        write = self._backend.write
        if not await write("collection_exists", collection_name=WRITERS):
            replicas = self._settings.replicas
            cluster = {} if replicas is None else {"replication_factor": replicas}
            try:
                await write(
                    "create_collection",
                    collection_name=WRITERS,
                    vectors_config={},
                    shard_number=1,
                    **cluster,
                )
            except StageError:  # another process made it meanwhile
                if not await write("collection_exists", collection_name=WRITERS):
                    raise
        for field, kind in {"token": "keyword", "until": "float"}.items():  # for strict servers
            await write(
                "create_payload_index", collection_name=WRITERS, field_name=field, field_schema=kind
            )
        self._is_ready = True

    def _refusal(self, stored: Mapping[str, Any], written: int = 0) -> BackendUnavailable:
        kind = BackendUnavailable if written else AnotherWrites
        return kind(
            f"collection {self._collection!r} is being written by another process "
            f"({stored['writer']}), expected one writer at a time; {written or 'nothing'} of this "
            "was written: wait until that one is done, or stop it, and run the same again"
        )
