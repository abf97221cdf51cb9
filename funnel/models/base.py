"""The two model contracts. Everything that embeds or scores goes through one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from funnel.deadline import Deadline
from funnel.types import ScoreKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

TextPair = tuple[str, str]
Side: TypeAlias = Literal["query", "document"]
"""What a text is to an encoder that was trained to tell questions from what answers them."""


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Scores of shape (n,), in the pairs' order.

    ``truncated`` counts pairs longer than the model's window. ``scored`` is how many of the first
    pairs were scored: less than n only if a deadline passed first, or if ``left_out`` of the last
    were not tried for the load there was; the rest of ``values`` is NaN. ``remembered`` of them
    were known from before.
    """

    values: "FloatArray"
    truncated: int
    scored: int
    remembered: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Shortening:
    """What may be left out of a job under overload: its last items, so that it ends by ``target``.

    The first ``least`` are done in any case, and at least one.
    """

    target: Deadline
    least: int


class Encoder(Protocol):
    """Texts to vectors of unit length.

    ``side`` says whether the texts are queries or documents, for a model that reads them in
    different ways; without it they are read as neither.
    """

    @property
    def name(self) -> str:
        """As the YAML names it."""

    @property
    def revision(self) -> str:
        """A hash of the weights (or the hub's commit) and of what is put before texts.

        It is part of cache and index identity.
        """

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def max_tokens(self) -> int:
        """The window; what is longer is cut (and counted by the caller with ``count_tokens``)."""

    def count_tokens(self, texts: Sequence[str], *, side: Side | None = None) -> list[int]:
        """Tokens of each text as the model reads it, special ones included, uncut."""

    def encode(
        self, texts: Sequence[str], *, progress: bool = False, side: Side | None = None
    ) -> "FloatArray":
        """Vectors of shape (n, dim)."""

    async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> "FloatArray":
        """The same from a coroutine, without blocking the event loop."""

    def token_vectors(
        self, texts: Sequence[str], *, side: Side | None = None
    ) -> "list[FloatArray]":
        """For each text its token vectors, shape (tokens, dim), each of unit length."""

    async def atoken_vectors(
        self, texts: Sequence[str], *, side: Side | None = None
    ) -> "list[FloatArray]":
        """The same from a coroutine."""


class Scorer(Protocol):
    """Pairs of texts to scores; owns batching, precision and device."""

    @property
    def name(self) -> str:
        """As the YAML names it."""

    @property
    def revision(self) -> str:
        """A hash of the weights (or the hub's commit)."""

    @property
    def score_kind(self) -> ScoreKind:
        """Raw ``logit`` unless the model says otherwise."""

    def score(self, pairs: Sequence[TextPair]) -> "FloatArray":
        """Scores of shape (n,), float32."""

    async def ascore(self, pairs: Sequence[TextPair], *, deadline: Deadline) -> ScoredPairs:
        """Score from a coroutine; stops between batches when the deadline passes."""
