"""Asking a chain of models through bad weather, always within a count and a deadline.

Server errors and failed calls are repeated at most twice for each model, then the next model is
asked. A rate limit is waited out as the server says, if the time left allows. Everything else is
final at once.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict, Field

from funnel.deadline import Deadline
from funnel.errors import (
    BackendUnavailable,
    MalformedOutput,
    RateLimited,
    StageError,
    StageTimeout,
)
from funnel.log import get_logger
from funnel.settings_model import SettingsModel
from funnel.stages.listwise_prompt import SCHEMA, Prompt
from funnel.stages.openrouter import OpenRouter
from funnel.stages.openrouter_answer import PromptTooLong, content
from funnel.stages.spend import QuerySpend

log = get_logger(__name__)

MAX_REPEATS = 2
FIRST_PAUSE_S = 0.25
_CHARS_PER_TOKEN = 2  # a low guess on purpose: it makes the bound of a call's cost a high one


class MaxPrice(SettingsModel):
    """The highest price that an endpoint may take, in US dollars for a million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: float = Field(ge=0, allow_inf_nan=False)
    completion: float = Field(ge=0, allow_inf_nan=False)

    def bound_usd(self, prompt_chars: int, max_tokens: int) -> float:
        """What a call can cost at most."""
        tokens = prompt_chars / _CHARS_PER_TOKEN
        return (tokens * self.prompt + max_tokens * self.completion) / 1e6


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of an endpoint, besides the messages."""

    models: Sequence[str]
    max_tokens: int = 256
    temperature: float | None = 0.0
    sort: str | None = "latency"
    data_collection: str = "deny"
    max_price: MaxPrice | None = None

    def payload(self, models: Sequence[str], prompt: Prompt) -> dict[str, Any]:
        """The request's body, for the models that are still to be asked."""
        body: dict[str, Any] = {
            "model": models[0],
            "models": list(models),
            "messages": list(prompt.messages),
            "max_tokens": self.max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "ranking", "strict": True, "schema": SCHEMA},
            },
            "provider": self._provider(),
        }
        return body if self.temperature is None else {**body, "temperature": self.temperature}

    def constraints(self, models: Sequence[str]) -> str:
        """The same in words, for the message that no endpoint meets them."""
        return (
            f"models {', '.join(models)}; require_parameters with response_format json_schema, "
            f"max_tokens and temperature ({self.temperature}); provider {self._provider()}"
        )

    def bound_usd(self, prompt: Prompt) -> float | None:
        """What a call can cost at most; None without a ``max_price``."""
        if self.max_price is None:
            return None
        return self.max_price.bound_usd(prompt.chars, self.max_tokens)

    def _provider(self) -> dict[str, Any]:
        provider: dict[str, Any] = {
            "require_parameters": True,  # without it the schema is only a wish
            "data_collection": self.data_collection,
        }
        if self.sort is not None:
            provider["sort"] = self.sort
        if self.max_price is not None:
            provider["max_price"] = self.max_price.model_dump()
        return provider


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model answered, which model, and to which prompt."""

    text: str
    model: str
    prompt: Prompt


@dataclass(slots=True)
class Attempts:
    """The way of one query's calls: what is left to try and what happened.

    ``make_prompt`` takes a number of characters per passage. What was learnt (a model that is
    down, passages that are too long) holds for the query's later calls.
    """

    client: OpenRouter
    wishes: Wishes
    spend: QuerySpend
    deadline: Deadline
    call_timeout_s: float
    passage_chars: int
    repeats: int = 0
    shrunk: bool = False
    _models: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._models = list(self.wishes.models)

    async def ask(self, make_prompt: Callable[[int], Prompt]) -> Answered:
        """Get one answer.

        Raises:
            StageError: no model gave one; the last error.
            ConfigError: no endpoint meets the constraints.
        """
        tried = 0
        while True:
            try:
                return await self._call(make_prompt(self.passage_chars))
            except PromptTooLong:
                self._shrink_once()
            except (RateLimited, BackendUnavailable, MalformedOutput) as error:
                tried = await self._before_next(error, tried)
                self.repeats += 1
                log.debug("llm_call_repeated", reason=error.reason, model=self._models[0])

    async def _call(self, prompt: Prompt) -> Answered:
        timeout_s = self._time_left_s()
        model, units = self._models[0], prompt.chars
        reserved = self.spend.reserve(model, units, self.wishes.bound_usd(prompt))
        try:
            payload = self.wishes.payload(self._models, prompt)
            response = await self.client.post(payload, timeout_s)
        except BaseException:  # also cancelled: the endpoint may charge for it
            self.spend.abandon(reserved, model)
            raise
        self.spend.settle(reserved, model, units, response.usage)
        text = content(response, self.wishes.constraints(self._models))
        return Answered(text, response.model or model, prompt)

    def _time_left_s(self) -> float:
        remaining = self.deadline.remaining_s()
        if remaining is not None and remaining <= 0:
            raise StageTimeout("no time was left to ask the model")
        return self.call_timeout_s if remaining is None else min(remaining, self.call_timeout_s)

    def _shrink_once(self) -> None:
        if self.shrunk:
            raise StageError(
                f"the passages do not fit into the model's context even at {self.passage_chars} "
                "characters each; lower 'max_passage_chars' or 'window'"
            )
        self.shrunk = True
        self.passage_chars = max(1, self.passage_chars // 2)

    async def _before_next(self, error: StageError, tried: int) -> int:
        """Wait, or turn to the next model; returns how often the current one failed."""
        if tried < MAX_REPEATS:
            await self._pause(error, tried)
            return tried + 1
        if isinstance(error, RateLimited) or len(self._models) == 1:
            raise error
        del self._models[0]
        return 0

    async def _pause(self, error: StageError, tried: int) -> None:
        seconds = FIRST_PAUSE_S * 2**tried * random.uniform(0.5, 1.0)  # noqa: S311 - only jitter
        if isinstance(error, RateLimited) and error.retry_after is not None:
            seconds = error.retry_after
        if seconds >= self._time_left_s():
            raise error
        await asyncio.sleep(seconds)


def models_of(model: str, fallbacks: Sequence[str]) -> tuple[str, ...]:
    """The models to ask, first to last, without repeats."""
    return tuple(dict.fromkeys((model, *fallbacks)))
