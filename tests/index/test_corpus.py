"""Reading corpora: what is accepted, and what is said of what is not."""

import gzip
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.errors import ConfigError, CorpusError, InputError
from funnel.index import DocumentIndex
from funnel.indexing.corpus import BadRow, document_from, given_corpus, read_corpus
from funnel.indexing.spool import Spool
from funnel.indexing.terms import Analyzer, Bm25Settings
from funnel.types import Document


def spooled(corpus: Any) -> tuple[list[Document], list[str]]:
    with Spool(Analyzer(Bm25Settings())) as spool:
        spool.fill(corpus)
        documents = [item.document for window in spool.windows(7) for item in window]
        return documents, spool.problems


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_beir_folder_is_read(tmp_path: Path) -> None:
    """``_id``, title, text and metadata of corpus.jsonl, in order."""
    written(
        tmp_path / "corpus.jsonl",
        '{"_id": "a", "title": "T", "text": "one", "metadata": {"y": 1}}\n\n'
        '{"_id": 7, "text": "two"}\n',
    )
    documents, problems = spooled(read_corpus(tmp_path))
    assert documents == [Document("a", "one", "T", {"y": 1}), Document("7", "two")]
    assert problems == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "x", "text": "y"', "broken JSON at column"),
        ("[1, 2]", "got a JSON list, expected an object"),
        ('{"text": "y"}', "no 'id' (or '_id')"),
        ('{"id": "x"}', "no 'text'"),
        ('{"id": "x", "title": "only a title"}', "no 'text'"),
        ('{"id": "x", "text": "  "}', "no 'text'"),
        ('{"id": "x", "text": null}', "'text' is null"),
        ('{"id": "x", "text": 5}', "'text' is a int, expected a text"),
        ('{"id": "x", "text": ["y"]}', "'text' is a list, expected a text"),
        ('{"id": 1.5, "text": "y"}', "'id' is a float, expected"),
        ('{"id": true, "text": "y"}', "'id' is a bool, expected"),
        ('{"id": " ", "text": "y"}', "'id' is ' ', expected 1 to 512 printable"),
        ('{"id": "a", "_id": "b", "text": "y"}', "'id' is 'a' but '_id' is 'b'"),
        ('{"id": "x", "text": "y", "metadata": [1]}', "'metadata' is a list, expected an object"),
        ('{"id": "x", "text": "y", "metadata": {"a": NaN}}', "NaN is no JSON number"),
        ('{"id": "x", "text": "y", "a": 1, "metadata": {"a": 2}}', "'a' stands both beside"),
        ('{"id": "good", "text": "another"}', "id 'good' repeats line 1 with other content"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, problem: str) -> None:
    """The line number counts blank lines too, and the good lines around it are read."""
    content = f'{{"id": "good", "text": "one"}}\n\n{line}\n{{"id": "last", "text": "two"}}\n'
    documents, problems = spooled(read_corpus(written(tmp_path / "c.jsonl", content)))
    assert [document.id for document in documents] == ["good", "last"]
    assert len(problems) == 1
    assert problems[0].startswith("line 3: ")
    assert problem in problems[0]


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    """A Latin-1 file is no reason for a traceback."""
    path = written(tmp_path / "c.jsonl", '{"id": "x", "text": "café"}'.encode("latin-1"))
    assert spooled(read_corpus(path)) == ([], ["line 1: not UTF-8 (byte 25 of the line)"])


def test_deeply_nested_json_is_a_bad_line(tmp_path: Path) -> None:
    """A hostile line does not end the run."""
    path = written(tmp_path / "c.jsonl", '{"id": "x", "text": ' + "[" * 100_000 + "\n")
    assert len(spooled(read_corpus(path))[1]) == 1


