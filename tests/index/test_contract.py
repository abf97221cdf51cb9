"""What an index promises, wherever it is."""

from typing import Any

import numpy as np
import pytest

from funnel.deadline import Deadline
from funnel.errors import ConfigError, CorpusError, InputError, ModelError
from funnel.index import DocumentIndex, Found
from funnel.indexing.terms import TERMS_VERSION, Bm25Settings
from funnel.models.base import Side
from funnel.types import Document
from tests.fakes import FakeEncoder, FloatArray
from tests.index.conftest import DOCUMENTS, Opener


def ids(found: tuple[Found, ...]) -> list[str]:
    return [item.document.id for item in found]


def embedded(text: str) -> FloatArray:
    vector: FloatArray = FakeEncoder().encode([text])[0]
    return vector


async def everything(index: DocumentIndex) -> list[str]:
    found = await index.search(terms="fox", k=1000)
    return sorted(ids(found.bm25))


async def test_finds_by_vector_and_by_terms_in_one_call(opened: Opener) -> None:
    """Both sources rank the document that holds the query's rare word first."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    found = await index.search(vector=embedded("fox number7"), terms="fox number7", k=3)
    assert ids(found.dense)[0] == ids(found.bm25)[0] == "d7"
    assert len(found.dense) == len(found.bm25) == 3
    assert found.dense[0].score == pytest.approx(
        float(embedded("fox number7") @ embedded(f"Fox 7 {DOCUMENTS[7]['text']}")), abs=1e-5
    )


async def test_a_source_that_is_not_asked_stays_empty(opened: Opener) -> None:
    """Only what was asked for is searched."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    assert (await index.search(terms="fox", k=2)).dense == ()
    assert (await index.search(vector=embedded("fox"), k=2)).bm25 == ()


async def test_documents_come_back_whole(opened: Opener) -> None:
    """Id, title, text and metadata survive the way into the index and back."""
    index = await opened()
    document = Document("ü/1 ?", "Straße 東京 \U0001f98a", "T", {"a": {"b": [1, 2.5, None, "x"]}})
    await index.upsert([document])
    assert (await index.search(terms="straße", k=1)).bm25[0].document == document
    assert await index.get([document.id, "nope"]) == [document]


async def test_an_upsert_is_idempotent(opened: Opener) -> None:
    """The same documents again are not embedded, not doubled, and leave the epoch alone."""
    encoder = FakeEncoder()
    index = await opened(encoder=encoder)
    first = await index.upsert(DOCUMENTS)
    epoch, embeddings = await index.epoch(), len(encoder.texts)
    again = await index.upsert(DOCUMENTS)
    assert (first.new, again.new, again.unchanged) == (12, 0, 12)
    assert await index.count() == 12
    assert len(encoder.texts) == embeddings
    assert await index.epoch() == epoch


async def test_a_changed_text_replaces_the_old_one(opened: Opener) -> None:
    """The old words no longer find the document, the new ones do, and the epoch moves."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    epoch = await index.epoch()
    report = await index.upsert([{"id": "d7", "text": "a slow green turtle"}])
    assert (report.replaced, report.documents) == (1, 12)
    assert ids((await index.search(terms="number7", k=5)).bm25) == []
    assert ids((await index.search(terms="turtle", k=5)).bm25) == ["d7"]
    assert await index.epoch() > epoch


async def test_changed_metadata_is_stored_without_embedding_again(opened: Opener) -> None:
    """A new tag costs no model time, and filters see it."""
    encoder = FakeEncoder()
    index = await opened(encoder=encoder)
    await index.upsert(DOCUMENTS)
    embeddings = len(encoder.texts)
    report = await index.upsert([{**DOCUMENTS[7], "metadata": {"lang": "fr"}}])
    assert (report.metadata_only, len(encoder.texts)) == (1, embeddings)
    found = await index.search(vector=embedded("fox"), terms="fox", filters={"lang": "fr"})
    assert ids(found.dense) == ids(found.bm25) == ["d7"]


async def test_delete_forgets_and_counts(opened: Opener) -> None:
    """Unknown and repeated ids do not count; the rest stays findable."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    epoch = await index.epoch()
    assert await index.delete(["d1", "d1", "nope"]) == 1
    assert await index.count() == 11
    assert "d1" not in await everything(index)
    assert await index.epoch() > epoch
    assert await index.delete([]) == 0


