"""One word in another's place, and I in yours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache.in_place import persons_exchanged, replaced
from funnel.cache.words import take_apart
from tests.cache.vetoes import vetoed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("side effects of the first dose", "side effects of the second dose"),
        ("price of a single room", "price of a double room"),
        ("days until Christmas", "days since Christmas"),
        ("how do I break into tech", "how do I break out of tech"),
        ("dim the light by 30 percent", "dim the light to 30 percent"),
        ("must both sign", "must either sign"),
        ("is everyone allowed to post", "is anyone allowed to post"),
        ("is it almost full", "is it completely full"),
        ("how do I make a field required", "how do I make a field optional"),
        ("where is the nearest branch", "where is the farthest branch"),
        ("can I use your logo?", "can you use my logo?"),
        ("how do I contact you?", "how do you contact me?"),
        ("what are you able to do for me", "what am I able to do for you"),
        ("who owes me money?", "who do I owe money?"),
        ("who invited us", "who did we invite"),
    ],
)
def test_another_place_is_vetoed(first: str, second: str) -> None:
    """All else is the same, so the answer is not."""
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
        ("who is Napoleon", "who was Napoleon"),
        ("what do you think of life", "what do you think about life"),
        ("books for engineers", "books on engineers"),
        ("everyone is allowed to post, right", "may anyone post here"),
        ("my second question: how do I pay", "how do I pay the first time"),
        ("are they completely blind", "are they fully blind"),
        ("who gave me money", "who did I get money from"),
        ("light it up now", "light it now"),
    ],
)
def test_other_wordings_are_not_vetoed(first: str, second: str) -> None:
    """Prepositions that mean the same, a general "you", and words in other frames."""
    assert not vetoed(first, second, "role")
    assert not vetoed(second, first, "role")


_KNOWN = """
who do did i me my you your am are owe owes invite first second single double into out of by to
almost completely not logo
"""
_WORDS = st.lists(st.sampled_from(_KNOWN.split()), max_size=8).map(" ".join)


@given(_WORDS, _WORDS)
def test_both_ways_alike(first: str, second: str) -> None:
    """Symmetric, and nothing differs from itself."""
    a, b = take_apart(first), take_apart(second)
    for guard in (replaced, persons_exchanged):
        assert (guard(a, b) is None) == (guard(b, a) is None)
        assert guard(a, a) is None
