"""An evaluation for people, and the files that ``--run-out`` leaves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from funnel.evaluation.evaluate import Evaluation, StageEvaluation, percentile
from funnel.evaluation.metrics import PerQuery
from funnel.evaluation.significance import Interval, bootstrap_interval, compare
from funnel.evaluation.trec import write_run

_SAMPLES = 2_000


def show(evaluation: Evaluation, console: Console) -> None:
    """Print one row for each stage, and what each gained over the one before it."""
    title = f"{evaluation.dataset} · {evaluation.queries} queries · after each stage"
    table = Table(title=Text(title, style="bold"), title_justify="left")
    table.add_column("stage", overflow="fold")
    for heading in ("keeps", *evaluation.metrics, "p50 ms", "p95 ms"):
        table.add_column(heading, justify="right", overflow="fold")  # figures keep all digits
    for stage in evaluation.stages:
        values = [f"{value:.4f}" for value in stage.metrics.values()]
        times = (f"{stage.p50_ms:.1f}", f"{stage.p95_ms:.1f}")
        table.add_row(Text(stage.name), str(stage.k), *values, *times)
    console.print(table)
    for line in (*_gains(evaluation), _total(evaluation)):
        console.print(Text(line))
    for trouble in evaluation.troubles:
        console.print(Text(f"! {trouble}"))


def write_files(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write everything measured as ``evaluation.json``, and a TREC run for each stage.

    Raises:
        InputError: an id holds white space, which TREC runs cannot carry; the figures are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    details = folder / "evaluation.json"
    details.write_text(json.dumps(_details(evaluation), indent=1), encoding="utf-8")
    written = []
    for place, stage in enumerate(evaluation.stages, start=1):
        path = folder / f"{place}-{_file_name(stage.name)}.run"
        write_run(path, stage.rankings, tag=f"funnel-{evaluation.config_hash}-{place}")
        written.append(path)
    return [*written, details]


def _gains(evaluation: Evaluation) -> list[str]:
    name = next(iter(evaluation.metrics))
    lines = []
    for before, after in zip(evaluation.stages, evaluation.stages[1:], strict=False):
        found = compare(before.per_query[name], after.per_query[name], samples=_SAMPLES)
        lines.append(
            f"{after.name} after {before.name}: {name} {found.difference:+.4f} "
            f"[{found.interval.low:+.4f}, {found.interval.high:+.4f}], p = {found.p_value:.3g} "
            f"({found.wins} better, {found.losses} worse, {found.ties} equal)"
        )
    return lines


def _total(evaluation: Evaluation) -> str:
    p50, p95 = (percentile(evaluation.totals_ms, percent) for percent in (50, 95))
    cost = f" · ${evaluation.cost_usd:.4f} in all" if evaluation.cost_usd else ""
    return (
        f"whole query: p50 {p50:.1f} ms, p95 {p95:.1f} ms{cost} · config {evaluation.config_hash}"
    )


def _details(evaluation: Evaluation) -> dict[str, Any]:
    stages = [
        {
            **stage.to_dict(),
            "interval95": {name: _interval(values) for name, values in stage.per_query.items()},
            "per_query": _by_query(stage),
        }
        for stage in evaluation.stages
    ]
    return {**evaluation.to_dict(), "stages": stages}


def _interval(values: PerQuery) -> list[float]:
    found: Interval = bootstrap_interval(np.array(list(values.values())), samples=_SAMPLES)
    return [found.low, found.high]


def _by_query(stage: StageEvaluation) -> Mapping[str, Mapping[str, float]]:
    queries = next(iter(stage.per_query.values()))
    return {
        query_id: {name: values[query_id] for name, values in stage.per_query.items()}
        for query_id in queries
    }


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in name)
