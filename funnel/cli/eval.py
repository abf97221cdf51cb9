"""``funnel eval``: how good the ranking is after each stage, and what each stage takes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from funnel.cli.options import (
    CONFIG,
    JSON_OUT,
    ON_BAD_LINE,
    bad_lines,
    config_path,
    make_folder,
    writing,
)

if TYPE_CHECKING:
    from funnel.evaluation.evaluate import Evaluation


def eval_(
    dataset: Annotated[
        Path, typer.Argument(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.")
    ],
    config: CONFIG = None,
    split: Annotated[str, typer.Option(help="Which judgements: qrels/SPLIT.tsv.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many judged queries.")
    ] = None,
    level: Annotated[
        int, typer.Option(min=1, help="Grade from which on a document is relevant (TREC DL: 2).")
    ] = 1,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="Deadline for each query; none if not given.")
    ] = None,
    on_bad_line: ON_BAD_LINE = "fail",
    run_out: Annotated[
        Path | None, typer.Option(help="Folder for a TREC run of each stage and all figures.")
    ] = None,
    json_out: JSON_OUT = False,
) -> None:
    """Evaluate a funnel on a BEIR folder, after each stage; the cache is bypassed.

    The corpus is indexed first, into a collection of its own, unless it is there. nDCG, MRR and
    recall agree with trec_eval and are end to end: what a stage misses stays missed.
    """
    from funnel.evaluation.report import show, write_files

    on_bad = bad_lines(on_bad_line)
    if run_out is not None:
        make_folder("--run-out", run_out)
    evaluation = _evaluated(
        dataset, config, split, limit, level, deadline_ms, on_bad, progress=not json_out
    )
    try:
        if json_out:
            typer.echo(json.dumps(evaluation.to_dict(), ensure_ascii=False))
        else:
            show(evaluation, Console())
    finally:  # also when nobody reads to the end
        if run_out is not None:
            with writing("--run-out", run_out):
                write_files(evaluation, run_out)


def _evaluated(
    folder: Path,
    config: Path | None,
    split: str,
    limit: int | None,
    level: int,
    deadline_ms: float | None,
    on_bad: "Literal['skip', 'fail']",
    *,
    progress: bool,
) -> "Evaluation":
    from funnel.engine import Funnel
    from funnel.evaluation.beir import load_beir
    from funnel.evaluation.evaluate import evaluate, evaluation_settings, index_dataset
    from funnel.settings import FunnelSettings

    base = FunnelSettings.from_yaml(config_path(config))
    data = load_beir(folder, split).first(limit)
    with Funnel(evaluation_settings(base, data, deadline_ms=deadline_ms)) as funnel:
        index_dataset(funnel, data, on_bad=on_bad, progress=progress)
        return evaluate(funnel, data, config_hash=base.hash, level=level, progress=progress)
