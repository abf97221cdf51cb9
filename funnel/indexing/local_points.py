"""What a filtered search in Qdrant's local mode compares: vectors and metadata, point by point.

Local mode asks a filter of each point in Python and reads the filter's paths anew each time: half a
second and more at 18,000 documents, for each source. Here a filter is asked once and its answer is
kept until something is written. Qdrant stays the truth; this is filled from it and follows its
writes.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.indexing.filters import Condition
from funnel.indexing.local_filters import holds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Mask = NDArray[np.bool_]

_KEPT_FILTERS = 256
_ROOM = 1_024


class LocalPoints:
    """Points by id, without gaps. Not thread-safe."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._slot_of: dict[str, int] = {}
        self._metadata: list[Mapping[str, Any]] = []
        self._vectors: Floats = np.empty((0, 0), np.float32)
        self._answers: OrderedDict[str, Mask] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, point_id: str, vector: Sequence[float], metadata: Mapping[str, Any]) -> None:
        """Add a point, or replace it; ``vector`` of shape (dim,) is kept at unit length.

        Of a collection without dense vectors all are empty.
        """
        self._answers.clear()
        row = np.asarray(vector, np.float32)
        slot = self._slot_of.setdefault(point_id, len(self._ids))
        if slot == len(self._ids):
            self._ids.append(point_id)
            self._metadata.append(metadata)
            self._make_room(len(row))
        self._metadata[slot] = metadata
        self._vectors[slot] = row / (float(np.linalg.norm(row)) or 1.0)

    def describe(self, point_id: str, metadata: Mapping[str, Any]) -> None:
        """Other metadata of a point; an unknown one is ignored."""
        if point_id in self._slot_of:
            self._answers.clear()
            self._metadata[self._slot_of[point_id]] = metadata

    def remove(self, point_id: str) -> None:
        """Forget a point; an unknown one is ignored. The last takes its place."""
        slot = self._slot_of.pop(point_id, None)
        if slot is None:
            return
        self._answers.clear()
        last, metadata = self._ids.pop(), self._metadata.pop()
        if last != point_id:
            self._ids[slot], self._metadata[slot] = last, metadata
            self._vectors[slot] = self._vectors[len(self._ids)]
            self._slot_of[last] = slot

    def matching(self, conditions: Sequence[Condition]) -> set[str]:
        """The points that all conditions hold for."""
        return {self._ids[slot] for slot in np.flatnonzero(self._mask(conditions))}

    def nearest(
        self, vector: Sequence[float], limit: int, conditions: Sequence[Condition]
    ) -> list[tuple[str, float]]:
        """Points and cosines to ``vector`` of shape (dim,), best first, equal ones by point id."""
        allowed = np.flatnonzero(self._mask(conditions))
        if not len(allowed):
            return []
        query = np.asarray(vector, np.float32)
        scores = self._vectors[allowed] @ (query / (float(np.linalg.norm(query)) or 1.0))
        if len(allowed) > limit:
            reached = scores >= np.partition(scores, -limit)[-limit]
            allowed, scores = allowed[reached], scores[reached]
        found = [
            (self._ids[slot], float(score)) for slot, score in zip(allowed, scores, strict=True)
        ]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:limit]

    def _mask(self, conditions: Sequence[Condition]) -> "Mask":
        asked = repr(conditions)
        if asked in self._answers:
            self._answers.move_to_end(asked)
            return self._answers[asked]
        test = holds(conditions)
        mask = np.fromiter(map(test, self._metadata), np.bool_, len(self._metadata))
        self._answers[asked] = mask
        if len(self._answers) > _KEPT_FILTERS:
            self._answers.popitem(last=False)
        return mask

    def _make_room(self, dim: int) -> None:
        if len(self._ids) > len(self._vectors):
            grown = np.zeros((2 * len(self._vectors) + _ROOM, dim), np.float32)
            if len(self._vectors):
                grown[: len(self._vectors)] = self._vectors
            self._vectors = grown
