"""One query's pass over its candidates: windows, repairs, and what there is to say of them."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from funnel.errors import MalformedOutput
from funnel.log import Seldom, get_logger
from funnel.stages.attempts import Attempts
from funnel.stages.base import Ranked, StageOutput
from funnel.stages.listwise_prompt import PROMPT_VERSION, listwise_prompt
from funnel.stages.permutation import Repaired, read_permutation
from funnel.types import Document

log = get_logger(__name__)


@dataclass(slots=True)
class ListwisePass:
    """The order of one query's documents so far, and how it came about.

    ``raises`` says whether an answer that names no passage, twice, is an error.
    """

    query: str
    documents: list[Document]
    attempts: Attempts
    stage: str
    template: str
    shuffle_seed: int | None
    raises: bool
    seldom: Seldom = field(default_factory=lambda: Seldom(log))
    answers: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    models: dict[str, None] = field(default_factory=dict)
    cut_short: set[str] = field(default_factory=set)
    windows_ranked: int = 0
    degraded: str | None = None
    message: str | None = None

    @property
    def worth_keeping(self) -> bool:
        """Whether a window was ranked or money was spent."""
        return bool(self.windows_ranked or self.attempts.spend.usage.cost_usd)

    async def rank(self, start: int, end: int) -> None:
        """Reorder the documents from ``start`` up to ``end`` as the model ranks them.

        Raises:
            StageError: no answer came, or (where errors shall be raised) none was of use.
        """
        prior = self.documents[start:end]
        shown = _shown(len(prior), self.shuffle_seed)
        repaired = await self._ask([prior[position] for position in shown])
        if repaired.status == "malformed" and self.degraded is None:
            repaired = await self._ask([prior[position] for position in shown])
        if repaired.status == "malformed":
            self._malformed()
            return
        order = _in_prior_order(repaired, shown)
        self.documents[start:end] = [prior[position] for position in order]
        self.windows_ranked += 1

    def degrade(self, reason: str, message: str) -> None:
        """Note that less was done than asked."""
        self.degraded, self.message = reason, message

    def output(self, windows: int) -> StageOutput:
        """The ranking as it stands, of a pass that was to rank ``windows`` windows."""
        return StageOutput(
            [Ranked(document, None) for document in self.documents],
            usage=self.attempts.spend.usage,
            truncated=len(self.cut_short),
            degraded=self.degraded,
            details=self._details(windows),
        )

    async def _ask(self, documents: list[Document]) -> Repaired:
        answered = await self.attempts.ask(
            lambda chars: listwise_prompt(self.query, documents, chars, self.template)
        )
        self.cut_short |= answered.prompt.cut
        self.models[answered.model] = None
        repaired = read_permutation(answered.text, len(documents))
        self.answers[repaired.status] += 1
        self.repairs.update(
            dropped=repaired.dropped, repeated=repaired.repeated, missing=repaired.missing
        )
        return repaired

    def _malformed(self) -> None:
        models = ", ".join(self.models)
        message = f"{models} named no passage in its answer; the prior order stands"
        if self.raises:
            raise MalformedOutput(message)
        self.seldom.warning("llm_answer_malformed", stage=self.stage, models=models)
        self.degrade(MalformedOutput.reason, message)

    def _details(self, windows: int) -> dict[str, Any]:
        seed = self.shuffle_seed
        details = {
            "models": list(self.models),
            "windows": windows,
            "windows_ranked": self.windows_ranked,
            "calls": self.attempts.spend.usage.calls,
            "repeats": self.attempts.repeats,
            "shrunk": self.attempts.shrunk,
            **{status: self.answers[status] for status in ("ok", "repaired", "malformed")},
            **{name: self.repairs[name] for name in ("dropped", "repeated", "missing")},
            "shown": "prior order" if seed is None else f"shuffled with seed {seed}",
            "prompt": PROMPT_VERSION,
        }
        return details if self.message is None else {**details, "message": self.message}


def _shown(size: int, seed: int | None) -> list[int]:
    """The positions in the order in which they are shown."""
    positions = list(range(size))
    if seed is not None:
        random.Random(seed).shuffle(positions)  # noqa: S311 - not for secrets
    return positions


def _in_prior_order(repaired: Repaired, shown: list[int]) -> list[int]:
    """Named positions as the model ranked them, the missing ones in prior, not shown, order."""
    positions = [shown[index] for index in repaired.order]
    named = len(positions) - repaired.missing
    return positions[:named] + sorted(positions[named:])
