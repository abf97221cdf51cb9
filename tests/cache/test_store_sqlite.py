"""What only a file can suffer: damage, other programs, other processes, clocks and full disks."""

import asyncio
import contextlib
import errno
import gc
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from funnel.cache import sqlite_file
from funnel.cache.nearest import NearestIndex, Neighbour
from funnel.cache.sqlite_file import SqliteFile
from funnel.cache.sqlite_schema import APPLICATION_ID, SCHEMA
from funnel.cache.store import Missing, StoreLimits
from funnel.cache.store_sqlite import SqliteStore
from funnel.errors import CacheError
from tests.cache.records import P, axis, eventually, keep, keep_many, near, payload

LIMITS = StoreLimits(timeout_ms=5000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file will be; its folder does not exist yet."""
    return tmp_path / "deep" / "cache.sqlite"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """A started store."""
    store = SqliteStore(path, LIMITS)
    await store.start()
    yield store
    await store.aclose()


def scribble(path: Path) -> None:
    """Overwrite a few bytes of every third page."""
    with path.open("r+b") as file:
        for place in range(8192, path.stat().st_size, 3 * 4096):
            file.seek(place)
            file.write(os.urandom(64))


def place_file(path: Path, content: bytes) -> None:
    """Put a file where the store wants to have its own."""
    path.parent.mkdir()
    path.write_bytes(content)


def content_of(path: Path) -> bytes:
    """All its bytes."""
    return path.read_bytes()


def remove_with_side_files(path: Path) -> None:
    """Delete the database, its log and its index of the log."""
    for ending in ("", "-wal", "-shm"):
        Path(f"{path}{ending}").unlink(missing_ok=True)


async def reopened(path: Path) -> SqliteStore:
    """A started store on a file that is there."""
    store = SqliteStore(path, LIMITS)
    await store.start()
    return store


async def test_records_survive_a_restart(path: Path) -> None:
    """What one run kept the next one reads, and finds by vector."""
    store = await reopened(path)
    await keep(store, "00", vector=axis(0))
    epoch = await store.epoch()
    await store.aclose()
    store = await reopened(path)
    assert await payload(store, "00") == b"00"
    assert await near(store, axis(0)) == ["00"]
    assert await store.epoch() == epoch
    await store.aclose()


async def test_only_the_owner_may_read_the_file(store: SqliteStore, path: Path) -> None:
    """Answers are nobody else's business."""
    assert os.stat(path).st_mode & 0o777 == 0o600  # noqa: PTH116 - blocking either way


async def test_the_default_namespace_has_the_file_itself(path: Path) -> None:
    """Another namespace has a file beside it."""
    other = SqliteStore(path, StoreLimits(namespace="b", timeout_ms=5000.0))
    await other.start()
    await other.aclose()
    assert [p.name for p in path.parent.glob("*.sqlite")] == ["cache.b.sqlite"]


@pytest.mark.parametrize("other", [b"x", b"# Notes\n", b"not a database at all" * 500])
async def test_a_file_that_is_no_database_is_left_alone(path: Path, other: bytes) -> None:
    """A mistyped path costs the cache, not the file that it leads to."""
    place_file(path, other)
    before = path.stat().st_mtime_ns  # noqa: ASYNC240 - blocking either way
    store = SqliteStore(path, LIMITS)
    for _ in range(2):
        with pytest.raises(CacheError, match=r"no SQLite database; give cache\.path"):
            await store.start()
    await store.aclose()
    assert content_of(path) == other
    assert path.stat().st_mtime_ns == before  # noqa: ASYNC240
    assert [p.name for p in path.parent.iterdir()] == [path.name]


async def test_a_damaged_file_is_set_aside(path: Path) -> None:
    """The damaged file is kept under another name, and a fresh one works at once."""
    junk = b"SQLite format 3\x00" + b"\xff" * 9000
    place_file(path, junk)
    store = SqliteStore(path, LIMITS)
    with pytest.raises(CacheError, match="damaged"):
        await store.start()
    await store.start()
    assert await keep(store, "00")
    (aside,) = path.parent.glob("cache.sqlite.damaged-*")
    assert content_of(aside) == junk
    await store.aclose()


async def test_damage_in_the_middle_gives_no_wrong_answer(path: Path) -> None:
    """With pages overwritten every answer is the right one, a miss or a CacheError; it recovers."""
    store = await reopened(path)
    keys = [f"{i:03x}" for i in range(150)]
    for key in keys:
        await keep(store, key, payload=key.encode() * 300)
    await store.aclose()
    scribble(path)
    store = SqliteStore(path, LIMITS)
    for key in keys:
        try:
            found = (await store.get(P, key)).found
        except CacheError:
            continue
        assert isinstance(found, Missing) or found.key == key

    async def works() -> bool:
        try:
            return await keep(store, "new") and await payload(store, "new") == b"new"
        except CacheError:
            return False

    await eventually(works)
    await store.aclose()


async def test_a_reply_that_another_epoch_has_overtaken(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for an older copy of the file without the records."""
    await keep(store, "00", vector=axis(0))
    await store.nearest_anywhere(axis(0), limit=5, floor=0.5)
    plain, overtaken = SqliteFile.read, asyncio.Event()

    async def late(file: SqliteFile, *work: Any, **options: Any) -> Any:
        reply = await plain(file, *work, **options)
        if isinstance(reply, tuple) and not overtaken.is_set():  # a search, not its catching up
            overtaken.set()
            await store.bump(invalidate=False)
        return reply

    monkeypatch.setattr(SqliteFile, "read", late)
    found = await store.nearest_anywhere(axis(0), limit=5, floor=0.5)
    assert overtaken.is_set()
    assert [s.key for s in found] == ["00"]


async def test_two_that_begin_one_file_are_no_strangers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What marks a file as ours is read at one moment, whatever another process does between."""
    read = sqlite_file._pragma

    def overtaken(connection: sqlite3.Connection, name: str) -> int:
        found = read(connection, name)
        if name == "user_version":
            monkeypatch.setattr(sqlite_file, "_pragma", read)
            other = sqlite3.connect(path, timeout=0, isolation_level=None)
            with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(other):
                sqlite_file._prepare(other, path)
        return found

    monkeypatch.setattr(sqlite_file, "_pragma", overtaken)
    store = SqliteStore(path, LIMITS)
    await store.start()
    await keep(store, "00")
    assert await payload(store, "00") is not None
    await store.aclose()


async def test_another_programs_database_is_not_touched(path: Path) -> None:
    """A SQLite file that is not ours is refused and left as it is."""
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = content_of(path)
    store = SqliteStore(path, LIMITS)
    with pytest.raises(CacheError, match="another program"):
        await store.start()
    await store.aclose()
    assert content_of(path) == before


@pytest.mark.parametrize("schema", [SCHEMA - 1, SCHEMA + 1])
async def test_a_file_of_another_schema(path: Path, schema: int) -> None:
    """An older one is begun anew, a newer one is refused with the mend."""
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE records (something_else)")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {schema}")
    connection.close()
    store = SqliteStore(path, LIMITS)
    if schema > SCHEMA:
        with pytest.raises(CacheError, match="newer version"):
            await store.start()
    else:
        await store.start()
        assert await keep(store, "00")
    await store.aclose()


async def test_a_folder_in_the_way(tmp_path: Path) -> None:
    """A path that cannot be a file is a CacheError that names it, and the mend."""
    store = SqliteStore(tmp_path, LIMITS)
    with pytest.raises(CacheError, match=rf"{tmp_path}.*give cache\.path another place"):
        await store.start()
    await store.aclose()


@pytest.mark.parametrize(
    ("limit", "mend"),
    [
        ("query_only = ON", "make {folder} and what is in it writable for this process, or give"),
        ("max_page_count = 1", "make some there, or give cache.path another place"),
    ],
)
async def test_what_cannot_be_written_names_the_mend(path: Path, limit: str, mend: str) -> None:
    """A file that SQLite takes for read-only, and a full one."""
    file = SqliteFile(path, 5.0)
    await file.write(lambda connection: connection.execute(f"PRAGMA {limit}"))
    with pytest.raises(CacheError, match=re.escape(mend.format(folder=path.parent))):
        await file.write(lambda connection: connection.execute(f"CREATE TABLE {'t' * 5_000} (x)"))
    await file.aclose()


async def test_a_file_that_another_holds_names_the_mend(path: Path) -> None:
    """It is waited for, but not for ever."""
    file = SqliteFile(path, 5.0)
    await file.write(lambda _: None)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match=r"raise cache\.timeout_ms"):
            await file.write(lambda _: None, timeout_s=0.05)
    await file.aclose()


