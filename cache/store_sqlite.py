"""Entries in one SQLite file, shared by the processes of one machine; needs no server."""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from funnel.cache import sqlite_records as rows
from funnel.cache import sqlite_schema as sql
from funnel.cache.nearest import EXACT_LIMIT, Neighbour
from funnel.cache.sqlite_file import SqliteFile
from funnel.cache.sqlite_mirror import SqliteMirror
from funnel.cache.store import (
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
T = TypeVar("T")
_ROWS = 2_000  # taken into the mirror per lookup, about 10 ms
_CHUNK = 500
_SWEEP = 64
_SPARE = 2  # neighbours read per neighbour wanted, as some may have expired
_USED_AT_MOST = 1_000
_TRIES = 5
_FLUSH_S = 1.0
_PATIENT_S = 5.0  # for what is not on a query's way
_DEFAULT_NAMESPACE = StoreLimits().namespace


class SqliteStore(Store):
    """Records in a file in write-ahead-log mode; query vectors mirrored in this process.

    Evicts least recently used first; what reads used is written down about once a second. Make
    one store per process: it must not be carried over a fork.

    Args:
        path: the database file; namespaces other than the default get a file of their own beside
            it, with the namespace before the suffix.
        limits: namespace, timeout and caps.
        exact_limit: vectors per partition that the mirror searches exactly.
        clock: wall-clock seconds. A record found to outlive its own retention was written before
            the clock was set back, and reads as missing.
    """

    shared = True

    def __init__(
        self,
        path: str | Path,
        limits: StoreLimits | None = None,
        *,
        exact_limit: int = EXACT_LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = limits or StoreLimits()
        self._clock = clock
        self._file = SqliteFile(_own_file(Path(path), self._limits), self._limits.timeout_ms / 1000)
        self._mirror = SqliteMirror(max_vectors=self._limits.max_entries, exact_limit=exact_limit)
        self._seen = 0
        self._used: dict[tuple[str, str], float] = {}
        self._flushed = 0.0
        self._chores: set[asyncio.Task[None]] = set()

    @property
    def where(self) -> str:  # noqa: D102
        return str(self._file.path)

    async def get(self, partition: str, key: str) -> Reading:  # noqa: D102
        place = {"partition": partition, "key": key, "now": self._clock()}

        def work(connection: sqlite3.Connection) -> tuple[Epoch, Stored | Missing]:
            current, floor, payload = connection.execute(sql.READ, place).fetchone()
            if payload is not None:
                return Epoch(current, floor), Stored(partition, key, payload)
            return Epoch(current, floor), rows.read_by_alias(connection, place)

        epoch, found = await self._read(work)
        epoch, valid = await self._checked(epoch)
        if not valid or isinstance(found, Missing):
            return Reading(MISSING, epoch)
        self._touch(found)
        return Reading(found, epoch)

    async def get_many(  # noqa: D102
        self, partition: str, keys: Sequence[str]
    ) -> Sequence[Stored | Missing]:
        now = self._clock()

        def work(connection: sqlite3.Connection) -> tuple[Epoch, list[Stored | Missing]]:
            found = [rows.read(connection, partition, key, now) for key in keys]
            return rows.epoch(connection), found

        epoch, found = await self._read(work)
        _, valid = await self._checked(epoch)
        return found if valid else [MISSING] * len(keys)

    async def nearest(  # noqa: D102
        self, partition: str, vector: "Vector", *, limit: int, floor: float
    ) -> Neighbours:
        found, epoch = await self._look(partition, vector, _SPARE * limit, floor)
        return Neighbours(found[:limit], epoch)

    async def nearest_anywhere(  # noqa: D102
        self, vector: "Vector", *, limit: int, floor: float
    ) -> Sequence[Stored]:
        # Some rows at a time, and then beside the reading thread, so that lookups get in between.
        await self._catch_up()
        search = self._mirror.index.asearch_everywhere
        while True:
            hits = await search(vector, _SPARE * limit, floor=floor)
            found = await self._confirmed(hits)
            if len(found) >= limit or len(hits) < _SPARE * limit:
                return found[:limit]

    async def put(self, record: Record) -> bool:  # noqa: D102
        used, self._used = self._used, {}
        now = self._clock()
        vector = to_wire(record.vector)
        size = len(record.payload) + len(vector)
        if size > self._limits.max_bytes or record.retain_s <= 0:
            return False
        row = {
            "partition": record.partition,
            "key": record.key,
            "scope": record.scope,
            "epoch": record.epoch,
            "token": record.token,
            "now": now,
            "retain": record.retain_s,
            "size": size,
            "vector": vector or None,
            "payload": record.payload,
        }
        documents = {_hash(document) for document in record.documents}

        def work(connection: sqlite3.Connection) -> bool:
            rows.write_down_use(connection, used)
            if rows.refuses(connection, row):
                return False
            rows.insert(connection, row, documents)
            self._make_room(connection, now)
            return True

        return await self._file.write(work)

    async def alias(  # noqa: D102
        self, partition: str, key: str, target: str, *, note: bytes, retain_s: float
    ) -> None:
        now = self._clock()
        row = (partition, key, target, note, now + retain_s, retain_s)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM aliases WHERE partition = ? AND key = ?", row[:2])
            connection.execute("DELETE FROM aliases WHERE expires <= ?", (now,))
            connection.execute("INSERT INTO aliases VALUES (?, ?, ?, ?, ?, ?)", row)
            over = rows.gauge(connection, "aliases") - self._limits.max_entries
            if over > 0:
                connection.execute(sql.DROP_OLDEST_ALIASES, {"limit": over})

        await self._file.write(work)

    async def delete(self, partition: str, key: str) -> bool:  # noqa: D102
        place = {"partition": partition, "key": key, "now": self._clock()}
        which = "partition = :partition AND key = :key"

        def work(connection: sqlite3.Connection) -> bool:
            lived = rows.drop(connection, which, place)[1]
            alias = connection.execute(
                f"DELETE FROM aliases WHERE {which} AND expires > :now",  # noqa: S608
                place,
            )
            return bool(lived + alias.rowcount)

        return await self._file.write(work)

    async def delete_documents(self, ids: Sequence[str]) -> int:  # noqa: D102
        lived = 0
        for start in range(0, len(ids), _CHUNK):
            names = [_hash(document) for document in ids[start : start + _CHUNK]]
            which = sql.OF_DOCUMENTS.format(marks=", ".join(f":d{i}" for i in range(len(names))))
            lived += await self._drop_all(which, {f"d{i}": n for i, n in enumerate(names)})
        return lived

    async def epoch(self) -> Epoch:  # noqa: D102
        epoch, _ = await self._checked(await self._read(rows.epoch))
        return epoch

    async def bump(self, *, invalidate: bool) -> Epoch:  # noqa: D102
        return await self._bump(invalidate=invalidate)

    async def announce(self, name: str, *, ttl_s: float) -> None:  # noqa: D102
        expires = self._clock() + ttl_s
        await self._file.write(lambda connection: rows.announce(connection, name, expires))

    async def withdraw(self, name: str) -> None:  # noqa: D102
        await self._file.write(lambda connection: rows.withdraw(connection, name))

    async def purge(self, *, scope: str | None = None) -> int:  # noqa: D102
        now = self._clock()

        def invalidate(connection: sqlite3.Connection) -> int:
            lived = connection.execute(
                f"SELECT count(*) FROM records WHERE {sql.LIVE}",  # noqa: S608
                {"now": now},
            ).fetchone()
            connection.execute("DELETE FROM aliases")
            rows.bump(connection, invalidate=True)
            return int(lived[0])

        if scope is None:
            lived = await self._file.write(invalidate, timeout_s=_PATIENT_S)
            await self._drop_all(sql.STALE, {})
            return lived
        await self._bump(invalidate=False, timeout_s=_PATIENT_S)
        lived = await self._drop_all("scope = :scope", {"scope": scope})
        await self._file.write(lambda c: c.execute(sql.DROP_DANGLING), timeout_s=_PATIENT_S)
        return lived

    async def acquire(self, name: str, *, ttl_s: float) -> Lease | None:  # noqa: D102
        now = self._clock()
        return await self._file.write(
            lambda connection: rows.take_lease(connection, name, ttl_s, now),
            unwanted=rows.give_back,
        )

    async def release(self, lease: Lease) -> None:  # noqa: D102
        await self._file.write(lambda connection: rows.give_back(connection, lease))

    async def stats(self) -> StoreStats:  # noqa: D102
        entries, aliases, size, evictions, current, floor = await self._file.read(
            lambda connection: connection.execute(
                "SELECT entries, aliases, bytes, evictions, current, floor FROM meta"
            ).fetchone()
        )
        return StoreStats(
            kind="sqlite",
            entries=entries,
            aliases=aliases,
            bytes=size,
            evictions=evictions,
            epoch=Epoch(current, floor),
            extra={"path": str(self._file.path), "nearest": self._mirror.index.stats()},
        )

    def touch(self, partition: str, key: str) -> None:  # noqa: D102
        self._touch(Stored(partition, key, b""))

    async def ping(self) -> None:  # noqa: D102
        await self._file.read(rows.epoch)

    async def start(self) -> None:  # noqa: D102
        await self._file.read(rows.epoch, timeout_s=_PATIENT_S)
        await self._file.write(rows.epoch, timeout_s=_PATIENT_S)
        await self._catch_up()

    async def aclose(self) -> None:  # noqa: D102
        for task in self._chores:
            task.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._file.aclose()
        self._mirror.index.close()

    async def _read(
        self, work: Callable[[sqlite3.Connection], T], *, timeout_s: float | None = None
    ) -> T:
        """Read, after the epoch's end if a writer died before it told of its write."""
        now = self._clock()

        def told(connection: sqlite3.Connection) -> T | Missing:
            return MISSING if rows.is_overdue(connection, now) else work(connection)

        found = await self._file.read(told, timeout_s=timeout_s)
        if not isinstance(found, Missing):
            return found
        await self._file.write(lambda connection: rows.end_overdue(connection, now))
        self._in_background(lambda: self._drop_all(sql.STALE, {}))
        return await self._file.read(work, timeout_s=timeout_s)

    async def _bump(self, *, invalidate: bool, timeout_s: float | None = None) -> Epoch:
        epoch = await self._file.write(
            lambda connection: rows.bump(connection, invalidate=invalidate), timeout_s=timeout_s
        )
        self._seen = max(self._seen, epoch.current)
        if invalidate:
            self._in_background(lambda: self._drop_all(sql.STALE, {}))
        return epoch

    async def _look(
        self, partition: str, vector: "Vector", count: int, floor: float
    ) -> tuple[list[Stored], Epoch]:
        """Search the mirror, some new records taken in, and confirm what it finds."""
        now, more = self._clock(), False

        def work(connection: sqlite3.Connection) -> tuple[list[Stored], Epoch]:
            nonlocal more
            more = self._mirror.catch_up(connection, _ROWS)
            hits = self._mirror.index.search(partition, vector, count, floor=floor)
            return self._live(connection, hits, now)

        found, epoch = await self._believed(work)
        if more and not self._chores:
            self._in_background(self._catch_up)
        return found, epoch

    async def _confirmed(self, hits: Sequence[Neighbour]) -> list[Stored]:
        now = self._clock()
        found, _ = await self._believed(
            lambda connection: self._live(connection, hits, now), timeout_s=_PATIENT_S
        )
        return found

    def _live(
        self, connection: sqlite3.Connection, hits: Sequence[Neighbour], now: float
    ) -> tuple[list[Stored], Epoch]:
        """Those of the hits that are live records; what is gone leaves the mirror."""
        found = rows.confirm(connection, hits, now)
        gone = {hit.id for hit in hits} - {f"{s.partition}:{s.key}" for s in found}
        self._mirror.index.remove_many(gone)
        return found, rows.epoch(connection)

    async def _believed(
        self,
        work: Callable[[sqlite3.Connection], tuple[list[Stored], Epoch]],
        timeout_s: float | None = None,
    ) -> tuple[list[Stored], Epoch]:
        """Do it again where a later epoch came first: nothing is lost by that."""
        for _ in range(_TRIES):
            found, epoch = await self._read(work, timeout_s=timeout_s)
            _, valid = await self._checked(epoch)
            if valid:
                for stored in found:
                    self._touch(stored)
                return found, epoch
        raise CacheError(
            f"{self.where}: its epoch changed during each of {_TRIES} searches; try again"
        )

    async def _catch_up(self) -> None:
        while await self._file.read(
            lambda connection: self._mirror.catch_up(connection, _ROWS), timeout_s=_PATIENT_S
        ):
            pass

    async def _checked(self, epoch: Epoch) -> tuple[Epoch, bool]:
        """The epoch, and whether records read with it may be believed.

        A file whose epoch went backwards was restored from an older copy: begin anew above it.
        """
        if epoch.current >= self._seen:
            self._seen = epoch.current
            return epoch, True
        seen = self._seen
        epoch = await self._file.write(lambda connection: rows.begin_anew(connection, seen))
        if epoch == Epoch(seen + 1, seen + 1):
            log.warning("cache.sqlite.older_copy", path=str(self._file.path))
        self._seen = max(self._seen, epoch.current)
        return epoch, False

    def _make_room(self, connection: sqlite3.Connection, now: float) -> None:
        rows.drop(connection, "expires <= :now", {"now": now}, limit=_SWEEP)
        rows.drop(connection, sql.STALE, {"now": now}, limit=_SWEEP)
        while True:
            entries, size = connection.execute("SELECT entries, bytes FROM meta").fetchone()
            over = entries - self._limits.max_entries
            if over <= 0 and size <= self._limits.max_bytes:
                return
            oldest = {"now": now}
            dropped, _ = rows.drop(connection, sql.OLDEST_FIRST, oldest, limit=max(over, 1))
            connection.execute("UPDATE meta SET evictions = evictions + ?", (dropped,))

    async def _drop_all(self, which: str, values: dict[str, Any]) -> int:
        """Drop all records that match, some at a time, so that others can write in between."""
        total, dropped = 0, _CHUNK
        values = {**values, "now": self._clock()}
        while dropped == _CHUNK:
            dropped, lived = await self._file.write(
                lambda connection: rows.drop(connection, which, values, limit=_CHUNK),
                timeout_s=_PATIENT_S,
            )
            total += lived
        return total

    def _touch(self, stored: Stored) -> None:
        if len(self._used) < _USED_AT_MOST:
            self._used[stored.partition, stored.key] = self._clock()
        now = time.monotonic()
        if now - self._flushed > _FLUSH_S:
            self._flushed = now
            self._in_background(self._flush)

    async def _flush(self) -> None:
        used, self._used = self._used, {}
        await self._file.write(lambda connection: rows.write_down_use(connection, used))

    def _in_background(self, chore: Callable[[], Awaitable[object]]) -> None:
        task = asyncio.create_task(_quietly(chore))
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


async def _quietly(chore: Callable[[], Awaitable[object]]) -> None:
    try:
        await chore()
    except CacheError as error:
        log.info("cache.sqlite.chore_failed", reason=str(error))


def _own_file(path: Path, limits: StoreLimits) -> Path:
    if limits.namespace == _DEFAULT_NAMESPACE:
        return path
    return path.with_name(f"{path.stem}.{limits.namespace}{path.suffix}")


def _hash(document: str) -> bytes:
    raw = document.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=16).digest()
