"""Filters on metadata: parsed and checked here, then spoken in Qdrant's terms."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from funnel.errors import InputError
from funnel.registry import suggestion
from funnel.types import FilterValue

if TYPE_CHECKING:
    from qdrant_client import models

MAX_CONDITIONS = 64
MAX_VALUES = 10_000
MAX_FIELDS = 2_000  # that a collection takes note of; others cannot be filtered on
_BOUNDS = ("gte", "gt", "lte", "lt")
_EXACT_INT = 2**53
_INT64 = range(-(2**63), 2**63)
_PATH_SYNTAX = frozenset('."[]\\')

FieldKinds = Mapping[str, Sequence[str]]
"""Which kinds of value (``text``, ``number``, ``boolean``) the documents hold in each field."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One field's restriction: equal to any of ``values``, or within ``bounds``."""

    field: str
    kinds: frozenset[str]
    values: tuple[Any, ...] = ()
    bounds: Mapping[str, float | datetime] | None = None


def parse_filters(filters: Mapping[str, FilterValue]) -> tuple[Condition, ...]:
    """The conditions of a call, all of which must hold.

    Raises:
        InputError: a field name, value, list or bound is not what a filter can be.
    """
    if not isinstance(filters, Mapping):
        raise InputError(f"filters: got {type(filters).__name__}, expected a mapping of fields")
    if len(filters) > MAX_CONDITIONS:
        raise InputError(f"filters: got {len(filters)} fields, expected at most {MAX_CONDITIONS}")
    return tuple(_parsed(field, value) for field, value in filters.items())


def check_filters(filters: Mapping[str, FilterValue]) -> None:
    """Refuse what can be refused before anything runs.

    Raises:
        InputError: as :func:`parse_filters`.
    """
    parse_filters(filters)


def check_fields(conditions: Sequence[Condition], fields: FieldKinds) -> None:
    """Compare the conditions with what the documents hold.

    Raises:
        InputError: no document has the field, or none holds that kind of value there.
    """
    for condition in conditions:
        if condition.field not in fields:
            raise _unknown_field(condition.field, fields)
        held = fields[condition.field]
        if condition.kinds.isdisjoint(held):
            raise InputError(
                f"filters: field {condition.field!r} got a {' or '.join(sorted(condition.kinds))}, "
                f"but the documents hold a {' or '.join(sorted(held))} there"
            )


def qdrant_filter(conditions: Sequence[Condition]) -> "models.Filter | None":
    """The conditions as Qdrant's filter; None if there are none."""
    from qdrant_client import models

    if not conditions:
        return None
    return models.Filter(must=[_spoken(condition) for condition in conditions])


def payload_path(field: str) -> str:
    """Where a metadata field lies in a point's payload, in Qdrant's path syntax."""
    return ".".join(["metadata", *(f'"{part}"' for part in field.split("."))])


