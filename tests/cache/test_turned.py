"""The same words, and somebody else who does it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache.turned import done_to_me, persons_exchanged
from funnel.cache.words import take_apart
from tests.cache.vetoes import vetoed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("can I use your logo?", "can you use my logo?"),
        ("how do I contact you?", "how do you contact me?"),
        ("what are you able to do for me", "what am I able to do for you"),
        ("who owes me money?", "who do I owe money?"),
        ("who invited us", "who did we invite"),
        ("who has invited me?", "whom have I invited?"),
        ("how do I see who follows me", "how do I see who I follow"),
        ("who pays rent to me", "who do I pay rent to"),
        ("can I search at the airport", "can I be searched at the airport"),
        ("how much can I charge", "how much can I be charged"),
        ("can I sponsor a visa", "can I be sponsored for a visa"),
        ("what do I owe?", "what am I owed?"),
        ("how do I hire a plumber", "how do I get hired as a plumber"),
        ("how do I verify a customer", "how do I get verified as a customer"),
    ],
)
def test_somebody_else_is_vetoed(first: str, second: str) -> None:
    """Who does it is another one, so the answer is."""
    assert vetoed(first, second, "role")
    assert vetoed(second, first, "role")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("how do I contact you", "how can you be contacted by me"),
        ("how do I cook rice", "how do you cook rice"),
        ("what do I know that you do not", "what do you not know that I do"),
        ("can I send you my photos", "may I send you my photos"),
        ("can you send me a refund", "could you send me a refund"),
        ("who gave me money", "who did I get money from"),
        ("when will it launch", "when will it be launched"),
        ("why should I study", "why should I be studying"),
        ("how do I start learning", "how do I get started learning"),
        ("how do I register for the exam", "how do I get registered for the exam"),
        ("is it declared a state", "will it be declared as a state"),
    ],
)
def test_the_same_doer_is_not_vetoed(first: str, second: str) -> None:
    """A general "you", passives that mean the same, and the same person in other words."""
    assert not vetoed(first, second, "role")
    assert not vetoed(second, first, "role")


_KNOWN = """
who whom do did am have i me my you your are be get as a owe owes owed invite invited search
searched plumber hire hired for not
"""
_WORDS = st.lists(st.sampled_from(_KNOWN.split()), max_size=8).map(" ".join)


@given(_WORDS, _WORDS)
def test_both_ways_alike(first: str, second: str) -> None:
    """Symmetric, and nothing differs from itself."""
    a, b = take_apart(first), take_apart(second)
    for guard in (persons_exchanged, done_to_me):
        assert (guard(a, b) is None) == (guard(b, a) is None)
        assert guard(a, a) is None
