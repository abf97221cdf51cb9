"""TREC runs: what is written is read back by trec_eval's rules."""

from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funnel.errors import InputError
from funnel.evaluation.metrics import per_query
from funnel.evaluation.trec import read_run, write_run

IDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6)
RANKINGS = st.dictionaries(
    IDS, st.lists(IDS, min_size=1, max_size=30, unique=True), min_size=1, max_size=4
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RANKINGS)
def test_a_run_reads_back_in_its_order(tmp_path: Path, rankings: dict[str, list[str]]) -> None:
    """Written ranks survive trec_eval's habit of sorting by score."""
    path = tmp_path / "a.run"
    write_run(path, rankings, "tag")
    assert read_run(path) == rankings


def test_trec_eval_gives_the_written_run_the_same_figures(tmp_path: Path) -> None:
    """pytrec_eval's own parser and our metrics agree on the file."""
    rankings = {"q": [f"d{n}" for n in range(200)]}
    qrels = {"q": {"d7": 2, "d150": 1, "gone": 1}}
    write_run(tmp_path / "a.run", rankings, "tag")
    with (tmp_path / "a.run").open() as stream:
        run = pytrec_eval.parse_run(stream)
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map"}).evaluate(run)["q"]
    assert per_query("ndcg@10", rankings, qrels)["q"] == pytest.approx(theirs["ndcg_cut_10"])
    assert per_query("map", rankings, qrels)["q"] == pytest.approx(theirs["map"])


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path: Path) -> None:
    """Files come as they come."""
    (tmp_path / "a.run").write_text("q Q0 a 1 2.0 t\n", encoding="utf-8-sig")
    assert read_run(tmp_path / "a.run") == {"q": ["a"]}


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    """Line number, what is wrong and the form that is expected."""
    path = tmp_path / "bad.run"
    path.write_text("q Q0 a 1 2.0 t\nq Q0 b 2\n\nq Q0 c 3 high t\nq Q0 a 4 1 t\nq Q0 d 5 nan t\n")
    with pytest.raises(InputError) as caught:
        read_run(path)
    message = str(caught.value)
    assert "4 bad line(s)" in message
    for said in ("line 2: got 4 fields", "line 4", "'high'", "line 5", "again", "line 6"):
        assert said in message


def test_an_unreadable_file_is_an_input_error(tmp_path: Path) -> None:
    """Missing files and other encodings do not surface as their own errors."""
    (tmp_path / "latin.run").write_bytes(b"q Q0 \xe9 1 1 t\n")
    for name in ("missing.run", "latin.run"):
        with pytest.raises(InputError, match=name):
            read_run(tmp_path / name)


def test_ids_with_white_space_are_refused(tmp_path: Path) -> None:
    """The format cannot carry them, so nothing wrong is written."""
    with pytest.raises(InputError, match="white space"):
        write_run(tmp_path / "a.run", {"q": ["two words"]}, "tag")
    assert not (tmp_path / "a.run").exists()
