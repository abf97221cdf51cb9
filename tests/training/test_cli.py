"""``funnel train`` from the outside: files in, files and JSON out."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from funnel.cli.train import app
from funnel.errors import ConfigError, FunnelError, InputError
from funnel.training import LabelledPair

QUICK = ["--epochs", "1", "--learning-rate", "0.003", "--precision", "fp32", "--evaluations", "1"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def run_json(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


def failure(*arguments: object) -> FunnelError:
    """The error that the program's ``main`` turns into one message and an exit code."""
    problem = run(*arguments).exception
    assert isinstance(problem, FunnelError), problem
    return problem


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory, pairs: Sequence[LabelledPair]) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"query": p.query, "document": p.document, "label": p.score} for p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_cross_encoder_writes_a_model_and_tells_its_figures(
    tmp_path: Path, tiny_base: str, file: Path
) -> None:
    """Training from a file on the command line, with a report for machines."""
    output = tmp_path / "m"
    told = run_json("cross-encoder", file, "--base", tiny_base, "-o", output, *QUICK)
    assert told["rows"]["train"] + told["rows"]["dev"] == 128
    assert set(told["before"]) == set(told["after"])
    assert f"model: {output}" in told["use"]
    assert (output / "model.safetensors").is_file() and (output / "README.md").is_file()
    assert not (tmp_path / "m.checkpoints").exists()


def test_a_table_for_people(
    tmp_path: Path, tiny_base: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --json: before and after, and where to put the model, from wherever that serves."""
    monkeypatch.chdir(tmp_path)
    result = run("cross-encoder", file, "--base", tiny_base, "-o", "m", *QUICK)
    assert result.exit_code == 0, result.output
    assert "before" in result.stdout and "auc" in result.stdout
    assert f"kind: cross_encoder\n    model: {tmp_path / 'm'}\n" in result.stdout
    assert f"model: {tmp_path / 'm'}\n" in Path("m/README.md").read_text()


def test_bi_encoder_tells_the_command_that_reindexes(
    tmp_path: Path, tiny_bi: str, file: Path
) -> None:
    """The vectors in an index are the old model's."""
    told = run_json("bi-encoder", file, "--base", tiny_bi, "-o", tmp_path / "m", *QUICK)
    use, _, then = told["use"].partition("then rebuild")
    assert yaml.safe_load(use) == {"use it": None, "models": {"embedder": str(tmp_path / "m")}}
    assert "funnel index CORPUS --config YOUR.yaml --rebuild" in then


def test_a_teacher_scores_pairs_and_triples_on_the_way(
    tmp_path: Path, tiny_base: str, tiny_bi: str, file: Path
) -> None:
    """--teacher needs no scores in the data, for either loss."""
    teacher = tmp_path / "teacher"
    run_json("cross-encoder", file, "--base", tiny_base, "-o", teacher, *QUICK)
    common = ("--base", tiny_bi, "--teacher", teacher, *QUICK)
    told = run_json("bi-encoder", file, "-o", tmp_path / "a", *common)
    assert told["task"].endswith("cosine")
    mse = ("--loss", "mse", "--base", tiny_base, "--teacher", teacher, *QUICK)
    told = run_json("cross-encoder", file, "-o", tmp_path / "c", *mse)
    assert told["data"] == f"{file}, scored by {teacher}" and "spearman" in told["after"]
    triples = tmp_path / "triples.jsonl"
    rows = [
        {"query": f"find {n}", "positive": f"about alpha {n}", "negative": f"about kappa {n}"}
        for n in range(40)
    ]
    triples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = run_json("bi-encoder", triples, "--loss", "margin_mse", "-o", tmp_path / "b", *common)
    assert told["task"].endswith("margin_mse")


def test_what_cannot_work_is_refused_before_the_teacher_scores(
    tmp_path: Path, tiny_bi: str, file: Path
) -> None:
    """A teacher can take hours; this one does not even exist."""
    common = ("bi-encoder", "--base", tiny_bi, "--teacher", tmp_path / "no-such-model")
    (tmp_path / "m").mkdir()
    assert "exists already" in str(failure(*common, file, "-o", tmp_path / "m"))
    assert "nothing to resume" in str(failure(*common, file, "-o", tmp_path / "n", "--resume"))
    same = tmp_path / "same.jsonl"
    row = {"query": "find a", "positive": "about a", "negative": "about a"}
    same.write_text((json.dumps(row) + "\n") * 40)
    problem = failure(*common, same, "--loss", "margin_mse", "-o", tmp_path / "n")
    assert "two different documents" in str(problem)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(file.read_text().splitlines(keepends=True)[:10]))
    assert isinstance(failure(*common, few, "-o", tmp_path / "n"), InputError)


