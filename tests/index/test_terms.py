"""Terms and weights of BM25."""

import re
import sys
import threading
import time
import unicodedata

import bm25s
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from funnel.indexing.postings import Postings
from funnel.indexing.terms import (
    Analyzer,
    Bm25Settings,
    SparseTerms,
    count_terms,
    counts_of,
    document_weights,
    query_weights,
    term_id,
)

CORPUS = [
    "The cat sat on the mat with another cat",
    "Dogs and cats living together",
    "A mat for dogs",
    "",
    "quantum chromodynamics " * 30,
    "cats " * 12 + "mat",
]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("english", "The RUNNING Dogs, ran!", ["run", "dog", "ran"]),
        ("english", "vitamin D and C++ v2.0", ["vitamin", "d", "c", "v2", "0"]),
        ("english", "\uff46\uff55\uff4c\uff4c width \ufb01ne", ["full", "width", "fine"]),
        ("none", "The RUNNING Dogs", ["the", "running", "dogs"]),
        ("german", "Die Häuser und der Garten", ["haus", "gart"]),
        ("french", "L'été à Paris", ["été", "paris"]),
        ("english", "東京都 tower 東", ["東京", "京都", "tower", "東"]),
        ("english", "iPhone東京x", ["iphon", "東京", "x"]),
        ("english", "", []),
    ],
)
def test_texts_become_terms(language: str, text: str, expected: list[str]) -> None:
    """Folded, split, without stop words, stemmed; unspaced scripts in pairs."""
    assert Analyzer(Bm25Settings(language=language)).terms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("हिन्दी में खोज।", ["हिन्दी", "में", "खोज"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("বাংলা ভাষা, తెలుగు", ["বাংলা", "ভাষা", "తెలుగు"]),
        ("ශ්\u200dරී ලංකා\u200d", ["ශ්\u200dරී", "ලංකා"]),
        ("שָׁלוֹם عَرَبِيّ", ["שָׁלוֹם", "عَرَبِيّ"]),
        ("กี่วัน 2๕", ["กี่วั", "วัน", "2๕"]),
        ("ກີ່ ភាសា မြန်", ["ກີ່", "ភាសា", "မြန်"]),
        ("iPhoneกี่x", ["iphone", "กี่", "x"]),
        ("か\u309aき", ["か\u309aき"]),
        ("x\u0304y \u0301z", ["x\u0304y", "z"]),
        ("1\ufe0f\u20e3 a\ufe0fb", ["1", "a", "b"]),
        ("\U00011103\U0001112c\U00011101", ["\U00011103\U0001112c\U00011101"]),
    ],
)
def test_marks_stay_with_their_letters(text: str, expected: list[str]) -> None:
    """Of Indic, Semitic and South-East Asian scripts; the latter have no spaces."""
    assert Analyzer(Bm25Settings(language="none")).terms(text) == expected


def test_a_word_is_found_beside_others_as_alone() -> None:
    """Whether the text around it holds marks or not."""
    analyzer = Analyzer(Bm25Settings(language="none"))
    assert set(analyzer.terms("ภาษาไทย")) <= set(analyzer.terms("ที่ภาษาไทย हिन्दी"))


def test_all_marks_are_looked_for() -> None:
    """None is lost, but for the variation selectors."""
    analyzer = Analyzer(Bm25Settings(language="none"))
    selectors = {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
    for code in {*range(sys.maxunicode + 1)} - selectors:
        if unicodedata.category(chr(code)) in ("Mn", "Mc"):
            text = unicodedata.normalize("NFKC", f"x{chr(code)}y").lower()
            assert "".join(analyzer.terms(text)) == text, hex(code)


_NO_MARKS = st.characters(exclude_categories=["Mn", "Mc", "Cs"])
_SOUTH_EAST_ASIAN = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")


@given(st.text(_NO_MARKS) | st.text(st.sampled_from("aÉüжд東京アか\u200c\u200d-'_ 1²ﬁ·")))
def test_text_without_marks_is_split_as_ever(text: str) -> None:
    """At everything that is no letter, digit or underscore; Chinese and Japanese in pairs."""
    folded = unicodedata.normalize("NFKC", text).lower()
    assume(not any(unicodedata.category(char) in ("Mn", "Mc") for char in folded))
    assume(not _SOUTH_EAST_ASIAN.search(folded))
    han = re.compile(
        r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+)"
    )
    expected: list[str] = []
    for part in (part for word in re.findall(r"\w+", folded) for part in han.split(word) if part):
        pairs = [part[n : n + 2] for n in range(max(1, len(part) - 1))]
        expected += pairs if han.match(part) else [part[:64]]
    assert Analyzer(Bm25Settings(language="none")).terms(text) == expected


def test_marks_without_end_take_no_time() -> None:
    """Sorting them into a normal form took quadratic time, for which the process stood still."""
    began = time.perf_counter()
    assert Analyzer(Bm25Settings()).terms("a" + "\u0301\u0327" * 200_000 + " fox")[-1] == "fox"
    assert time.perf_counter() - began < 5


def test_own_stop_words_replace_the_language_s() -> None:
    """They are folded like the text."""
    analyzer = Analyzer(Bm25Settings(stop_words=("Fox",)))
    assert analyzer.terms("the FOX jumps") == ["the", "jump"]


