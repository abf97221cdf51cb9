"""What a question asks to be told, and when a whole answer to one is none to the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache.asking import asking, other_answer
from funnel.cache.calibrator import Calibrator
from funnel.cache.guards import Margins, inspect
from funnel.cache.matcher import calibrator_for, threshold_for
from funnel.cache.settings import CacheSettings, GuardSettings, VerifierSettings


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("How do I export my data?", {"how"}),
        ("so how to export data", {"how"}),
        ("What is the best way to export my data?", {"how"}),
        ("Is there any quick way to export my data?", {"how"}),
        ("What should I do to get my data out?", {"how"}),
        ("Billing: how can one pay by card?", {"how"}),
        ("Dear team, can I pay by card?", {"whether"}),
        ("Is it possible to export my data?", {"whether"}),
        ("Don't you export my data?", {"whether"}),
        ("Does it export data? If so, how?", {"whether", "how"}),
        ("Can I export it and how do I do it?", {"whether", "how"}),
        ("Why was my card declined?", {"why"}),
        ("What are the main reasons for a declined card?", {"why"}),
        ("What causes a declined card?", {"why"}),
        ("My card was declined. Why?", {"why"}),
        ("is it" + 1_000 * " and how", {"whether"}),
        ("Could you tell me how exports work?", set()),
        ("Does anyone know how to export data?", set()),
        ("Are there fees for exports?", set()),
        ("How long does an export take?", set()),
        ("How safe is my data?", set()),
        ("What is an export?", set()),
        ("export my data", set()),
        ("Wie exportiere ich meine Daten?", set()),
        ("???", set()),
        ("", set()),
    ],
)
def test_kinds(text: str, kinds: set[str]) -> None:
    """Only what is surely whether, how or why is called so."""
    assert asking(text).kinds == kinds


@pytest.mark.parametrize(
    ("text", "further"),
    [
        ("What is an export?", 0),
        ("What is an export? How long does it take?", 1),
        ("What is an export and how long does it take?", 1),
        ("When and where is the meeting?", 1),
        ("Who won? Why? Any thoughts?", 0),
        ("Who won and why?", 0),
        ("Salt and pepper: where are they?", 0),
        ("I moved last week. How do I change my address?", 0),
        ("And what is an export?", 0),
    ],
)
def test_further_questions(text: str, further: int) -> None:
    """A second question counts; asking why, or for comments, does not."""
    assert asking(text).further == further


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Can I export my data?", "How do I export my data?"),
        ("Is Edward a hero?", "Why is Edward a hero?"),
        ("What is shedding?", "What is shedding? How do you control it?"),
        ("Where did it begin?", "Where and how did it begin?"),
        ("How do I add numbers?", "How do I add & subtract numbers?"),
        ("How do I calm down?", "How do I calm down and sleep?"),
    ],
)
def test_half_an_answer(first: str, second: str) -> None:
    """Told either way round, as a veto of the guard, which is off unless it is asked for."""
    assert other_answer(first, second) == other_answer(second, first) is not None
    strict = GuardSettings(whole_answer=True)
    (finding,) = inspect(first, second, strict, Margins())
    assert (finding.kind, finding.veto) == ("answer", True)
    assert inspect(first, second, GuardSettings(), Margins()) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("How do tornadoes form?", "Why do tornadoes form?"),
        ("Is there a way to export it?", "How can I export it?"),
        ("Can you tell me how to export it?", "How do I export it?"),
        ("Does it export? If so, how?", "How does it export?"),
        ("Who won and why?", "Who won?"),
        ("What is it? How does it work?", "What is it and how does it work?"),
        ("What are the pros and cons?", "What are the pros and the cons of it?"),
        ("export data", "Can I export data?"),
        ("How are salt, pepper sold?", "How are salt and pepper sold?"),
        ("Who runs R&D?", "Who runs research and development?"),
        ("I moved and lost my card. How do I get one?", "How do I get a card?"),
        ("Does it pay off and why?", "Does it pay off?"),
    ],
)
def test_one_answer_does(first: str, second: str) -> None:
    """What may be answered at once is left to the verifier."""
    assert other_answer(first, second) is None


_PARTS = st.sampled_from(
    ["how", "do", "i", "can", "why", "?", ".", " and ", ",", ":", "what", "is", "there", "a", "way",
     "to", "export", "if so", "\n", "\u2019s", "", " "]
)  # fmt: skip


@given(st.lists(_PARTS, max_size=12), st.lists(_PARTS, max_size=12))
def test_symmetric_and_silent_about_equal_texts(first: list[str], second: list[str]) -> None:
    """Whatever is written."""
    ours, theirs = " ".join(first), " ".join(second)
    assert other_answer(ours, theirs) == other_answer(theirs, ours)
    assert other_answer(ours, ours) is None


def test_each_guard_has_its_shipped_certificates() -> None:
    """Switching the guard on keeps the semantic tier, at thresholds that were certified with it."""
    for whole_answer in (False, True):
        settings = CacheSettings(
            store="memory",
            verifier=VerifierSettings(model="embedded:duplicate"),
            guards=GuardSettings(whole_answer=whole_answer),
            target_precision=0.9,
        )
        calibrator = calibrator_for(settings)
        assert calibrator is not None
        assert calibrator == Calibrator.shipped(whole_answer=whole_answer)
        chosen = threshold_for(settings, calibrator, calibrator.revision)
        assert (chosen.problem, chosen.policy.guards) == ("", settings.guards)
    assert Calibrator.shipped(whole_answer=True).revision == Calibrator.shipped().revision
