"""Filters as Qdrant's local mode evaluates them quickly; they mean the same as a server's.

Local mode asks each condition of each document, in Python. For any-of a hundred numbers that took
eight seconds over two thousand documents, for dates without a time as long over five thousand. So
here one comparison stands for all values, and dates in the usual form are read by a faster parser.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from funnel.indexing.filters import Condition, payload_path

if TYPE_CHECKING:
    from qdrant_client import models

_USUAL = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"
)


def local_filter(conditions: Sequence[Condition]) -> "models.Filter | None":
    """The conditions as a filter that only local mode takes; None if there are none."""
    from qdrant_client import models

    if not conditions:
        return None
    return models.Filter(must=[_spoken(condition) for condition in conditions])


def _spoken(condition: Condition) -> "models.Condition":
    from qdrant_client import models

    key = payload_path(condition.field)
    if condition.bounds is None:
        return _any_of(key, condition.values)
    if condition.kinds == {"text"}:
        return _matching(key, _Within(condition.bounds))
    bounds: dict[str, Any] = dict(condition.bounds)
    return models.FieldCondition(key=key, range=models.Range(**bounds))


def _any_of(key: str, values: Sequence[Any]) -> "models.Condition":
    from qdrant_client import models

    texts = [value for value in values if isinstance(value, str)]
    switches = [value for value in values if isinstance(value, bool)]
    numbers = [value for value in values if not isinstance(value, str | bool)]
    spoken = [_matching(key, switch) for switch in switches]
    if texts:
        spoken.append(_matching(key, _OneOf(texts)))
    if numbers:
        bounds = {"lt": None, "lte": None, "gt": None, "gte": _OneOf(numbers)}
        within = models.Range.model_construct(None, **bounds)
        spoken.append(models.FieldCondition(key=key, range=within))
    return spoken[0] if len(spoken) == 1 else models.Filter(should=[*spoken])


def _matching(key: str, value: object) -> "models.FieldCondition":
    from qdrant_client import models

    match = models.MatchValue.model_construct(None, value=value)
    return models.FieldCondition(key=key, match=match)


class _OneOf:
    """Stands for several texts in a match, for several numbers as the bound of a range."""

    __slots__ = ("_values",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = frozenset(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other in self._values

    def __le__(self, other: float) -> bool:
        return other in self._values


class _Within:
    """Stands for all texts that are a moment within bounds, in a match."""

    __slots__ = ("_bounds",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, bounds: Mapping[str, Any]) -> None:
        self._bounds = {name: _in_utc(bound) for name, bound in bounds.items()}

    def __eq__(self, other: object) -> bool:
        moment = _moment(other) if isinstance(other, str) else None
        return moment is not None and all(
            _HOLDS[name](moment, bound) for name, bound in self._bounds.items()
        )


_HOLDS = {
    "gte": datetime.__ge__,
    "gt": datetime.__gt__,
    "lte": datetime.__le__,
    "lt": datetime.__lt__,
}


@lru_cache(maxsize=1 << 16)
def _moment(text: str) -> datetime | None:
    """The moment that a stored text names to Qdrant; None if it names none."""
    from qdrant_client.local.datetime_utils import parse

    if not _USUAL.fullmatch(text):
        return parse(text)
    try:
        return _in_utc(datetime.fromisoformat(text))
    except ValueError:
        return None


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
