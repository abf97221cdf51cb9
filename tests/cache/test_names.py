"""Names: told apart in any case, known in any form."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache import spelling
from funnel.cache.names import missing_names, other_unlisted
from funnel.cache.words import take_apart
from tests.cache.vetoes import vetoed

_FRAMES = ("what are the side effects of {}?", "how much does {} cost", "What is {}?")


@pytest.mark.parametrize("frame", _FRAMES)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("celebrex", "celexa"),
        ("prednisone", "prednisolone"),
        ("Prednisone", "Prednisolone"),
        ("sulfadiazine", "sulfasalazine"),
        ("vinblastine", "vincristine"),
        ("terraform", "terragrunt"),
        ("Terraform", "Terragrunt"),
        ("netflix", "netlify"),
        ("elasticsearch", "elasticache"),
        ("Johnson", "Johnston"),
        ("Christina", "Christopher"),
        ("Confluence", "Confluent"),
    ],
)
def test_other_names_are_vetoed(frame: str, one: str, other: str) -> None:
    """However alike they begin, and in small letters, too."""
    assert vetoed(frame.format(one), frame.format(other), "entity")
    assert vetoed(frame.format(other), frame.format(one), "entity")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("is Canadian tax high", "is tax high in Canada"),
        ("what do Buddhists believe", "what is believed in Buddhism"),
        ("why do people hate Hilary Clinton", "why do people hate Hillary Clinton"),
        ("is it Pythagoras' theorem", "is it the Pythagorean theorem"),
        ("who wins the Presidency", "who wins the Presidential race"),
        ("how do i index Postgres", "how do i index PostgreSQL"),
        ("is demonetisation good", "is demonitization good"),
        ("what do malayalees eat", "what do malayalis eat"),
        ("why is my whattsapp slow", "why is my watsapp slow"),
        ("how do i improve my comunication", "how do i improve my vocabullary"),
        ("how do i use kubernetes", "how do i use kubernetes' api"),
        ("is alcohol safe during metronidazole", "Flagyl and booze together?"),
        ("which smartphone is the cheapest", "which iphone is the cheapest"),
        ("how do i connect to facebook", "how do i connect to it"),
    ],
)
def test_the_same_name_is_not_vetoed(first: str, second: str) -> None:
    """Inflections, people of a country, slips of the pen, and other words than names."""
    assert not vetoed(first, second, "entity")
    assert not vetoed(second, first, "entity")


_KNOWN = """
how do i use the celebrex celexa Celexa netflix netlify in India Indian what is
"""
_WORDS = st.lists(st.sampled_from(_KNOWN.split()), max_size=8).map(" ".join)


@given(_WORDS, _WORDS)
def test_what_one_side_lacks(first: str, second: str) -> None:
    """Symmetric where both must lack something; a name that both say is never missing."""
    a, b = take_apart(first), take_apart(second)
    assert (other_unlisted(a, b) is None) == (other_unlisted(b, a) is None)
    assert missing_names(a, b).isdisjoint(word.folded for word in b.words)
    assert missing_names(a, a) == set()
    assert other_unlisted(a, a) is None


@pytest.fixture
def no_dictionary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where the extra is not installed."""
    monkeypatch.setitem(sys.modules, "spellchecker", None)
    remembered = (spelling.dictionary, spelling._taken_apart, spelling.in_no_dictionary)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


@pytest.mark.usefixtures("no_dictionary")
def test_without_a_dictionary_capitals_mark_names() -> None:
    """Then five equal letters make a name the same, and small letters none."""
    assert vetoed("is Celebrex safe", "is Lipitor safe", "entity")
    assert not vetoed("is celebrex safe", "is celexa safe", "entity")
    assert not vetoed("is Terraform free", "is Terragrunt free", "entity")
    assert not vetoed("is Hilary there", "is Hillary there", "entity")