def test_byte_order_marks_gzip_and_a_missing_last_newline_are_fine(tmp_path: Path) -> None:
    """Files come as they come."""
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"id": "x", "text": "y"}'))
    assert spooled(read_corpus(path)) == ([Document("x", "y")], [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (gzip.compress(b'{"id": "x", "text": "y"}\n' * 3, 0)[:-9], "end too early, after line 2"),
        (b'{"id": "x", "text": "y"}\n', r"cannot be unpacked at its start \(Not a gzipped file"),
        (gzip.compress(b"")[:10] + b"\xff" * 20, "cannot be unpacked at its start"),
    ],
    ids=["cut off", "not packed", "damaged"],
)
def test_an_archive_that_cannot_be_read_to_its_end_is_an_input_error(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    """Cut off, not packed at all, or damaged: file and place are named."""
    path = written(tmp_path / "c.jsonl.gz", content)
    with pytest.raises(InputError, match=rf"c\.jsonl\.gz: .*{problem}"):
        spooled(read_corpus(path))


def test_a_number_of_thousands_of_digits_is_a_bad_line(tmp_path: Path) -> None:
    """Python refuses to read it, with an error of its own."""
    path = written(tmp_path / "c.jsonl", f'{{"id": "x", "text": "y", "n": {"1" * 5000}}}')
    (problem,) = spooled(read_corpus(path))[1]
    assert problem.startswith("line 1: broken JSON")


def test_csv_columns_become_metadata(tmp_path: Path) -> None:
    """Quoted line breaks hold; plain numbers become numbers, codes stay text; blanks are absent."""
    content = (
        "id,title,text,year,zip,score,note,card,,\n"
        'x,"A, B","two\nlines",1999,01234,2.5,,12345678901234567890123,,\n'
    )
    documents, problems = spooled(read_corpus(written(tmp_path / "c.csv", content)))
    metadata = {"year": 1999, "zip": "01234", "score": 2.5, "card": "12345678901234567890123"}
    assert (documents, problems) == ([Document("x", "two\nlines", "A, B", metadata)], [])


def test_zeros_after_the_last_decimal_do_not_make_a_text(tmp_path: Path) -> None:
    """A range over prices finds 9.50 beside 9.75; what a number would lose stays text."""
    cells = ["9.50", "9.75", "10.00", "-0.10", "100", "0.12345678901234567890", "007.50", "n/a"]
    lines = "".join(f"{place},x,{cell}\n" for place, cell in enumerate(cells))
    documents, _ = spooled(read_corpus(written(tmp_path / "c.csv", f"id,text,n\n{lines}")))
    assert [document.metadata["n"] for document in documents] == [
        *(9.5, 9.75, 10.0, -0.1, 100),
        *("0.12345678901234567890", "007.50", "n/a"),
    ]


@pytest.mark.parametrize(
    "cells",
    [
        ["02139", "94105"],
        ["1.10", "1.1", "1.2.0"],
        ["12345678901234567890123", "4111111111111111", ""],
        ["7", "A7", "007"],
    ],
)
def test_a_column_that_holds_a_code_holds_codes(tmp_path: Path, cells: list[str]) -> None:
    """Or a filter on one zip code would be for a text, on the next for a number."""
    lines = "".join(f"{place},x,{cell},{place}.50\n" for place, cell in enumerate(cells))
    content = f"id,text,code,price\nbad\n{lines}"
    documents, problems = spooled(read_corpus(written(tmp_path / "c.csv", content)))
    assert [document.metadata.get("code", "") for document in documents] == cells
    assert [document.metadata["price"] for document in documents] == [
        place + 0.5 for place in range(len(cells))
    ]
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("ID,Text\nx,y\n", "no 'text'; got 'ID', 'Text'"),
        ("id;text\nx;y\n", "no 'text'; got 'id;text'"),
        ("text\ny\n", r"no 'id' (or '_id'); got 'text'"),
    ],
)
def test_what_a_table_has_instead_is_named(tmp_path: Path, content: str, problem: str) -> None:
    """Other letters, other separators: the mend can be seen."""
    assert problem in spooled(read_corpus(written(tmp_path / "c.csv", content)))[1][0]


