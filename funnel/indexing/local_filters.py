"""Filters as local mode evaluates them; they mean the same as a server's."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import Any

from funnel.indexing.filters import Condition

_Test = Callable[[Any], bool]
_USUAL = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_HOLDS: dict[str, Callable[[Any, Any], bool]] = {"gte": ge, "gt": gt, "lte": le, "lt": lt}


def holds(conditions: Sequence[Condition]) -> _Test:
    """What tells of a document's metadata whether all conditions hold."""
    tests = [_at(each.field.split("."), _test_of(each)) for each in conditions]

    def all_hold(metadata: Mapping[str, Any]) -> bool:
        return all(test(metadata) for test in tests)

    return tests[0] if len(tests) == 1 else all_hold


def _at(path: Sequence[str], test: _Test) -> _Test:
    """The test of what stands at a path: of one value, or of any in a list."""
    *objects, last = path

    def test_there(metadata: Any) -> bool:
        for key in objects:
            if not isinstance(metadata, dict):
                return False
            metadata = metadata.get(key)
        held = metadata.get(last) if isinstance(metadata, dict) else None
        return any(map(test, held)) if isinstance(held, list | tuple) else test(held)

    return test_there


def _test_of(condition: Condition) -> _Test:
    if condition.bounds is None:
        return _one_of(condition.values)
    if condition.kinds == {"text"}:
        return _moment_within(condition.bounds)
    return _number_within(condition.bounds)


def _one_of(values: Sequence[Any]) -> _Test:
    """Values are of one kind with what they equal: true is no 1, but 1.0 is."""
    texts = {value for value in values if isinstance(value, str)}
    switches = {value for value in values if isinstance(value, bool)}
    numbers = {value for value in values if not isinstance(value, str | bool)}

    def test(held: Any) -> bool:
        if isinstance(held, str):
            return held in texts
        if isinstance(held, bool):
            return held in switches
        return isinstance(held, int | float) and held in numbers

    return test


def _number_within(bounds: Mapping[str, Any]) -> _Test:
    wanted = [(_HOLDS[name], bound) for name, bound in bounds.items()]

    def test(held: Any) -> bool:
        if isinstance(held, bool) or not isinstance(held, int | float):
            return False
        return all(compare(held, bound) for compare, bound in wanted)

    return test


def _moment_within(bounds: Mapping[str, Any]) -> _Test:
    wanted = [(_HOLDS[name], _in_utc(bound)) for name, bound in bounds.items()]

    def test(held: Any) -> bool:
        moment = _moment(held) if isinstance(held, str) else None
        return moment is not None and all(compare(moment, bound) for compare, bound in wanted)

    return test


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
