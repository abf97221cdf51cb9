"""The query vectors of a SQLite store in this process, brought up to date before each search."""

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from funnel.cache import sqlite_schema as sql
from funnel.cache.nearest import NearestIndex, add_group
from funnel.cache.wire import from_wire

if TYPE_CHECKING:
    from funnel.cache.rows import Vector

_SLACK = 64


class SqliteMirror:
    """Follows the records' serial numbers, in the reading thread; any may search the ``index``."""

    def __init__(self, *, max_vectors: int, exact_limit: int) -> None:
        # Room for all that it may hold before strangers go: what is shed could never be found.
        room = 3 * max_vectors + _SLACK
        self.index = NearestIndex(exact_limit=exact_limit, max_vectors=room)
        self._base: tuple[int, int] | None = None
        self._seq = 0

    def catch_up(self, connection: sqlite3.Connection, rows: int) -> bool:
        """Take in up to ``rows`` new records. Returns whether there are more."""
        born, floor, seq, entries = connection.execute(
            "SELECT born, floor, seq, entries FROM meta"
        ).fetchone()
        if (born, floor) != self._base:  # another file, or everything before was invalidated
            self.index.clear()
            self._base, self._seq = (born, floor), 0
        if seq == self._seq:
            return False
        asked = {"seq": self._seq, "floor": floor, "limit": rows}
        found = connection.execute(sql.NEWER, asked).fetchall()
        self._add(found)
        self._seq = found[-1][0] if len(found) == rows else seq
        if len(self.index) > entries + entries // 4 + _SLACK:
            self._remove_strangers(connection)
        return len(found) == rows

    def _add(self, rows: Sequence[Any]) -> None:
        groups: dict[tuple[str, int], tuple[list[str], list[Vector]]] = {}
        for _, partition, key, raw in rows:
            vector = from_wire(raw)
            if vector is not None:
                ids, vectors = groups.setdefault((partition, len(vector)), ([], []))
                ids.append(f"{partition}:{key}")
                vectors.append(vector)
        for (partition, _), (ids, vectors) in groups.items():
            add_group(self.index, partition, ids, vectors)

    def _remove_strangers(self, connection: sqlite3.Connection) -> None:
        kept = {f"{p}:{k}" for p, k in connection.execute("SELECT partition, key FROM records")}
        self.index.remove_many([id_ for id_ in self.index.ids() if id_ not in kept])
