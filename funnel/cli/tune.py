"""``funnel tune``: from one deep run to the stage sizes to use."""

import json
from dataclasses import replace
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
    make_room,
    writing,
)

if TYPE_CHECKING:
    from funnel.evaluation.beir import Dataset
    from funnel.evaluation.simulate import Plan
    from funnel.evaluation.tune import Target, Tuning
    from funnel.settings import FunnelSettings


def tune(
    dataset: Annotated[
        Path, typer.Argument(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.")
    ],
    config: CONFIG = None,
    split: Annotated[str, typer.Option(help="Which judgements: qrels/SPLIT.tsv.")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=2, help="Only the first so many judged queries.")
    ] = None,
    depth: Annotated[
        int, typer.Option(min=1, max=1_000, help="The largest size that is tried.")
    ] = 100,
    max_p95_ms: Annotated[
        float | None, typer.Option(min=0, help="The 95th percentile of a query's time.")
    ] = None,
    min_ndcg: Annotated[
        float | None, typer.Option(min=0, max=1, help="nDCG@10 to reach, as fast as can be.")
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Really run the recommendation on the held-out queries.")
    ] = True,
    on_bad_line: ON_BAD_LINE = "fail",
    out: Annotated[
        Path | None, typer.Option(help="Write the recommended configuration to this file.")
    ] = None,
    json_out: JSON_OUT = False,
) -> None:
    """Find the stage sizes that no others beat in nDCG@10, time and cost, and recommend some.

    Runs once at full depth and simulates everything shallower. Half of the queries choose, the
    other half reports. Without a target, recommends the fastest within 0.005 of the best.
    """
    from funnel.evaluation.tune import Target
    from funnel.evaluation.tune_report import as_dict, check_stages_in_file, show

    check_stages_in_file(config_path(config))
    target = Target(max_p95_ms, min_ndcg)
    on_bad = bad_lines(on_bad_line)
    if out is not None:
        make_room("--out", out)
    tuning, text = _tuned(
        dataset, config, split, limit, depth, target, verify, on_bad, progress=not json_out
    )
    try:
        if json_out:
            typer.echo(json.dumps(as_dict(tuning, text), ensure_ascii=False))
        else:
            show(tuning, text, Console())
    finally:  # also when nobody reads to the end
        if out is not None and text is not None:
            with writing("--out", out):
                out.write_bytes(text.encode())  # with the line ends of the file it is made from
    if tuning.recommended is None:
        raise typer.Exit(1)


def _tuned(
    folder: Path,
    config: Path | None,
    split: str,
    limit: int | None,
    depth: int,
    target: "Target",
    verify: bool,
    on_bad: "Literal['skip', 'fail']",
    *,
    progress: bool,
) -> "tuple[Tuning, str | None]":
    """The tuning, and the configuration that it recommends."""
    from funnel.engine import Funnel
    from funnel.evaluation.beir import load_beir
    from funnel.evaluation.evaluate import evaluation_settings, index_dataset
    from funnel.evaluation.tune import plan_changes
    from funnel.evaluation.tune import tune as tune_funnel
    from funnel.evaluation.tune_report import planned_yaml
    from funnel.settings import FunnelSettings

    base = FunnelSettings.from_yaml(config_path(config))
    data = load_beir(folder, split).first(limit)
    with Funnel(evaluation_settings(base, data)) as funnel:
        index_dataset(funnel, data, on_bad=on_bad, progress=progress)
        tuning = tune_funnel(
            funnel, data, target=target, depth=depth, config_hash=base.hash, progress=progress
        )
    if tuning.recommended is None:
        return tuning, None
    changes = plan_changes(base, tuning.recommended.plan, tuning.depth)
    text = planned_yaml(config_path(config), base.stages, changes)
    if verify:
        tuning = _verified(tuning, tuning.recommended.plan, base, data, on_bad, progress=progress)
    return tuning, text


def _verified(
    tuning: "Tuning",
    plan: "Plan",
    base: "FunnelSettings",
    data: "Dataset",
    on_bad: "Literal['skip', 'fail']",
    *,
    progress: bool,
) -> "Tuning":
    """Run the recommendation on the queries that did not choose it."""
    from funnel.engine import Funnel
    from funnel.evaluation.evaluate import evaluate, evaluation_settings, index_dataset
    from funnel.evaluation.tune import planned_settings

    planned = planned_settings(base, plan, tuning.depth)
    held_out = data.only(list(tuning.held_out))
    with Funnel(evaluation_settings(planned, data)) as funnel:
        index_dataset(funnel, data, on_bad=on_bad, progress=progress)
        run = evaluate(funnel, held_out, config_hash=planned.hash, progress=progress)
    return replace(tuning, verified=run)
