"""Entries in Redis or Valkey, on one server or a cluster, shared by all processes."""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from funnel.cache import redis_lua as lua
from funnel.cache.nearest import EXACT_LIMIT, Neighbour
from funnel.cache.redis_drops import RedisDrops
from funnel.cache.redis_leases import LeaseBook
from funnel.cache.redis_link import RedisLink
from funnel.cache.redis_mirror import RedisMirror
from funnel.cache.redis_vectors import QueryVectors
from funnel.cache.redis_vset import RedisVectorSets
from funnel.cache.store import (
    LONGEST_S,
    MISSING,
    Epoch,
    Lease,
    Missing,
    Neighbours,
    Reading,
    Record,
    Store,
    Stored,
    StoreLimits,
    StoreStats,
)
from funnel.cache.wire import to_wire
from funnel.errors import CacheError
from funnel.log import get_logger

if TYPE_CHECKING:
    from funnel.cache.store import Vector

log = get_logger(__name__)

_READ_AT_ONCE = 100
_TEND_S = 1.0
_USED_AT_MOST = 1000
_TRIES = 5
_BACKGROUND_TIMEOUT_S = 3.0
_SPARE = 2  # neighbours read per neighbour wanted, as some may have expired


class RedisStore(Store):
    """Records with their own expiry, a change log, and a way to find the nearest.

    Neighbours come from a mirror in this process, or from the server's vector sets where it has
    them (``vector_sets=None`` finds out). The highest epoch ever seen is remembered: a server that
    comes back with a lower one (flushed, restored, failed over) has its records invalidated.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; any node of a cluster will do.
        limits: namespace, timeout and caps.
        vector_sets: whether to use them; None for wherever the server has them.
        exact_limit: vectors per partition that the mirror searches exactly.

    Raises:
        ConfigError: the URL or the namespace cannot be used.
    """

    shared = True

    def __init__(
        self,
        url: str,
        limits: StoreLimits | None = None,
        *,
        vector_sets: bool | None = None,
        exact_limit: int = EXACT_LIMIT,
    ) -> None:
        self._url = url
        self._limits = limits or StoreLimits()
        self._link = RedisLink(url, self._limits.namespace, self._limits.timeout_ms / 1000)
        self._want_vector_sets = vector_sets
        self._exact_limit = exact_limit
        self._vectors: QueryVectors | None = None
        self._drops = RedisDrops(self._link, self._finder)
        self._leases = LeaseBook()
        self._seen = 0
        self._used: dict[str, None] = {}
        self._tender: asyncio.Task[None] | None = None
        self._chores: set[asyncio.Task[None]] = set()

    @property
    def prefix(self) -> str:
        """What all keys of this namespace begin with, for an operator's own look."""
        return self._link.prefix

    @property
    def where(self) -> str:  # noqa: D102
        return f"Redis at {self._link.where}"

    @property
    def answered_at(self) -> float:  # noqa: D102
        return self._link.answered_at

    async def get(self, partition: str, key: str) -> Reading:  # noqa: D102
        reply = await self._link.run(lua.GET, partition, key)
        epoch, valid = await self._epoch_in(reply)
        if not valid or len(reply) < 3:
            return Reading(MISSING, epoch)
        payload, target, note = reply[2], key, None
        if len(reply) > 3:
            target, note = reply[3].decode(), reply[4]
        self._touch(f"{partition}:{target}")
        return Reading(Stored(partition, target, payload, alias=note), epoch)

    async def get_many(  # noqa: D102
        self, partition: str, keys: Sequence[str]
    ) -> Sequence[Stored | Missing]:
        _, payloads = await self._read([f"{partition}:{key}" for key in keys])
        return [
            MISSING if payload is None else Stored(partition, key, payload)
            for key, payload in zip(keys, payloads, strict=True)
        ]

    async def nearest(  # noqa: D102
        self, partition: str, vector: "Vector", *, limit: int, floor: float
    ) -> Neighbours:
        vectors = await self._finder()
        hits = await vectors.nearest(partition, vector, _SPARE * limit, floor)
        found, epoch = await self._confirm(vectors, hits, limit)
        return Neighbours(found, epoch)

    async def nearest_anywhere(  # noqa: D102
        self, vector: "Vector", *, limit: int, floor: float
    ) -> Sequence[Stored]:
        vectors = await self._finder()
        while True:
            hits = await vectors.anywhere(vector, _SPARE * limit, floor)
            found, _ = await self._confirm(vectors, hits, limit)
            if len(found) >= limit or len(hits) < _SPARE * limit:
                return found

    async def put(self, record: Record) -> bool:  # noqa: D102
        vectors = await self._finder()
        try:
            return await self._put(vectors, record)
        except BaseException:
            if (
                vectors.apart
            ):  # it may be there without its vector, where no reverse search finds it
                self._in_background(lambda: self.delete(record.partition, record.key))
            raise

    async def _put(self, vectors: QueryVectors, record: Record) -> bool:
        id_ = f"{record.partition}:{record.key}"
        asked = vectors.moment()
        kept, *gone = await self._link.run(
            lua.PUT,
            id_,
            record.scope,
            record.partition,
            record.payload,
            to_wire(record.vector),
            _ms(record.retain_s),
            record.epoch,
            record.token,
            self._limits.max_entries,
            self._limits.max_bytes,
            *{_hash(document) for document in record.documents},
        )
        await vectors.dropped([raw.decode() for raw in gone], asked)
        if not kept or record.vector is None:
            return bool(kept)
        await vectors.added(id_, record.vector)
        if vectors.apart and (await self.epoch()).current != record.epoch:
            await self.delete(record.partition, record.key)  # a write may have searched in between
            return False
        return True

    async def alias(  # noqa: D102
        self, partition: str, key: str, target: str, *, note: bytes, retain_s: float
    ) -> None:
        id_ = f"{partition}:{key}"
        await self._link.run(lua.ALIAS, id_, target, note, _ms(retain_s), self._limits.max_entries)

    async def delete(self, partition: str, key: str) -> bool:  # noqa: D102
        id_ = f"{partition}:{key}"
        vectors = await self._finder()
        asked = vectors.moment()
        lived = await self._link.run(lua.DELETE, id_)
        await vectors.dropped([id_], asked)
        return bool(lived)

    async def delete_documents(self, ids: Sequence[str]) -> int:  # noqa: D102
        if await self._link.evicts_any_key():
            return await self._invalidate()
        return await self._drops.sets([f"d:{_hash(document)}" for document in ids])

    async def epoch(self) -> Epoch:  # noqa: D102
        epoch, _ = await self._epoch_in(await self._link.run(lua.EPOCH))
        return epoch

    async def bump(self, *, invalidate: bool) -> Epoch:  # noqa: D102
        epoch, _ = await self._epoch_in(await self._link.run(lua.BUMP, int(invalidate)))
        if invalidate:
            self._in_background(self._drops.stale)
        return epoch

    async def announce(self, name: str, *, ttl_s: float) -> None:  # noqa: D102
        await self._link.run(lua.ANNOUNCE, name, _ms(ttl_s))

    async def withdraw(self, name: str) -> None:  # noqa: D102
        await self._link.run(lua.WITHDRAW, name)

    async def purge(self, *, scope: str | None = None) -> int:  # noqa: D102
        if scope is not None and await self._link.evicts_any_key():
            scope = None  # which records are the tenant's may have been forgotten
        await self._epoch_in(await self._link.run(lua.BUMP, int(scope is None)))
        if scope is None:
            dropped = await self._drops.stale()
        else:
            dropped = await self._drops.sets([f"s:{scope}"])
        await self._drops.dangling()
        return dropped

    async def acquire(self, name: str, *, ttl_s: float) -> Lease | None:  # noqa: D102
        book = self._leases
        mine_is_free = int(name in book.doubtful())
        asked = (name, max(1, _ms(ttl_s)), book.owner, mine_is_free, secrets.token_hex(6))
        try:
            token = await self._link.run(lua.ACQUIRE, *asked)
        except (CacheError, asyncio.CancelledError):
            book.unanswered(name, ttl_s)
            raise
        if token is None:
            return None
        lease = Lease(name, int(token))
        book.granted(lease, ttl_s)
        return lease

    async def release(self, lease: Lease) -> None:  # noqa: D102
        await self._link.run(lua.RELEASE, lease.name, self._leases.mark(lease))
        self._leases.given_back(lease.name)

    async def stats(self) -> StoreStats:  # noqa: D102
        reply = [int(value) for value in await self._link.run(lua.STATS)]
        entries, aliases, size, evictions, current, floor = reply
        facts = await self._link.facts()
        server = {"server": self._link.where, "version": facts.version, "cluster": facts.cluster}
        return StoreStats(
            kind="redis",
            entries=entries,
            aliases=aliases,
            bytes=size,
            evictions=evictions,
            epoch=Epoch(current, floor),
            extra={**server, "nearest": (await self._finder()).stats()},
        )

    def touch(self, partition: str, key: str) -> None:  # noqa: D102
        self._touch(f"{partition}:{key}")

    async def ping(self) -> None:  # noqa: D102
        await self._link.run(lua.EPOCH)

    async def start(self) -> None:  # noqa: D102
        await self._link.facts(patience_s=_BACKGROUND_TIMEOUT_S)
        await self.epoch()
        await (await self._finder()).start()

    async def aclose(self) -> None:  # noqa: D102
        tasks = [task for task in (self._tender, *self._chores) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._vectors is not None:
            await self._vectors.aclose()
        await self._link.aclose()

    async def _finder(self) -> QueryVectors:
        if self._vectors is None:
            facts = await self._link.facts()
            if self._vectors is None:
                self._vectors = self._build_finder(vector_sets=self._choose(facts.vector_sets))
                if facts.evicts_any_key:
                    log.warning(
                        "cache.redis.evicts_any_key",
                        server=self._link.where,
                        policy=facts.policy or "not told",
                        effect="a changed document or a purge of a scope empties the whole cache",
                        mend="set maxmemory-policy to volatile-ttl or noeviction"
                        if facts.policy
                        else "let INFO tell this user the maxmemory-policy",
                    )
        return self._vectors

    def _choose(self, available: bool) -> bool:
        if self._want_vector_sets and not available:
            raise CacheError(
                f"Redis at {self._link.where} has no vector sets; use Redis 8 or vector_sets=None"
            )
        return available if self._want_vector_sets is None else self._want_vector_sets

    def _build_finder(self, *, vector_sets: bool) -> QueryVectors:
        if vector_sets:
            return RedisVectorSets(self._link)
        link = RedisLink(self._url, self._limits.namespace, _BACKGROUND_TIMEOUT_S)
        return RedisMirror(
            link, max_vectors=self._limits.max_entries, exact_limit=self._exact_limit
        )

    async def _epoch_in(self, reply: Any) -> tuple[Epoch, bool]:
        """The epoch a reply begins with, and whether what follows it may be believed."""
        self._keep_tending()
        epoch = _epoch(reply)
        valid = epoch is not None and epoch.current >= self._seen
        if epoch is None or not valid:
            epoch = _epoch(await self._link.run(lua.REBIRTH, self._seen)) or Epoch()
            log.info("cache.redis.begun_anew", server=self._link.where, after=self._seen)
            self._in_background(self._drops.stale)
        self._seen = max(self._seen, epoch.current)
        return epoch, valid

    async def _read(self, ids: Sequence[str]) -> tuple[Epoch, list[bytes | None]]:
        payloads: list[bytes | None] = []
        for start in range(0, max(1, len(ids)), _READ_AT_ONCE):
            some = ids[start : start + _READ_AT_ONCE]
            epoch, found = await self._read_some(some)
            payloads.extend(found)
        for id_, payload in zip(ids, payloads, strict=True):
            if payload is not None:
                self._touch(id_)
        return epoch, payloads

    async def _read_some(self, ids: Sequence[str]) -> tuple[Epoch, list[bytes | None]]:
        """Read again what was overtaken by a later epoch: a late reply is not a lost record."""
        for _ in range(_TRIES):
            reply = await self._link.run(lua.READ, *ids)
            epoch, valid = await self._epoch_in(reply)
            if valid:
                return epoch, reply[2:]
        raise CacheError(
            f"{self.where}: its epoch changed during each of {_TRIES} reads; try again"
        )

    async def _confirm(
        self, vectors: QueryVectors, hits: Sequence[Neighbour], limit: int
    ) -> tuple[list[Stored], Epoch]:
        asked = vectors.moment()
        epoch, payloads = await self._read([hit.id for hit in hits])
        gone = [h.id for h, payload in zip(hits, payloads, strict=True) if payload is None]
        if gone:
            await vectors.dropped(gone, asked)
        found = [
            _neighbour(hit, payload)
            for hit, payload in zip(hits, payloads, strict=True)
            if payload is not None
        ]
        return found[:limit], epoch

    async def _invalidate(self) -> int:
        entries = (await self.stats()).entries
        await self.bump(invalidate=True)
        return entries

    def _touch(self, id_: str) -> None:
        if len(self._used) < _USED_AT_MOST:
            self._used[id_] = None

    def _keep_tending(self) -> None:
        if self._tender is None or self._tender.done():
            self._tender = asyncio.create_task(self._tend())

    async def _tend(self) -> None:
        """Once a second, tell the server what was used and tidy up what expired."""
        while True:
            await asyncio.sleep(_TEND_S)
            used, self._used = self._used, {}
            try:
                vectors = await self._finder()
                asked = vectors.moment()
                ids = await self._link.run(lua.TEND, *used)
                await vectors.dropped([raw.decode() for raw in ids], asked)
                await self._give_back_doubtful()
            except CacheError as error:
                log.debug("cache.redis.not_tended", reason=str(error))

    async def _give_back_doubtful(self) -> None:
        names = self._leases.doubtful()
        if names:
            await self._link.run(lua.RELEASE_OWN, self._leases.owner, *names)
            for name in names:
                self._leases.given_back(name)

    def _in_background(self, chore: Callable[[], Awaitable[object]]) -> None:
        async def quietly() -> None:
            try:
                await chore()
            except CacheError as error:
                log.info("cache.redis.chore_failed", reason=str(error))

        task = asyncio.create_task(quietly())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _neighbour(hit: Neighbour, payload: bytes) -> Stored:
    partition, _, key = hit.id.partition(":")
    return Stored(partition, key, payload, cosine=hit.score)


def _epoch(reply: Any) -> Epoch | None:
    return Epoch(int(reply[0]), int(reply[1])) if reply else None


def _ms(seconds: float) -> int:
    return int(min(seconds, LONGEST_S) * 1000)


def _hash(document: str) -> str:
    return hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
