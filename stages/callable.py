"""A plain Python function as a stage.

The YAML says ``kind: callable`` and ``function: NAME``; the code hands the function over in
``Funnel.from_yaml(path, functions={"NAME": f})``. There is no import by path.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, cast

from funnel.errors import ConfigError, Overloaded, StageError
from funnel.stages.base import (
    Ranked,
    Role,
    Stage,
    StageOutput,
    StageRequest,
    StageSettings,
)
from funnel.stages.function_code import code_hash
from funnel.threads import Threads
from funnel.types import Candidate, ScoreKind

if TYPE_CHECKING:
    from concurrent.futures import Future

    from funnel.resources import Resources

ScoreFunction: TypeAlias = Callable[
    [str, Sequence[Candidate]], Sequence[float] | Awaitable[Sequence[float]]
]
"""Query text and candidates in, one score for each candidate out, in their order."""

_THREADS = 8
"""Of each stage's own: a function that never returns takes none from the models and the index."""


class CallableSettings(StageSettings):
    """``function`` names one of the functions that the program handed over.

    ``score_kind``: what its scores mean; with ``rank`` they only order, and the hit's score stays
    that of the stage before. ``revision`` is for you to change when something behind the function
    changes its scores (a file, a model, what it calls): kept answers of the old one end with it.
    Its own code is noticed by itself.
    """

    kind: str = "callable"
    function: str
    score_kind: ScoreKind = "logit"
    revision: str = ""

    @property
    def reads_dense(self) -> bool:
        """It has candidates, no index."""
        return False


class CallableStage(Stage):
    """Ranks candidates by what a function of the program says, highest first."""

    kind: ClassVar[str] = "callable"
    role: ClassVar[Role] = "rerank"
    Settings = CallableSettings
    settings: CallableSettings

    def __init__(self, settings: CallableSettings, function: ScoreFunction) -> None:
        super().__init__(settings)
        self._function = function
        self._pool = Threads(_THREADS, f"funnel-{settings.name}")
        self._outlived: set[Future[Any]] = set()

    @classmethod
    def build(cls, settings: StageSettings, resources: "Resources") -> Self:
        """Find the function among those the program handed over.

        Raises:
            ConfigError: no function of that name was handed over, or what was is none.
        """
        settings = cast("CallableSettings", settings)
        function = resources.functions.get(settings.function)
        if function is None:
            known = ", ".join(sorted(resources.functions)) or "none"
            raise ConfigError(
                f"stage {settings.name!r}: function {settings.function!r} was not handed over; "
                f"known: {known}. Pass functions={{{settings.function!r}: …}} to Funnel.from_yaml"
            )
        if not callable(function):
            raise ConfigError(
                f"stage {settings.name!r}: function {settings.function!r} is {function!r:.60}, "
                "expected a function of the query's text and the candidates"
            )
        return cls(settings, function)

    @property
    def score_kind(self) -> ScoreKind:
        """As the settings declare it."""
        return self.settings.score_kind

    def identity(self) -> Mapping[str, Any]:
        """The settings, and a hash of the function's code."""
        return {**super().identity(), "code": code_hash(self._function)}

    async def aclose(self) -> None:
        """Let the threads go; calls that still run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        """Call the function (in a thread unless it is a coroutine function) and sort.

        Raises:
            Overloaded: calls that nobody waits for any more hold all of the stage's threads.
        """
        scores = await self._call(request.query.text, candidates)
        if isinstance(scores, Mapping | Set | str | bytes):  # their items are in no such order
            raise StageError(
                f"function {self.settings.function!r} returned a {type(scores).__name__}; expected "
                "a list or an array of scores, one for each candidate in their order"
            )
        if len(scores) != len(candidates):
            raise StageError(
                f"function {self.settings.function!r} returned {len(scores)} scores for "
                f"{len(candidates)} candidates; expected one for each, in their order"
            )
        rows = [
            Ranked(candidate.document, float(score))
            for candidate, score in zip(candidates, scores, strict=True)
        ]
        return StageOutput(sorted(rows, key=lambda row: -cast("float", row.score)))

    async def _call(self, text: str, candidates: Sequence[Candidate]) -> Sequence[float]:
        if inspect.iscoroutinefunction(self._function):
            return cast("Sequence[float]", await self._function(text, candidates))
        result = await self._in_thread(text, candidates)
        return cast("Sequence[float]", await result if inspect.isawaitable(result) else result)

    async def _in_thread(self, text: str, candidates: Sequence[Candidate]) -> Any:
        if len(self._outlived) >= _THREADS:
            raise Overloaded(
                f"function {self.settings.function!r}: got {_THREADS} calls that still run after "
                "their time was up, expected a free thread; give the function a limit of its own"
            )
        future = self._pool.submit(copy_context().run, _called, self._function, text, candidates)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancel():  # a thread cannot be interrupted, only counted
                self._outlived.add(future)
                future.add_done_callback(self._outlived.discard)
            raise


def _called(function: ScoreFunction, text: str, candidates: Sequence[Candidate]) -> Any:
    """What the function returns. No future carries these two: who awaits it would wait for ever."""
    try:
        return function(text, candidates)
    except (StopIteration, GeneratorExit) as error:
        raise RuntimeError(f"the function raised {type(error).__name__}") from error