async def test_a_rebuild_switches_to_exactly_the_new_corpus(opened: Opener) -> None:
    """What the new corpus lacks is gone, also for a second index on the same name."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    epoch = await index.epoch()
    report = await index.rebuild(DOCUMENTS[5:9])
    assert report.documents == await index.count() == 4
    assert await everything(index) == ["d5", "d6", "d7", "d8"]
    assert await index.epoch() > epoch


async def test_a_failed_rebuild_leaves_the_old_documents(opened: Opener) -> None:
    """Bad rows, or a broken encoder on the way, change nothing that is searched."""
    index = await opened(encoder=BreakingEncoder(after=12))
    await index.upsert(DOCUMENTS)
    with pytest.raises(CorpusError):
        await index.rebuild([{"id": "x"}])
    with pytest.raises(RuntimeError, match="killed"):
        await index.rebuild([{"id": "x", "text": "new"}])
    assert len(await everything(index)) == 12


async def test_an_interrupted_rebuild_is_continued(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next rebuild keeps what is embedded, and drops what its corpus lacks."""
    monkeypatch.setattr("funnel.indexing.update.WINDOW", 50)
    encoder = BreakingEncoder(after=75)
    index = await opened(encoder=encoder)
    await index.upsert(DOCUMENTS)
    corpus = [{"id": f"n{n}", "text": f"fox {n}"} for n in range(110)]
    with pytest.raises(RuntimeError):
        await index.rebuild(corpus)
    assert await index.count() == 12
    encoder.after, embeddings = 10**9, len(encoder.texts)
    report = await index.rebuild(corpus[1:])
    assert report.documents == await index.count() == 109
    assert report.unchanged > 0
    assert len(encoder.texts) - embeddings == 109 - report.unchanged
    assert "n0" not in await everything(index)