@pytest.mark.parametrize(
    ("number", "mend"), [(errno.EROFS, "writable for this process"), (errno.ENOSPC, "make some")]
)
async def test_a_folder_that_cannot_be_made_names_the_mend(
    path: Path, number: int, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a read-only or a full disk."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    file = SqliteFile(path, 5.0)
    with pytest.raises(CacheError, match=f"{os.strerror(number)}.*{mend}.*cache.path"):
        await file.read(lambda _: None)
    await file.aclose()


async def test_a_damaged_file_that_cannot_be_renamed_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fresh one was begun, so nobody is told so."""
    place_file(path, b"SQLite format 3\0" + os.urandom(8_000))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    store = SqliteStore(path, LIMITS)
    with pytest.raises(CacheError, match=r"cannot be renamed \(Permission denied\); remove it"):
        await store.start()
    await store.aclose()


async def test_a_failed_call_is_reported_once(tmp_path: Path) -> None:
    """The caller gets the error; the event loop finds none that nobody took."""
    untaken: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: untaken.append(context))
    store = SqliteStore(tmp_path, LIMITS)
    with contextlib.suppress(CacheError):  # which pytest.raises would keep alive
        await store.epoch()
    await store.aclose()
    gc.collect()
    assert untaken == []


async def test_a_program_that_changes_its_folder_keeps_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is read from where the program was, as it is opened again by that name."""
    monkeypatch.chdir(tmp_path)
    store = SqliteStore(Path("cache.sqlite"), LIMITS)
    await keep(store, "00")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setattr("funnel.cache.sqlite_file._STAT_EVERY_S", 0.0)
    assert await payload(store, "00") is not None
    assert store.where == str(tmp_path / "cache.sqlite")
    await store.aclose()


async def test_a_deleted_file_is_begun_anew(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its file the store does not go on with a ghost: others would not see it."""
    monkeypatch.setattr("funnel.cache.sqlite_file._STAT_EVERY_S", 0.0)
    await keep(store, "00", vector=axis(0))
    before = await store.epoch()
    remove_with_side_files(path)

    async def anew() -> bool:
        try:
            return (await store.epoch()).floor > before.current
        except CacheError:
            return False

    await eventually(anew)
    assert await payload(store, "00") is None
    assert await near(store, axis(0)) == []


async def test_an_older_copy_serves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file restored from before an index write has no valid record."""
    monkeypatch.setattr("funnel.cache.sqlite_file._STAT_EVERY_S", 0.0)
    store = await reopened(path)
    await keep(store, "00", vector=axis(0))
    copy = path.with_suffix(".copy")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    epoch = await store.bump(invalidate=True)
    remove_with_side_files(path)
    shutil.move(copy, path)
    assert await payload(store, "00") is None
    assert await near(store, axis(0)) == []
    assert (await store.epoch()).floor > epoch.current
    await store.aclose()


async def test_a_clock_set_back_ends_what_it_would_prolong(path: Path) -> None:
    """A record that seems to live longer than it was given is missing; so is its lease."""
    now = time.time()
    store = SqliteStore(path, LIMITS, clock=lambda: now)
    await keep(store, "00", retain_s=60, vector=axis(0))
    await store.alias(P, "01", "00", note=b"", retain_s=60)
    assert await store.acquire("00", ttl_s=10) is not None
    now -= 3600
    assert [await payload(store, key) for key in ("00", "01")] == [None, None]
    assert await near(store, axis(0)) == []
    assert await store.acquire("00", ttl_s=10) is not None
    assert await keep(store, "00")
    assert await payload(store, "00") == b"00"
    await store.aclose()


async def test_a_clock_set_forward_expires(path: Path) -> None:
    """Time that jumped ahead ends records early, never late."""
    now = time.time()
    store = SqliteStore(path, LIMITS, clock=lambda: now)
    await keep(store, "00", retain_s=60)
    now += 61
    assert await payload(store, "00") is None
    await store.aclose()


async def test_reads_go_on_while_another_process_writes(store: SqliteStore, path: Path) -> None:
    """A writer that holds the lock delays writes up to the timeout, and reads not at all."""
    await keep(store, "00")
    hurried = SqliteStore(path, StoreLimits(timeout_ms=200.0))
    await hurried.epoch()
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert await payload(hurried, "00") == b"00"
        began = time.monotonic()
        with pytest.raises(CacheError):
            await hurried.bump(invalidate=False)
        assert time.monotonic() - began < 2.0
        holder.execute("ROLLBACK")
    holder.close()
    await eventually(lambda: keep(hurried, "01"))
    await hurried.aclose()


@pytest.mark.parametrize(
    "drop",
    [
        lambda store: store.delete_documents(["d"]),
        lambda store: store.purge(scope="a1"),
        lambda store: store.purge(),
    ],
    ids=["documents", "scope", "all"],
)
async def test_dropping_waits_for_another_process(
    path: Path, drop: Callable[[SqliteStore], Coroutine[Any, Any, int]]
) -> None:
    """A lock that outlasts ``timeout_ms`` delays what is not on a query's way, and no more."""
    store = SqliteStore(path, StoreLimits(timeout_ms=50.0))
    await store.start()
    await keep(store, "00", documents=["d"], scope="a1")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        dropping = asyncio.create_task(drop(store))
        await asyncio.sleep(0.15)
        other.execute("COMMIT")
        assert await dropping == 1
    await store.aclose()


async def test_recently_used_records_stay(path: Path) -> None:
    """Eviction takes what was not read for longest."""
    store = SqliteStore(path, StoreLimits(timeout_ms=5000.0, max_entries=10))
    await keep_many(store, [f"{i:02x}" for i in range(10)])
    await payload(store, "00")
    await keep_many(store, [f"{i:02x}" for i in range(10, 15)])
    assert await payload(store, "00") is not None
    assert await payload(store, "01") is None
    await store.aclose()


async def test_anywhere_reads_all_that_others_have_put(store: SqliteStore, path: Path) -> None:
    """However far this process's mirror is behind: it may have served no query for hours."""
    other = await reopened(path)
    await keep_many(other, [f"{i:04x}" for i in range(2_100)], vector=axis(1))
    await keep(other, "last", vector=axis(0))
    assert [s.key for s in await store.nearest_anywhere(axis(0), limit=5, floor=0.5)] == ["last"]
    await other.aclose()


async def test_lookups_go_on_while_all_partitions_are_searched(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many tenants that takes a second, in which no query may be kept from its answer."""
    await keep_many(store, ["00", "01"], vector=axis(0))
    begun, go_on = threading.Event(), threading.Event()

    def search_slowly(*_: Any, **__: Any) -> list[Neighbour]:
        begun.set()
        go_on.wait(5)
        return [Neighbour(f"{P}:00", 1.0)]

    monkeypatch.setattr("funnel.cache.nearest._MANY", 0)
    monkeypatch.setattr(NearestIndex, "search_everywhere", search_slowly)
    searching = asyncio.create_task(store.nearest_anywhere(axis(0), limit=5, floor=0.5))
    assert await asyncio.to_thread(begun.wait, 5)
    assert await asyncio.wait_for(payload(store, "01"), 2) == b"01"
    go_on.set()
    assert [stored.key for stored in await searching] == ["00"]


def run_python(script: str, *arguments: str) -> str:
    """Run a script in another process and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def test_another_process_shares_the_file(store: SqliteStore, path: Path) -> None:
    """Records, epochs and refusals cross processes."""
    old = await store.epoch()
    await store.bump(invalidate=False)
    script = """
        import asyncio, sys
        import numpy as np
        from funnel.cache.store import Record, StoreLimits
        from funnel.cache.store_sqlite import SqliteStore

        async def main(path, old):
            store = SqliteStore(path, StoreLimits(timeout_ms=5000.0))
            await store.start()
            epoch = (await store.epoch()).current
            vector = np.eye(16, dtype=np.float32)[0]
            kept = [await store.put(Record("aa" * 32, "ff", "", b"theirs", 60, e, 0, vector))
                    for e in (old, epoch)]
            await store.aclose()
            print(kept)

        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    """
    out = await asyncio.to_thread(run_python, script, str(path), str(old.current))
    assert out == "[False, True]"
    assert await payload(store, "ff") == b"theirs"
    assert await near(store, axis(0)) == ["ff"]


async def test_a_full_disk_refuses_writes_and_still_reads(path: Path) -> None:
    """Out of space a put is a CacheError, reads go on, and nothing is damaged."""
    script = """
        import asyncio, resource, sys
        from funnel.cache.store import Record, StoreLimits
        from funnel.cache.store_sqlite import SqliteStore
        from funnel.errors import CacheError

        async def main(path):
            store = SqliteStore(path, StoreLimits(timeout_ms=5000.0))
            await store.start()
            epoch = (await store.epoch()).current
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
            kept = failed = 0
            for i in range(60):
                try:
                    kept += await store.put(
                        Record("aa" * 32, f"{i:02x}", "", b"x" * 20_000, 60, epoch))
                except CacheError:
                    failed += 1
            found = [(await store.get("aa" * 32, f"{i:02x}")).found for i in range(kept)]
            print(kept > 0, failed > 0, all(s.payload == b"x" * 20_000 for s in found))
            await store.aclose()

        asyncio.run(main(sys.argv[1]))
    """
    assert await asyncio.to_thread(run_python, script, str(path)) == "True True True"
    store = await reopened(path)
    assert await payload(store, "00") is not None
    await store.aclose()
