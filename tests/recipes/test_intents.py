"""Requests with intents: half of them train, and only what is surely one question is a positive."""

import random
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from recipes.intents import ONE_QUESTION, PARTICULAR, intent_pairs, trained_intents
from recipes.pairs import Pair
from tests.recipes.assistant import SmallBase, write_intents

if TYPE_CHECKING:
    from recipes.network import Base


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_intents(tmp_path)
    return tmp_path


def _pairs(data: Path) -> list[Pair]:
    return intent_pairs(data, cast("Base", SmallBase()), random.Random(1))


def test_every_other_intent_trains(data: Path) -> None:
    """The rest stays for measuring; so do test requests."""
    assert trained_intents(data) == {"pin_change", "translate"}
    texts = {text for pair in _pairs(data) for text in pair[:2]}
    assert texts
    assert not any("fraud" in text or "tax" in text or "held" in text for text in texts)


def test_positives_are_one_question_without_particulars(data: Path) -> None:
    """No intent with slots, no rare word, no name of a bank; the label stays in doubt."""
    positives = [pair for pair in _pairs(data) if pair.kind == "intent"]
    assert positives
    assert {pair.label for pair in positives} == {0.85}
    for text in (text for pair in positives for text in pair[:2]):
        assert "pin" in text.split()
        assert not set(text.split()) & PARTICULAR


def test_negatives_are_of_two_intents(data: Path) -> None:
    """Whatever their words."""
    negatives = [pair for pair in _pairs(data) if pair.kind == "intents"]
    assert negatives
    for pair in negatives:
        assert ("pin" in pair.first) != ("pin" in pair.second)
        assert pair.label == 0


def test_same_seed_gives_the_same_pairs(data: Path) -> None:
    """Sampling is by seed alone."""
    assert _pairs(data) == _pairs(data)


def test_intents_that_were_read_have_no_slots() -> None:
    """Spot checks of the list."""
    assert {"pin_change", "payday"} <= ONE_QUESTION
    assert not {"translate", "weather", "balance", "rewards_balance"} & ONE_QUESTION
