"""Hard negatives: where they come from, what is filtered, what is written."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from funnel.errors import ConfigError, CorpusError, InputError
from funnel.indexing.terms import Bm25Settings
from funnel.training import MiningSettings, Triple, make_pool, mine, read_pool, read_rows
from funnel.training.lexical import LexicalIndex
from funnel.training.records import labelled_pair, triple
from funnel.training.writing import FORMS, write_mined
from tests.evaluation.folders import packed

DOCUMENTS = [
    "reset the password from the sign-in page",
    "the password must have twelve characters",
    "delete the account for good",
    "choose a new secret when the old one is forgotten",
    "parcels arrive within three days",
]
POOL = make_pool([("how do I reset my password", DOCUMENTS[0])], DOCUMENTS)
ONE = MiningSettings(per_positive=1)


def encode(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Vectors by which the query is nearest to the document about a forgotten secret."""
    angles = {DOCUMENTS[0]: 0.3, DOCUMENTS[1]: 1.2, DOCUMENTS[2]: 1.4, DOCUMENTS[3]: 0.1}
    rows = [angles.get(text, 1.5 if text in DOCUMENTS else 0.0) for text in texts]
    return np.array([[np.cos(row), np.sin(row)] for row in rows], np.float32)


def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """A teacher that knows that the forgotten secret answers the query too."""
    good = (DOCUMENTS[0], DOCUMENTS[3])
    return np.array([3.0 if text in good else -3.0 for _, text in pairs], np.float32)


def test_bm25_alone_finds_what_shares_words() -> None:
    """Without an encoder the negatives come from words."""
    found = mine(POOL, ONE, encode=None, score=None)
    assert [row.negative for row in found.triples] == [DOCUMENTS[1]]


def test_the_encoders_own_errors_come_first() -> None:
    """A document that the bi-encoder ranks above the positive is the hardest."""
    found = mine(POOL, ONE, encode=encode, score=None)
    assert [row.negative for row in found.triples] == [DOCUMENTS[3]]
    assert found.counts.errors == 1


