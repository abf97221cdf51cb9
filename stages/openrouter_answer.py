"""What each answer of OpenRouter means.

What the API says is translated here, and only here, into this library's errors:

======================  ================================================================
400, 413, 422           ``PromptTooLong`` if the context is too long, else ``StageError``
401, 403                ``AuthError``
402                     ``BudgetExceeded``
404                     ``ConfigError``: no endpoint meets the constraints, which are named
408                     ``StageTimeout``
429                     ``RateLimited`` with ``retry_after``
5xx                     ``BackendUnavailable``
200 with an ``error``,  as that error's code says; else ``MalformedOutput``
no or empty content
======================  ================================================================
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from funnel.errors import (
    AuthError,
    BackendUnavailable,
    BudgetExceeded,
    ConfigError,
    MalformedOutput,
    RateLimited,
    StageError,
    StageTimeout,
)
from funnel.types import Usage

_TOO_LONG = re.compile(
    r"context_length_exceeded|context.{0,20}(length|window|size)|too (long|large|many tokens)",
    re.IGNORECASE,
)
_MESSAGE_CHARS = 300


class PromptTooLong(StageError):
    """The messages do not fit into the model's context; fewer or shorter passages may."""


@dataclass(frozen=True, slots=True)
class Response:
    """A status and a body as they came; ``body`` is None if it is no JSON object."""

    status: int
    body: Mapping[str, Any] | None
    retry_after: float | None = None

    @property
    def usage(self) -> Usage:
        """What the call cost by the endpoint's own account, 0 where it says nothing."""
        usage = _mapping(self.body, "usage")
        return Usage(
            calls=1,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            cost_usd=_amount(usage.get("cost")),
        )

    @property
    def model(self) -> str:
        """The model that answered, empty if it is not said."""
        return _line((self.body or {}).get("model") or "")


def content(response: Response, constraints: str) -> str:
    """The text that the model answered.

    Args:
        response: what came back.
        constraints: names what an endpoint must meet, for the message of a 404.

    Raises:
        StageError: as the table above says; ``ConfigError`` for a 404.
    """
    if response.status != 200:
        raise _error(response.status, response, constraints)
    if (code := _error_code(response.body)) is not None:
        raise _error(code, response, constraints)
    if response.body is None:
        raise MalformedOutput("OpenRouter answered with a body that is no JSON object")
    choice = _first_choice(response.body)
    if choice.get("finish_reason") == "error":
        raise BackendUnavailable("the model broke off with an error (finish_reason 'error')")
    text = _mapping(choice, "message").get("content")
    if not isinstance(text, str) or not text.strip():
        raise MalformedOutput(f"the model sent no content{_why_empty(choice)}")
    return text


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds to wait from a ``Retry-After`` header in seconds or as an HTTP date."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())


def _error(status: int, response: Response, constraints: str) -> Exception:
    said = _message(response.body)
    if status in (400, 413, 422) and _TOO_LONG.search(said):
        return PromptTooLong(f"the passages do not fit into the model's context: {said}")
    if status in (401, 403):
        return AuthError(f"OpenRouter refused the request ({status}): {said}; check the key")
    if status == 402:
        return BudgetExceeded(f"OpenRouter wants payment (402): {said}; add credit to the account")
    if status == 404:
        return ConfigError(
            f"no endpoint meets the constraints (404): {said}; asked for {constraints}. "
            "Choose another model or relax a constraint"
        )
    if status == 408:
        return StageTimeout(f"the model took too long (408): {said}")
    if status == 429:
        return RateLimited(
            f"OpenRouter limits the rate (429): {said}", retry_after=response.retry_after
        )
    if status >= 500:
        return BackendUnavailable(f"OpenRouter failed ({status}): {said}")
    return StageError(f"OpenRouter did not accept the request ({status}): {said}")


def _error_code(body: Mapping[str, Any] | None) -> int | None:
    """The code of an error within a 200, at the top or in the first choice; 502 if it has none."""
    for place in (body or {}, _first_choice(body)):
        if place.get("error"):
            code = _mapping(place, "error").get("code")
            return code if isinstance(code, int) and 400 <= code < 600 else 502
    return None


def _message(body: Mapping[str, Any] | None) -> str:
    if body is None:
        return "a body that is no JSON object"
    error = body.get("error") or _first_choice(body).get("error")
    if isinstance(error, Mapping):
        parts = (error.get("code"), error.get("message"), _mapping(error, "metadata").get("raw"))
        error = " | ".join(str(part) for part in parts if part)
    return _line(error or "no message")


def _line(said: object) -> str:
    """What the endpoint said, on one line. Halves of a surrogate pair could not be sent on."""
    line = " ".join(str(said).split())[:_MESSAGE_CHARS]
    return line.encode("utf-8", "replace").decode()


def _why_empty(choice: Mapping[str, Any]) -> str:
    reason = choice.get("finish_reason")
    if reason == "length":
        return ": it used up max_tokens before the answer; raise 'max_tokens'"
    return f" (finish_reason {reason!r})" if reason else ""


def _first_choice(body: Mapping[str, Any] | None) -> Mapping[str, Any]:
    choices = (body or {}).get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, Mapping) else {}


def json_object(body: bytes) -> Mapping[str, Any] | None:
    """The object that a body holds as JSON; None if it holds anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _mapping(value: object, key: str) -> Mapping[str, Any]:
    inner = value.get(key) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _amount(value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < 1e6 else 0.0  # type: ignore[arg-type, operator]
