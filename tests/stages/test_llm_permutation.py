"""What a language model wrote always becomes a permutation."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.stages.permutation import named_ids, read_permutation, repair, without_thoughts

DATA = Path(os.environ.get("FUNNEL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
RESPONSES = DATA / "listwise-responses" / "responses.jsonl"

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.text(), st.integers(1, 40))
def test_any_text_becomes_a_permutation(answer: str, size: int) -> None:
    """Whatever the text, the order holds every position exactly once."""
    assert sorted(read_permutation(answer, size).order) == list(range(size))


@given(st.lists(JSON_VALUES, max_size=60), st.integers(1, 40))
def test_any_json_becomes_a_permutation(ids: list[object], size: int) -> None:
    """Whatever is in the JSON list, the order holds every position exactly once."""
    answer = json.dumps({"ranking": ids})
    assert sorted(read_permutation(answer, size).order) == list(range(size))


@given(st.permutations(range(1, 21)))
def test_a_full_ranking_is_taken_as_it_is(ids: list[int]) -> None:
    """A complete answer is ok in each notation and its order is kept."""
    expected = tuple(number - 1 for number in ids)
    for answer in (
        json.dumps({"ranking": ids}),
        json.dumps(ids),
        " > ".join(f"[{n}]" for n in ids),
        " > ".join(map(str, ids)),
    ):
        repaired = read_permutation(answer, 20)
        assert (repaired.order, repaired.status) == (expected, "ok")


@given(st.lists(st.integers(-5, 30), max_size=40), st.integers(1, 20))
def test_repair_keeps_the_named_order_and_then_the_prior_one(ids: list[int], size: int) -> None:
    """Valid ids keep their first place; what is missing follows in prior order."""
    repaired = repair(ids, size)
    valid = list(dict.fromkeys(n - 1 for n in ids if 1 <= n <= size))
    assert list(repaired.order[: len(valid)]) == valid
    rest = repaired.order[len(valid) :]
    assert list(rest) == sorted(rest)
    assert repaired.missing == len(rest)
    assert repaired.dropped + repaired.repeated + len(valid) == len(ids)


@pytest.mark.parametrize(
    ("answer", "ids"),
    [
        ('{"ranking": [3, 1, 2]}', [3, 1, 2]),
        ('```json\n{"ranking": [3, 1]}\n```', [3, 1]),
        ('Sure! {"note": {"a": 1}} {"ranking": [2, 3]} hope it helps', [2, 3]),
        ("[3, 1, 2]", [3, 1, 2]),
        ("The order is [3, 1, 2].", [3, 1, 2]),
        ("1. [2] > [3] > [1]", [2, 3, 1]),
        ("1. [3]\n2. [1]\n3. [2]", [3, 1, 2]),
        ("I liked [2]; so: [3] > [2] > [1]", [3, 2, 1]),
        ("3 > 1 > 2", [3, 1, 2]),
        ('{"ranking": [3, 1, 1', [3, 1]),
        ('{"ranking": [3', []),
        ("20 passages are provided.", []),
        ("the ranking should be from 1 to 20.", []),
        ("[] > []", []),
        ("", []),
    ],
)
def test_each_notation_is_read(answer: str, ids: list[int]) -> None:
    """JSON, fenced, embedded, cut short, bracketed and bare chains; plain prose names nothing."""
    assert named_ids(answer) == ids


@pytest.mark.parametrize(
    "answer",
    [
        "<think>maybe [1] > [2]</think>[2] > [1]",
        "maybe [1] > [2] > [3]</think>[2] > [1]",
        "<THINK>\n[1] > [2] > [3]\n</THINK>\n[2] > [1]",
        "<think>a</think>[2] > [1]<think>[1] > [2] > [3] and on",
    ],
)
def test_thoughts_are_not_the_answer(answer: str) -> None:
    """What stands in think tags is stripped, also when a tag is missing."""
    assert without_thoughts(answer) == "[2] > [1]"


@pytest.mark.parametrize(
    ("ids", "order", "dropped", "repeated", "missing"),
    [
        ([0, -1, 4, 2], (1, 0, 2), 3, 0, 2),
        ([True, None, "x", 2.5, 3], (2, 0, 1), 4, 0, 2),
        (["3", "[1]", 2.0], (2, 0, 1), 0, 0, 0),
        ([1, 1, 3, 1], (0, 2, 1), 0, 2, 1),
    ],
)
def test_repair_counts_what_it_did(
    ids: list[object], order: tuple[int, ...], dropped: int, repeated: int, missing: int
) -> None:
    """Dropped, repeated and missing ids are counted apart."""
    repaired = repair(ids, 3)
    assert repaired.order == order
    assert (repaired.dropped, repaired.repeated, repaired.missing) == (dropped, repeated, missing)


@pytest.mark.parametrize("answer", ["[" * 100_000, '{"ranking": [' + "9" * 10_000 + "]}"])
def test_hostile_json_is_only_malformed(answer: str) -> None:
    """Endless nesting and endless integers are read as naming nothing valid."""
    assert read_permutation(answer, 5).status == "malformed"


def test_endless_thoughts_take_no_time() -> None:
    """The event loop waits for it: a model stuck on a tag held all queries for a minute."""
    began = time.perf_counter()
    assert without_thoughts("x" + "<think>" * 50_000) == "x"
    assert time.perf_counter() - began < 5


def test_endless_beginnings_of_a_list_take_no_time() -> None:
    """The same for a model that begins its list over and over: each was read to the end."""
    began = time.perf_counter()
    assert named_ids('"ranking":[' * 60_000 + "]") == []
    assert time.perf_counter() - began < 5


@pytest.mark.skipif(not RESPONSES.exists(), reason="the list-wise responses are not at hand")
def test_real_answers_of_four_models() -> None:
    """All 968 recorded answers become permutations; only answers without an id are malformed."""
    rows = [json.loads(line) for line in RESPONSES.read_text("utf-8").splitlines()]
    results = [(row["model"], read_permutation(row["response"], 20)) for row in rows]
    assert len(results) == 968
    assert all(sorted(repaired.order) == list(range(20)) for _, repaired in results)
    malformed = Counter(model for model, repaired in results if repaired.status == "malformed")
    assert malformed == {"vicuna-13b-v1.5": 384, "vicuna-7b-v1.5": 3}  # three are "[] > []"
