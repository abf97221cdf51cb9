"""Pairs that were read: known by hashes, the same whichever question comes first."""

import re

from recipes.readings import FILE, pair_key, read_readings


def test_a_pair_is_known_whichever_comes_first_and_however_it_is_written() -> None:
    """Case, punctuation and spacing say nothing; another word does."""
    key = pair_key("How do I cook rice?", "Cooking rice: how?")
    assert key == pair_key("cooking  rice how", "how do i cook rice")
    assert key != pair_key("How do I cook rice?", "Cooking rice: why?")


def test_the_file_holds_verdicts_and_no_text() -> None:
    """The questions are not ours to ship."""
    lines = FILE.read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[0-9a-f]{16}\t(SS|SD|DD)", line) for line in lines)
    assert len(read_readings()) == len(lines)
