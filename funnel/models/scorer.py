"""Pairs of texts to raw logits."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.deadline import Deadline
from funnel.errors import InputError, ModelError
from funnel.models.adapters import adapter_revision, is_adapter
from funnel.models.base import ScoredPairs, Shortening, TextPair
from funnel.models.jobs import Lane
from funnel.models.score_cache import PairScoreCache, Recall
from funnel.models.source import (
    EMBEDDED,
    SHIPPED,
    ModelName,
    check_scorer_name,
    locate,
    model_name,
)
from funnel.models.worker import ModelWorker, awaited, model_worker
from funnel.types import ScoreKind

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from funnel.models.backends import Choice
    from funnel.models.jobs import JobResult
    from funnel.models.pair_models import PairItem, PairModel

    FloatArray = NDArray[np.float32]
    Job = tuple[list["PairItem"], "Future[JobResult[np.float32]]"]

TOKEN_BUDGET = 512
"""Padded tokens of a batch: measured best on one AVX512 core (see benchmarks/README.md)."""
_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    """What a caller knows of pairs: their cosines, and what they need."""

    cosines: Sequence[float | None] | None = None
    needed: Sequence[float] | None = None


class CrossEncoderScorer:
    """A cross-encoder by name: ``embedded:relevance``, ``embedded:duplicate``, a path, a hub id.

    Loads at first use or with :meth:`load`. Safe to share between threads and tasks; all work runs
    on the process's model worker, where pairs of several callers share batches. A pair's score
    depends on its batch by rounding only: below 1e-5 in float32, below 0.05 in bfloat16 and int8.

    Args:
        name: as in the YAML; a folder also as a ``Path``.
        backend: ``auto``, or one of ``funnel.models.backends``.
        max_tokens: the window; the model's own by default.
        token_budget: most padded tokens of a batch; what suits the backend by default.
        score_cache_mb: memory for scores of pairs that come again; 0 for none.
        gated: False takes a backend by name even where it ranks otherwise than float32, for
            measuring it.
        worker: where batches run; the process's own by default.

    Raises:
        ModelError: at once if there is no name, else from the first use: the model is missing,
            damaged, untrained or no ranker.
    """

    def __init__(
        self,
        name: ModelName,
        *,
        backend: str = "auto",
        max_tokens: int | None = None,
        token_budget: int | None = None,
        score_cache_mb: float = 0,
        gated: bool = True,
        worker: ModelWorker | None = None,
    ) -> None:
        self._name = model_name(name)
        self._backend = backend
        self._max_tokens = max_tokens
        self._token_budget = token_budget
        self._gated = gated
        self._cache = PairScoreCache(int(score_cache_mb * 2**20)) if score_cache_mb else None
        self._worker = worker or model_worker()
        self._lock = Lock()
        self._model: PairModel | None = None
        self._lane: Lane[PairItem, np.float32] = Lane(
            self._name, self._run, budget=token_budget or TOKEN_BUDGET
        )

    def load(self) -> None:
        """Load the model now rather than at first use."""
        self._loaded()

    @property
    def name(self) -> str:
        """As the YAML names it."""
        return self._name

    @property
    def revision(self) -> str:
        """A hash of the weights, or the hub's commit."""
        return self._loaded().revision

    @property
    def backend(self) -> str:
        """What runs the network; never ``auto``."""
        return self.choice.backend

    @property
    def choice(self) -> "Choice":
        """What runs the network, and the measurements it was chosen by."""
        return self._loaded().choice

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    @property
    def score_cache(self) -> PairScoreCache | None:
        """The scores that are remembered, or None."""
        return self._cache

    @property
    def symmetric(self) -> bool:
        """Whether a pair scores the same in both orders, so that one order is enough."""
        return self._loaded().symmetric

    @property
    def cosine_of(self) -> str:
        """The revision of the encoder whose cosines :meth:`ascore` can use; empty for none."""
        return self._loaded().cosine_of

    @property
    def has_ceiling(self) -> bool:
        """Whether :meth:`ascore` can rule pairs out by what they ``needed``."""
        return self._loaded().has_ceiling

    @property
    def score_kind(self) -> ScoreKind:
        """Raw logits: no sigmoid, no scaling, whatever the model's own settings say."""
        return "logit"

    def score(self, pairs: Iterable[TextPair]) -> "FloatArray":
        """Raw logits of shape (n,), float32, in the pairs' order.

        Raises:
            InputError: a pair is not two strings, or these are no pairs at all.
            Overloaded: too much is waiting already.
            ModelError: the model fails, or gives numbers that are not finite.
        """
        checked = _checked(pairs)
        parts = [
            self._score_window(checked[start : start + _WINDOW])
            for start in range(0, len(checked), _WINDOW)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _score_window(self, pairs: list[TextPair]) -> "FloatArray":
        if self._cache is None:
            return self._collect(*self._submit(pairs, Deadline())).values
        recall = self._recall(self._cache, pairs, None)
        rest = [pairs[place] for place in recall.missing]
        items, future = self._submit(rest, Deadline())
        return self._remember(self._cache, recall, items, self._collect(items, future)).values

    async def ascore(
        self,
        pairs: Sequence[TextPair],
        *,
        deadline: Deadline,
        cosines: Sequence[float | None] | None = None,
        needed: Sequence[float] | None = None,
        shortening: Shortening | None = None,
    ) -> ScoredPairs:
        """Score from a coroutine.

        ``cosines`` of the pairs, by the encoder of revision ``cosine_of`` (None where one is not
        known), spare its reading them again. A model that ``has_ceiling`` gives minus infinity to a
        pair whose encoders rule out that it has what is ``needed``, and saves the cross-encoder's
        reading it; scores that are to be remembered are computed all the same. When the deadline
        passes between batches, what was scored until then comes back: always a beginning of the
        list. ``shortening`` allows that the last pairs are left out when more is asked of this
        process, lastingly, than it can do: a burst, which drains by itself, is waited for. A
        cancelled caller's waiting pairs are dropped.
        """
        checked = _checked(pairs)
        if not checked:
            return ScoredPairs(np.empty(0, np.float32), 0, 0)
        if self._cache is None:
            known = _Known(cosines, needed)
            return (await self._scored(checked, deadline, known, shortening))[1]
        recall = await asyncio.to_thread(self._recall, self._cache, checked, cosines)
        rest = [checked[place] for place in recall.missing]
        given = None if cosines is None else [cosines[place] for place in recall.missing]
        items, fresh = await self._scored(rest, deadline, _Known(given), shortening)
        return self._remember(self._cache, recall, items, fresh)

    async def _scored(
        self,
        pairs: list[TextPair],
        deadline: Deadline,
        known: "_Known",
        shortening: Shortening | None,
    ) -> "tuple[list[PairItem], ScoredPairs]":
        gone = Event()
        try:
            items, future = await asyncio.to_thread(
                self._submit, pairs, deadline, known, shortening, gone
            )
        except asyncio.CancelledError:
            gone.set()  # the thread goes on; what it would submit, nobody could cancel
            raise
        await awaited(future, self._worker, deadline)
        return items, self._collect(items, future)

    def _recall(
        self, cache: PairScoreCache, pairs: list[TextPair], cosines: Sequence[float | None] | None
    ) -> Recall:
        # Vectors from an index differ from fresh ones by rounding, so do scores made with them.
        parts = (self.revision, self.backend, self._max_tokens, cosines is not None)
        return cache.recall(repr(parts), pairs)

    @staticmethod
    def _remember(
        cache: PairScoreCache, recall: Recall, items: "list[PairItem]", fresh: ScoredPairs
    ) -> ScoredPairs:
        keys = [recall.keys[place] for place in recall.missing[: fresh.scored]]
        cut = [item.truncated for item in items[: fresh.scored]]
        cache.learn(keys, fresh.values[: fresh.scored], cut)
        return recall.merged(fresh)

    def _loaded(self) -> "PairModel":
        if self._model is None:
            with self._lock:
                if self._model is None:
                    from funnel.models.pair_models import open_pair_model

                    model = open_pair_model(
                        self._name, self._backend, self._max_tokens, gated=self._gated
                    )
                    self._lane.budget = self._token_budget or model.budget
                    self._model = model
        return self._model

    def _run(self, items: "Sequence[PairItem]") -> "Sequence[np.float32]":
        return self._loaded().run(items)

    def _submit(
        self,
        pairs: Sequence[TextPair],
        deadline: Deadline,
        known: "_Known | None" = None,
        shortening: Shortening | None = None,
        gone: Event | None = None,
    ) -> "Job":
        known = known or _Known()
        items = self._loaded().prepare(pairs, known.cosines, known.needed)
        if gone is not None and gone.is_set():
            raise ModelError(f"model {self._name!r}: the caller went away")
        costs = [item.cost for item in items]
        return items, self._worker.submit(
            self._lane, items, costs, deadline=deadline, shortening=shortening
        )

    def _collect(self, items: "list[PairItem]", future: "Future[Any]") -> ScoredPairs:
        result = future.result()
        values = np.full(len(items), np.nan, np.float32)
        values[: result.done] = result.rows[: result.done]
        asked = np.array([item.needed > -np.inf for item in items], bool)
        fine = np.isfinite(values) | (asked & (values == -np.inf))
        if not fine[: result.done].all():
            raise ModelError(
                f"model {self._name!r}: got a score that is NaN or infinite, expected a number; "
                "its weights are damaged, or its precision is too low (try backend: torch-fp32)"
            )
        truncated = sum(item.truncated for item in items[: result.done])
        return ScoredPairs(values, truncated, result.done, left_out=result.left_out)


def revision_of(name: ModelName) -> str:
    """The revision of the scorer of that name, by its files: nothing is loaded.

    Raises:
        ModelError: it is missing, or its files are not whole.
    """
    name = model_name(name)
    check_scorer_name(name)
    if name.startswith(EMBEDDED):
        return adapter_revision(SHIPPED / name.removeprefix(EMBEDDED))
    folder = Path(name).expanduser()
    return adapter_revision(folder) if is_adapter(folder) else locate(name).revision


def _checked(pairs: Iterable[TextPair]) -> list[TextPair]:
    if isinstance(pairs, str):
        raise InputError("pairs: got one string, expected a list of pairs of strings")
    if not isinstance(pairs, Iterable):
        raise InputError(
            f"pairs: got {type(pairs).__name__}, expected a list or another iterable of pairs of "
            "strings"
        )
    return [_checked_pair(position, pair) for position, pair in enumerate(pairs)]


def _checked_pair(position: int, pair: object) -> TextPair:
    if isinstance(pair, (tuple, list)) and len(pair) == 2:
        first, second = pair
        if isinstance(first, str) and isinstance(second, str):
            return first, second
    raise InputError(f"pairs[{position}]: got {_shown(pair)}, expected two strings")


def _shown(pair: object) -> str:
    if isinstance(pair, (tuple, list)):
        return f"({', '.join(type(each).__name__ for each in pair[:4])})"
    return type(pair).__name__
