"""Slips of the pen: which words are read as another, and which are left alone."""

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache import spelling
from funnel.cache.spelling import (
    in_no_dictionary,
    is_doubling,
    is_slip,
    may_hold_slip,
    read_alike,
)
from tests.cache.vetoes import vetoed

LETTERS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("teh", "the"),
        ("waht", "what"),
        ("pasword", "password"),
        ("passsword", "password"),
        ("passwword", "password"),
        ("pasaword", "password"),
        ("passwird", "password"),
        ("developement", "development"),
        ("labour", "labor"),
        ("successfull", "successful"),
        ("wht", "what"),
        ("yoir", "your"),
        ("whuch", "which"),
    ],
)
def test_slips(written: str, meant: str) -> None:
    """Letters that changed places, were exchanged, left out, put in or doubled."""
    assert is_slip(written, meant) or is_doubling(written, meant)
    (first, _), slips = read_alike(f"how is my {written} kept", f"how is my {meant} kept")
    assert (first, slips) == (f"how is my {meant} kept", ((written, meant),))


@pytest.mark.parametrize(
    ("written", "other"),
    [
        ("passwords", "password"),
        ("youtuber", "youtube"),
        ("acquiree", "acquire"),
        ("appointes", "appointed"),
        ("vimeo", "video"),
        ("nuxt", "next"),
        ("deno", "demo"),
        ("cpa", "cap"),
        ("nit", "not"),
        ("tiem", "time"),
        ("uk", "us"),
        ("tpassword", "password"),
        ("ekite", "kite"),
        ("wordde", "word"),
        ("passwrodd", "password"),
        ("bigg", "big"),
    ],
)
def test_no_slips(written: str, other: str) -> None:
    """Other endings, short words, other first letters, two slips at once."""
    assert not is_slip(written, other) and not is_doubling(written, other)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("how much nitrite is in water", "how much nitrate is in water"),  # both are words
        ("who treats hyperthyroidism here", "who treats hypothyroidism here"),
        ("is the Redmii any good", "is the Redmi any good"),  # neither is one
        ("how do i write teh", "how do i write teh and the"),  # the other writes it, too
        ("set pasword_file in it", "set password_file in it"),  # an identifier
        ("is texting allowed at work", "is testing allowed at work"),  # a new word
        ("how do i update macos", "how do i update macros"),  # a new name
        ("how do i unsend a mail", "how do i unbend a mail"),  # made of words
        ("which subnet is this", "which subset is this"),
        ("who is our backend developer", "who is our backed developer"),
        ("Which films has Lochte", "Which films has locate"),  # a name, and none
        ("what is in /etc/paswd/pasword", "what is in /etc/paswd/password"),
        ("mail pasword@example.org now", "mail password@example.org now"),
        ("is THIER known here", "is THEIR known here"),  # perhaps an acronym
        ("use the word stwrn here", "use the words stern and stewn here"),
        ("wo ist mein pasword hin", "wo ist mein password hin"),  # no English
    ],
)
def test_left_alone(first: str, second: str) -> None:
    """What is a word, a name, a part of something, or in doubt."""
    assert read_alike(first, second) == ((first, second), ())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("how do i reset teh password", "how do i reset the password"),
        ("waht is my plan", "what is my plan"),
        ("is it nto safe to fly", "is it not safe to fly"),  # and so no "is it safe to fly"
        ("a pass wiht a photo", "a pass with a photo"),
    ],
)
def test_words_of_every_question_need_no_other(written: str, meant: str) -> None:
    """Nothing else is meant by them, so the other question need not have the word."""
    (first, second), slips = read_alike(written, "how do i reset my password")
    assert (first, second) == (meant, "how do i reset my password")
    assert len(slips) == 1


@pytest.mark.parametrize("text", ["who is Nto here", "is it the best teh here", "an adress here"])
def test_words_of_every_question_are_left_alone(text: str) -> None:
    """Where it may be a name, where the word is there already, and slips of other words."""
    assert read_alike(text, "how do i reset my password") == (
        (text, "how do i reset my password"),
        (),
    )


def test_a_slip_of_a_new_name() -> None:
    """Names that no dictionary has are in the lexicon."""
    (first, _), slips = read_alike("connect watsapp to it", "connect WhatsApp to it")
    assert slips == ()  # written with capitals inside, so no word for a slip of the pen
    (first, _), slips = read_alike("connect instagarm to it", "connect Instagram to it")
    assert first == "connect Instagram to it"


def test_either_side_may_hold_the_slip() -> None:
    """A misspelt question that was kept is found by one that is not, and both at once."""
    first, second = "how do i recieve my invoice", "how do i receive my invioce"
    (ours, theirs), slips = read_alike(first, second)
    assert ours == theirs == "how do i receive my invoice"
    assert sorted(slips) == [("invioce", "invoice"), ("recieve", "receive")]


@given(st.lists(LETTERS, max_size=8), st.lists(LETTERS, max_size=8))
def test_symmetric_and_a_fixed_point(first: list[str], second: list[str]) -> None:
    """The order of the questions means nothing, and what was read is read as it stands."""
    asked, kept = " ".join(first), " ".join(second)
    (ours, theirs), slips = read_alike(asked, kept)
    (theirs_again, ours_again), other_way = read_alike(kept, asked)
    assert (ours_again, theirs_again) == (ours, theirs)
    assert sorted(other_way) == sorted(slips)
    assert len(ours.split()) == len(asked.split())
    if not slips:
        assert (ours, theirs) == (asked, kept)


def test_without_a_dictionary_nothing_is_a_slip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who did not install it gets fewer hits, and no error."""
    monkeypatch.setitem(sys.modules, "spellchecker", None)
    for remembered in (spelling.dictionary, spelling._taken_apart):
        remembered.cache_clear()
    try:
        assert not spelling.dictionary()
        assert read_alike("my pasword", "my password")[1] == ()
    finally:
        for remembered in (spelling.dictionary, spelling._taken_apart):
            remembered.cache_clear()


@pytest.mark.parametrize(
    ("written", "other", "read"),
    [
        ("how do I blcok popups", "how do I allow popups", "how do I block popups"),
        ("can I declne an invite", "can I accept an invite", "can I decline an invite"),
        ("can I bllock an invite", "can I see an invite", "can I bllock an invite"),
    ],
)
def test_opposites_of_the_others_words(written: str, other: str, read: str) -> None:
    """A slip must not hide from the guards that a question is the opposite."""
    assert read_alike(written, other)[0][0] == read
    assert vetoed(read, other) == (read != written)


@pytest.mark.parametrize("letter", ["x", "\ufb01"])
def test_a_word_without_end_is_left_alone(letter: str) -> None:
    """All slips of a word are looked up: of one of 8,000 letters that took seconds."""
    began = time.perf_counter()
    text = f"how do I read {letter * 8_000}"
    assert read_alike(text, "how do I read it")[1] == ()
    assert in_no_dictionary(text) == frozenset()
    assert not may_hold_slip(text)
    assert time.perf_counter() - began < 0.5


def test_short_questions_may_be_slips_altogether() -> None:
    """All unknown words are slips of the other's; with others it would be another language."""
    other = "How do I schedule an appointment?"
    assert read_alike("shedule an apointment", other)[0][0] == "schedule an appointment"
    assert read_alike("wo ist mein apointment", other)[1] == ()
    assert may_hold_slip("shedule an apointment")
    assert not may_hold_slip("schedule an appointment")
