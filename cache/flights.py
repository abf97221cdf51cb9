"""Single flight: who computes what right now, and who waits for whom.

Every query that found nothing registers a flight before its first wait. A flight is *undecided*
while its paraphrases are looked for, then it leads (and computes) or follows another one. Nobody
leads while an earlier flight among the nearest is undecided, so two paraphrases do not both lead;
and as everybody waits only for earlier ones, nobody waits in a circle.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from funnel.cache.base import Answer
from funnel.cache.place import Place
from funnel.deadline import Deadline
from funnel.types import CacheInfo

if TYPE_CHECKING:
    from funnel.cache.lookup import Found
    from funnel.cache.store import Vector

State = Literal["undecided", "leading", "landed", "gone"]
_CODES: Final[dict[State, int]] = {"undecided": 0, "leading": 1, "landed": 1, "gone": 2}
_NEWEST_SHARE = 0.3  # what the latest run counts in how long runs take


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a flight ended.

    An answer or an error to share; neither means that a waiter takes over. ``failed``: because
    computing failed, not because the caller went away. ``late`` is what may be served instead of
    the error to who asked the same in the same words. ``info`` says of an answer that was not
    computed where it comes from.
    """

    answer: Answer | None = None
    error: Exception | None = None
    failed: bool = False
    late: "Found | None" = None
    info: CacheInfo | None = None


class Flight:
    """One query on its way to an answer.

    ``epoch`` is that of the corpus it started under, ``attempt`` how many tries failed before,
    ``board`` and ``row`` where its vector lies, ``led_at`` since when it computes, ``missed_at``
    when the store was last asked for its question and had no answer, ``relieved_at`` when a waiter
    last began to compute beside it (all monotonic seconds). ``twins`` are all that
    compute this one text beside each other. ``landing`` is its outcome; ``answered`` is the first
    answer to its text by any of them, also a degraded one, which lands only its own flight.
    """

    __slots__ = (
        "answered",
        "asked",
        "attempt",
        "board",
        "deadline",
        "decided",
        "embedded",
        "epoch",
        "key",
        "landing",
        "led_at",
        "missed_at",
        "number",
        "relieved_at",
        "row",
        "state",
        "text",
        "twins",
        "vector",
    )

    def __init__(
        self, place: Place, text: str, epoch: int, number: int, attempt: int, deadline: Deadline
    ) -> None:
        self.deadline = deadline
        self.key = place.key
        self.text = text
        self.asked = ""
        self.epoch = epoch
        self.number = number
        self.attempt = attempt
        self.vector: Vector | None = None
        self.board: Board | None = None
        self.row: int | None = None
        self.led_at: float | None = None
        self.missed_at: float | None = None
        self.relieved_at = 0.0
        self.twins: list[Flight] = []
        self.state: State = "undecided"
        self.decided = asyncio.Event()
        self.embedded = asyncio.Event()
        self.landing: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    @property
    def joinable(self) -> bool:
        """Whether it computes or just landed."""
        return self.state in ("leading", "landed")

    async def settled(self) -> None:
        """Return when more is known of it than now: its vector, or what it does."""
        await (self.decided if self.vector is not None else self.embedded).wait()


class Board:
    """The flights of one partition; their vectors are one matrix, so a scan is one product.

    In step with its rows: ``_facts``, shape (rows, 3), the number, epoch and state of each flight.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}
        self._blind: dict[int, Flight] = {}
        self._rows: list[Flight] = []
        self._matrix: Vector = np.empty((0, 0), dtype=np.float32)
        self._facts = np.empty((0, 3), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Flight | None:
        """The flight of a query's key."""
        return self._by_key.get(key)

    def add(self, flight: Flight) -> None:
        """Put up a flight, in place of one of the same key."""
        if (old := self._by_key.get(flight.key)) is not None:
            self.remove(old)
        self._by_key[flight.key] = flight
        self._blind[flight.number] = flight
        flight.board = self

    def has_company(self, flight: Flight) -> bool:
        """Whether another flight may yet be joined: it does not know, or others know its vector."""
        return any(
            other is not flight
            and other.epoch >= flight.epoch
            and (other.state == "undecided" or (other.joinable and other.row is not None))
            for other in self._by_key.values()
        )

    def embed(self, flight: Flight, vector: "Vector") -> None:
        """Keep the vector of a flight that is still here."""
        if self._by_key.get(flight.key) is not flight or flight.row is not None:
            return
        row = len(self._rows)
        if row == 0:
            self._matrix = np.empty((8, vector.size), dtype=np.float32)
            self._facts = np.empty((8, 3), dtype=np.int64)
        elif row == len(self._matrix):
            self._matrix = np.concatenate([self._matrix, np.empty_like(self._matrix)])
            self._facts = np.concatenate([self._facts, np.empty_like(self._facts)])
        self._matrix[row] = vector
        self._rows.append(flight)
        flight.row = row
        self._blind.pop(flight.number, None)
        self.note(flight)

    def note(self, flight: Flight) -> None:
        """Know a flight's present state."""
        if flight.row is not None:
            self._facts[flight.row] = flight.number, flight.epoch, _CODES[flight.state]

    def remove(self, flight: Flight) -> None:
        """Take down a flight that is still here; the last row moves into its own."""
        if self._by_key.get(flight.key) is not flight:
            return
        del self._by_key[flight.key]
        self._blind.pop(flight.number, None)
        if flight.row is None:
            return
        last = self._rows.pop()
        if last is not flight:
            self._rows[flight.row] = last
            self._matrix[flight.row] = self._matrix[len(self._rows)]
            self._facts[flight.row] = self._facts[len(self._rows)]
            last.row = flight.row
        flight.row = None

    def similar(self, flight: Flight, floor: float) -> list[tuple[Flight, float]]:
        """Flights that another one may join or has to wait for; see ``Flights.similar``."""
        if flight.vector is None:
            return []
        blind = [other for other in self._blind.values() if _may_be_waited_for(other, flight)]
        count = len(self._rows)
        if not count:
            return [(other, 1.0) for other in blind]
        cosines = self._matrix[:count] @ flight.vector
        number, epoch, state = self._facts[:count].T
        earlier = (state == _CODES["undecided"]) & (number < flight.number)
        concerned = earlier | (state == _CODES["leading"])
        rows = np.flatnonzero(concerned & (epoch >= flight.epoch) & (cosines >= floor))
        rows = rows[np.argsort(-cosines[rows], kind="stable")]
        known = zip(rows.tolist(), cosines[rows].tolist(), strict=True)
        return [(other, 1.0) for other in blind] + [(self._rows[row], cos) for row, cos in known]


