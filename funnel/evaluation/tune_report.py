"""A tuning for people and machines, and the YAML that follows from it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from funnel.config_source import read_config
from funnel.errors import ConfigError
from funnel.evaluation.evaluate import percentile
from funnel.evaluation.tune import GOOD_ENOUGH, Point, Tuning
from funnel.stages.base import StageSettings
from funnel.yaml_edit import edit_stages
from funnel.yaml_source import read_text

_FEW_QUERIES = 50


def check_stages_in_file(config: Path) -> None:
    """Refuse a file that no plan can be written into, before the long run.

    Raises:
        ConfigError: the environment sets stages or their keys: it would change the plan too, and
            its positions mean other stages once one is left out.
    """
    origins = read_config(config).from_environment
    names = [name for path, name in origins.items() if path[0] == "stages"]
    if names:
        raise ConfigError(
            f"{config}: got stages from the environment ({', '.join(names)}), expected all of "
            "them in the file, into which the plan is written; write these settings into the "
            "file (a secret as ${NAME}) and unset the variables"
        )


def planned_yaml(
    config: Path, stages: Sequence[StageSettings], changes: Sequence[Mapping[str, Any] | None]
) -> str:
    """The operator's file with what a plan changes in its stages, and all else as it stands.

    References and comments are kept; a stage whose change is None becomes a comment.

    Raises:
        ConfigError: the file does not hold the stages that were tuned.
    """
    differing = [
        change and {key: value for key, value in change.items() if getattr(stage, key) != value}
        for stage, change in zip(stages, changes, strict=True)
    ]
    return edit_stages(read_text(config, str(config)), differing, str(config))


def show(tuning: Tuning, yaml_text: str | None, console: Console) -> None:
    """Print the Pareto set, the recommendation with its check, and the stages to write."""
    console.print(_table(tuning))
    for line in (*_remarks(tuning), *_verdict(tuning)):
        console.print(Text(line))
    if yaml_text is not None:
        stages = yaml.safe_load(yaml_text)["stages"]
        console.print(Text(yaml.safe_dump({"stages": stages}, sort_keys=False)))


def as_dict(tuning: Tuning, yaml_text: str | None) -> dict[str, Any]:
    """The result, JSON-ready."""
    return {
        "dataset": tuning.dataset,
        "config_hash": tuning.config_hash,
        "metric": tuning.metric,
        "queries": {
            "tuned": tuning.tuned_on,
            "held_out": len(tuning.held_out),
            "failed": tuning.failed,
        },
        "depth": tuning.depth,
        "estimated_stages": list(tuning.estimated_stages),
        "held": {name: dict(kept) for name, kept in tuning.held.items()},
        "target": {"max_p95_ms": tuning.target.max_p95_ms, "min_ndcg": tuning.target.min_ndcg},
        "current": _point_dict(tuning, tuning.current),
        "pareto": [_point_dict(tuning, point) for point in tuning.pareto],
        "recommended": _recommended_dict(tuning, yaml_text),
    }


def _table(tuning: Tuning) -> Table:
    title = (
        f"{tuning.dataset} · tuned on {tuning.tuned_on} queries, held out "
        f"{len(tuning.held_out)} · what no other choice beats"
    )
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for name in tuning.stages:
        table.add_column(Text(f"{name} k"), justify="right", overflow="fold")
    for heading in (tuning.metric, "held out", "p50 ms", "p95 ms", "$ / 1000", ""):
        table.add_column(heading, justify="right", overflow="fold")  # figures keep all digits
    shown = [*tuning.pareto]
    for point in (tuning.current, tuning.recommended):
        if point is not None and point not in shown:
            shown.append(point)
    for point in sorted(shown, key=lambda p: p.p95_ms):
        table.add_row(*_cells(tuning, point))
    return table


def _cells(tuning: Tuning, point: Point) -> list[str]:
    marks = {"now": point == tuning.current, "recommended": point == tuning.recommended}
    return [
        *("off" if size is None else str(size) for size in point.plan),
        f"{point.tuned:.4f}",
        f"{point.held_out:.4f}",
        f"{point.p50_ms:.1f}",
        f"{point.p95_ms:.1f}",
        f"{point.cost_usd * 1000:.3f}",
        ", ".join(name for name, is_so in marks.items() if is_so),
    ]


def _remarks(tuning: Tuning) -> list[str]:
    lines = ["times and costs are estimated from the deep run; off: the stage is left out"]
    if tuning.estimated_stages:
        names = ", ".join(tuning.estimated_stages)
        lines.append(f"{names} ranks lists as a whole: its order of shorter lists is estimated")
    for name, kept in tuning.held.items():
        keys = ", ".join(f"{key} {value}" for key, value in kept.items())
        lines.append(
            f"{name}: all figures are with {keys}, also those of the sizes now, where it would "
            "follow k; the recommendation sets it"
        )
    if tuning.tuned_on < _FEW_QUERIES:
        lines.append(f"! {tuning.tuned_on} queries chose: small differences are chance")
    if tuning.failed:
        lines.append(f"! {tuning.failed} queries did not get through all stages and are left out")
    return lines


def _verdict(tuning: Tuning) -> list[str]:
    point = tuning.recommended
    if point is None:
        best = max(tuning.pareto, key=lambda p: p.tuned)
        return [
            f"no choice meets the target ({_target(tuning)}); the fastest takes "
            f"p95 {tuning.pareto[0].p95_ms:.1f} ms, the best has {tuning.metric} {best.tuned:.4f}"
        ]
    return [f"recommended: {_target(tuning)}", *_measured(tuning, point)]


def _target(tuning: Tuning) -> str:
    target = tuning.target
    parts = []
    if target.max_p95_ms is not None:
        parts.append(f"p95 at most {target.max_p95_ms:g} ms")
    if target.min_ndcg is not None:
        parts.append(f"{tuning.metric} at least {target.min_ndcg:g}")
    return " and ".join(parts) or f"the fastest within {GOOD_ENOUGH} of the best {tuning.metric}"


def _measured(tuning: Tuning, point: Point) -> list[str]:
    run = tuning.verified
    if run is None:
        return []
    return [
        f"really run on the held-out queries: {tuning.metric} {run.metrics[tuning.metric]:.4f} "
        f"(expected {point.held_out:.4f}), p95 {percentile(run.totals_ms, 95):.1f} ms "
        f"(expected {point.p95_ms:.1f})",
        *(f"! {trouble}" for trouble in run.troubles),
    ]


def _point_dict(tuning: Tuning, point: Point) -> dict[str, Any]:
    return {
        "k": tuning.named(point.plan),
        "tuned": {tuning.metric: point.tuned},
        "held_out": {tuning.metric: point.held_out},
        "p50_ms": point.p50_ms,
        "p95_ms": point.p95_ms,
        "cost_usd": point.cost_usd,
    }


def _recommended_dict(tuning: Tuning, yaml_text: str | None) -> dict[str, Any] | None:
    if tuning.recommended is None:
        return None
    run = tuning.verified
    measured = run and {
        "metrics": run.metrics,
        "p50_ms": percentile(run.totals_ms, 50),
        "p95_ms": percentile(run.totals_ms, 95),
        "cost_usd": run.cost_usd,
        "skipped": {stage.name: dict(stage.skipped) for stage in run.stages if stage.skipped},
        "degraded": {stage.name: dict(stage.degraded) for stage in run.stages if stage.degraded},
    }
    return {**_point_dict(tuning, tuning.recommended), "measured": measured, "yaml": yaml_text}
