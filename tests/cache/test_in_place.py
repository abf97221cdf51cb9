"""One word in another's place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache.in_place import replaced
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
        ("do I need a helmet and gloves", "do I need a helmet or gloves"),
        ("a laptop bag in addition to a suitcase", "a laptop bag instead of a suitcase"),
        ("do most flights allow pets", "do all flights allow pets"),
        ("offers for new customers", "offers for existing customers"),
        ("where is my VAT number", "where is your VAT number"),
        ("can I delete my comment", "can I delete someone's comment"),
        ("what is my balance", "what was my balance"),
        ("do I get a bonus", "did I get a bonus"),
        ("have my points expired", "had my points expired"),
        ("who is the owner of this repo", "who was the owner of this repo"),
        ("will the parcel arrive on Saturday", "will the parcel arrive by Saturday"),
        ("do I pay by the 1st", "do I pay on the 1st"),
        ("must I be home by 6pm", "must I be home at 6pm"),
        ("is the shop closed until Monday", "is the shop closed on Monday"),
    ],
)
def test_another_place_is_vetoed(first: str, second: str) -> None:
    """All else is the same, so the answer is not."""
    assert vetoed(first, second, "role")
    assert vetoed(second, first, "role")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("how do I cook rice", "how do you cook rice"),
        ("can you send me a refund", "could you send me a refund"),
        ("who is Napoleon", "who was Napoleon"),
        ("what do you think of life", "what do you think about life"),
        ("books for engineers", "books on engineers"),
        ("everyone is allowed to post, right", "may anyone post here"),
        ("my second question: how do I pay", "how do I pay the first time"),
        ("are they completely blind", "are they fully blind"),
        ("is the longest bridge in India", "was the longest bridge in India"),
        ("best laptops in 2017", "best laptops for 2017"),
        ("events on Friday", "events at Friday"),
        ("is anyone annoyed by Quora", "is anyone annoyed on Quora"),
        ("what is our balance", "what is my balance"),
        ("light it up now", "light it now"),
    ],
)
def test_other_wordings_are_not_vetoed(first: str, second: str) -> None:
    """Prepositions that mean the same, a general "you", and words in other frames."""
    assert not vetoed(first, second, "role")
    assert not vetoed(second, first, "role")


_KNOWN = """
what is was my your first second single double into out of by to on until friday and or all most
almost completely not logo
"""
_WORDS = st.lists(st.sampled_from(_KNOWN.split()), max_size=8).map(" ".join)


@given(_WORDS, _WORDS)
def test_both_ways_alike(first: str, second: str) -> None:
    """Symmetric, and nothing differs from itself."""
    a, b = take_apart(first), take_apart(second)
    assert (replaced(a, b) is None) == (replaced(b, a) is None)
    assert replaced(a, a) is None
