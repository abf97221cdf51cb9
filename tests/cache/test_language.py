"""The language gate: what is evidently no English, what has to be read, and who says so."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from funnel.cache import language, spelling
from funnel.cache.calibrate_run import CalibrationRun
from funnel.cache.calibrator import Calibrator
from funnel.cache.counters import REASONS
from funnel.cache.decision import Candidate, Policy, decide, screen, unread
from funnel.cache.language import language_of
from funnel.cache.pair_scores import PairScores
from funnel.cache.replay_log import Asked, LabelledPair
from funnel.cache.rules import VerifiedRule
from funnel.cache.settings import GuardSettings
from funnel.errors import ConfigError
from tests.cache.world import TopicEncoder, TopicScorer, World

HERE = Path(__file__).parent
REASON = "language_not_calibrated"
ENGLISH = Policy(2.0, 0.0, languages=frozenset({"en"}))


def _lines(name: str) -> list[str]:
    lines = (HERE / name).read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


FOREIGN = [line.split(" | ")[1] for line in _lines("questions_in_languages.txt")]
TO_READ = _lines("questions_to_read.txt")


@pytest.fixture(params=["with a dictionary", "without"])
def with_dictionary(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[bool]:
    """Both with the extra ``cache`` and without it."""
    remembered: list[Any] = [spelling.dictionary, spelling._taken_apart, language_of]
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "spellchecker", None)
    for each in remembered:
        each.cache_clear()
    yield request.param != "without"
    for each in remembered:
        each.cache_clear()


def test_other_languages_are_told(with_dictionary: bool) -> None:
    """Ordinary questions in nineteen languages, of two words and more."""
    assert bool(spelling.dictionary()) == with_dictionary
    missed = [question for question in FOREIGN if language_of(question) != "other"]
    assert len(FOREIGN) >= 250
    assert len(missed) <= (0.025 if with_dictionary else 0.045) * len(FOREIGN), missed


def test_what_an_english_service_is_asked_is_read(with_dictionary: bool) -> None:
    """Names, codes, slips of the pen, single words, and English about other languages."""
    assert [question for question in TO_READ if language_of(question) == "other"] == []
    assert len(TO_READ) >= 130


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How do I reset my password?", "en"),
        ("What does Schadenfreude mean?", "en"),
        ("How do I say 'tum kaise ho' in English?", "en"),
        ("Wie geht's meaning", "en"),
        ("reset password", ""),
        ("¿?", "other"),
        ("WIE ERHÖHE ICH MEIN LIMIT", "other"),
        ("Wie erho\u0308he ich mein Limit?", "other"),  # marks as characters of their own
        ("où est l\u2019argent", "other"),
        ("Wie lösche ich mein Konto bei The Witcher?", "other"),
        ("Is Sidhu going to join AAP in GOA?", ""),  # acronyms are no words
        ("Pago Pago", ""),  # a word counts once
        ("see example.com/wie/ich/mein", ""),  # no words of a question
        ("", ""),
    ],
)
def test_evidence(question: str, expected: str) -> None:
    """What counts for a language, and what for none."""
    assert language_of(question) == expected


def test_an_unknown_word_alone_is_no_evidence() -> None:
    """The dictionary says something only beside a word or a mark of another language."""
    assert language_of("hwo to chnage emial adress") == ""
    assert language_of("useState useEffect useMemo") == ""
    assert language_of("hesabimi nasil silerim") == "other"


def test_words_are_in_one_list() -> None:
    """A sure word of a language is no English word, and no loan has to be sure as well."""
    english = language._ENGLISH
    assert not english & language._SURE.keys()
    assert not language._LOANS & language._SURE.keys()
    for word, languages in language._ALSO_ENGLISH.items():
        assert not set(languages) & set(language._SURE.get(word, ())), word


def test_languages_outside_the_calibration_are_not_read() -> None:
    """A certificate from English pairs says nothing of German; one of any pairs names none."""
    assert unread("Wie erhöhe ich mein Limit?", ENGLISH) == REASON
    assert unread("How do I raise my limit?", ENGLISH) == ""
    assert unread("limit raise", ENGLISH) == ""
    assert unread("Wie erhöhe ich mein Limit?", Policy(2.0, 0.0)) == ""
    latin = Policy(2.0, 0.0, scripts=frozenset({"LATIN"}), languages=frozenset({"en"}))
    assert unread("где мой пароль", latin) == "script_not_calibrated"


def test_a_kept_question_of_another_language_is_no_candidate() -> None:
    """What may not be asked may not answer either, so no pair depends on who came first."""
    kept = [Candidate("k", "Wie erhöhe ich mein Limit?", 0.99)]
    verdicts = screen("limit erhöhen", kept, ENGLISH)
    assert [verdict.reason for verdict in verdicts] == [REASON]
    assert decide(verdicts, [], ENGLISH).reason == "no_candidates"


def test_the_reason_has_a_label_of_its_own() -> None:
    """Counted in ``stats`` and Prometheus under its name, not as another reason."""
    assert REASON in REASONS


def _pairs(count: int, form: str) -> list[LabelledPair]:
    words = ["".join("abcdefghij"[int(digit)] for digit in str(n)) for n in range(count)]
    return [
        LabelledPair(form.format(word), form.format(f"y{word}"), duplicate=n % 2 == 0)
        for n, word in enumerate(words)
    ]


def _calibrator(pairs: list[LabelledPair]) -> Calibrator:
    run = CalibrationRun(TopicEncoder(), TopicScorer(), GuardSettings())
    return run.run(pairs, 0.95).calibrator


@pytest.mark.parametrize(
    ("english", "german", "other", "expected"),
    [
        (200, 0, 0, ("en",)),
        (199, 1, 0, ("en",)),
        (190, 10, 0, ()),
        (0, 200, 0, ()),
        (9, 0, 191, ()),
    ],
)
def test_calibration_says_english_where_the_pairs_are(
    english: int, german: int, other: int, expected: tuple[str, ...]
) -> None:
    """Nearly all of them; pairs of other languages, known ones or not, set no gate."""
    pairs = [
        *_pairs(english, "what is x{} about cats"),
        *_pairs(german, "was ist mit meinem x{}"),
        *_pairs(other, "x{} xyzzy plugh"),
    ]
    assert _calibrator(pairs).languages == expected


def test_older_files_and_shipped_ones() -> None:
    """A file that names no language reads any; the shipped calibrators are for English."""
    plain = Calibrator.shipped().model_dump(mode="json")
    del plain["languages"]
    assert Calibrator.model_validate(plain).languages == ()
    for whole_answer in (False, True):
        assert Calibrator.shipped(whole_answer=whole_answer).languages == ("en",)


def test_a_file_with_a_language_that_no_gate_knows_is_refused(tmp_path: Path) -> None:
    """Nobody could tell its questions, so all would be refused."""
    path = tmp_path / "calibrator.json"
    _calibrator(_pairs(200, "what is x{} about cats")).save(path)
    path.write_text(path.read_text("utf-8").replace('"en"', '"de"'), encoding="utf-8")
    with pytest.raises(ConfigError, match="languages.0"):
        Calibrator.load(path)


async def test_serving_explaining_and_replaying_refuse_alike(tmp_path: Path) -> None:
    """One reason everywhere: the exact tier answers, the semantic one does not look."""
    path = tmp_path / "calibrator.json"
    _calibrator(_pairs(200, "what is x{} about cats")).save(path)
    world = World(calibrator=str(path))
    asked = [
        *(f"{how} kann ich mein konto about cats" for how in ("wie", "wo")),
        "a word about cats",
    ]
    for query in asked:
        explained = await world.cache.explain(world.request(query))
        served = await world.ask(query)
        assert served.info.status == "miss"
        assert explained["reason"] == served.info.reason
    assert (await world.ask(asked[0])).info.tier == "exact"
    assert (await world.ask("the word about cats")).info.matched_query == "a word about cats"
    assert (await world.cache.stats())["reasons"] == {REASON: 2, "no_candidates": 1}
    rule = VerifiedRule(world.cache.matcher.policy, PairScores(TopicScorer()))
    near = [Candidate("k", Asked(asked[0], None).query, 0.99)]
    assert rule.choose(asked[1], near) is None
