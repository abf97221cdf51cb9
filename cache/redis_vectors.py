"""How a Redis store finds records by vector: the seam between its two ways of doing so."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from funnel.cache.nearest import Neighbour
from funnel.cache.rows import Vector

_WIRE = np.dtype("<f2")


class QueryVectors(ABC):
    """Finds ids (``partition:key``) by vector; what it finds is confirmed by reading the record.

    It may lag behind the records, and it may return ids that are gone.
    """

    @abstractmethod
    async def nearest(
        self, partition: str, vector: Vector, count: int, floor: float
    ) -> Sequence[Neighbour]:
        """The nearest of one partition, best first."""

    @abstractmethod
    async def anywhere(self, vector: Vector, count: int, floor: float) -> Sequence[Neighbour]:
        """The nearest over all partitions, best first."""

    @abstractmethod
    async def added(self, id_: str, vector: Vector) -> None:
        """This process has put a record."""

    @abstractmethod
    async def dropped(self, ids: Sequence[str]) -> None:
        """These records were found to be gone."""

    @abstractmethod
    def stats(self) -> Mapping[str, Any]:
        """Gauges, JSON-ready."""

    async def start(self) -> None:  # noqa: B027
        """Load what there is; raises CacheError when the server does not answer."""

    async def aclose(self) -> None:  # noqa: B027
        """Stop background work and close connections of its own."""


def to_wire(vector: Vector | None) -> bytes:
    """Half precision, little endian: 2 bytes a number, cosines within 1e-3. Empty for None."""
    return b"" if vector is None else np.asarray(vector, dtype=_WIRE).tobytes()


def from_wire(raw: bytes | None) -> Vector | None:
    """The vector, or None where there is none or it cannot be one."""
    if not raw or len(raw) % _WIRE.itemsize:
        return None
    return np.frombuffer(raw, dtype=_WIRE).astype(np.float32)
