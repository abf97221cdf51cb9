"""BEIR folders: what is read, and what is said of broken ones."""

import json
from pathlib import Path

import pytest

from funnel.errors import ConfigError, InputError
from funnel.evaluation.beir import load_beir, read_queries
from tests.evaluation.folders import CORPUS, beir_folder, packed

FILES = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")


def test_judged_queries_are_loaded(tmp_path: Path) -> None:
    """Texts and grades of judged queries, in file order; the others are counted."""
    dataset = load_beir(beir_folder(tmp_path / "tiny"))
    assert (dataset.name, dataset.split, dataset.unjudged) == ("tiny", "test", 1)
    assert next(iter(dataset.queries.items())) == ("q1", "red apples")
    assert dataset.qrels["q1"] == {"d1": 2, "d2": 1}
    assert len(list(dataset.corpus().rows)) == 5
    assert list(dataset.first(2).qrels) == ["q1", "q2"]


def test_all_queries_are_read_without_their_judgements(tmp_path: Path) -> None:
    """Packed, too, and those that nobody judged."""
    folder = packed(beir_folder(tmp_path / "tiny"), "queries.jsonl")
    (folder / "qrels" / "test.tsv").unlink()
    assert list(read_queries(folder)) == ["q1", "q2", "q3", "unjudged"]


def test_fingerprint_follows_the_corpus(tmp_path: Path) -> None:
    """Another corpus under the same name is another collection."""
    first = load_beir(beir_folder(tmp_path / "a")).fingerprint
    assert load_beir(beir_folder(tmp_path / "b")).fingerprint == first
    assert load_beir(beir_folder(tmp_path / "a", CORPUS[:4])).fingerprint != first


def test_windows_line_ends_a_mark_and_no_header_are_fine(tmp_path: Path) -> None:
    """Files from other tools read the same."""
    folder = beir_folder(tmp_path / "a")
    (folder / "qrels" / "test.tsv").write_bytes("\ufeffq1\td1\t2\r\nq1\td2\t1\r\n\r\n".encode())
    assert load_beir(folder).qrels == {"q1": {"d1": 2, "d2": 1}}


def test_grades_as_decimals_and_a_header_in_other_letters_are_fine(tmp_path: Path) -> None:
    """As tools write them that read the file as a table of numbers."""
    folder = beir_folder(tmp_path / "a")
    (folder / "qrels" / "test.tsv").write_text("Query-ID\tCorpus-ID\tScore\nq1\td1\t2.0\n")
    assert load_beir(folder).qrels == {"q1": {"d1": 2}}


@pytest.mark.parametrize("gone", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(tmp_path: Path, gone: str) -> None:
    """Each of the three files is missed by its name."""
    folder = beir_folder(tmp_path / "a")
    (folder / gone).unlink()
    with pytest.raises(ConfigError, match=gone):
        load_beir(folder)


@pytest.mark.parametrize("names", [FILES, *((name,) for name in FILES)])
def test_packed_files_are_the_same_dataset(tmp_path: Path, names: tuple[str, ...]) -> None:
    """As BEIR publishes some; also of one corpus, packed or not, there is one collection."""
    folder = beir_folder(tmp_path / "a")
    plain, documents = load_beir(folder), list(load_beir(folder).corpus().rows)
    dataset = load_beir(packed(folder, *names))
    assert dataset == plain
    assert list(dataset.corpus().rows) == documents


def test_a_packed_split_is_found_by_its_name(tmp_path: Path) -> None:
    """It is listed without its endings."""
    folder = packed(beir_folder(tmp_path / "a"), "qrels/test.tsv")
    with pytest.raises(ConfigError, match=r"dev\.tsv; splits found: test$"):
        load_beir(folder, "dev")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("cut", "says"), [(slice(0, -9), "end too early"), (slice(5, None), "cannot be unpacked")]
)
def test_a_broken_gzip_is_named(tmp_path: Path, name: str, cut: slice, says: str) -> None:
    """Whichever file it is, cut off or no gzip at all."""
    file = packed(beir_folder(tmp_path / "a"), name) / f"{name}.gz"
    file.write_bytes(file.read_bytes()[cut])
    with pytest.raises(InputError, match=says) as caught:
        load_beir(tmp_path / "a")
    assert str(file) in str(caught.value)


def test_a_missing_split_says_which_there_are(tmp_path: Path) -> None:
    """The message lists the splits found; a missing folder says what is expected."""
    with pytest.raises(ConfigError, match=r"dev\.tsv; splits found: test"):
        load_beir(beir_folder(tmp_path / "a"), "dev")
    with pytest.raises(ConfigError, match="no such folder"):
        load_beir(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q1 d1 1", "got 1 tab-separated fields"),
        ("q1\t0\td1\t1", "got 4 tab-separated fields"),
        ("nobody\td1\t1", "'nobody' is not in queries.jsonl"),
        ("q1\td3\thigh", "grade 'high'"),
        ("q1\td3\t0.5", "grade '0.5', expected a whole number"),
        ("q1\td1\t0", "again, with 0 instead of 2"),
    ],
)
def test_bad_judgements_are_named_by_line(tmp_path: Path, line: str, says: str) -> None:
    """A wrong line of the qrels carries its number and what is wrong."""
    folder = beir_folder(tmp_path / "a")
    with (folder / "qrels" / "test.tsv").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=says) as caught:
        load_beir(folder)
    assert "test.tsv" in str(caught.value)
    assert "line 7" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"_id": "x", "text": ', "broken JSON"),
        ('["x"]', "expected an object"),
        ('{"text": "no id"}', "'_id'"),
        ('{"_id": "x", "text": " "}', "at least one character"),
        ('{"_id": "x"}', "expected a string"),
        ('{"_id": "q1", "text": "other"}', "again"),
    ],
)
def test_bad_queries_are_named_by_line(tmp_path: Path, line: str, says: str) -> None:
    """A wrong line of the queries carries its number and what is wrong."""
    folder = beir_folder(tmp_path / "a")
    with (folder / "queries.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=says) as caught:
        load_beir(folder)
    assert "line 5" in str(caught.value)


def test_all_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    """Ten are shown, the others counted."""
    folder = beir_folder(tmp_path / "a")
    (folder / "qrels" / "test.tsv").write_text("x\n" * 25)
    with pytest.raises(InputError, match=r"25 bad line\(s\)[\s\S]*and 15 more"):
        load_beir(folder)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Other encodings are an error of ours, with the file's name."""
    folder = beir_folder(tmp_path / "a")
    (folder / "queries.jsonl").write_bytes(json.dumps({"_id": "q"}).encode("utf-16"))
    with pytest.raises(InputError, match=r"queries\.jsonl"):
        load_beir(folder)


def test_a_dataset_without_judgements_is_refused(tmp_path: Path) -> None:
    """There is nothing to evaluate."""
    with pytest.raises(InputError, match="judges no query"):
        load_beir(beir_folder(tmp_path / "a", qrels=[]))