async def test_an_interrupted_upsert_is_continued(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost or doubled, and the BM25 scores are those of an undisturbed run."""
    corpus = [
        {"id": f"n{n}", "text": f"{n} {'fox ' * (n < 20)}" + "word " * (n % 40)} for n in range(110)
    ]
    monkeypatch.setattr("funnel.indexing.update.WINDOW", 50)
    encoder = BreakingEncoder(after=75)
    index = await opened(encoder=encoder)
    with pytest.raises(RuntimeError):
        await index.upsert(corpus)
    stored = await index.count()
    assert 0 < stored < 110
    encoder.after = 10**9
    report = await index.upsert(corpus)
    assert (report.unchanged, report.documents, await index.count()) == (stored, 110, 110)
    found = await scored(index, "fox 17")
    await index.aclose()
    straight = await opened("straight")
    await straight.upsert(corpus)
    assert len(found) == 20
    assert found == pytest.approx(await scored(straight, "fox 17"))


async def scored(index: DocumentIndex, text: str) -> dict[str, float]:
    found = await index.search(terms=text, k=25)
    return {item.document.id: item.score for item in found.bm25}


class BreakingEncoder(FakeEncoder):
    """Fails once it has embedded ``after`` texts."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    async def aencode(self, texts: Any, *, side: Side | None = None) -> FloatArray:
        if len(self.texts) + len(texts) > self.after:
            raise RuntimeError("killed")
        return await super().aencode(texts, side=side)


async def test_scores_do_not_depend_on_how_documents_came_in(opened: Opener) -> None:
    """One by one, longer ones last, scores as all at once: stored weights follow the average."""
    corpus = [{"id": f"n{n}", "text": "fox " + "word " * (3 * n)} for n in range(15)]
    slowly = await opened("slowly")
    for document in corpus:
        await slowly.upsert([document])
    one = await scored(slowly, "fox")
    await slowly.aclose()
    at_once = await opened("at-once")
    await at_once.upsert(corpus)
    other = await scored(at_once, "fox")
    assert list(one) == list(other)
    assert one == pytest.approx(other, rel=0.05)


FILTERED: list[tuple[dict[str, Any], list[str]]] = [
    ({"lang": "en"}, ["d1", "d11", "d3", "d5", "d7", "d9"]),
    ({"year": 1994}, ["d4"]),
    ({"year": 1994.0}, ["d4"]),
    ({"draft": True}, ["d3"]),
    ({"year": [1991, 1992, 1]}, ["d1", "d2"]),
    ({"year": [1991.0, 2**60, 0.5, "x", True]}, ["d1"]),
    ({"draft": [True, 1]}, ["d3"]),
    ({"lang": ["en", "de"], "year": {"gt": 1999}}, ["d10", "d11"]),
    ({"year": {"gte": 1995, "lt": 1997.5}}, ["d5", "d6", "d7"]),
    ({"lang": "xx"}, []),
]


async def test_filters_hold_in_both_sources(opened: Opener) -> None:
    """Equality, any-of and ranges restrict dense and BM25 alike."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    for filters, expected in FILTERED:
        found = await index.search(vector=embedded("fox"), terms="fox", k=20, filters=filters)
        assert sorted(ids(found.dense)) == sorted(ids(found.bm25)) == expected, filters


async def test_dates_nested_fields_lists_and_odd_names_filter(opened: Opener) -> None:
    """ISO dates compare as times; dots reach inside; a list matches by any of its values."""
    index = await opened()
    await index.upsert(
        [
            {"id": "a", "text": "fox", "metadata": {"at": "2026-01-31", "by": {"name": "Ann"}}},
            {"id": "b", "text": "fox", "metadata": {"at": "2026-02-01T00:00:00Z", "tags": ["x"]}},
            {"id": "c", "text": "fox", "metadata": {"release year": 1999, "tags": ["x", "y"]}},
        ]
    )

    async def under(**filters: Any) -> list[str]:
        return sorted(ids((await index.search(terms="fox", filters=filters)).bm25))

    assert await under(at={"lt": "2026-02-01"}) == ["a"]
    assert await under(at={"gte": "2026-01-31T23:00:00-05:00"}) == []
    assert await under(**{"by.name": "Ann"}) == ["a"]
    assert await under(tags="x") == ["b", "c"]
    assert await under(tags=["y", "z"]) == ["c"]
    assert await under(**{"release year": {"lte": 1999}}) == ["c"]


async def test_a_filter_on_an_unknown_field_is_refused_with_a_suggestion(opened: Opener) -> None:
    """A typo must not read as 'no hits'; a value of the wrong kind neither."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    with pytest.raises(InputError, match=r"'lnag'; did you mean 'lang'\? \(known: draft, lang, ye"):
        await index.search(terms="fox", filters={"lnag": "en"})
    with pytest.raises(InputError, match="'year' got a text, but the documents hold a number"):
        await index.search(terms="fox", filters={"year": "1994"})


async def test_an_empty_index_finds_nothing(opened: Opener) -> None:
    """Before the first document, and after the last one went, searches are empty, not errors."""
    index = await opened()
    assert await index.count() == await index.epoch() == 0
    assert await index.search(vector=embedded("x"), terms="x", filters={"any": 1}) == (
        await index.search(terms="y")
    )
    assert (await index.upsert([])).documents == 0
    await index.upsert(DOCUMENTS[:1])
    await index.delete(["d0"])
    found = await index.search(vector=embedded("fox"), terms="fox", filters={"lang": "de"})
    assert (found.dense, found.bm25) == ((), ())


async def test_k_may_exceed_the_corpus(opened: Opener) -> None:
    """All documents come back, no more."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    assert len((await index.search(vector=embedded("fox"), k=5000)).dense) == 12


async def test_equal_scores_are_ordered_by_id(opened: Opener) -> None:
    """Ties do not depend on the order of insertion."""
    index = await opened()
    await index.upsert([{"id": name, "text": "same words"} for name in "cabed"])
    found = await index.search(vector=embedded("same words"), terms="same words", k=3)
    assert ids(found.dense) == ids(found.bm25) == ["a", "b", "c"]


async def test_a_query_of_stop_words_finds_nothing_by_terms(opened: Opener) -> None:
    """No terms is no hits, said by ``terms``."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    found = await index.search(terms="the of and")
    assert (found.bm25, found.terms) == ((), 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_vectors_that_are_not_finite_are_refused(opened: Opener, value: float) -> None:
    """Neither a query nor a document gets NaN or infinity into the index."""
    encoder = FakeEncoder()
    index = await opened(encoder=encoder)
    await index.upsert(DOCUMENTS)
    with pytest.raises(InputError, match="NaN or infinite"):
        await index.search(vector=np.full(64, value, dtype=np.float32))

    async def broken(texts: Any, *, side: Side | None = None) -> FloatArray:
        return np.full((len(texts), 64), value, dtype=np.float32)

    encoder.aencode = broken  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="'fake:hashing' returned NaN, infinite or zero vectors"):
        await index.upsert([{"id": "x", "text": "new"}])
    assert await index.count() == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder": FakeEncoder("other", revision="2")},
            r"fake:hashing \(revision 1, 64 dim.*name other \(revision 2",
        ),
        ({"bm25": Bm25Settings(language="german")}, "language='english'.*'german'"),
        ({"qdrant": {"token_vectors": True}}, "holds no token vectors"),
    ],
)
async def test_a_collection_made_otherwise_is_refused(
    opened: Opener, change: dict[str, Any], message: str
) -> None:
    """The error names both sides and the mend, and a rebuild is the way out."""
    if opened.settings.place == ":memory:":
        pytest.skip("memory is not shared between indexes")
    index = await opened()
    await index.upsert(DOCUMENTS)
    await index.aclose()
    other = opened.make(**change)
    with pytest.raises(ConfigError, match=rf"(?s){message}.*--rebuild"):
        await other.start()
    await other.rebuild(DOCUMENTS[:2])
    assert await other.count() == 2


