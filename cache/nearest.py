"""The nearest cached queries, by partition, in this process's memory."""

import asyncio
import atexit
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from funnel.cache.graph import graphs_available
from funnel.cache.rows import Matrix, Vector
from funnel.cache.segment import Segment
from funnel.errors import CacheError, ConfigError
from funnel.log import get_logger

log = get_logger(__name__)

EXACT_LIMIT = 8_000
"""Vectors of a partition that are searched exactly: half a millisecond; a graph takes as long."""
_LONG = 20_000  # rows; searching more exactly takes over 2 ms
_MANY = 100  # partitions, each of which takes some 20 us


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A cached query near the one asked for; ``score`` is the cosine of the two."""

    id: str
    score: float


class NearestIndex:
    """Vectors by (partition, id): exact up to ``exact_limit`` per partition, then also a graph.

    Vectors are normalised here, so scores are cosines. No more than ``max_vectors`` are held over
    all partitions: the one put in longest ago goes first. Safe between threads; every method but
    ``close`` returns in milliseconds (graphs grow in a background thread, and what they do not
    hold yet is searched exactly).

    Raises:
        ConfigError: a limit is below 1.
    """

    def __init__(self, *, exact_limit: int = EXACT_LIMIT, max_vectors: int = 1_000_000) -> None:
        if exact_limit < 1 or max_vectors < 1:
            raise ConfigError(
                f"nearest index: got exact_limit={exact_limit}, max_vectors={max_vectors}; "
                "both must be at least 1"
            )
        self._exact_limit = exact_limit
        self._max_vectors = max_vectors
        self._segments: dict[str, Segment] = {}
        self._partition: OrderedDict[str, str] = OrderedDict()  # by id, the newest last
        self._lock = threading.RLock()
        self._settler = _Settler(exact_limit)

    def __len__(self) -> int:
        return len(self._partition)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._partition

    def add(self, partition: str, id_: str, vector: ArrayLike) -> None:
        """Add or replace one vector. See ``add_many``."""
        self.add_many(partition, [id_], np.asarray(vector, dtype=np.float32)[None, :])

    def add_many(self, partition: str, ids: Sequence[str], vectors: ArrayLike) -> None:
        """Add or replace vectors of shape (len(ids), dimensions).

        Raises:
            CacheError: a vector is not finite, is zero, or is not as long as the partition's.
        """
        self.add_units(partition, ids, _unit_rows(vectors, len(ids)))

    def add_units(self, partition: str, ids: Sequence[str], matrix: Matrix) -> None:
        """As ``add_many``, of vectors that :func:`unit_vector` has made."""
        with self._lock:
            segment = self._segment(partition, matrix.shape[1])
            for id_ in ids:
                if self._partition.get(id_, partition) != partition:
                    self.remove(id_)
                self._partition.pop(id_, None)  # put back below as the newest
                self._partition[id_] = partition
            segment.put_all(list(ids), matrix)
            self._shed()
        self._settler.consider(segment)

    def remove(self, id_: str) -> bool:
        """Forget one vector. Returns whether it was there."""
        with self._lock:
            partition = self._partition.pop(id_, None)
            if partition is None:
                return False
            segment = self._segments[partition]
            segment.remove(id_)
            if not len(segment):
                del self._segments[partition]
        self._settler.consider(segment)
        return True

    def remove_many(self, ids: Iterable[str]) -> int:
        """Forget many. Returns how many were there."""
        return sum(self.remove(id_) for id_ in ids)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._segments.clear()
            self._partition.clear()

    def ids(self) -> list[str]:
        """All ids, the one put in longest ago first."""
        with self._lock:
            return list(self._partition)

    def search(
        self, partition: str, vector: ArrayLike, count: int, *, floor: float = -1.0
    ) -> list[Neighbour]:
        """The ``count`` nearest of a partition with a cosine of at least ``floor``, best first.

        Raises:
            CacheError: the vector is not finite, is zero, or is not as long as the partition's.
        """
        with self._lock:
            segment = self._segments.get(partition)
        return [] if segment is None else _search(segment, vector, count, floor)

    async def asearch(
        self, partition: str, vector: ArrayLike, count: int, *, floor: float = -1.0
    ) -> list[Neighbour]:
        """``search``, in a thread of its own where it would hold up the event loop."""
        with self._lock:
            segment = self._segments.get(partition)
        if segment is None or segment.rows < _LONG:
            return self.search(partition, vector, count, floor=floor)
        return await asyncio.to_thread(self.search, partition, vector, count, floor=floor)

    def search_everywhere(
        self, vector: ArrayLike, count: int, *, floor: float = -1.0
    ) -> list[Neighbour]:
        """As ``search``, over all partitions whose vectors are as long as this one."""
        unit = unit_vector(vector)
        with self._lock:
            segments = [s for s in self._segments.values() if s.dimensions == len(unit)]
        found = [hit for segment in segments for hit in _hits(segment, unit, count, floor)]
        return sorted(found, key=lambda hit: -hit.score)[:count]

    async def asearch_everywhere(
        self, vector: ArrayLike, count: int, *, floor: float = -1.0
    ) -> list[Neighbour]:
        """``search_everywhere``, in a thread where it would hold up the event loop."""
        with self._lock:
            long = len(self._segments) > _MANY or len(self._partition) > _LONG
        if not long:
            return self.search_everywhere(vector, count, floor=floor)
        return await asyncio.to_thread(self.search_everywhere, vector, count, floor=floor)

    def stats(self) -> dict[str, Any]:
        """Sizes, JSON-ready: vectors, how many of them are searched exactly, partitions, bytes."""
        with self._lock:
            segments = list(self._segments.values())
            vectors = len(self._partition)
        return {
            "vectors": vectors,
            "exact": sum(segment.rows for segment in segments),
            "partitions": len(segments),
            "bytes": sum(segment.nbytes for segment in segments),
        }

    def settled(self) -> bool:
        """Whether all graphs hold what they should."""
        return self._settler.idle

    def close(self) -> None:
        """Stop the background thread; the index stays usable and searches exactly what is new."""
        self._settler.close()

    def _segment(self, partition: str, dimensions: int) -> Segment:
        segment = self._segments.get(partition)
        if segment is None:
            segment = self._segments[partition] = Segment(dimensions)
        _check_length(segment, dimensions)
        return segment

    def _shed(self) -> None:
        while len(self._partition) > self._max_vectors:
            self.remove(next(iter(self._partition)))


def add_group(
    index: NearestIndex, partition: str, ids: Sequence[str], vectors: Sequence[Vector]
) -> None:
    """Add vectors of one length; one that cannot be used is left out and logged."""
    try:
        index.add_many(partition, ids, np.stack(vectors))
    except CacheError as error:
        if len(ids) == 1:
            log.warning("cache.nearest.vector_refused", reason=str(error))
            return
        for id_, vector in zip(ids, vectors, strict=True):
            add_group(index, partition, [id_], [vector])


class _Settler:
    """One background thread that moves vectors into graphs, started when first needed."""

    def __init__(self, exact_limit: int) -> None:
        self._exact_limit = exact_limit
        self._waiting: dict[int, Segment] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._working = False
        self._can = graphs_available()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to move."""
        with self._changed:
            return not (self._waiting or self._working)

    def consider(self, segment: Segment) -> None:
        """Have the segment looked after if it has grown past the limit, or hollow."""
        if self._closed or not segment.wants_to_settle(self._exact_limit):
            return
        if not self._can:
            self._say_once()
            return
        with self._changed:
            self._waiting[id(segment)] = segment
            self._start()
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _start(self) -> None:
        if self._thread is None:
            # An interpreter that ends beside a thread in usearch's code aborts.
            atexit.register(self.close)
            self._thread = threading.Thread(target=self._run, name="funnel-nearest", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (segment := self._next()) is not None:
            try:
                while not self._closed and segment.settle(self._exact_limit):
                    pass
            except Exception as error:
                log.error("cache.nearest.graph_failed", error=repr(error))
                self._can = False  # exact search goes on

    def _next(self) -> Segment | None:
        with self._changed:
            self._working = False
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            self._working = True
            return self._waiting.pop(next(iter(self._waiting)))

    def _say_once(self) -> None:
        if not self._closed:
            log.warning(
                "cache.nearest.exact_only",
                limit=self._exact_limit,
                mend="pip install 'retrieval-funnel[cache]' for a graph above this size",
            )
        self._closed = True


def _search(segment: Segment, vector: ArrayLike, count: int, floor: float) -> list[Neighbour]:
    unit = unit_vector(vector)
    _check_length(segment, len(unit))
    return _hits(segment, unit, count, floor)


def _hits(segment: Segment, unit: Vector, count: int, floor: float) -> list[Neighbour]:
    return [Neighbour(id_, score) for id_, score in segment.search(unit, count, floor)]


def _check_length(segment: Segment, dimensions: int) -> None:
    if segment.dimensions != dimensions:
        raise CacheError(
            f"got a query vector of {dimensions} numbers, expected {segment.dimensions} as in the "
            "rest of its partition; give every encoder a partition of its own"
        )


def unit_vector(vector: ArrayLike) -> Vector:
    """The vector at length one, float32.

    Raises:
        CacheError: it is not finite, is zero, or is no vector.
    """
    row: Vector = _unit_rows(np.asarray(vector, dtype=np.float32)[None, :], 1)[0]
    return row


def _unit_rows(vectors: ArrayLike, count: int) -> Matrix:
    matrix = np.asarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or len(matrix) != count or matrix.shape[1] == 0:
        raise CacheError(f"got query vectors of shape {matrix.shape}, expected ({count}, n)")
    lengths = np.sqrt((matrix * matrix).sum(axis=1, keepdims=True))
    if not np.isfinite(lengths).all() or not lengths.all():
        raise CacheError("got a query vector that is zero or not finite, expected a direction")
    unit: Matrix = (matrix / lengths).astype(np.float32, copy=False)
    return unit
