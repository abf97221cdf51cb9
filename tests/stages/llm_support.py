"""Makes list-wise stages that ask a server on loopback, and what they are asked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import SecretStr

from funnel.deadline import Deadline
from funnel.query import Query
from funnel.stages.base import StageOutput, StageRequest
from funnel.stages.llm_listwise import LlmListwiseSettings, LlmListwiseStage
from funnel.stages.spend import Ledger
from funnel.types import Candidate, Document
from tests.openrouter_server import TEST_KEY, OpenRouterServer


async def no_embedding(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    raise AssertionError("this stage needs no embedding")


def llm_stage(
    server: OpenRouterServer | None = None,
    *,
    key: str | None = TEST_KEY,
    ledger: Ledger | None = None,
    **settings: Any,
) -> LlmListwiseStage:
    """A stage with a ledger of its own."""
    url = {} if server is None else {"base_url": server.base_url}
    plain = {"model": "one/model", "k": 5, **url, **settings}
    secret = None if key is None else SecretStr(key)
    return LlmListwiseStage(
        LlmListwiseSettings.model_validate(plain), secret, Ledger() if ledger is None else ledger
    )


def candidates(count: int, text: str = "passage number {}") -> list[Candidate]:
    """Documents ``d1 … dN`` in prior order."""
    return [Candidate(Document(f"d{n}", text.format(n))) for n in range(1, count + 1)]


async def rank(
    stage: LlmListwiseStage,
    documents: int | Sequence[Candidate] = 5,
    *,
    query: str = "which passage?",
    deadline_ms: float | None = 5_000,
) -> StageOutput:
    """Run the stage once and close it."""
    found = candidates(documents) if isinstance(documents, int) else documents
    request = StageRequest(
        Query(query, query_id="q", embed=no_embedding),
        stage.settings.k,
        stage.settings,
        Deadline.after_ms(deadline_ms),
    )
    try:
        return await stage.run(request, found)
    finally:
        await stage.aclose()


def ids(output: StageOutput) -> list[str]:
    """The ranked ids."""
    return [row.document.id for row in output.ranking]
