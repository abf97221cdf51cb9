"""Small stages and queries for tests of the chain."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from funnel.chain import Step
from funnel.query import Query, Vector
from funnel.stages.base import Ranked, Role, Stage, StageOutput, StageRequest, StageSettings
from funnel.types import Candidate, Document, ScoreKind

DOCUMENTS = [Document(f"d{i}", f"text {i}", f"title {i}", {"n": i}) for i in range(10)]


class ListStage(Stage):
    """Retrieves d0, d1, … with falling scores."""

    kind: ClassVar[str] = "list"
    role: ClassVar[Role] = "retrieve"

    @property
    def score_kind(self) -> ScoreKind:
        return "bm25"

    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        rows = [Ranked(doc, 10.0 - i) for i, doc in enumerate(DOCUMENTS)]
        return StageOutput(rows[: request.k])


class FunctionStage(Stage):
    """Does what a function says; by default it reverses the order."""

    kind: ClassVar[str] = "function"
    role: ClassVar[Role] = "rerank"

    def __init__(
        self,
        settings: StageSettings,
        act: Callable[[Sequence[Candidate]], StageOutput] | None = None,
        delay_s: float = 0.0,
        score_kind: ScoreKind = "logit",
    ) -> None:
        super().__init__(settings)
        self._act = act or reverse
        self._delay_s = delay_s
        self._score_kind = score_kind
        self.seen: list[int] = []

    @property
    def score_kind(self) -> ScoreKind:
        return self._score_kind

    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        self.seen.append(len(candidates))
        await asyncio.sleep(self._delay_s)
        return self._act(candidates)


def reverse(candidates: Sequence[Candidate]) -> StageOutput:
    """The last candidate gets the highest score."""
    return StageOutput([Ranked(c.document, float(i)) for i, c in enumerate(candidates)])


def step(stage_type: type[Stage] = ListStage, *, k: int = 10, **rest: Any) -> Step:
    """A step with settings from keywords; what is no setting goes to the stage."""
    own = {key: rest.pop(key) for key in ("act", "delay_s", "score_kind") if key in rest}
    settings = StageSettings.model_validate({"kind": stage_type.kind, "k": k, **rest})
    return Step(stage_type(settings, **own), settings, k)


async def _embed(text: str) -> Vector:
    return np.ones(2, dtype=np.float32)


def query(text: str = "a question") -> Query:
    """A query with a constant embedding."""
    return Query(text, query_id="q1", embed=_embed)