class Flights:
    """All flights of this process, by partition; used from one event loop."""

    def __init__(self) -> None:
        self._boards: dict[str, Board] = {}
        self._numbers = 0
        self._usual_s: float | None = None

    def __len__(self) -> int:
        return sum(len(board) for board in self._boards.values())

    def same(self, place: Place, epoch: int) -> Flight | None:
        """The flight of exactly this query, unless the corpus changed since it started."""
        board = self._boards.get(place.partition)
        flight = board.get(place.key) if board is not None else None
        return flight if flight is not None and flight.epoch >= epoch else None

    def register(
        self,
        place: Place,
        text: str,
        epoch: int,
        *,
        attempt: int,
        deadline: Deadline,
        asked: str = "",
    ) -> Flight:
        """A new undecided flight; it takes the place of an older one of the same query.

        ``asked`` is the query in its caller's words.
        """
        self._numbers += 1
        flight = Flight(place, text, epoch, self._numbers, attempt, deadline)
        flight.asked = asked
        self._boards.setdefault(place.partition, Board()).add(flight)
        return flight

    def embed(self, place: Place, flight: Flight, vector: "Vector") -> None:
        """Its vector is known now, so that others can tell whether they are similar."""
        if (board := self._boards.get(place.partition)) is not None:
            board.embed(flight, vector)
        flight.vector = vector
        flight.embedded.set()

    def similar(self, place: Place, flight: Flight, floor: float) -> list[tuple[Flight, float]]:
        """Flights that it may join or has to wait for, and their cosine, nearest first.

        Those compute, just landed, or registered earlier and do not know yet. One of these whose
        vector is not known either might be anything, and comes with a cosine of 1.
        """
        board = self._boards.get(place.partition)
        return [] if board is None else board.similar(flight, floor)

    def has_company(self, place: Place, flight: Flight) -> bool:
        """Whether there are others that it, or who may join it."""
        board = self._boards.get(place.partition)
        return board is not None and board.has_company(flight)

    def lead(self, flight: Flight) -> None:
        """It computes."""
        flight.led_at = time.monotonic()
        self._decide(flight, "leading")

    def relieve(self, place: Place, slow: Flight, flight: Flight) -> None:
        """A registered flight of the same text computes beside a slow one: either lands both."""
        slow.twins = slow.twins or [slow]
        slow.twins.append(flight)
        flight.twins = slow.twins
        if slow.vector is not None:
            self.embed(place, flight, slow.vector)

    def left_s(self, flight: Flight) -> float | None:
        """Seconds until it lands if it takes as long as runs do lately; None before any ended."""
        if self._usual_s is None or flight.led_at is None:
            return self._usual_s
        return max(0.0, self._usual_s - (time.monotonic() - flight.led_at))

    def follow(self, flight: Flight) -> None:
        """It waits for another one, and will land as that one does."""
        self._decide(flight, "gone")

    def land(self, flight: Flight, outcome: Outcome) -> None:
        """It has an outcome; it stays joinable until ``leave``."""
        self._decide(flight, "landed" if outcome.answer is not None else "gone")
        complete = outcome.answer is not None and not outcome.answer.degraded
        if complete and flight.led_at is not None:
            self._took(time.monotonic() - flight.led_at)
        for one in (flight, *flight.twins):
            if (complete or one is flight) and not one.landing.done():
                one.landing.set_result(outcome)
            if outcome.answer is not None and not one.answered.done():
                one.answered.set_result(outcome)

    def leave(self, place: Place, flight: Flight) -> None:
        """Take it off the board; whoever still waits for it takes over.

        Once it landed its twins leave too: they must not be joined for as long as they compute.
        """
        if not flight.landing.done():
            flight.landing.set_result(Outcome())
        if flight.state in ("undecided", "leading"):
            self._decide(flight, "gone")
        board = self._boards.get(place.partition)
        if board is None:
            return
        there = board.get(place.key)
        if there is not None and (there is flight or _landed_with(there, flight)):
            board.remove(there)
        if not board:
            del self._boards[place.partition]

    def _took(self, seconds: float) -> None:
        usual = seconds if self._usual_s is None else self._usual_s
        self._usual_s = usual + _NEWEST_SHARE * (seconds - usual)

    def _decide(self, flight: Flight, state: State) -> None:
        flight.state = state
        if flight.board is not None:
            flight.board.note(flight)
        flight.decided.set()
        flight.embedded.set()


def _may_be_waited_for(other: Flight, flight: Flight) -> bool:
    earlier = other.number < flight.number and other.epoch >= flight.epoch
    return earlier and other.state == "undecided"


def _landed_with(there: Flight, flight: Flight) -> bool:
    return there.landing.done() and there in flight.twins
