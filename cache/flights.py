"""Single flight: who computes what right now, and who waits for whom.

Every query that found nothing registers a flight before its first wait. A flight is *undecided*
while its paraphrases are looked for, then it leads (and computes) or follows another one. Nobody
leads while an earlier, similar flight is undecided, so two paraphrases never both lead; and as
everybody waits only for earlier ones, nobody waits in a circle.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from funnel.cache.base import Answer
from funnel.cache.place import Place
from funnel.deadline import Deadline

if TYPE_CHECKING:
    from funnel.cache.store import Vector

State = Literal["undecided", "leading", "landed", "gone"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a flight ended.

    An answer or an error to share; neither means that a waiter takes over. ``failed``: because
    computing failed, not because the caller went away.
    """

    answer: Answer | None = None
    error: Exception | None = None
    failed: bool = False


class Flight:
    """One query on its way to an answer.

    ``epoch`` is that of the corpus it started under, ``attempt`` how many tries failed before.
    """

    __slots__ = (
        "attempt",
        "deadline",
        "decided",
        "embedded",
        "epoch",
        "key",
        "landing",
        "number",
        "state",
        "text",
        "vector",
    )

    def __init__(
        self, place: Place, text: str, epoch: int, number: int, attempt: int, deadline: Deadline
    ) -> None:
        self.deadline = deadline
        self.key = place.key
        self.text = text
        self.epoch = epoch
        self.number = number
        self.attempt = attempt
        self.vector: Vector | None = None
        self.state: State = "undecided"
        self.decided = asyncio.Event()
        self.embedded = asyncio.Event()
        self.landing: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def embed(self, vector: "Vector") -> None:
        """Its vector is known now, so that others can tell whether they are similar."""
        self.vector = vector
        self.embedded.set()

    async def settled(self) -> None:
        """Return when more is known of it than now: its vector, or what it does."""
        await (self.decided if self.vector is not None else self.embedded).wait()


class Flights:
    """All flights of this process, by partition; used from one event loop."""

    def __init__(self) -> None:
        self._by_partition: dict[str, dict[str, Flight]] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return sum(len(flights) for flights in self._by_partition.values())

    def same(self, place: Place, epoch: int) -> Flight | None:
        """The flight of exactly this query, unless the corpus changed since it started."""
        flight = self._by_partition.get(place.partition, {}).get(place.key)
        return flight if flight is not None and flight.epoch >= epoch else None

    def register(
        self, place: Place, text: str, epoch: int, *, attempt: int, deadline: Deadline
    ) -> Flight:
        """A new undecided flight; it takes the place of an older one of the same query."""
        self._numbers += 1
        flight = Flight(place, text, epoch, self._numbers, attempt, deadline)
        self._by_partition.setdefault(place.partition, {})[place.key] = flight
        return flight

    def leaders(self, place: Place, flight: Flight, floor: float) -> list[tuple[Flight, float]]:
        """Flights that compute or just landed, and their cosine, at or above ``floor``."""
        return self._similar(place, flight, floor, ("leading", "landed"))

    def undecided_before(self, place: Place, flight: Flight, floor: float) -> list[Flight]:
        """Similar flights that registered earlier and do not know yet; unembedded ones count."""
        found = self._similar(place, flight, floor, ("undecided",))
        return [other for other, _ in found if other.number < flight.number]

    def lead(self, flight: Flight) -> None:
        """It computes."""
        self._decide(flight, "leading")

    def follow(self, flight: Flight) -> None:
        """It waits for another one, and will land as that one does."""
        self._decide(flight, "gone")

    def land(self, flight: Flight, outcome: Outcome) -> None:
        """It has an outcome; it stays joinable until ``leave``."""
        self._decide(flight, "landed" if outcome.answer is not None else "gone")
        if not flight.landing.done():
            flight.landing.set_result(outcome)

    def leave(self, place: Place, flight: Flight) -> None:
        """Take it off the board; whoever still waits for it takes over."""
        if not flight.landing.done():
            flight.landing.set_result(Outcome())
        if flight.state in ("undecided", "leading"):
            self._decide(flight, "gone")
        flights = self._by_partition.get(place.partition, {})
        if flights.get(place.key) is flight:
            del flights[place.key]
        if not flights:
            self._by_partition.pop(place.partition, None)

    def _decide(self, flight: Flight, state: State) -> None:
        flight.state = state
        flight.decided.set()
        flight.embedded.set()

    def _similar(
        self, place: Place, flight: Flight, floor: float, states: Iterable[State]
    ) -> list[tuple[Flight, float]]:
        mine = flight.vector
        if mine is None:
            return []
        found = []
        for other in self._by_partition.get(place.partition, {}).values():
            if other is flight or other.state not in states or other.epoch < flight.epoch:
                continue
            if other.vector is None:
                cosine = 1.0 if other.state == "undecided" else -1.0  # might be / will not be
            else:
                cosine = float(mine @ other.vector)
            if cosine >= floor:
                found.append((other, cosine))
        return found
