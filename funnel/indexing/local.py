"""Qdrant's local mode: a directory or memory, one process at a time.

The client is synchronous there and not thread-safe, so all its calls run in one worker thread.
Points are stored as pickles by the client itself: a directory must be trusted like code.
"""

import asyncio
import atexit
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from funnel.deadline import Deadline
from funnel.errors import BackendUnavailable, Closed, ConfigError
from funnel.indexing.local_points import LocalPoints
from funnel.indexing.postings import Postings
from funnel.indexing.qdrant import BM25, DENSE, MEMORY, Backend, PointQuery, translated
from funnel.indexing.terms import SparseTerms
from funnel.threads import Threads

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

T = TypeVar("T")
_PAGE = 2_000
_CLIENTS_LOCK = ".lock"
_OUR_LOCK = ".opening"
_PATIENCE_S = 0.3
_LEAVING_POINTS = frozenset(
    {"count", "get_collection", "retrieve", "scroll", "update_collection", "update_vectors"}
)


class LocalBackend(Backend):
    """The client's local mode behind one worker thread."""

    is_local = True

    def __init__(self, place: str) -> None:
        self._place = place
        self._thread = Threads(1, "funnel-qdrant")
        self._client: QdrantClient | None = None
        self._pid = 0  # of the process that opened it
        self._postings: dict[str, Postings] = {}  # by physical collection; worker thread only
        self._points: dict[str, LocalPoints] = {}  # for filters, from the first on; likewise

    async def open(self) -> None:
        """Load the collections and take the directory's lock.

        Raises:
            BackendUnavailable: another process holds the directory, or it cannot be written.
            ConfigError: what is in it cannot be read.
        """
        if self._client is None:
            self._client = await self._in_thread(self._connect, None)
            self._pid = os.getpid()
            _OPEN.add(self)

    async def call(self, method: str, *, deadline: Deadline | None = None, **arguments: Any) -> Any:
        """Run in the worker thread; past the deadline the caller stops waiting."""
        work = partial(getattr(self._opened(), method), **arguments)
        return await self._in_thread(work, deadline)

    async def write(self, method: str, **arguments: Any) -> Any:
        """As ``call``, for what failed locally once will fail again; postings follow."""
        client = self._opened()

        def work() -> Any:
            try:
                answer = getattr(client, method)(**arguments)
            except BaseException:
                self._forget(arguments.get("collection_name", ""))
                raise
            self._follow(client, method, arguments)
            return answer

        return await self._in_thread(work, None)

    async def search(self, query: PointQuery, deadline: Deadline | None) -> dict[str, list[Any]]:
        """Dense by the client, BM25 by postings with the same scores."""
        return await self._in_thread(partial(self._search, self._opened(), query), deadline)

    async def warm_up(self, collection: str) -> None:
        """Fill the postings."""
        await self._in_thread(partial(self._postings_of, self._opened(), collection), None)

    async def aclose(self) -> None:
        """Close the files after the calls in flight."""
        client, self._client = self._client, None
        if client is not None:
            await self._in_thread(client.close, None)
        self._thread.shutdown(wait=False)

    def leave(self) -> None:
        """Close the files at the interpreter's end, where nobody did: later the client cannot."""
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():  # a fork has no thread to do it
            self._thread.submit(client.close).result()

    def _opened(self) -> "QdrantClient":
        if self._client is None:
            raise Closed("the index is closed or was not started; call start() first")
        return self._client

    def _connect(self) -> "QdrantClient":
        from qdrant_client import QdrantClient

        # The index logs this once itself, with the mend; see DocumentIndex.
        warnings.filterwarnings("ignore", message="Local mode is not recommended")
        if self._place == MEMORY:
            return QdrantClient(MEMORY)
        folder = Path(self._place)
        try:
            with _alone_at(folder):
                client = QdrantClient(path=self._place)
        except OSError as error:
            raise BackendUnavailable(
                f"qdrant.path: got {self._place}, which cannot be used ({type(error).__name__}: "
                f"{error.strerror or error}); expected a folder that can be made and written",
                cause=error,
            ) from error
        except BackendUnavailable:
            raise
        except Exception as error:  # broken JSON, SQLite or pickles: many types, one meaning
            if _is_of_the_lock(error):
                raise _in_use(folder, error) from error
            raise ConfigError(
                f"the local index {self._place} cannot be read ({type(error).__name__}: {error}); "
                "move it away and index again"
            ) from error
        _commit_faster(client)
        return client

    async def _in_thread(self, work: Callable[[], T], deadline: Deadline | None) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        return await translated(future, self._place, deadline, None)

    # -- in the worker thread

    def _search(self, client: "QdrantClient", query: PointQuery) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        if query.dense is not None:
            found[DENSE] = self._search_vectors(client, query, query.dense)
        if query.sparse is not None:
            found[BM25] = self._search_terms(client, query, query.sparse)
        return found

    def _search_vectors(
        self, client: "QdrantClient", query: PointQuery, vector: Sequence[float]
    ) -> "list[models.ScoredPoint]":
        if not query.conditions:
            (answer,) = client.query_batch_points(query.collection, [query.requests()[DENSE]])
            return list(answer.points)
        points = self._points_of(client, query.collection)
        return _scored(client, query, points.nearest(vector, query.limit, query.conditions))

    def _search_terms(
        self, client: "QdrantClient", query: PointQuery, sparse: SparseTerms
    ) -> "list[models.ScoredPoint]":
        allowed = None
        if query.conditions:
            allowed = self._points_of(client, query.collection).matching(query.conditions)
        postings = self._postings_of(client, query.collection)
        best = postings.search(sparse.ids, sparse.values, query.limit, allowed)
        return _scored(client, query, best)

    def _postings_of(self, client: "QdrantClient", collection: str) -> Postings:
        target = _physical(client, collection)
        if target not in self._postings:
            self._postings[target] = _filled(client, target)
        return self._postings[target]

    def _points_of(self, client: "QdrantClient", collection: str) -> LocalPoints:
        target = _physical(client, collection)
        if target not in self._points:
            self._points[target] = _mirrored(client, target)
        return self._points[target]

    def _forget(self, collection: str) -> None:
        """After a write that may have happened in part: what is known of it is read anew."""
        self._postings.pop(collection, None)
        self._points.pop(collection, None)

    def _follow(self, client: "QdrantClient", method: str, arguments: Mapping[str, Any]) -> None:
        if method == "create_collection":
            _commit_faster(client)
        collection = arguments.get("collection_name", "")
        self._follow_points(collection, method, arguments)
        postings = self._postings.get(collection)
        if postings is None:
            return
        if method == "delete_collection":
            del self._postings[collection]
        elif method == "delete":
            for point_id in arguments["points_selector"]:
                postings.remove(str(point_id))
        elif method in ("upsert", "update_vectors"):
            for point in arguments["points"]:
                vector = point.vector[BM25]
                postings.put(str(point.id), vector.indices, vector.values)

    def _follow_points(self, collection: str, method: str, arguments: Mapping[str, Any]) -> None:
        """As far as a write's kind is known; after others they are read anew."""
        points = self._points.get(collection)
        if points is None or method in _LEAVING_POINTS:
            return
        if method == "upsert":
            for point in arguments["points"]:
                points.put(str(point.id), point.vector.get(DENSE, ()), point.payload["metadata"])
        elif method == "delete":
            for point_id in arguments["points_selector"]:
                points.remove(str(point_id))
        elif method == "batch_update_points":
            for operation in arguments["update_operations"]:
                described = operation.overwrite_payload
                for point_id in described.points:
                    points.describe(str(point_id), described.payload["metadata"])
        else:
            del self._points[collection]