def test_a_table_of_another_encoding_is_told_by_its_header(tmp_path: Path) -> None:
    """As a spreadsheet writes "Unicode text"."""
    path = written(tmp_path / "c.csv", "id,text\n1,hi\n".encode("utf-16"))
    with pytest.raises(InputError, match="the header is not UTF-8"):
        spooled(read_corpus(path))


@pytest.mark.parametrize("header", ["id,text,text", "id,text,lang,lang"])
def test_a_column_named_twice_is_refused(tmp_path: Path, header: str) -> None:
    """One of the two would be lost."""
    with pytest.raises(InputError, match="c.csv: the header names '(text|lang)' more than once"):
        spooled(read_corpus(written(tmp_path / "c.csv", f"{header}\n1,2,3,4\n")))


def test_tsv_is_read_too(tmp_path: Path) -> None:
    """Tabs separate, commas do not."""
    path = written(tmp_path / "c.tsv", "id\ttext\nx\ta, b\n")
    assert spooled(read_corpus(path))[0] == [Document("x", "a, b")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("x,y,z,w", "more fields than the header has"),
        ("x", "fewer fields than the header has"),
        (",y", "no 'id'"),
        ("x,y\rz", "broken CSV"),
        ("x,", "no 'text'"),
    ],
)
def test_a_bad_csv_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    """Line numbers are the file's."""
    documents, problems = spooled(
        read_corpus(written(tmp_path / "c.csv", f"id,text\na,b\n{line}\nc,d\n"))
    )
    assert [document.id for document in documents] == ["a", "c"]
    assert len(problems) == 1
    assert problems[0].startswith("line 3: ")
    assert problem in problems[0]


def test_all_lines_that_an_open_quote_takes_in_are_named(tmp_path: Path) -> None:
    """With ``skip`` they are left out together, which one line's number would hide."""
    rows = ["id\ttext", "a\tone", 'b\t"never closed', "c\ttwo", 'd\ta 5" disk', 'e\t"f"g', "h\ti"]
    documents, problems = spooled(read_corpus(written(tmp_path / "c.tsv", "\n".join(rows))))
    assert [document.id for document in documents] == ["a", "h"]
    assert [problem.partition(": ")[0] for problem in problems] == ["lines 3 to 5", "line 6"]
    assert "want of a closing quote" in problems[0]


@pytest.mark.parametrize("name", ["missing.jsonl", "folder", "c.parquet"])
def test_what_cannot_be_read_is_a_config_error(tmp_path: Path, name: str) -> None:
    """A wrong path or kind is said before anything starts."""
    (tmp_path / "folder").mkdir()
    written(tmp_path / "c.parquet", "x")
    with pytest.raises(ConfigError, match=name):
        read_corpus(tmp_path / name)


def test_unknown_keys_join_the_metadata() -> None:
    """Nothing a caller hands over is dropped in silence."""
    document = document_from(
        {"id": 1, "text": "y", "lang": "en", "metadata": {"at": date(2026, 1, 2)}}
    )
    assert document == Document("1", "y", "", {"at": "2026-01-02", "lang": "en"})


def test_an_empty_text_with_a_title_is_a_document() -> None:
    """BEIR has many: the title is what can be found."""
    assert document_from({"id": "x", "title": "T", "text": ""}).title == "T"


def test_what_utf8_cannot_carry_is_replaced() -> None:
    """Lone surrogates and NUL never reach a server."""
    assert document_from({"id": "x", "text": "a\ud800b\0c"}).text == "a?b c"


def test_texts_beyond_the_limit_are_refused_with_the_mend() -> None:
    """A whole book is no document."""
    with pytest.raises(BadRow, match="split it into passages"):
        document_from({"id": "x", "text": "x" * 2_000_001})


def test_metadata_nested_without_measure_is_refused() -> None:
    """It would be written, and fail every query that finds it."""

    def nested(levels: int) -> dict[str, object]:
        inner: dict[str, object] = {}
        for level in range(levels - 1):
            inner = {"a": [inner]} if level % 2 else {"a": inner}
        return inner

    assert document_from({"id": "x", "text": "y", "metadata": nested(20)})
    with pytest.raises(BadRow, match="nested more than 32 levels"):
        document_from({"id": "x", "text": "y", "metadata": nested(40)})