def test_queries_may_be_encoded_in_another_way() -> None:
    """Some bi-encoders read other words before a query than before a document."""

    def reversed_(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return -encode(texts)

    found = mine(POOL, ONE, encode=encode, encode_queries=reversed_, score=None)
    assert found.counts.errors > 1


def test_the_cross_encoder_drops_false_negatives() -> None:
    """What the teacher finds as probable as the positive is no negative; the drop is counted."""
    found = mine(POOL, ONE, encode=encode, score=score)
    (row,) = found.triples
    assert row.negative == DOCUMENTS[1]
    assert found.counts.false_negatives == 1
    assert row.positive_score is not None and row.negative_score is not None
    assert row.positive_score > 0.9 > 0.1 > row.negative_score


def test_the_range_leaves_out_the_first_ranks() -> None:
    """Where unlabelled positives live."""
    window = MiningSettings(per_positive=5, range_min=1, range_max=3)
    found = mine(POOL, window, encode=encode, score=None)
    assert DOCUMENTS[3] not in [row.negative for row in found.triples]


def test_a_question_is_no_negative_of_itself() -> None:
    """In pairs of questions, and in collections whose queries are documents, it is the nearest."""
    pool = make_pool([("a password", DOCUMENTS[0])], [*DOCUMENTS, "a password"])
    found = mine(pool, MiningSettings(per_positive=5), encode=None, score=None)
    assert [row.negative for row in found.triples] == [DOCUMENTS[1]]


CHAIN = [
    ("is tea good", "is tea healthy"),
    ("Is  coffee or tea good", "is tea healthy"),  # one positive of two questions
    ("is coffee or tea good", "is tea fine"),  # the question before, in other letters
    ("is tea fine", "is green tea good"),  # a positive that asks, too
    ("is milk good", "is milk healthy"),
]


def test_what_a_chain_of_positives_joins_is_no_negative() -> None:
    """If a asks the same as b and b the same as c, then a and c do so, labelled or not."""
    pool = make_pool(CHAIN, ["is tea cheap"])
    many = MiningSettings(per_positive=20)
    found = {(row.query, row.negative) for row in mine(pool, many, encode=None, score=None).triples}
    assert {text for query, text in found if "tea" in query} == {"is tea cheap"}
    assert {text for query, text in found if "milk" in query} == {"is green tea good"}
    apart = mine(make_pool(CHAIN, chained=False), many, encode=None, score=None).triples
    assert ("is tea good", "is green tea good") in {(row.query, row.negative) for row in apart}


def test_a_chain_in_a_file_wins_over_a_label_of_0(tmp_path: Path) -> None:
    """The labels contradict each other there, and a wrong negative costs more than none."""
    path = tmp_path / "pairs.jsonl"
    rows = [(*pair, 1) for pair in CHAIN] + [("is tea good", "is green tea good", 0)]
    lines = [{"question1": a, "question2": b, "is_duplicate": label} for a, b, label in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = mine(read_pool(path), MiningSettings(per_positive=20), encode=None, score=None).triples
    assert ("is tea good", "is green tea good") not in {(row.query, row.negative) for row in found}


def test_a_folder_has_no_chains(tmp_path: Path) -> None:
    """A document may answer two queries for two reasons, and what else answers one is hard."""
    folder = beir(tmp_path / "beir")
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q2", "text": "password length"}\n')
    with (folder / "qrels" / "train.tsv").open("a") as file:
        file.write("q2\td0\t1\nq2\td1\t1\n")
    found = mine(read_pool(folder), ONE, encode=None, score=None).triples
    assert DOCUMENTS[1] in [row.negative for row in found if row.query == POOL.queries[0]]


def test_no_negative_at_all_is_an_error() -> None:
    """A pool of positives only has nothing to offer."""
    pool = make_pool([("a", "a b"), ("a", "a c")])
    with pytest.raises(InputError, match="no negative was found"):
        mine(pool, ONE, encode=None, score=None)


word = st.sampled_from(["red", "green", "blue", "cat", "dog", "bird"])
texts = st.lists(word, min_size=1, max_size=4).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=12), st.integers(1, 3))
def test_a_known_positive_is_never_mined(rows: list[tuple[str, str]], wanted: int) -> None:
    """Of any query, whichever pair it came with; and never more than asked for."""
    pool = make_pool(rows, ["red fox", "blue whale"])
    try:
        found = mine(pool, MiningSettings(per_positive=wanted), encode=None, score=None)
    except InputError:
        return
    known = set(rows)
    assert not {(row.query, row.negative) for row in found.triples} & known
    per_positive: dict[tuple[str, str], int] = {}
    for row in found.triples:
        key = (row.query, row.positive)
        per_positive[key] = per_positive.get(key, 0) + 1
    assert max(per_positive.values()) <= wanted


@settings(max_examples=30, deadline=None)
@given(st.lists(texts, min_size=1, max_size=20), texts)
def test_lexical_ranking_is_that_of_the_formula(documents: list[str], query: str) -> None:
    """The index agrees with Lucene's BM25 written out, document by document."""
    index = LexicalIndex(documents, Bm25Settings(k1=1.2, b=0.75))
    found = list(index.top(query, len(documents)))
    expected = [_bm25(document.split(), query.split(), documents) for document in documents]
    assert set(found) == {row for row, value in enumerate(expected) if value > 0}
    ranked = [expected[row] for row in found]
    assert all(after <= before + 1e-5 for before, after in pairwise(ranked))


def _bm25(document: list[str], query: list[str], documents: list[str]) -> float:
    average = sum(len(text.split()) for text in documents) / len(documents)
    total = 0.0
    for word in query:
        holders = sum(word in text.split() for text in documents)
        times = document.count(word)
        idf = np.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
        total += idf * times / (times + 1.2 * (0.25 + 0.75 * len(document) / average))
    return total


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_positive": 0},
        {"range_min": 5, "range_max": 5},
        {"relative_margin": 1.0},
        {"max_probability": 0.0},
    ],
)
def test_impossible_mining_settings_are_refused(wrong: dict[str, float]) -> None:
    """When they are made."""
    with pytest.raises(ConfigError):
        MiningSettings(**wrong)  # type: ignore[arg-type]


def beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(DOCUMENTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    query = {"_id": "q1", "text": "how do I reset my password"}
    (folder / "queries.jsonl").write_text(json.dumps(query) + "\n")
    rows = "query-id\tcorpus-id\tscore\nq1\td0\t2\nq1\td4\t0\n"
    (folder / "qrels" / "train.tsv").write_text(rows)
    return folder


def test_a_beir_folder_is_a_pool(tmp_path: Path) -> None:
    """Judged relevant documents are positives, the whole corpus is drawn from."""
    pool = read_pool(beir(tmp_path / "beir"))
    assert pool.queries == POOL.queries
    assert set(pool.documents) == set(DOCUMENTS)
    assert [pool.documents[n] for n in pool.positives[0]] == [DOCUMENTS[0]]


def test_judgements_without_a_text_are_counted(tmp_path: Path) -> None:
    """A folder that was cut down is no error, but nothing vanishes without a word."""
    folder = beir(tmp_path / "beir")
    with (folder / "qrels" / "train.tsv").open("a") as file:
        file.write("q9\td0\t1\nq1\td99\t1\nq1\td98\t0\n")
    with capture_logs() as logs:
        pool = read_pool(folder)
    assert pool.queries == POOL.queries
    told = {"left_out": 2, "of": 3, "unknown_queries": 1, "unknown_documents": 1}
    assert [told.items() <= entry.items() for entry in logs] == [True]


def test_text_that_no_file_can_hold_is_refused_before_the_work(tmp_path: Path) -> None:
    """Half a surrogate pair, which JSON allows, could not be written once all was mined."""
    folder = beir(tmp_path / "beir")
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d9", "text": "\\ud83d"}\n')
    with pytest.raises(CorpusError, match="line 6: 'text' holds a lone surrogate"):
        read_pool(folder)


def test_a_missing_split_names_those_that_exist(tmp_path: Path) -> None:
    """A typing error in --split is easy to mend."""
    with pytest.raises(ConfigError, match="splits found: train"):
        read_pool(beir(tmp_path / "beir"), split="dev")


def test_a_packed_folder_is_the_same_pool(tmp_path: Path) -> None:
    """As BEIR publishes some, each file with .gz."""
    folder = beir(tmp_path / "beir")
    plain = read_pool(folder)
    packed(folder, "corpus.jsonl", "queries.jsonl", "qrels/train.tsv")
    assert read_pool(folder) == plain


def test_pairs_in_a_file_are_a_pool(tmp_path: Path) -> None:
    """All positives of the file are each other's candidates; bad lines are named."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "a", "positive": "x"}\n{"query": "b", "positive": "y"}\n')
    assert read_pool(path).documents == ("x", "y")
    path.write_text('{"query": "a"}\n')
    with pytest.raises(CorpusError, match="line 1: no 'positive'"):
        read_pool(path)


def test_labelled_rows_that_answer_nothing_are_only_documents(tmp_path: Path) -> None:
    """A label of 0 is a known negative: it may be mined, never taken for a positive."""
    path = tmp_path / "pairs.jsonl"
    rows = [("a", "x", 1), ("a", "y", 0), ("b", "z", 0)]
    lines = [{"query": q, "document": d, "label": label} for q, d, label in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pool = read_pool(path)
    assert (pool.queries, pool.positives) == (("a",), ((0,),))
    assert pool.documents == ("x", "y", "z")


def test_what_is_written_is_what_training_reads(tmp_path: Path) -> None:
    """Pairs, scored pairs and triples go straight back through the readers."""
    mined = mine(POOL, ONE, encode=encode, score=score).triples
    for form, parse in (("pairs", labelled_pair), ("scored", labelled_pair), ("triples", triple)):
        path = tmp_path / f"{form}.jsonl"
        count = write_mined(path, mined, FORMS[form])
        assert len(read_rows(path, parse)) == count
    pairs = read_rows(tmp_path / "pairs.jsonl", labelled_pair)
    assert {(row.document, row.score) for row in pairs} == {
        (DOCUMENTS[0], 1.0),
        (DOCUMENTS[1], 0.0),
    }


def test_scored_pairs_need_a_cross_encoder(tmp_path: Path) -> None:
    """Nothing is written if there are no scores to write."""
    path = tmp_path / "scored.jsonl"
    with pytest.raises(ConfigError, match="--cross-encoder"):
        write_mined(path, [Triple("q", "a", "b")], FORMS["scored"])
    assert not path.exists()
