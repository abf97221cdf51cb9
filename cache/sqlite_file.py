"""One SQLite file: a reading and a writing connection, each in a thread of its own.

In write-ahead-log mode readers wait for nobody, so a lookup never stands behind another process's
write. What the file cannot give in time is a CacheError; a damaged file is renamed aside and a
fresh one begun, because a cache may be lost but must not be wrong. A file that is none of ours is
left as it is.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from funnel.cache.sqlite_errors import primary_code, refused, unusable
from funnel.cache.sqlite_schema import APPLICATION_ID, CREATE, SCHEMA
from funnel.errors import CacheError
from funnel.log import get_logger
from funnel.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

log = get_logger(__name__)
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_MAGIC = b"SQLite format 3\0"
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_QUEUE = 4_096
_STAT_EVERY_S = 1.0
_OPEN_S = 5.0  # behind the callers' backs; other processes may be opening it too
_CLOSE_S = 2.0
_SIDE_FILES = ("-wal", "-shm")


class SqliteFile:
    """Runs work on the file within a timeout.

    Args:
        path: the database; its folder is made if missing.
        timeout_s: bounds every call, waiting for other processes' locks included.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path.expanduser().absolute()
        self._timeout_s = timeout_s
        self._reader = _Worker(self.path, "read")
        self._writer = _Worker(self.path, "write")

    async def read(self, work: Work[T], *, timeout_s: float | None = None) -> T:
        """Run ``work`` in a read transaction: one consistent state of the file.

        Raises:
            CacheError: not in time, or the file cannot be read.
        """
        return await self._answer(self._reader, _in_transaction("BEGIN", work), timeout_s)

    async def write(
        self,
        work: Work[T],
        *,
        timeout_s: float | None = None,
        unwanted: Callable[[sqlite3.Connection, T], object] | None = None,
    ) -> T:
        """Run ``work`` in a write transaction; raises as ``read`` does, and then nothing changed.

        Unless it was only the caller that stopped waiting: then the work may still be done, and
        ``unwanted`` is called in the same transaction with its result.
        """
        gone = threading.Event()

        def run(connection: sqlite3.Connection) -> T:
            result = work(connection)
            if unwanted is not None and gone.is_set():
                unwanted(connection, result)
            return result

        begun = _in_transaction("BEGIN IMMEDIATE", run)
        try:
            return await self._answer(self._writer, begun, timeout_s)
        except (CacheError, asyncio.CancelledError):
            gone.set()
            raise

    async def aclose(self) -> None:
        """Close both connections; further calls raise CacheError."""
        for worker in (self._writer, self._reader):
            await worker.aclose()

    async def _answer(self, worker: "_Worker", work: Work[T], timeout_s: float | None) -> T:
        patience = self._timeout_s if timeout_s is None else timeout_s
        future = worker.submit(_waiting(patience, work))
        waited = asyncio.wrap_future(future)
        waited.add_done_callback(_retrieve)
        try:
            await asyncio.wait((waited,), timeout=patience)
        finally:
            late = not future.done()
            future.cancel()  # what has not begun need not begin
        if late:
            raise CacheError(
                f"{self.path} gave no answer within {patience * 1000:.0f} ms; if it stays so, "
                "raise cache.timeout_ms, or give cache.path a faster disk"
            )
        return future.result()


def _retrieve(future: "asyncio.Future[T]") -> None:
    """Take the exception, which ``_answer`` raises from the worker's own future."""
    if not future.cancelled():
        future.exception()