def kinds_in(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each filterable field of one document's metadata (nested: dotted) with a kind it holds.

    Keys that hold characters of Qdrant's path syntax cannot be filtered on and are left out.
    """
    stack: list[tuple[str, Any]] = list(_speakable("", metadata))
    while stack:
        path, value = stack.pop()
        if isinstance(value, Mapping):
            stack.extend(_speakable(f"{path}.", value))
        elif isinstance(value, list | tuple):
            stack.extend((path, inner) for inner in value if not isinstance(inner, Mapping | list))
        elif value is not None:
            yield path, _kind(value)


def _speakable(prefix: str, metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in metadata.items():
        if key and not _PATH_SYNTAX & set(key):
            yield prefix + key, value


def _unknown_field(field: str, fields: FieldKinds) -> InputError:
    known = tuple(sorted(fields))
    more = f" and {len(known) - 20:,} more" if len(known) > 20 else ""
    listed = f"{suggestion(field, known)} (known: {', '.join(known[:20]) or 'none'}{more})"
    if len(known) < MAX_FIELDS:
        dots = "; a dot leads into an object: a key that holds one itself cannot be filtered on"
        return InputError(
            f"filters: no document has the metadata field {field!r}{listed}"
            f"{dots if '.' in field else ''}"
        )
    return InputError(
        f"filters: the metadata field {field!r} is not among the first {MAX_FIELDS:,}{listed}; no "
        "more are noted, so documents may have it and still not be found by it: give them fewer "
        "field names, and index again with --rebuild"
    )


def _parsed(field: object, value: FilterValue) -> Condition:
    name = _field_name(field)
    if isinstance(value, Mapping):
        return _between(name, value)
    if isinstance(value, list | tuple | set | frozenset):
        return _any_of(name, tuple(value))
    return Condition(name, frozenset({_scalar_kind(name, value)}), (value,))


def _field_name(field: object) -> str:
    if not isinstance(field, str) or not all(field.split(".")):
        raise InputError(f"filters: got the field name {field!r}, expected a text such as 'lang'")
    if _PATH_SYNTAX & set(field.replace(".", "")) or not field.isprintable():
        raise InputError(f"filters: got the field name {field!r}, which holds quotes or brackets")
    return field


def _any_of(field: str, values: tuple[Any, ...]) -> Condition:
    if not 0 < len(values) <= MAX_VALUES:
        raise InputError(
            f"filters: field {field!r} got a list of {len(values)}, expected 1 to {MAX_VALUES}"
        )
    return Condition(field, frozenset(_scalar_kind(field, value) for value in values), values)


def _between(field: str, value: Mapping[str, Any]) -> Condition:
    strange = [key for key in value if key not in _BOUNDS]
    if strange or not value:
        got = f"the bound {strange[0]!r}" if strange else "no bounds"
        raise InputError(
            f"filters: field {field!r} got {got}, expected some of {', '.join(_BOUNDS)}"
        )
    kinds = frozenset(_scalar_kind(field, bound) for bound in value.values())
    if kinds == {"number"}:
        return Condition(field, kinds, bounds=dict(value))
    if kinds == {"text"}:
        moments = {key: _moment(field, bound) for key, bound in value.items()}
        return Condition(field, kinds, bounds=moments)
    raise InputError(
        f"filters: field {field!r} got mixed bounds, expected all numbers or all dates"
    )


def _moment(field: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"filters: field {field!r} got the bound {text!r:.60}, expected a number or an ISO "
            "date such as '2026-01-31' or '2026-01-31T12:00:00Z'"
        ) from None


def _scalar_kind(field: str, value: object) -> str:
    if isinstance(value, bool) or (isinstance(value, str) and _encodable(value)):
        return _kind(value)
    if isinstance(value, int) and value in _INT64:
        return "number"
    if isinstance(value, float) and math.isfinite(value):
        return "number"
    if isinstance(value, date):  # also a datetime
        raise InputError(
            f"filters: field {field!r} got {value!r:.60}, expected ISO text: "
            f"{value.isoformat()!r}, as documents hold dates"
        )
    raise InputError(
        f"filters: field {field!r} got {value!r:.60}, expected a text, a finite 64-bit number, "
        "true or false, a list of them, or bounds such as {'gte': 1}"
    )


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text"


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _spoken(condition: Condition) -> "models.Condition":
    from qdrant_client import models

    key = payload_path(condition.field)
    if condition.bounds is not None:
        shape: Callable[..., Any] = models.Range
        if condition.kinds == {"text"}:
            shape = models.DatetimeRange
        return models.FieldCondition(key=key, range=shape(**condition.bounds))
    if condition.kinds == {"text"}:
        any_of = models.MatchAny(any=list(condition.values))
        return models.FieldCondition(key=key, match=any_of)
    return models.Filter(should=[_equal(key, value) for value in condition.values])


def _equal(key: str, value: Any) -> "models.FieldCondition":
    from qdrant_client import models

    if isinstance(value, str | bool) or abs(value) > _EXACT_INT:
        match_value = int(value) if isinstance(value, float) else value
        return models.FieldCondition(key=key, match=models.MatchValue(value=match_value))
    # A range, because Qdrant's match tells 5 from 5.0 and knows no floats.
    return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