def test_each_kind_of_model_is_refused_where_the_other_belongs(
    tmp_path: Path, tiny_base: str, tiny_bi: str, file: Path
) -> None:
    """Cosines are no logits for a teacher or a filter, and a cross-encoder gives no vectors."""
    out, lines = ("-o", tmp_path / "m"), ("-o", tmp_path / "m.jsonl")
    for arguments in (
        ("bi-encoder", file, "--base", tiny_bi, "--teacher", tiny_bi, *out),
        ("mine", file, "--bi-encoder", "none", "--cross-encoder", tiny_bi, *lines),
    ):
        assert "is a bi-encoder" in str(failure(*arguments))
    cross = tmp_path / "cross"
    run_json("cross-encoder", file, "--base", tiny_base, "-o", cross, *QUICK)
    assert "is a cross-encoder" in str(failure("bi-encoder", file, "--base", cross, *out))
    assert not (tmp_path / "m").exists()


def test_mine_writes_what_cross_encoder_reads(tmp_path: Path, tiny_base: str, file: Path) -> None:
    """From positive pairs to a trained model in two commands."""
    output = tmp_path / "mined.jsonl"
    told = run_json("mine", file, "-o", output, "--bi-encoder", "none", "--cross-encoder", "none")
    assert told["lines"] == len(output.read_text().splitlines()) > 96
    run_json("cross-encoder", output, "--base", tiny_base, "-o", tmp_path / "m", *QUICK)
    assert isinstance(failure("mine", file, "-o", output), ConfigError)
    nowhere = failure("mine", file, "-o", file / "m", "--cross-encoder", "no-such-model")
    assert "cannot write to" in str(nowhere)
    own = failure("mine", file, "-o", file, "--overwrite")
    assert "is what is read" in str(own)
    assert "is a folder" in str(failure("mine", file, "-o", tmp_path, "--overwrite"))


def test_evaluate_compares_two_models(tmp_path: Path, tiny_bi: str) -> None:
    """Seen and unseen topics apart; a model against itself fixes and breaks nothing."""
    cases = tmp_path / "cases.csv"
    cases.write_text(
        "query,relevant,distractor,topic,seen\n"
        "find alpha,about alpha,find beta,a,true\nfind iota,about iota,find beta,b,false\n"
    )
    told = run_json("evaluate", cases, "--base", tiny_bi, "--tuned", tiny_bi)
    assert told["base"]["all"] == told["tuned"]["all"]
    assert told["base_model"] == told["tuned_model"] == tiny_bi
    assert told["tuned"]["unseen topics"]["cases"] == 1
    assert (told["fixed"], told["broken"], told["p_value"]) == ([], [], 1.0)
    result = run("evaluate", cases, "--base", tiny_bi, "--tuned", tiny_bi)
    assert "seen topics" in result.stdout


def test_evaluate_compares_with_what_the_card_names(tmp_path: Path, tiny_bi: str) -> None:
    """Fixed and broken cases are those of the training, so its own base is what counts."""
    cases, tuned = tmp_path / "cases.csv", tmp_path / "m"
    cases.write_text("query,relevant,distractor,topic,seen\nfind a,about a,find b,a,true\n")
    shutil.copytree(tiny_bi, tuned)
    (tuned / "README.md").write_text(f"---\nbase_model: {tiny_bi}\n---\n\n# m\n")
    compared = run("evaluate", cases, "--tuned", tuned)
    assert compared.exit_code == 0, compared.output
    assert f"base {Path(tiny_bi).name}" in compared.stdout
    (tuned / "README.md").unlink()
    assert "--base" in str(failure("evaluate", cases, "--tuned", tuned))


