"""The edits: what breaks a meaning and what keeps it, on sentences where one can see it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.training import augment
from funnel.training.antonyms import ANTONYMS
from funnel.training.word_order import WordOrder

TEXTS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=0, max_size=60
)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(1)


@given(TEXTS)
def test_pieces_join_to_the_text(text: str) -> None:
    """Cutting loses nothing."""
    assert "".join(augment.pieces(text)) == text


@given(TEXTS, st.integers(0, 99))
def test_edits_never_fail(text: str, seed: int) -> None:
    """Any text, even an empty or odd one, gives a text or None."""
    rng = random.Random(seed)
    edited = [
        augment.change_number(text, rng),
        augment.negate(text),
        augment.swap_antonym(text, rng),
        augment.swap_name(text, {"Paris": ["Lyon"]}, rng),
        augment.turn_direction(text),
        augment.restate_direction(text),
        augment.turn_conjuncts(text),
        augment.move_clause(text),
    ]
    assert all(each is None or isinstance(each, str) for each in edited)
    assert isinstance(augment.vary_surface(text, rng), str)


def test_change_number_changes_one_number(rng: random.Random) -> None:
    """The other number and all words stay."""
    text = "Is 20 mg twice a day safe for a child of 12?"
    changed = augment.change_number(text, rng)
    assert changed is not None
    before, after = text.split(), changed.split()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
    assert augment.change_number("Is it safe?", rng) is None


@pytest.mark.parametrize(
    ("text", "negated"),
    [
        ("How do I reset my password?", "How do I not reset my password?"),
        ("Why should I invest in gold?", "Why should I not invest in gold?"),
        ("Why don't cats swim?", "Why do cats swim?"),
        ("Is it raining?", None),
    ],
)
def test_negate(text: str, negated: str | None) -> None:
    """Open questions gain or lose a negation, yes/no questions are left alone."""
    assert augment.negate(text) == negated


def test_swap_antonym_keeps_case(rng: random.Random) -> None:
    """The opposite takes the place, with its capital."""
    assert augment.swap_antonym("Advantages of tea?", rng) == "Disadvantages of tea?"
    assert augment.swap_antonym("Which tea?", rng) is None


def test_antonyms_go_both_ways() -> None:
    """Whatever replaces a word is itself replaced by it."""
    assert all(word in ANTONYMS[other] for word, others in ANTONYMS.items() for other in others)


def test_swap_name_takes_one_of_its_kind(rng: random.Random) -> None:
    """A name inside the sentence gives way; its first word is not a name."""
    swapped = augment.swap_name("What can I see in Dublin?", {"Dublin": ["Galway"]}, rng)
    assert swapped == "What can I see in Galway?"
    assert augment.swap_name("Dublin by night?", {"Dublin": ["Galway"]}, rng) is None


def test_directions() -> None:
    """One edit turns the way round, the other only says it differently."""
    text = "How do I fly from Rome to Oslo?"
    assert augment.turn_direction(text) == "How do I fly from Oslo to Rome?"
    assert augment.restate_direction(text) == "How do I fly to Oslo from Rome?"
    assert augment.turn_direction("How do I go from here to there?") is None


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("Who knows about French and German?", "Who knows about German and French?"),
        ("What is the difference between tea and hot milk?",
         "What is the difference between hot milk and tea?"),
        ("Which is better, red wine or beer?", None),
        ("How do I stop and think?", "How do I think and stop?"),
        ("Is the right and duty to vote old?", None),
    ],
)  # fmt: skip
def test_turn_conjuncts(text: str, turned: str | None) -> None:
    """Only single words that nothing else leans on are turned."""
    assert augment.turn_conjuncts(text) == turned


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("If I lose my card, what should I do?", "What should I do if I lose my card?"),
        ("What should I do if I lose my card?", "If I lose my card, what should I do?"),
        ("What is the minimum wage in France?", "In France, what is the minimum wage?"),
        ("What is love?", None),
    ],
)
def test_move_clause(text: str, moved: str | None) -> None:
    """A clause or place goes to the other end."""
    assert augment.move_clause(text) == moved


@given(st.integers(0, 500))
def test_vary_surface_keeps_numbers_and_negations(seed: int) -> None:
    """Whatever the variation, what guards look for is untouched."""
    text = "What is the best way to not lose 20 files?"
    varied = augment.vary_surface(text, random.Random(seed))
    assert varied != text
    assert " 20 " in varied
    assert " not " in varied


@pytest.fixture(scope="module")
def word_order() -> WordOrder:
    adjectives, nouns = ["good", "bad", "old", "kind"], ["person", "man", "child", "king"]
    texts = [
        f"Can a {one} {noun} become {other}?"
        for one in adjectives
        for other in adjectives
        for noun in nouns
    ]
    return WordOrder(texts, min_count=2)


def test_word_order_swaps_words_of_one_class(word_order: WordOrder) -> None:
    """Adjective for adjective, never adjective for noun."""
    swaps = word_order.best_swaps("Can a good person become bad?")
    assert swaps[0].text == "Can a bad person become good?"
    assert word_order.alike("good", "bad") > word_order.alike("good", "person")


def test_word_order_leaves_conjuncts_and_neighbours(word_order: WordOrder) -> None:
    """An order that carries no meaning gives no negative."""
    assert word_order.best_swaps("Can a good and bad?") == []
    assert word_order.best_swaps("good bad") == []


@given(st.text(alphabet="abcd ?,", max_size=40))
def test_word_order_keeps_the_words(text: str) -> None:
    """A swap is a permutation of the same words."""
    order = WordOrder([text, "a b c"], min_count=1)
    for swap in order.best_swaps(text, least_alike=0.0):
        letters = sorted(swap.text.lower().replace(" ", ""))
        assert letters == sorted("".join(text.split()).lower())
