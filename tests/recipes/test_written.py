"""The written groups: read rightly, held apart by topic, strangers to what is measured."""

import json
import random
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from recipes.measures import read_contrasts
from recipes.pairs import fold
from recipes.written import KINDS, SAME, Group, held_out_pairs, read_groups, trained_pairs

_TEXT = """\
@ lending a bike
= Can I lend my bike to a friend?
= is a pal allowed to ride my bicycle
= My mate wants to use my bike; may she?
! direction | Can a friend lend me a bike?
! entity | Can I lend my car to a friend?
"""


def _groups(folder: Path, text: str = _TEXT) -> list[Group]:
    (folder / "cycling.txt").write_text(text, encoding="utf-8")
    return read_groups(folder)


def test_a_group_keeps_its_wordings_and_the_kinds_of_its_near_misses(tmp_path: Path) -> None:
    """Also where it comes from."""
    (group,) = _groups(tmp_path)
    assert (group.area, group.topic) == ("cycling", "lending a bike")
    assert len(group.same) == 3
    assert [kind for kind, _ in group.other] == ["direction", "entity"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_TEXT + "no mark\n", "cycling.txt:7"),
        (_TEXT + "! colour | Is my bike red?\n", "cycling.txt:7"),
        ("= before any topic\n" + _TEXT, "cycling.txt:1"),
        (_TEXT + "@ another\n= only one\n! unit | a near miss\n", "'another'"),
        (_TEXT + "@ another\n= one\n= two\n", "'another'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    """With its file and number, or the group's topic."""
    with pytest.raises(ValueError, match=said):
        _groups(tmp_path, text)


def test_wordings_are_duplicates_and_near_misses_are_none(tmp_path: Path) -> None:
    """Each near miss with the wording most like it and one other."""
    group = _groups(tmp_path)[0]
    group.topic = next(str(n) for n in range(99) if not Group("", str(n)).held_out)
    pairs = trained_pairs([group], random.Random(1))
    assert Counter(pair.label for pair in pairs) == {1.0: 3, 0.0: 4}
    car = {pair.first for pair in pairs if pair.second == "Can I lend my car to a friend?"}
    assert len(car) == 2
    assert "Can I lend my bike to a friend?" in car
    assert not held_out_pairs([group])


def test_a_topic_that_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    """It is measured on the near misses that look most like a wording."""
    group = _groups(tmp_path)[0]
    group.topic = next(str(n) for n in range(99) if Group("", str(n)).held_out)
    assert not trained_pairs([group], random.Random(1))
    pairs = held_out_pairs([group])
    assert Counter(pair.kind for pair in pairs) == {
        SAME: 3, f"{SAME} direction": 1, f"{SAME} entity": 1,
    }  # fmt: skip


def test_the_shipped_groups_are_many_and_distinct() -> None:
    """No topic comes twice in a file, no question is a wording here and a near miss there."""
    groups = read_groups()
    assert len(groups) > 2_000
    assert len({(group.area, group.topic.lower()) for group in groups}) == len(groups)
    for group in groups:
        texts = [text.lower() for text in (*group.same, *(text for _, text in group.other))]
        assert len(set(texts)) == len(texts), group.topic
    kinds = Counter(kind for group in groups for kind, _ in group.other)
    assert kinds.keys() == KINDS


def test_no_question_that_is_measured_is_trained_on() -> None:
    """Of the contrasts, the swaps and the streams."""
    measured = {fold(text) for pair in read_contrasts() for text in pair[:2]}
    for name in ("swap_pairs", "stream", "stream_hard"):
        text = files("funnel.demo").joinpath(f"data/{name}.jsonl").read_text("utf-8")
        for row in map(json.loads, text.splitlines()):
            measured |= {fold(row[k]) for k in ("question1", "question2", "query") if k in row}
    assert len(measured) > 500
    pairs = trained_pairs(read_groups(), random.Random(1))
    assert not measured & {fold(text) for pair in pairs for text in pair[:2]}