def test_a_duplicate_model_is_told_with_what_it_needs_to_serve(
    tmp_path: Path, tiny_base: str, file: Path
) -> None:
    """A verifier without a certified threshold would only serve exact hits."""
    output = tmp_path / "m"
    told = run_json("duplicate", file, "--base", tiny_base, "-o", output, *QUICK)
    card = (output / "README.md").read_text()
    for text in (told["use"], card):
        assert f"verifier: {{ model: {output} }}" in text
        assert "funnel cache calibrate" in text and "calibrator:" in text
    assert "kind: cross_encoder" not in card


def test_bad_lines_stop_the_command_or_are_skipped(
    tmp_path: Path, tiny_base: str, file: Path
) -> None:
    """By default nothing is trained on a file with a bad line."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text(file.read_text() + "{broken\n")
    common = ("cross-encoder", bad, "--base", tiny_base, "-o", tmp_path / "m", *QUICK)
    problem = failure(*common)
    assert isinstance(problem, InputError) and "line 129" in str(problem)
    assert not (tmp_path / "m").exists()
    told = run_json(*common, "--on-bad-line", "skip")
    assert told["rows"]["train"] + told["rows"]["dev"] == 128


@pytest.mark.parametrize(
    ("name", "rows", "problem"),
    [
        ("none.jsonl", None, r"^data \S*none\.jsonl: no such file$"),
        ("data.txt", "", r"^data \S*data\.txt: got the suffix .*\(also with .gz\)$"),
        ("d.jsonl", '{"query": "a", "document": "b", "label": 5}', r"^\S*d.jsonl: labels of bce"),
        ("d.jsonl", '{"query": "a", "document": "b", "label": 1}', r"^\S*d.jsonl: all 40 pairs"),
    ],
)
def test_what_is_wrong_with_data_names_the_file(
    tmp_path: Path, tiny_base: str, name: str, rows: str | None, problem: str
) -> None:
    """It is no corpus, and the checks that see only rows say whose they are."""
    if rows is not None:
        (tmp_path / name).write_text(f"{rows}\n" * 40)
    common = ("--base", tiny_base, "-o", tmp_path / "m", *QUICK)
    told = str(failure("cross-encoder", tmp_path / name, *common))
    assert re.search(problem, told.splitlines()[0])


@pytest.mark.parametrize(
    "arguments",
    [
        ("cross-encoder", "x.jsonl"),
        ("cross-encoder", "x.jsonl", "-o", "m", "--loss", "hinge"),
        ("cross-encoder", "x.jsonl", "-o", "m", "--form", "zip"),
        ("cross-encoder", "x.jsonl", "-o", "m", "--teacher", "embedded:relevance"),
        ("cross-encoder", "x.jsonl", "-o", "m", "--keep", "worst"),
        ("bi-encoder", "x.jsonl", "-o", "m", "--loss", "triplet"),
        ("mine", "x.jsonl", "-o", "m", "--format", "xml"),
        ("mine", "x.jsonl", "-o", "m.csv"),
        ("evaluate", "x.jsonl", "--tuned", "m", "--on-bad-line", "maybe"),
    ],
)
def test_wrong_usage_exits_with_two(arguments: tuple[str, ...], file: Path) -> None:
    """A missing option or an unknown choice is refused by name."""
    result = run(*(file if each == "x.jsonl" else each for each in arguments))
    assert result.exit_code == 2, result.output


def test_too_few_rows_reach_the_user_as_an_input_error(tmp_path: Path) -> None:
    """Ten rows are told apart from a broken file."""
    path = tmp_path / "ten.tsv"
    rows = "".join(f"q{n}\td{n}\t{n % 2}\n" for n in range(10))
    path.write_text(f"query\tdocument\tlabel\n{rows}")
    problem = failure("cross-encoder", path, "-o", tmp_path / "m")
    assert isinstance(problem, InputError) and "10 pairs" in str(problem)
