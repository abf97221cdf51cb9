"""How a Redis store finds records by vector: the seam between its two ways of doing so."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from funnel.cache.nearest import Neighbour
from funnel.cache.rows import Vector


class QueryVectors(ABC):
    """Finds ids (``partition:key``) by vector; what it finds is confirmed by reading the record.

    It may lag behind the records (``anywhere`` may not), and it may return ids that are gone.
    """

    apart: bool = False
    """Whether a record can be in the store before, or without, its vector being here."""

    @abstractmethod
    async def nearest(
        self, partition: str, vector: Vector, count: int, floor: float
    ) -> Sequence[Neighbour]:
        """The nearest of one partition, best first."""

    @abstractmethod
    async def anywhere(self, vector: Vector, count: int, floor: float) -> Sequence[Neighbour]:
        """The nearest over all partitions, best first, of all that was put before the call.

        Raises:
            CacheError: what was put before is not known here, and did not become so in time.
        """

    @abstractmethod
    async def added(self, id_: str, vector: Vector) -> None:
        """This process has put a record."""

    def moment(self) -> int:
        """Now: to be taken before the server is asked what ``dropped`` then tells."""
        return 0

    @abstractmethod
    async def dropped(self, ids: Sequence[str], asked: int) -> None:
        """These records were found to be gone by what was asked at a moment.

        One that was put again since then stays: a reply may be read long after the server gave it.
        """

    @abstractmethod
    def stats(self) -> Mapping[str, Any]:
        """Gauges, JSON-ready."""

    async def start(self) -> None:  # noqa: B027
        """Load what there is; raises CacheError when the server does not answer."""

    async def aclose(self) -> None:  # noqa: B027
        """Stop background work and close connections of its own."""
