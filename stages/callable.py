"""A plain Python function as a stage.

The YAML says ``kind: callable`` and ``function: NAME``; the code hands the function over in
``Funnel.from_yaml(path, functions={"NAME": f})``. There is no import by path.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, cast

from funnel.errors import ConfigError, StageError
from funnel.stages.base import (
    Ranked,
    Role,
    Stage,
    StageOutput,
    StageRequest,
    StageSettings,
)
from funnel.types import Candidate, ScoreKind

if TYPE_CHECKING:
    from funnel.resources import Resources

ScoreFunction: TypeAlias = Callable[
    [str, Sequence[Candidate]], Sequence[float] | Awaitable[Sequence[float]]
]
"""Query text and candidates in, one score for each candidate out, in their order."""


class CallableSettings(StageSettings):
    """``function`` names one of the functions that the program handed over."""

    kind: str = "callable"
    function: str
    score_kind: ScoreKind = "logit"


class CallableStage(Stage):
    """Ranks candidates by what a function of the program says, highest first."""

    kind: ClassVar[str] = "callable"
    role: ClassVar[Role] = "rerank"
    Settings = CallableSettings
    settings: CallableSettings

    def __init__(self, settings: CallableSettings, function: ScoreFunction) -> None:
        super().__init__(settings)
        self._function = function

    @classmethod
    def build(cls, settings: StageSettings, resources: "Resources") -> Self:
        """Find the function among those the program handed over.

        Raises:
            ConfigError: no function of that name was handed over.
        """
        settings = cast("CallableSettings", settings)
        function = resources.functions.get(settings.function)
        if function is None:
            known = ", ".join(sorted(resources.functions)) or "none"
            raise ConfigError(
                f"stage {settings.name!r}: function {settings.function!r} was not handed over; "
                f"known: {known}. Pass functions={{{settings.function!r}: …}} to Funnel.from_yaml"
            )
        return cls(settings, function)

    @property
    def score_kind(self) -> ScoreKind:
        """As the settings declare it."""
        return self.settings.score_kind

    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        """Call the function (in a thread unless it is a coroutine function) and sort."""
        scores = await self._call(request.query.text, candidates)
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
        result: Any = await asyncio.to_thread(self._function, text, candidates)
        return cast("Sequence[float]", await result if inspect.isawaitable(result) else result)
