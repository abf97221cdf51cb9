"""A checked corpus on its way into the index, held on disk so that its size does not matter.

Everything is read and checked once before anything is written: so one bad line stops a run early,
duplicates are found, and the average length that BM25 needs is known. SQLite's nameless database
lives in memory while small, spills to a temporary file, and vanishes with the process.
"""

import hashlib
import json
import sqlite3
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

from funnel.indexing.corpus import BadRow, Corpus, Row, document_from
from funnel.indexing.filters import MAX_FIELDS, kinds_in
from funnel.indexing.terms import Analyzer, TermCounts, count_terms
from funnel.types import Document

MAX_PROBLEMS = 10_000  # of which the text is kept
_SCHEMA = (
    "CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT UNIQUE, place TEXT, "
    "body TEXT, text_hash TEXT, hash TEXT, length INTEGER, terms BLOB)"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked document with its hashes and terms.

    ``text_hash`` covers title and text, which the vectors are made of; ``hash`` the metadata too.
    """

    document: Document
    text_hash: str
    hash: str
    terms: TermCounts


def full_text(document: Document) -> str:
    """What vectors and terms are made of: title and text, as BEIR joins them."""
    return f"{document.title} {document.text}".strip()


class Windows:
    """Documents, some at a time; true while there are more."""

    def __init__(self, windows: Iterator[list[Prepared]]) -> None:
        self._windows = windows
        self._next = next(windows, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Prepared]:
        if self._next is None:
            raise StopIteration
        taken, self._next = self._next, next(self._windows, None)
        return taken


class Spool:
    """Checked documents in their order, without repeats.

    ``bad_rows`` were left out, ``problems`` says of the first ones why. ``fields`` is which
    metadata there is. May be closed while another thread fills it, as by a cancelled caller.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer
        self._base = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._base.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA}")
        self._lock = threading.Lock()  # a base that is closed while it is used ends the process
        self._closed = False
        self.problems: list[str] = []
        self.bad_rows = 0
        self.rows_read = 0
        self.repeats = 0
        self.documents = 0
        self.total_length = 0
        self.fields: dict[str, set[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            self._base.close()

    @property
    def average_length(self) -> float:
        """Mean number of terms; 1 when there are none."""
        return max(1.0, self.total_length / self.documents) if self.documents else 1.0

    def fill(self, corpus: Corpus, *, on_row: Callable[[], None] = lambda: None) -> None:
        """Read and check a whole corpus; bad rows become ``problems``. Ends early once closed."""
        for row in corpus.rows:
            with self._lock:
                if self._closed:
                    return
                self._take(row)
                on_row()

    def _take(self, row: Row) -> None:
        self.rows_read += 1
        try:
            self._add(row)
        except BadRow as problem:
            self.bad_rows += 1
            if len(self.problems) < MAX_PROBLEMS:
                self.problems.append(f"{row.place}: {problem}")

    def windows(self, size: int) -> Windows:
        """The documents in their order, ``size`` at a time."""
        return Windows(self._windows(size))

    def _windows(self, size: int) -> Iterator[list[Prepared]]:
        last = 0
        while True:
            found = self._base.execute(
                "SELECT number, body, text_hash, hash, length, terms FROM documents "
                "WHERE number > ? ORDER BY number LIMIT ?",
                (last, size),
            ).fetchall()
            if not found:
                return
            last = found[-1][0]
            yield [_prepared(*columns) for _, *columns in found]

    def holds(self, doc_id: str) -> bool:
        """Whether the corpus has a document of that id."""
        found = self._base.execute("SELECT 1 FROM documents WHERE id = ?", (doc_id,))
        return found.fetchone() is not None

    def _add(self, row: Row) -> None:
        if row.content is None:
            raise BadRow(row.problem)
        document = document_from(row.content)
        metadata = _canonical(document.metadata)
        text_hash = _digest(document.title, document.text)
        whole_hash = _digest(text_hash, metadata)
        if not self._is_new(document.id, whole_hash):
            return
        terms = count_terms(self._analyzer.terms(full_text(document)))
        body = json.dumps([document.id, document.title, document.text, metadata])
        values = (document.id, row.place, body, text_hash, whole_hash, terms.length, _packed(terms))
        self._base.execute(
            "INSERT INTO documents (id, place, body, text_hash, hash, length, terms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        self.documents += 1
        self.total_length += terms.length
        self._note_fields(document)

    def _is_new(self, doc_id: str, whole_hash: str) -> bool:
        query = "SELECT hash, place FROM documents WHERE id = ?"
        known = self._base.execute(query, (doc_id,)).fetchone()
        if known is None:
            return True
        if known[0] != whole_hash:
            raise BadRow(f"id {doc_id!r:.80} repeats {known[1]} with other content")
        self.repeats += 1
        return False

    def _note_fields(self, document: Document) -> None:
        for field, kind in kinds_in(document.metadata):
            if field in self.fields or len(self.fields) < MAX_FIELDS:
                self.fields.setdefault(field, set()).add(kind)


def _prepared(body: str, text_hash: str, whole_hash: str, length: int, packed: bytes) -> Prepared:
    doc_id, title, text, metadata = json.loads(body)
    document = Document(doc_id, text, title, json.loads(metadata))
    return Prepared(document, text_hash, whole_hash, _unpacked(packed, length))


def _packed(terms: TermCounts) -> bytes:
    return array("I", terms.ids).tobytes() + array("I", terms.counts).tobytes()


def _unpacked(packed: bytes, length: int) -> TermCounts:
    both = array("I", packed).tolist()
    half = len(both) // 2
    return TermCounts(both[:half], both[half:], length)


def _canonical(metadata: object) -> str:
    return json.dumps(metadata, sort_keys=True, separators=(",", ":"))


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
