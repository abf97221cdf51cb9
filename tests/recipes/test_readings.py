"""Pairs that were read: known by hashes, the same whichever question comes first."""

import re
from pathlib import Path

import pytest

from recipes.readings import FILES, pair_key, read_readings


def test_a_pair_is_known_whichever_comes_first_and_however_it_is_written() -> None:
    """Case, punctuation and spacing say nothing; another word does."""
    key = pair_key("How do I cook rice?", "Cooking rice: how?")
    assert key == pair_key("cooking  rice how", "how do i cook rice")
    assert key != pair_key("How do I cook rice?", "Cooking rice: why?")


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_the_files_hold_verdicts_and_no_text(path: Path) -> None:
    """The questions are not ours to ship."""
    lines = path.read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[0-9a-f]{16}\t(SS|SD|DD)", line) for line in lines)
    assert len(read_readings(path)) == len(lines)