@pytest.mark.parametrize("bad", [{"language": "klingon"}, {"k1": 0}, {"b": 1.5}, {"k2": 1}])
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    """A wrong language lists the known ones."""
    with pytest.raises(ValidationError):
        Bm25Settings.model_validate(bad)


def test_one_analyzer_serves_many_threads() -> None:
    """PyStemmer's objects are not thread-safe; the analyzer is."""
    analyzer = Analyzer(Bm25Settings())
    words = " ".join(f"running{n} connections{n} generally{n}" for n in range(200))
    expected = analyzer.terms(words)
    results: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: results.extend(analyzer.terms(words) == expected for _ in range(20))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


def scores(settings: Bm25Settings, corpus: list[str], query: str) -> list[float]:
    analyzer = Analyzer(settings)
    counted = [count_terms(analyzer.terms(text)) for text in corpus]
    average = sum(terms.length for terms in counted) / len(counted)
    postings = Postings()
    for n, terms in enumerate(counted):
        weights = document_weights(terms, settings, average)
        postings.put(str(n), weights.ids, weights.values)
    asked = query_weights(count_terms(analyzer.terms(query)))
    found = dict(postings.search(asked.ids, asked.values, limit=len(corpus)))
    return [found.get(str(n), 0.0) for n in range(len(corpus))]


@pytest.mark.parametrize("settings", [Bm25Settings(), Bm25Settings(k1=0.9, b=0.4)])
def test_scores_are_those_of_bm25s(settings: Bm25Settings) -> None:
    """Weights here times Qdrant's IDF are Lucene's BM25, to float32's precision."""
    analyzer = Analyzer(settings)
    tokens = [analyzer.terms(text) for text in CORPUS]
    oracle = bm25s.BM25(k1=settings.k1, b=settings.b)
    oracle.index(tokens, show_progress=False)
    for query in ("cats on a mat", "cat cat dog", "quantum mat"):
        expected = oracle.get_scores(analyzer.terms(query))
        np.testing.assert_allclose(scores(settings, CORPUS, query), expected, rtol=2e-5)


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=200),
    st.floats(1, 500),
    st.floats(0.1, 5),
    st.floats(0, 1),
)
def test_counts_come_back_from_stored_weights(
    words: list[str], average: float, k1: float, b: float
) -> None:
    """So the average length can move without reading a text again, even from float32."""
    settings = Bm25Settings(k1=k1, b=b)
    counted = count_terms(words)
    weights = document_weights(counted, settings, average)
    stored = SparseTerms(weights.ids, np.asarray(weights.values, np.float32).tolist())
    assert counts_of(stored, counted.length) == counted


def test_term_ids_are_stable_across_processes() -> None:
    """They are stored, so they must never change."""
    assert (term_id("fox"), term_id("東京")) == (FOX, TOKYO)


FOX, TOKYO = 3786988939, 3179978821


@given(st.data())
def test_postings_agree_with_brute_force_through_any_writes(data: st.DataObject) -> None:
    """Put, replace and remove in any order leave the scores of what is there."""
    postings, truth = Postings(), {}
    for _ in range(data.draw(st.integers(1, 30))):
        point = data.draw(st.sampled_from("pqrstuvw"))
        if data.draw(st.booleans()):
            terms = sorted(data.draw(st.sets(st.integers(0, 6), min_size=1)))
            weights = [data.draw(st.floats(0.1, 1)) for _ in terms]
            postings.put(point, terms, weights)
            truth[point] = dict(zip(terms, weights, strict=True))
        else:
            postings.remove(point)
            truth.pop(point, None)
    query = sorted(data.draw(st.sets(st.integers(0, 6), min_size=1)))
    found = postings.search(query, [1.0] * len(query), limit=50)
    expected = brute_force(truth, query)
    assert len(postings) == len(truth)
    assert dict(found) == pytest.approx(expected, rel=1e-5)
    assert found == sorted(found, key=lambda row: (-row[1], row[0]))


def brute_force(truth: dict[str, dict[int, float]], query: list[int]) -> dict[str, float]:
    scored = {}
    for point, terms in truth.items():
        total = 0.0
        for term in query:
            holding = sum(term in other for other in truth.values())
            idf = np.log(1 + (len(truth) - holding + 0.5) / (holding + 0.5))
            total += terms.get(term, 0.0) * idf
        if any(term in terms for term in query):
            scored[point] = total
    return scored


def test_postings_stay_right_and_small_after_many_replacements() -> None:
    """Slots of replaced vectors are reclaimed."""
    postings = Postings()
    for n in range(5_000):
        postings.put(f"p{n % 3}", [1, 2 + n % 2], [0.5, 0.25])
    assert len(postings) == 3
    assert len(postings.search([1], [1.0], limit=10)) == 3
    assert len(postings._point_ids) < 2_000


def test_allowed_points_do_not_change_scores() -> None:
    """A filter picks; IDF stays that of the whole collection."""
    postings = Postings()
    for n in range(6):
        postings.put(f"p{n}", [1, 10 + n], [0.5 + n / 100, 0.3])
    everything = dict(postings.search([1], [1.0], limit=10))
    allowed = postings.search([1], [1.0], limit=10, allowed={"p1", "p4", "unknown"})
    assert allowed == [("p4", everything["p4"]), ("p1", everything["p1"])]
