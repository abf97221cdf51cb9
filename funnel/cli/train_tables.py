"""Tables of training results, for people."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from funnel.training.protocol import Comparison, GroupFigures
from funnel.training.records import Case
from funnel.training.report import TrainReport


def show_report(console: Console, report: TrainReport) -> None:
    """Figures on the held-out part before and after, and where the model is."""
    table = Table(title=f"{report.task}: held-out part, {report.rows.get('dev', 0)} rows")
    table.add_column("figure")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name, after in report.after.items():
        before = report.before.get(name)
        table.add_row(name, "" if before is None else f"{before:.3f}", f"{after:.3f}")
    console.print(table)
    loss = (
        f", loss {report.losses[0].loss:.3f} → {report.losses[-1].loss:.3f}"
        if report.losses
        else ""
    )
    console.print(
        f"{report.rows['train']} rows, {report.steps} steps in {report.seconds:.0f} s on "
        f"{report.hardware}{loss}; {report.form} in {report.output}",
        highlight=False,
        markup=False,
    )
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


def show_comparison(
    console: Console,
    found: Comparison,
    *,
    base: str,
    tuned: str,
    rivals: Mapping[str, Mapping[str, GroupFigures]] | None = None,
) -> None:
    """Base against tuned on hard distractors, and which cases changed sides."""
    table = Table(title="does the relevant text outscore a distractor that shares its words?")
    table.add_column("model", overflow="fold")
    table.add_column("cases", no_wrap=True)
    for name in ("right", "share", "gap", "gap/sd", "MRR"):
        table.add_column(name, justify="right", no_wrap=True)
    models = {
        **{_short(name): each for name, each in (rivals or {}).items()},
        f"base {_short(base)}": found.base,
    }
    models[f"tuned {_short(tuned)}"] = found.tuned
    for model, groups in models.items():
        for group, figures in groups.items():
            table.add_row(model if group == "all" else "", group, *_cells(figures))
        table.add_section()
    console.print(table)
    console.print(
        f"{len(found.fixed)} fixed, {len(found.broken)} broken, sign test p = {found.p_value:.3g}",
        highlight=False,
    )
    _list(console, "fixed", found.fixed)
    _list(console, "broken", found.broken)


def show_mined(console: Console, counts: Mapping[str, object]) -> None:
    """What became of the candidates."""
    table = Table(title="hard negatives")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in counts.items():
        table.add_row(name.replace("_", " "), str(value))
    console.print(table)


def _short(model: str) -> str:
    """The last part of a path or hub id."""
    return model.rstrip("/").rpartition("/")[2]


def _cells(figures: GroupFigures) -> list[str]:
    return [
        f"{figures.correct}/{figures.cases}",
        f"{figures.accuracy:.0%}",
        f"{figures.gap:+.3f}",
        f"{figures.gap_in_sd:+.2f}",
        f"{figures.mrr:.3f}",
    ]


def _list(console: Console, title: str, cases: Sequence[Case]) -> None:
    for case in cases:
        console.print(f"  {title}: [{case.topic}] {case.query}", highlight=False, markup=False)