_OPEN: WeakSet[LocalBackend] = WeakSet()


@atexit.register  # before whoever makes a funnel, whose own handlers therefore run first
def _leave_all() -> None:
    for backend in list(_OPEN):
        backend.leave()


@contextmanager
def _alone_at(folder: Path) -> Iterator[None]:
    """Keep other Funnels from opening the folder meanwhile; refuse it while one has it open.

    The client loads everything and looks at its lock only afterwards, so that alone would neither
    be quick nor keep two that open at once from reading what the other is writing.
    """
    import portalocker

    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Waits, as those who are refused, too, have the first lock: for an instant.
        with portalocker.Lock(folder / _OUR_LOCK, timeout=_PATIENCE_S, check_interval=0.01):
            with portalocker.Lock(folder / _CLIENTS_LOCK, fail_when_locked=True):
                pass
            yield
    except portalocker.exceptions.LockException as error:
        raise _in_use(folder, error) from error


def _is_of_the_lock(error: Exception) -> bool:
    """Whether the client found its lock taken, by a program that is no Funnel."""
    import portalocker

    return isinstance(error.__context__, portalocker.exceptions.LockException)


def _in_use(folder: Path, cause: Exception) -> BackendUnavailable:
    return BackendUnavailable(
        f"the local index {folder} is in use by another process, or by another Funnel in "
        "this one; close that first, or run a Qdrant server and set qdrant.url",
        cause=cause,
    )


def _commit_faster(client: "QdrantClient") -> None:
    """Let SQLite not wait for the disk at every point: from 100 to thousands of points a second.

    The client commits points one by one and offers no setting for this. A kill loses nothing; a
    power failure may lose the last points whole, and indexing again brings them back.
    """
    collections = getattr(getattr(client, "_client", None), "collections", {})
    for collection in collections.values():
        connection = getattr(getattr(collection, "storage", None), "storage", None)
        if connection is not None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")


def _physical(client: "QdrantClient", collection: str) -> str:
    aliases = client.get_aliases().aliases
    return next((a.collection_name for a in aliases if a.alias_name == collection), collection)


def _filled(client: "QdrantClient", target: str) -> Postings:
    postings = Postings()
    offset = None
    while True:
        records, offset = client.scroll(
            target, limit=_PAGE, offset=offset, with_payload=False, with_vectors=[BM25]
        )
        for record in records:
            vector: Any = record.vector
            postings.put(str(record.id), vector[BM25].indices, vector[BM25].values)
        if offset is None:
            return postings


def _mirrored(client: "QdrantClient", target: str) -> LocalPoints:
    points = LocalPoints()
    offset = None
    while True:
        records, offset = client.scroll(
            target, limit=_PAGE, offset=offset, with_payload=["metadata"], with_vectors=[DENSE]
        )
        for record in records:
            vector: Any = record.vector or {}
            points.put(str(record.id), vector.get(DENSE, ()), (record.payload or {})["metadata"])
        if offset is None:
            return points


def _scored(
    client: "QdrantClient", query: PointQuery, best: Sequence[tuple[str, float]]
) -> "list[models.ScoredPoint]":
    """Points and scores with what the query wants to know of them."""
    from qdrant_client import models

    ids = [point_id for point_id, _ in best]
    records = client.retrieve(query.collection, ids, list(query.payload))
    payloads = {str(record.id): record.payload for record in records}
    return [
        models.ScoredPoint(id=point_id, score=score, version=0, payload=payloads[point_id])
        for point_id, score in best
    ]
