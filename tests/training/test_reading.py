"""Training files: formats, names of columns, and bad lines with their numbers."""

import gzip
from pathlib import Path

import pytest

from funnel.cli.train_inputs import read_pairs
from funnel.errors import ConfigError, ExamplesError, InputError
from funnel.training import read_rows
from funnel.training.records import case, labelled_pair, triple, unlabelled_pair

GOOD = '{"query": "a", "document": "b", "label": 1}\n'


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"question1": "how", "question2": "what", "is_duplicate": 1}\n'),
        ("a.csv", "query,document,label\nhow,what,1\n"),
        ("b.csv", "query,document,label\nhow,what,True\n"),
        ("a.tsv", "sentence1\tsentence2\tscore\nhow\twhat\t1.0\n"),
    ],
)
def test_three_formats_and_their_usual_column_names(
    tmp_path: Path, name: str, content: str
) -> None:
    """JSONL, CSV and TSV give the same row."""
    (row,) = read_rows(write(tmp_path, name, content), labelled_pair)
    assert (row.query, row.document, row.score) == ("how", "what", 1.0)


def test_who_learns_scores_reads_the_score_beside_a_label(tmp_path: Path) -> None:
    """A judged file that a teacher has scored serves both; a label alone is a score, too."""
    path = write(tmp_path, "a.jsonl", '{"query": "a", "text": "b", "label": 1, "score": 0.25}\n')
    assert [row.score for row in read_pairs(str(path), "fail", soft=True)] == [0.25]
    assert [row.score for row in read_pairs(str(path), "fail")] == [1.0]
    path = write(tmp_path, "b.jsonl", '{"query": "a", "text": "b", "label": 0.5}\n')
    assert [row.score for row in read_pairs(str(path), "fail", soft=True)] == [0.5]


def test_a_triple_is_no_pair_for_a_teacher(tmp_path: Path) -> None:
    """Its positive could be read as the document, and its negative would be lost without a word."""
    line = '{"query": "a", "positive": "b", "negative": "c"}\n'
    with pytest.raises(ExamplesError, match="line 1: 'negative': got a triple.*margin_mse"):
        read_rows(write(tmp_path, "triples.jsonl", line), unlabelled_pair)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"query": "a", "document": "b"', "line 2: broken JSON at column 31:"),
        (b'{"query": "caf\xe9", "document": "b", "label": 1}', "line 2: not UTF-8"),
        (b'{"query": " ", "document": "b", "label": 1}', "line 2: 'query' is empty"),
        (b'{"query": "a", "label": 1}', "line 2: no 'document'"),
        (b'{"query": "a", "document": "b", "label": "yes"}', "line 2: 'label' is 'yes'"),
        (b'{"query": "a", "document": "b", "label": null}', "line 2: 'label' is None"),
        (b'{"query": "a", "document": "b", "label": NaN}', "line 2: broken JSON"),
        (b'{"query": ["a"], "document": "b", "label": 1}', "line 2: 'query' is \\['a'\\]"),
        (b"[1, 2]", "line 2: got a JSON list"),
        (b'{"query": "a", "document": "b", "label": " "}', "line 2: 'label' is empty"),
        (b'{"query": "a", "document": "b", "label": 1%b}' % (b"0" * 400), "a finite number"),
        (b'{"query": "a", "document": "b", "label": 1%b}' % (b"0" * 5000), "line 2: broken JSON"),
        (b'{"query": "a", "document": "b", "label": "-inf"}', "'label' is '-inf', expected a fin"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: bytes, problem: str) -> None:
    """Broken JSON, wrong encoding, empty or missing texts, labels that are no numbers."""
    path = write(tmp_path, "a.jsonl", GOOD.encode() + line + b"\n" + GOOD.encode())
    with pytest.raises(ExamplesError, match=problem):
        read_rows(path, labelled_pair)
    assert len(read_rows(path, labelled_pair, on_bad_line="skip")) == 2


@pytest.mark.parametrize(
    ("header", "line", "problem"),
    [
        ("query,document,label", ",b,1", "line 2: 'query' is empty"),
        ("query,document,label,text", "a,,1,another", "line 2: 'document' is empty"),
        ("query,document,label,score", "a,b,,0.5", "line 2: 'label' is empty"),
    ],
)
def test_an_empty_cell_is_empty_and_no_other_column_stands_in(
    tmp_path: Path, header: str, line: str, problem: str
) -> None:
    """The column is there: what is missing is its value."""
    with pytest.raises(ExamplesError, match=problem):
        read_rows(write(tmp_path, "a.csv", f"{header}\n{line}\n"), labelled_pair)


def test_empty_cells_of_what_may_be_missing_are_fine(tmp_path: Path) -> None:
    """No topic, no scores."""
    header = "query,positive,negative,positive_score,negative_score,topic"
    (row,) = read_rows(write(tmp_path, "a.csv", f"{header}\nq,p,n,,,\n"), triple)
    assert (row.positive_score, row.topic) == (None, "")


def test_a_damaged_archive_is_named_with_the_place(tmp_path: Path) -> None:
    """Half a file trains no model, not even with bad lines skipped."""
    whole = gzip.compress((GOOD * 3).encode(), compresslevel=0)
    path = write(tmp_path, "a.jsonl.gz", whole[:-20])
    with pytest.raises(
        InputError, match=r"a\.jsonl\.gz: the gzip data end too early, after line 2"
    ):
        read_rows(path, labelled_pair, on_bad_line="skip")
    path = write(tmp_path, "b.csv.gz", "query,document,label\na,b,1\n")
    with pytest.raises(InputError, match=r"b\.csv\.gz: cannot be unpacked at its start"):
        read_rows(path, labelled_pair)


def test_rows_remember_their_place(tmp_path: Path) -> None:
    """So that later checks can name the line too."""
    rows = read_rows(write(tmp_path, "a.jsonl", GOOD + "\n" + GOOD), labelled_pair)
    assert [row.place for row in rows] == ["line 1", "line 3"]


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    """An empty file is not an empty training set."""
    with pytest.raises(InputError, match="no usable row"):
        read_rows(write(tmp_path, "a.jsonl", ""), labelled_pair)


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(ConfigError, match=r"nothing\.jsonl"):
        read_rows(tmp_path / "nothing.jsonl", labelled_pair)


def test_triples_carry_both_scores_or_none(tmp_path: Path) -> None:
    """Half a margin is no margin."""
    line = '{"query": "q", "positive": "p", "negative": "n", "positive_score": 0.9}\n'
    with pytest.raises(ExamplesError, match="give both"):
        read_rows(write(tmp_path, "a.jsonl", line), triple)


def test_cases_read_their_flag_from_text_and_json(tmp_path: Path) -> None:
    """CSV says true, JSON says true; anything else is refused."""
    text = "query,relevant,distractor,topic,seen\nq,r,d,law,true\nq,r,d,law,no\nq,r,d,law,\n"
    rows = read_rows(write(tmp_path, "a.csv", text), case)
    assert [row.seen for row in rows] == [True, False, None]
    with pytest.raises(ExamplesError, match="'seen' is 'maybe'"):
        read_rows(write(tmp_path, "b.csv", text.replace("true", "maybe")), case)


def test_a_case_needs_two_different_texts(tmp_path: Path) -> None:
    """Nothing outscores itself."""
    path = write(tmp_path, "a.jsonl", '{"query": "q", "relevant": "x", "distractor": "x"}\n')
    with pytest.raises(ExamplesError, match="line 1: relevant and distractor are the same"):
        read_rows(path, case)
