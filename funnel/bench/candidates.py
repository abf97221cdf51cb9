"""What is reranked: each query's candidates, from a run file or from BM25."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from funnel.errors import ConfigError
from funnel.evaluation.beir import Dataset, load_beir
from funnel.evaluation.evaluate import with_words
from funnel.evaluation.trec import read_run
from funnel.indexing.corpus import BadRow, document_from
from funnel.indexing.postings import Postings
from funnel.indexing.terms import (
    Analyzer,
    Bm25Settings,
    TermCounts,
    count_terms,
    document_weights,
    query_weights,
)
from funnel.log import get_logger
from funnel.stages.document_text import document_text
from funnel.types import Document

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CandidateLists:
    """Queries with their candidates' ids, best first; ``texts`` holds the whole corpus.

    ``source`` is the run file's name, or ``bm25``.
    """

    dataset: Dataset
    source: str
    texts: Mapping[str, str]
    lists: Mapping[str, Sequence[str]]

    def pairs(self, query_id: str) -> list[tuple[str, str]]:
        """What a scorer reads for one query."""
        query = self.dataset.queries[query_id]
        return [(query, self.texts[doc_id]) for doc_id in self.lists[query_id]]


def load_candidates(folder: Path, *, split: str, depth: int, limit: int | None) -> CandidateLists:
    """Candidates of a BEIR folder's judged queries: from its ``*.run`` file, else from BM25.

    Raises:
        ConfigError: there is more than one run file, or none of its queries is judged.
    """
    dataset = load_beir(folder, split)
    texts = {document.id: document_text(document) for document in _documents(dataset)}
    runs = sorted(folder.glob("*.run"))
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs)
        raise ConfigError(f"{folder}: got {len(runs)} run files ({names}), expected at most one")
    if runs:
        ranked = read_run(runs[0])
        found = {q: _known(ranked[q], texts)[:depth] for q in dataset.queries if q in ranked}
    else:
        found = _bm25(dataset.queries, texts, depth)
    kept = [query_id for query_id in dataset.queries if found.get(query_id)][:limit]
    if not kept:
        raise ConfigError(f"{folder}: no judged query has candidates")
    source = runs[0].name if runs else "bm25"
    return CandidateLists(dataset.only(kept), source, texts, {q: found[q] for q in kept})


def _documents(dataset: Dataset) -> Iterator[Document]:
    """The corpus as ``index_dataset`` writes it: wordless documents are left out with a warning.

    Raises:
        ConfigError: another document of the corpus is bad.
    """
    corpus = dataset.corpus()
    empty: list[str] = []
    for row in with_words(corpus.rows, empty):
        try:
            if row.content is not None:
                yield document_from(row.content)
        except BadRow as bad:
            raise ConfigError(f"{corpus.source}: {row.place}: {bad}; mend this line") from bad
    if empty:
        log.warning("documents_left_out", corpus=corpus.source, empty=len(empty), first=empty[:5])


def _known(ids: Sequence[str], texts: Mapping[str, str]) -> list[str]:
    return [doc_id for doc_id in ids if doc_id in texts]


def _bm25(queries: Mapping[str, str], texts: Mapping[str, str], depth: int) -> dict[str, list[str]]:
    settings = Bm25Settings()
    analyzer = Analyzer(settings)
    counted = {doc_id: count_terms(analyzer.terms(text)) for doc_id, text in texts.items()}
    postings = _postings(counted, settings)
    found = {}
    for query_id, text in queries.items():
        weights = query_weights(count_terms(analyzer.terms(text)))
        hits = postings.search(weights.ids, weights.values, depth)
        found[query_id] = [doc_id for doc_id, _ in hits]
    return found


def _postings(counted: Mapping[str, TermCounts], settings: Bm25Settings) -> Postings:
    average = sum(terms.length for terms in counted.values()) / max(1, len(counted))
    postings = Postings()
    for doc_id, terms in counted.items():
        weights = document_weights(terms, settings, average)
        postings.put(doc_id, weights.ids, weights.values)
    return postings
