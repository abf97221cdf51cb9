"""Filters before they reach Qdrant: what is refused, and what the documents are said to hold."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client.local.payload_filters import check_filter
from structlog.testing import capture_logs

from funnel.errors import InputError
from funnel.index import DocumentIndex
from funnel.indexing.collection import CollectionState
from funnel.indexing.filters import (
    check_fields,
    check_filters,
    kinds_in,
    parse_filters,
    qdrant_filter,
)
from funnel.indexing.local_filters import holds


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("lang", "got str, expected a mapping"),
        ({"": 1}, "got the field name ''"),
        ({1: 1}, "got the field name 1"),
        ({"a..b": 1}, "got the field name 'a..b'"),
        ({'a"b': 1}, "holds quotes or brackets"),
        ({"a[]": 1}, "holds quotes or brackets"),
        ({"a": None}, "field 'a' got None, expected a text"),
        ({"a": float("nan")}, "field 'a' got nan"),
        ({"a": 2**63}, "expected a text, a finite 64-bit number"),
        ({"a": {"gte": date(2026, 1, 31)}}, "expected ISO text: '2026-01-31'"),
        ({"a": b"x"}, "field 'a' got b'x'"),
        ({"a": "\ud800"}, "field 'a' got"),
        ({"a": []}, r"got a list of 0, expected 1 to"),
        ({"a": [1, {"b": 1}]}, "field 'a' got {'b': 1}"),
        ({"a": {}}, "got no bounds, expected some of gte, gt, lte, lt"),
        ({"a": {"min": 1}}, "got the bound 'min'"),
        ({"a": {"gte": True}}, "got mixed bounds"),
        ({"a": {"gte": 1, "lt": "2026-01-01"}}, "got mixed bounds"),
        ({"a": {"gte": "soon"}}, "got the bound 'soon', expected a number or an ISO date"),
        ({f"f{n}": 1 for n in range(65)}, "got 65 fields, expected at most 64"),
    ],
)
def test_what_no_filter_can_be_is_refused(filters: Any, message: str) -> None:
    """Hostile or mistaken filters end as one clear message."""
    with pytest.raises(InputError, match=message.replace("{", r"\{").replace("[", r"\[")):
        check_filters(filters)


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_any_value_becomes_a_filter_or_an_input_error(filters: dict[str, Any]) -> None:
    """Nothing else escapes, and what passes can be spoken to Qdrant and asked of metadata."""
    try:
        conditions = parse_filters(filters)
    except InputError:
        return
    assert (qdrant_filter(conditions) is None) == (not filters)
    assert holds(conditions)({}) == (not filters)


_VALUES = st.sampled_from([True, False, 0, 1, 2, 1.0, 0.5, -0.0, "", "1", "a", "True"])
_DAY = "2026-01-31"
_MOMENTS = st.sampled_from(
    [_DAY + rest for rest in ("", "T00:00:00Z", " 00:00:00", "T02:00:00+02:00", "T00:00:00+01")]
    + [_DAY + rest for rest in ("T00:00:00.123456789Z", "T24:00:00", "T00:00:00 UTC", "T12")]
    + ["2026-02-01T00:00", "2026-01-30 23:30:00.5-01:00", "2026-02-30", "20260131", "soon"]
)
_BOUNDS = st.sampled_from([_DAY, f"{_DAY}T00:00:00Z", f"{_DAY}T01:00:00+01:00"])


def _hold(wanted: Any, held: Any) -> tuple[bool, bool]:
    """Whether a document passes, by the filter for servers as the client reads it, and by ours."""
    conditions = parse_filters({"a.f": wanted})
    spoken = qdrant_filter(conditions)
    assert spoken is not None
    metadata = {"a": {"f": held}, "f": 1}
    return check_filter(spoken, {"metadata": metadata}, "id", {}), holds(conditions)(metadata)


@given(st.lists(_VALUES, min_size=1, max_size=4), _VALUES | st.lists(_VALUES | st.just({"a": 1})))
def test_any_of_means_the_same_in_local_mode(wanted: list[Any], held: Any) -> None:
    """Whatever a document holds, alone or in a list."""
    one, other = _hold(wanted, held)
    assert one == other


@given(
    st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), _BOUNDS, min_size=1),
    _MOMENTS | st.lists(_MOMENTS | _VALUES),
)
def test_dates_mean_the_same_in_local_mode(bounds: dict[str, str], held: Any) -> None:
    """Also what is no date, or one that Qdrant does not read."""
    one, other = _hold(bounds, held)
    assert one == other


@given(
    st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), st.integers(-2, 2), min_size=1),
    _VALUES | st.lists(_VALUES) | st.just({"a": 1}) | st.none(),
)
def test_bounds_mean_the_same_in_local_mode(bounds: dict[str, int], held: Any) -> None:
    """True is no number there, and what has no order is not compared."""
    one, other = _hold(bounds, held)
    assert one == other


def test_no_filters_are_no_filter() -> None:
    """An empty mapping restricts nothing."""
    assert qdrant_filter(parse_filters({})) is None


def test_kinds_of_nested_and_listed_values_are_found() -> None:
    """Dotted paths for objects, the elements' kinds for lists, nothing for null."""
    metadata = {"a": {"b": [1, "x"], "c": None}, "d": True, 'q"': 1, "e.f": 1}
    assert sorted(kinds_in(metadata)) == [("a.b", "number"), ("a.b", "text"), ("d", "boolean")]


async def test_a_key_with_a_dot_is_said_to_be_out_of_reach(memory: DocumentIndex) -> None:
    """The documents do have it: that no document has the field is not the whole of it."""
    await memory.upsert([{"id": "a", "text": "fox", "metadata": {"e.f": 1, "g": 2}}])
    with pytest.raises(InputError, match="a key that holds one itself cannot be filtered on"):
        await memory.search(terms="fox", filters={"e.f": 1})


async def test_fields_beyond_those_that_are_noted_are_not_said_to_be_missing(
    memory: DocumentIndex,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents may have them: the message says how many are noted, and so does a warning."""
    for module in ("filters", "spool", "collection", "ingest"):
        monkeypatch.setattr(f"funnel.indexing.{module}.MAX_FIELDS", 3)
    document = {"id": "a", "text": "fox", "metadata": {"w": 1, "x": 1}}
    await memory.upsert([document])
    with pytest.raises(InputError, match="no document has the metadata field 'z'"):
        await memory.search(terms="fox", filters={"z": 1})
    with capture_logs() as logged:
        await memory.upsert([{**document, "metadata": {"w": 1, "x": 1, "y": 1, "z": 1}}])
    assert [(entry["event"], entry["noted"]) for entry in logged] == [
        ("metadata_fields_are_many", 3)
    ]
    (missing,) = {"y", "z"} - set((await state_of(memory)).fields)
    with pytest.raises(InputError, match=f"'{missing}' is not among the first 3 .*--rebuild"):
        await memory.search(terms="fox", filters={missing: 1})


async def state_of(index: DocumentIndex) -> CollectionState:
    state = await index._live.refresh()
    assert state is not None
    return state


def test_a_list_of_mixed_kinds_passes_if_one_can_match() -> None:
    """Any-of needs one value of a kind that the documents hold."""
    fields = {"a": ["number"]}
    check_fields(parse_filters({"a": [1, "x"]}), fields)
    with pytest.raises(InputError, match="field 'a' got a text, but the documents hold a number"):
        check_fields(parse_filters({"a": ["x", "y"]}), fields)
