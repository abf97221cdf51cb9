"""The vectors of one partition: the newest exactly, the settled rest in a graph."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from funnel.cache.graph import VectorGraph
from funnel.cache.rows import Matrix, Vector, VectorRows

_BATCH = 2
"""Vectors moved per turn: 0.3 to 0.5 ms, which is all that a search may have to wait."""
_BATCH_BACK = 512  # copying is far cheaper than linking


class _Turns:
    """A lock that goes to whoever waits for it, not to the thread that let go of it just now.

    A plain lock lets a thread that takes it in a loop starve the others: searches beside a growing
    graph took half a second. Here who waits holds the door, so the next one in a loop queues up.
    """

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._room = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Alone until the end of the block."""
        with self._door:
            self._room.acquire()
        try:
            yield
        finally:
            self._room.release()


class Segment:
    """Searches rows and graph together and merges; safe between threads.

    Adding always goes to the rows. ``settle`` moves the surplus into the graph, a few vectors per
    call, from a background thread. Once the graph is mostly empty, or so little is left that all of
    it could be searched exactly, it moves them back and drops it.
    """

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._rows = VectorRows(dimensions)
        self._graph: VectorGraph | None = None
        self._leaving = False
        self._turns = _Turns()

    def __len__(self) -> int:
        with self._turns.turn():
            return len(self._rows) + self._in_graph()

    @property
    def rows(self) -> int:
        """How many vectors are searched exactly."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of vectors and graph."""
        if self._graph is None:  # as nearly all of many partitions are
            return self._rows.nbytes
        with self._turns.turn():
            return self._rows.nbytes + (self._graph.nbytes if self._graph is not None else 0)

    def put_all(self, ids: list[str], vectors: Matrix) -> None:
        """Add or replace; ``vectors`` are unit rows of shape (len(ids), dimensions)."""
        with self._turns.turn():
            if self._graph is not None:
                for id_ in ids:
                    self._graph.remove(id_)
            self._rows.put_all(ids, vectors)

    def remove(self, id_: str) -> bool:
        """Forget a vector. Returns whether it was there."""
        with self._turns.turn():
            return self._rows.remove(id_) or self._remove_from_graph(id_)

    def search(self, vector: Vector, count: int, floor: float) -> list[tuple[str, float]]:
        """The ``count`` nearest ids with cosines of at least ``floor``, best first."""
        with self._turns.turn():
            found = self._rows.search(vector, count, floor)
            if self._graph is not None:
                near = self._graph.search(vector, count)
                found += [pair for pair in near if pair[1] >= floor]
        return sorted(found, key=lambda pair: -pair[1])[:count]

    def wants_to_settle(self, exact_limit: int) -> bool:
        """Whether ``settle`` would have something to do."""
        with self._turns.turn():
            allowed = exact_limit if self._graph is None else exact_limit // 4
            return self._should_leave(exact_limit) or len(self._rows) > allowed

    def settle(self, exact_limit: int) -> bool:
        """Move a few vectors to where they belong. Returns whether there is more to do.

        Once begun, all but a tenth of ``exact_limit`` are moved: a search then costs little more
        than the graph's share of it.
        """
        with self._turns.turn():
            if self._should_leave(exact_limit):
                self._move_back()
                return True
            if self._graph is None and len(self._rows) <= exact_limit:
                return False
            surplus = len(self._rows) - exact_limit // 10
            if surplus > 0:
                self._move_over(min(_BATCH, surplus))
            return surplus > _BATCH

    def _move_over(self, count: int) -> None:
        if self._graph is None:
            self._graph = VectorGraph(self.dimensions)
        ids, vectors = self._rows.first(count)
        self._graph.add(ids, vectors)
        for id_ in ids:
            self._rows.remove(id_)

    def _move_back(self) -> None:
        self._leaving = True
        if self._graph:
            self._rows.put_all(*self._graph.take(_BATCH_BACK))
        if not self._graph:
            self._graph, self._leaving = None, False

    def _should_leave(self, exact_limit: int) -> bool:
        if self._graph is None:
            return False
        few = len(self._rows) + len(self._graph) <= exact_limit // 2
        return self._leaving or few or self._graph.hollow

    def _remove_from_graph(self, id_: str) -> bool:
        return self._graph is not None and self._graph.remove(id_)

    def _in_graph(self) -> int:
        return len(self._graph) if self._graph is not None else 0
