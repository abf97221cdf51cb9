"""Texts to vectors of unit length."""

import asyncio
from collections.abc import Iterable, Sequence
from threading import Event, Lock
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from funnel.deadline import Deadline
from funnel.errors import InputError, ModelError
from funnel.models.base import Side
from funnel.models.hardware import cpu_has_fast_bf16
from funnel.models.jobs import JobResult, Lane
from funnel.models.prompts import Prompts, declared_prompts
from funnel.models.representations import Representation, shared_representations
from funnel.models.source import ModelName, ModelSource, locate, model_name
from funnel.models.tokens import Tokens
from funnel.models.worker import ModelWorker, awaited, model_worker
from funnel.progress import bar

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

Row = TypeVar("Row")
Precision: TypeAlias = Literal["fp32", "bf16"]

TOKEN_BUDGET = 512
"""Padded tokens of a batch: measured best on one AVX512 core (see benchmarks/README.md)."""
WINDOW = 2048
"""Texts sorted by length together; more gains nothing and holds more memory."""
_BACKGROUND_FROM = 256


class EncoderNetwork(Protocol):
    """What turns batches of tokenised texts into vectors; ``key`` tells weights and precision."""

    key: str
    dim: int
    max_tokens: int

    @property
    def choice(self) -> str:
        """What computes the vectors, and why."""

    def warm_up(self) -> None:
        """Do what the first query would otherwise wait for."""

    def tokenize(self, texts: Sequence[str], prompt: str | None = None) -> list[Tokens]:
        """Tokens of each text behind the prompt, cut to the window.

        Without a prompt, even an empty one, a text is read as the model does by itself.
        """

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut."""

    def pooled(self, batch: Sequence[Tokens]) -> "FloatArray":
        """Unit vectors (n, dim)."""

    def representations(self, batch: Sequence[Tokens]) -> list[Representation]:
        """Each text's vector and its tokens' vectors."""


class Embedder:
    """An encoder by name: ``embedded:all-MiniLM-L6-v2``, a path, or a hub id.

    Prompts that its ``config_sentence_transformers.json`` declares are put before queries and
    documents (``side`` says which the texts are), and the default one before all other texts.

    Loads at first use or with :meth:`load`. Safe to share between threads and tasks; all work runs
    on the process's model worker.

    Args:
        name: as in the YAML; a folder also as a ``Path``.
        worker: where batches run; the process's own by default.
        precision: ``fp32``, or ``bf16`` (twice as fast where the CPU computes it natively; vectors
            then differ by up to 1% and near-ties may change places).

    Raises:
        ModelError: at once if there is no name, else from the first use: the model is missing,
            damaged or not to be had.
    """

    def __init__(
        self, name: ModelName, *, worker: ModelWorker | None = None, precision: Precision = "fp32"
    ) -> None:
        self._name = model_name(name)
        self._worker = worker or model_worker()
        self._precision = precision
        self._lock = Lock()
        self._source: ModelSource | None = None
        self._declared: Prompts | None = None
        self._loaded: EncoderNetwork | None = None
        self._tokens_loaded: EncoderNetwork | None = None
        self._pooled: Lane[Tokens, FloatArray] = Lane(
            self._name, self._run_pooled, budget=TOKEN_BUDGET
        )
        self._tokens: Lane[Tokens, Representation] = Lane(
            self._name, self._run_tokens, budget=TOKEN_BUDGET
        )

    def load(self) -> None:
        """Load the model now rather than at first use."""
        self._model()

    def load_tokens(self) -> None:
        """Load what reads token vectors too: it may run in another precision."""
        self.load()
        self._tokens_network()

    @property
    def name(self) -> str:
        """As the YAML names it."""
        return self._name

    @property
    def revision(self) -> str:
        """A hash of the weights, or the hub's commit; and of the prompts, if there are any.

        Reads the files but loads no model.
        """
        return self._prompts().marked(self._located().revision)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._model().dim

    @property
    def choice(self) -> str:
        """What computes the vectors, and why: for people to read."""
        return self._model().choice

    @property
    def max_tokens(self) -> int:
        """The window in tokens, special ones included; longer texts are cut."""
        return self._model().max_tokens

    def count_tokens(self, texts: Iterable[str], *, side: Side | None = None) -> list[int]:
        """Tokens of each text, its prompt and special tokens included, uncut."""
        prompt = self._prompts().before(side)
        return self._model().count([prompt + text for text in _checked(texts)])

    def encode(
        self, texts: Iterable[str], *, progress: bool = False, side: Side | None = None
    ) -> "FloatArray":
        """Vectors of shape (n, dim), float32, unit length.

        Args:
            texts: any number of texts, from any iterable; an empty text is allowed.
            progress: show a progress bar on a terminal.
            side: whether they are queries or documents.

        Raises:
            InputError: something is not a string, or these are no texts at all.
            ModelError: the model fails, or gives numbers that are not finite.
        """
        return self._gather(self._pooled, texts, side, progress=progress)

    async def aencode(self, texts: Iterable[str], *, side: Side | None = None) -> "FloatArray":
        """The same from a coroutine, without blocking the event loop."""
        rows = await self._asubmit(self._pooled, texts, side, Deadline())
        return _stack(self._name, cast("list[FloatArray]", rows), self.dim)

    def token_vectors(
        self, texts: Iterable[str], *, side: Side | None = None
    ) -> "list[FloatArray]":
        """For each text its token vectors, float32 (tokens, dim), each of unit length.

        The special tokens at both ends are included, first and last, and those of a prompt.
        """
        return [each.tokens for each in self.represent(texts, side=side)]

    async def atoken_vectors(
        self, texts: Iterable[str], *, side: Side | None = None
    ) -> "list[FloatArray]":
        """The same from a coroutine."""
        rows = await self._asubmit(self._tokens, texts, side, Deadline())
        return [_finite_row(self._name, cast("Representation", row)).tokens for row in rows]

    def represent(self, texts: Iterable[str], *, side: Side | None = None) -> list[Representation]:
        """For each text its vector and its token vectors, from one pass."""
        rows = self._submit(self._tokens, texts, side).result().rows
        return [_finite_row(self._name, cast("Representation", row)) for row in rows]

    async def arepresent(
        self, texts: Sequence[str], deadline: Deadline, *, side: Side | None = None
    ) -> list[Representation | None]:
        """The same from a coroutine, from memory where a text was read before.

        Texts are read in their order; those not done when the deadline passes are None.
        """
        texts = _checked(texts)
        kept, key = shared_representations(), await asyncio.to_thread(self._tokens_key, side)
        found = {text: kept.get(key, text) for text in dict.fromkeys(texts)}
        missing = [text for text, row in found.items() if row is None]
        rows = await self._asubmit(self._tokens, missing, side, deadline) if missing else []
        for text, row in zip(missing, rows, strict=True):
            if row is not None:
                found[text] = kept.put(key, text, _finite_row(self._name, row))
        return [found[text] for text in texts]

    def _gather(
        self,
        lane: "Lane[Tokens, FloatArray]",
        texts: Iterable[str],
        side: Side | None,
        *,
        progress: bool,
    ) -> "FloatArray":
        texts = _checked(texts)
        vectors = np.empty((len(texts), self.dim), np.float32)
        with bar("embedding", len(texts), enabled=progress) as advance:
            for start in range(0, len(texts), WINDOW):
                window = texts[start : start + WINDOW]
                rows = self._submit(lane, window, side).result().rows
                part = _stack(self._name, cast("list[FloatArray]", rows), self.dim)
                vectors[start : start + len(window)] = part
                advance(len(window))
        return vectors

    def _submit(
        self,
        lane: Lane[Tokens, Row],
        texts: Iterable[str],
        side: Side | None,
        deadline: Deadline | None = None,
        gone: Event | None = None,
    ) -> "Future[JobResult[Row]]":
        tokens = self._model().tokenize(_checked(texts), self._prompts().before(side))
        if gone is not None and gone.is_set():
            raise ModelError(f"model {self._name!r}: the caller went away")
        return self._worker.submit(
            lane,
            tokens,
            [len(each) for each in tokens],
            deadline=deadline,
            background=len(tokens) >= _BACKGROUND_FROM,
        )

    async def _asubmit(
        self,
        lane: Lane[Tokens, Row],
        texts: Iterable[str],
        side: Side | None,
        deadline: Deadline,
    ) -> list[Row | None]:
        # Loading and long tokenising would hold the event loop; one query's tokens would not.
        texts = _checked(texts)
        short = self._loaded is not None and sum(map(len, texts)) < 2_000
        if short:
            future = self._submit(lane, texts, side, deadline)
        else:
            gone = Event()
            try:
                future = await asyncio.to_thread(self._submit, lane, texts, side, deadline, gone)
            except asyncio.CancelledError:
                gone.set()  # the thread goes on; what it would submit, nobody could cancel
                raise
        await awaited(future, self._worker, deadline)
        return future.result().rows

    def _located(self) -> ModelSource:
        if self._source is None:
            self._source = locate(self._name)
        return self._source

    def _prompts(self) -> Prompts:
        if self._declared is None:
            self._declared = declared_prompts(self._located().folder)
        return self._declared

    def _model(self) -> EncoderNetwork:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = _load(self._located(), self._precision)
        return self._loaded

    def _run_pooled(self, batch: Sequence[Tokens]) -> "Sequence[FloatArray]":
        return list(self._model().pooled(batch))

    def _run_tokens(self, batch: Sequence[Tokens]) -> list[Representation]:
        return self._tokens_network().representations(batch)

    def _tokens_network(self) -> EncoderNetwork:
        # Kept: a batch must not wait until another model is loaded.
        if self._tokens_loaded is None:
            from funnel.models.encoder_networks import open_network

            # Near-ties of a mean over many tokens survive bfloat16; those of single vectors may not
            precision: Precision = "bf16" if cpu_has_fast_bf16() else "fp32"
            self._tokens_loaded = open_network(self._located(), precision)
        return self._tokens_loaded

    def _tokens_key(self, side: Side | None) -> str:
        prompt = self._prompts().before(side)
        key = self._tokens_network().key
        return f"{key}:{prompt}" if prompt else key


def _load(source: ModelSource, precision: Precision) -> EncoderNetwork:
    from funnel.models.encoder_networks import open_network

    network = open_network(source, precision)
    network.warm_up()
    return network


def _checked(texts: Iterable[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise InputError("texts: got one string, expected a list of strings")
    if not isinstance(texts, Iterable):
        raise InputError(
            f"texts: got {type(texts).__name__}, expected a list or another iterable of strings"
        )
    texts = texts if isinstance(texts, list | tuple) else list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{position}]: got {type(text).__name__}, expected a string")
    return texts


def _stack(name: str, rows: "Sequence[FloatArray]", dim: int) -> "FloatArray":
    if not rows:
        return np.empty((0, dim), np.float32)
    return _finite(name, np.stack(rows))


def _finite(name: str, vectors: "FloatArray") -> "FloatArray":
    if not np.isfinite(vectors).all():
        raise ModelError(
            f"model {name!r}: got vectors with NaN or infinity, expected finite numbers; "
            "its weights are damaged, or its precision is too low (try precision: fp32)"
        )
    return vectors


def _finite_row(name: str, row: Representation) -> Representation:
    _finite(name, row.tokens)
    return row