async def test_terms_of_other_rules_are_refused(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that splits texts otherwise would find less than there is, and say nothing."""
    if opened.settings.place == ":memory:":
        pytest.skip("memory is not shared between indexes")
    with monkeypatch.context() as patch:
        patch.setattr("funnel.indexing.collection.TERMS_VERSION", TERMS_VERSION - 1)
        index = await opened()
        await index.upsert(DOCUMENTS)
        await index.aclose()
    other = opened.make()
    said = f"version {TERMS_VERSION - 1}, .*{TERMS_VERSION}; index again with --rebuild"
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        await other.start()
    await other.rebuild(DOCUMENTS)
    assert await other.count() == 12


async def test_another_index_sees_what_was_written(opened: Opener) -> None:
    """State, weights and documents are in the collection, not in the process."""
    if opened.settings.place == ":memory:":
        pytest.skip("memory is not shared between indexes")
    index = await opened()
    await index.upsert(DOCUMENTS)
    expected, epoch = await scored(index, "lazy number3"), await index.epoch()
    await index.aclose()
    other = await opened()
    assert await other.count() == 12
    assert await other.epoch() == epoch
    assert await scored(other, "lazy number3") == pytest.approx(expected, abs=1e-5)
    assert ids((await other.search(terms="fox", filters={"year": 1993})).bm25) == ["d3"]


async def test_token_vectors_are_stored_when_asked_for(opened: Opener) -> None:
    """Each document's token matrix comes back as the encoder made it."""
    index = await opened(qdrant={"token_vectors": True})
    await index.upsert(DOCUMENTS)
    stored = await index.token_vectors(["d1", "d2", "nope"])
    assert sorted(stored) == ["d1", "d2"]
    expected = FakeEncoder().token_vectors([f"Fox 1 {DOCUMENTS[1]['text']}"])[0]
    np.testing.assert_allclose(stored["d1"], expected, atol=1e-6)
    assert ids((await index.search(vector=embedded("number7 fox"), k=1)).dense) == ["d7"]


async def test_token_vectors_are_absent_otherwise(opened: Opener) -> None:
    """Asking costs nothing and returns nothing."""
    index = await opened()
    await index.upsert(DOCUMENTS)
    assert await index.token_vectors(["d1"]) == {}


class NoEncoder:
    """Whatever it is asked is a mistake."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the embedder was asked for its {name}")


async def test_without_dense_vectors_no_embedder_is_asked(opened: Opener) -> None:
    """Documents are written, changed, found with and without filters, and removed, all the same."""
    index = await opened(encoder=NoEncoder(), qdrant={"dense_vectors": False})
    await index.upsert(DOCUMENTS)
    assert ids((await index.search(terms="number7", k=1)).bm25) == ["d7"]
    assert ids((await index.search(terms="fox", filters={"year": 1993})).bm25) == ["d3"]
    report = await index.upsert([{**DOCUMENTS[3], "text": "number99"}])
    assert report.replaced == 1
    assert ids((await index.search(terms="number99", filters={"year": 1993})).bm25) == ["d3"]
    await index.delete(["d3"])
    assert ids((await index.search(terms="fox", filters={"year": 1993})).bm25) == []
    await index.rebuild(DOCUMENTS[:2])
    assert await everything(index) == ["d0", "d1"]
    with pytest.raises(InputError, match=r"holds no dense vectors; ask by terms.*dense_vectors"):
        await index.search(vector=embedded("fox"))


async def test_a_collection_without_dense_vectors_is_none_with(opened: Opener) -> None:
    """Settings that need them refuse it with the mend; the other way round all stays as it was."""
    if opened.settings.place == ":memory:":
        pytest.skip("memory is not shared between indexes")
    index = await opened(qdrant={"dense_vectors": False})
    await index.upsert(DOCUMENTS)
    await index.aclose()
    other = opened.make()
    with pytest.raises(ConfigError, match=r"(?s)holds no dense vectors, but .*--rebuild"):
        await other.start()
    await other.rebuild(DOCUMENTS)
    assert ids((await other.search(vector=embedded("number7 fox"), k=1)).dense) == ["d7"]
    await other.aclose()
    index = await opened(qdrant={"dense_vectors": False})
    await index.upsert([{"id": "x", "text": "number7 fox fox"}])
    assert ids((await index.search(vector=embedded("number7 fox fox"), k=1)).dense) == ["x"]


async def test_bad_rows_stop_everything_or_are_left_out(opened: Opener) -> None:
    """With ``fail`` nothing is written; with ``skip`` the good rows are, and the report says so."""
    index = await opened()
    rows = [DOCUMENTS[0], {"id": "x"}, {**DOCUMENTS[0], "text": "other"}, DOCUMENTS[1]]
    with pytest.raises(CorpusError) as caught:
        await index.upsert(rows)
    assert caught.value.problems == (
        "item 2: no 'text'; got 'id'",
        "item 3: id 'd0' repeats item 1 with other content",
    )
    assert await index.count() == 0
    report = await index.upsert(iter(rows), on_bad="skip")
    assert (report.rows, report.new, report.problems) == (4, 2, caught.value.problems)


async def test_an_expired_deadline_is_a_timeout(opened: Opener) -> None:
    """A search that cannot be in time fails as one."""
    from funnel.errors import StageTimeout

    index = await opened()
    await index.upsert(DOCUMENTS)
    with pytest.raises(StageTimeout, match="deadline"):
        await index.search(vector=embedded("fox"), deadline=Deadline.after_ms(0))


@pytest.mark.parametrize("k", [0, -1])
async def test_k_below_one_is_refused(opened: Opener, k: int) -> None:
    """The message names the value."""
    index = await opened()
    with pytest.raises(InputError, match=f"got {k}"):
        await index.search(terms="x", k=k)
