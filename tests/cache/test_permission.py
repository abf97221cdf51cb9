"""What is allowed against what is required."""

import pytest

from tests.cache.vetoes import vetoed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Can employees refuse overtime?", "Must employees refuse overtime?"),
        ("Are we allowed to take unpaid leave?", "do we have to take unpaid leave"),
        ("Am I able to insure my bike?", "am I obliged to insure my bike"),
        ("May I pay council tax in instalments?", "is it mandatory to pay it in instalments"),
        ("Is it okay to soak beans?", "is it essential to soak beans"),
        ("what am I allowed to bring", "what am I required to bring"),
        ("Can I rinse rice?", "Do I need to rinse rice?"),
    ],
)
def test_permission_is_no_duty(first: str, second: str) -> None:
    """Models see the same leave, bike or beans; the answers differ."""
    assert vetoed(first, second, "opposite")
    assert vetoed(second, first, "opposite")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("do I have to register?", "must I register"),
        ("can I bring my dog", "are dogs allowed"),
        ("how can I pay", "how do I have to pay"),
        ("can you cancel it for me", "do I have to cancel it"),
        ("can I enter without a visa", "do I have to have a visa"),
        ("Am I allowed to enter, or do I have to wait?", "do I have to wait before I enter"),
    ],
)
def test_neither_kind_is_left_alone(first: str, second: str) -> None:
    """The same kind in other words, requests, what is negated, and what says both."""
    assert not vetoed(first, second, "opposite")
    assert not vetoed(second, first, "opposite")