def test_metadata_that_is_not_json_is_refused() -> None:
    """An object, NaN or a cycle cannot be stored."""
    loop: dict[str, Any] = {}
    loop["self"] = loop
    for metadata in ({"a": object()}, {"a": float("nan")}, loop):
        with pytest.raises(BadRow, match="not JSON"):
            document_from({"id": "x", "text": "y", "metadata": metadata})


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_numbers_beyond_64_bits_are_refused(number: int) -> None:
    """A server would round them, no filter find them, and no cache keep answers with them."""
    for metadata in ({"n": number}, {"n": [{"n": number}]}):
        with pytest.raises(BadRow, match=rf"{number}, a number beyond 64 bits; make it a text"):
            document_from({"id": "x", "text": "y", "metadata": metadata})


@pytest.mark.parametrize(
    "documents", [None, 7, "corpus.jsonl", Path("c"), {"id": "a", "text": "b"}, Document("a", "b")]
)
def test_what_is_no_iterable_of_documents_is_refused(documents: Any) -> None:
    """Such as a path, or one document: told once, with the mend."""
    with pytest.raises(InputError, match=r"(?s)documents: got .*read_corpus\(path\)"):
        given_corpus(documents)
    assert spooled(given_corpus([None]))[1][0].startswith("item 1: got None, expected")  # type: ignore[list-item]


def test_exact_repeats_count_once_and_are_no_problem() -> None:
    """A corpus that lists a document twice is fine; two versions of it are not."""
    row = {"id": "x", "text": "y", "metadata": {"a": 1, "b": 2}}
    again = {"metadata": {"b": 2, "a": 1}, "text": "y", "id": "x"}
    with Spool(Analyzer(Bm25Settings())) as spool:
        spool.fill(given_corpus([row, again, {**row, "metadata": {}}]))
        assert (spool.documents, spool.repeats) == (1, 1)
        assert spool.problems == ["item 3: id 'x' repeats item 1 with other content"]


def test_a_spool_may_be_closed_while_it_is_filled() -> None:
    """As by a cancelled caller, whose thread reads on: it ends at the next row."""
    read, closed = threading.Event(), threading.Event()

    def rows() -> Iterator[dict[str, str]]:
        yield {"id": "x", "text": "y"}
        read.set()
        closed.wait(10)
        yield {"id": "z", "text": "y"}
        raise AssertionError("read on")

    with ThreadPoolExecutor(1) as pool:
        with Spool(Analyzer(Bm25Settings())) as spool:
            filling = pool.submit(spool.fill, given_corpus(rows()))
            assert read.wait(10)
        closed.set()
        filling.result(10)
    assert spool.rows_read == 1


async def test_bad_rows_are_counted_beyond_those_that_are_named(
    memory: DocumentIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the error, its message, and the report."""
    monkeypatch.setattr("funnel.indexing.spool.MAX_PROBLEMS", 12)
    rows = [{"id": "good", "text": "fox"}, *({"id": f"b{n}"} for n in range(1_500))]
    with pytest.raises(CorpusError, match=r"(?s)1,500 bad line.*and 1,490 more") as caught:
        await memory.upsert(rows)
    assert (caught.value.bad, len(caught.value.problems)) == (1_500, 12)
    report = await memory.upsert(rows, on_bad="skip")
    assert (report.bad_rows, len(report.problems)) == (1_500, 12)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["id", "_id", "text", "title", "metadata", "x"]), json_values)
)
def test_any_mapping_is_a_document_or_a_named_problem(content: dict[str, Any]) -> None:
    """Whatever comes in, the outcome is a document that JSON and UTF-8 carry, or a BadRow."""
    try:
        document = document_from(content)
    except BadRow as problem:
        assert str(problem)
        return
    json.dumps([document.id, document.text, document.title, document.metadata]).encode()
    assert (document.title + document.text).strip()
