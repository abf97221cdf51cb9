"""The shipped files hold what their README says."""

import re
from collections import Counter
from datetime import date
from itertools import combinations

from funnel.demo import loader

TOPICS_AT_LEAST = 12
SHINGLE = 3


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def _same_words(one: str, other: str) -> bool:
    return re.findall(r"\w+", one.lower()) == re.findall(r"\w+", other.lower())


def test_corpus_is_large_and_spread_over_topics() -> None:
    """At least 300 articles, twelve topics, none of them thin."""
    documents = loader.load_documents()
    topics = Counter(document.metadata["topic"] for document in documents)
    assert len(documents) >= 300
    assert len(topics) >= TOPICS_AT_LEAST
    assert min(topics.values()) >= 10


def test_articles_are_complete() -> None:
    """Every article has an own id and title, a body of useful length and full metadata."""
    documents = loader.load_documents()
    assert len({document.id for document in documents}) == len(documents)
    assert len({document.title.casefold() for document in documents}) == len(documents)
    for document in documents:
        assert set(document.metadata) == {"topic", "area", "audience", "lang", "updated"}
        assert date.fromisoformat(document.metadata["updated"]) >= date(2025, 1, 1)
        assert 40 <= len(document.text.split()) <= 140, document.id


def test_articles_do_not_repeat_each_other() -> None:
    """No two articles share more than a tenth of their three-word runs: none is a template."""
    shingles = {d.id: _shingles(d.text) for d in loader.load_documents()}
    for (one, a), (other, b) in combinations(shingles.items(), 2):
        assert len(a & b) / len(a | b) < 0.1, (one, other)


def test_every_query_is_graded_in_three_ways() -> None:
    """Each query has an answer, partial help and at least three distractors."""
    grades = loader.load_grades()
    queries = loader.load_queries()
    assert len(queries) >= 36
    assert {query.id for query in queries} == set(grades)
    for query in queries:
        counts = Counter(grades[query.id].values())
        assert set(counts) == {loader.RELEVANT, loader.PARTIAL, loader.DISTRACTOR}
        assert counts[loader.DISTRACTOR] >= 3, query.id


def test_labels_name_existing_articles() -> None:
    """No label points to an article that is not there."""
    known = {document.id for document in loader.load_documents()}
    labelled = {doc for grades in loader.load_grades().values() for doc in grades}
    assert labelled <= known


def test_stream_has_the_promised_hits_and_misses() -> None:
    """Fifty questions over twelve topics: the first of each misses, the other 38 hit."""
    stream = loader.load_stream()
    seen: set[str] = set()
    for question in stream:
        assert question.expect == ("hit" if question.group in seen else "miss"), question.query
        seen.add(question.group)
    assert len(stream) == 50
    assert Counter(question.expect for question in stream) == {"hit": 38, "miss": 12}


def test_stream_never_repeats_a_question_word_for_word() -> None:
    """Expected hits are paraphrases, not repetitions with other punctuation or case."""
    stream = loader.load_stream()
    exact = [
        (one.query, other.query)
        for one, other in combinations(stream, 2)
        if _same_words(one.query, other.query)
    ]
    assert exact == []


def test_hard_stream_mixes_paraphrases_and_near_misses() -> None:
    """Many intents that are easily confused, most of them asked again in other words."""
    stream = loader.load_hard_stream()
    groups = Counter(question.group for question in stream)
    assert len(stream) >= 120
    assert len(groups) >= 60
    assert sum(count > 1 for count in groups.values()) >= 40
    assert len({question.query.casefold() for question in stream}) == len(stream)


def test_swap_pairs_are_many_and_of_many_kinds() -> None:
    """Over 220 changed meanings of eight kinds, over 120 paraphrases, no pair twice."""
    pairs = loader.load_swap_pairs()
    kinds = Counter(pair.kind for pair in pairs)
    assert sum(not pair.is_duplicate for pair in pairs) >= 220
    assert sum(pair.is_duplicate for pair in pairs) >= 120
    assert {"number", "amount", "date", "negation", "antonym", "entity", "order"} <= set(kinds)
    assert len({frozenset((p.question1, p.question2)) for p in pairs}) == len(pairs)


def test_paraphrase_is_the_only_kind_of_duplicate() -> None:
    """The kind and the label of a pair agree, and its two sides differ."""
    for pair in loader.load_swap_pairs():
        assert pair.is_duplicate == (pair.kind == "paraphrase"), pair
        assert not _same_words(pair.question1, pair.question2), pair
