"""What searching and writing an index return."""

from dataclasses import dataclass

from funnel.types import Document


@dataclass(frozen=True, slots=True)
class Found:
    """A document and its score in one source."""

    document: Document
    score: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What each source found, best first; equal scores in the order of ids.

    A source that was not asked is empty. ``terms`` is how many terms the BM25 query had.
    """

    dense: tuple[Found, ...] = ()
    bm25: tuple[Found, ...] = ()
    terms: int = 0


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What an upsert or a rebuild did.

    ``new``, ``replaced`` and ``metadata_only`` documents were written (the last without embedding
    them again), ``unchanged`` ones were not. ``repeats`` are exact duplicates within the corpus.
    ``bad_rows`` were left out; ``problems`` names the first 10,000 of them (``"line 17: …"``).
    """

    collection: str
    rows: int
    new: int
    replaced: int
    metadata_only: int
    unchanged: int
    repeats: int
    problems: tuple[str, ...]
    documents: int
    seconds: float
    rebuilt: bool = False
    bad_rows: int = 0

    @property
    def written(self) -> int:
        """Documents stored in another form than before."""
        return self.new + self.replaced + self.metadata_only

    @property
    def changed(self) -> bool:
        """Whether answers may differ from before."""
        return self.rebuilt or self.written > 0

    @property
    def documents_per_s(self) -> float:
        """Documents written in a second of the whole run, reading and checking included."""
        return self.written / self.seconds if self.seconds else 0.0