class _Worker:
    """A thread with a connection, opened on first use and again when the file was replaced."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._pool = Threads(1, f"funnel-sqlite-{name}")
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._looked = 0.0
        self._waiting = 0
        self._counting = threading.Lock()
        self._closed = False

    def submit(self, work: Work[T]) -> "Future[T]":
        if self._closed:
            raise CacheError("the SQLite store is closed; make a new one")
        if self._waiting >= _QUEUE:
            raise CacheError(
                f"{self._path}: got {_QUEUE:,} calls that wait, expected fewer; give cache.path a "
                "faster disk, or set cache.store: redis"
            )
        with self._counting:
            self._waiting += 1
        future = self._pool.submit(self._run, work)
        future.add_done_callback(self._finished)
        return future

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        last = self._pool.submit(self._disconnect)
        await asyncio.wait((asyncio.wrap_future(last),), timeout=_CLOSE_S)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _finished(self, future: "Future[T]") -> None:
        with self._counting:
            self._waiting -= 1
        if not future.cancelled():
            future.exception()  # retrieved, even if nobody waits for it any more

    def _run(self, work: Work[T]) -> T:
        try:
            return work(self._connected())
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except OSError as error:
            raise unusable(self._path, error) from error

    def _translated(self, error: sqlite3.Error) -> CacheError:
        if primary_code(error) not in _DAMAGED:
            return refused(self._path, error)
        if _is_something_else(self._path):
            self._disconnect()
            return _no_database(self._path)
        try:
            self._set_aside()
        except OSError as problem:
            return CacheError(
                f"{self._path} is damaged ({error}) and cannot be renamed ({problem.strerror}); "
                f"remove it, or make {self._path.parent} writable for this process"
            )
        return CacheError(f"{self._path} was damaged ({error}); a fresh one was begun")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and self._replaced():
            self._disconnect()
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _open(self._path)
            self._identity = _identity(self._path)
            self._looked = time.monotonic()
        return self._connection

    def _replaced(self) -> bool:
        """Whether the path leads to another file now: deleted, restored, or set aside."""
        now = time.monotonic()
        if now - self._looked < _STAT_EVERY_S:
            return False
        self._looked = now
        return _identity(self._path) != self._identity

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _set_aside(self) -> None:
        """Rename the damaged file, unless somebody else has done so and begun a fresh one.

        Raises:
            OSError: it cannot be renamed.
        """
        identity = self._identity if self._connection is not None else _identity(self._path)
        self._disconnect()
        if identity is None or _identity(self._path) != identity:
            return
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(aside)
        for ending in _SIDE_FILES:
            with contextlib.suppress(OSError):
                Path(f"{self._path}{ending}").rename(f"{aside}{ending}")
        log.error("cache.sqlite.damaged", path=str(self._path), kept_as=str(aside))


def _open(path: Path) -> sqlite3.Connection:
    _refuse_a_byte(path)
    with contextlib.suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)
    connection = sqlite3.connect(path, timeout=_OPEN_S, isolation_level=None)
    try:
        with transaction(connection, "BEGIN"):  # at one moment, while another process may begin it
            _check_ours(connection, path)  # a change of mode would be a change of another's file
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file, and again in one of an older schema."""
    with transaction(connection, "BEGIN IMMEDIATE"):
        if _check_ours(connection, path):
            return
        _drop_all(connection)
        for statement in _statements(CREATE):
            connection.execute(statement)
        start = time.time_ns() // 1_000_000  # above every epoch of a file that was here before
        connection.execute(
            "INSERT INTO meta (id, born, current, floor, token) VALUES (1, ?, ?, ?, ?)",
            (start,) * 4,
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _check_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether it is of this schema; raises CacheError where it is not ours to change."""
    application = _pragma(connection, "application_id")
    schema = _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and tables:
        raise CacheError(f"{path} is another program's database; give cache.path a file of its own")
    if application == APPLICATION_ID and schema > SCHEMA:
        raise CacheError(
            f"{path} was written by a newer version (schema {schema}, expected {SCHEMA}); "
            "give cache.path another file, or upgrade"
        )
    return application == APPLICATION_ID and schema == SCHEMA


def _drop_all(connection: sqlite3.Connection) -> None:
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    ).fetchall()
    for (name,) in names:
        connection.execute(f'DROP TABLE "{name}"')


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _refuse_a_byte(path: Path) -> None:
    """SQLite takes a file of one byte for an empty one and would write over it."""
    if path.is_file() and path.stat().st_size == 1:
        raise _no_database(path)


def _no_database(path: Path) -> CacheError:
    return CacheError(
        f"{path} is no SQLite database; give cache.path a file of its own, or remove this one"
    )


def _is_something_else(path: Path) -> bool:
    """Whether the file begins as no SQLite database does.

    Only for one that SQLite has refused: to close a file gives up this process's locks on it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except OSError:
        return False
    return head not in (b"", _MAGIC)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """Commit at the end, roll back on any exception."""
    connection.execute(begin)
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _waiting(seconds: float, work: Work[T]) -> Work[T]:
    """The work, waiting for other processes' locks as long as its caller waits."""

    def run(connection: sqlite3.Connection) -> T:
        connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
        return work(connection)

    return run


def _in_transaction(begin: str, work: Work[T]) -> Work[T]:
    def run(connection: sqlite3.Connection) -> T:
        with transaction(connection, begin):
            return work(connection)

    return run
