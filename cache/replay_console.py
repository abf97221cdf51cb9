"""Replay, calibration, stats and explanations for people: tables and a text plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from funnel.cache.calibrate_run import CalibrationReport
from funnel.cache.replay_run import PRECISIONS, CurvePoint, ReplayReport, best_at

if TYPE_CHECKING:
    from funnel.cache.tally import Tally

_HEIGHT, _WIDTH = 12, 60


def show_replay(report: ReplayReport, console: Console, *, show_wrong: int = 0) -> None:
    """Print everything a replay found."""
    console.print(_summary(report))
    console.print(_comparison(report))
    if report.curve:
        console.print(Text("hit rate (*) and hit precision (o) against the threshold"))
        console.print(Text(plot(report.curve, report.threshold)))
    for wrong in report.wrong[:show_wrong]:
        console.print(Text(f"wrong: {wrong['query']!r} was served {wrong['served']!r}"))
    if report.problem:
        console.print(
            Text(f"semantic tier off ({report.problem}): the figures are of the exact tiers"),
            style="yellow",
        )
    if report.skipped_lines:
        console.print(Text(f"{report.skipped_lines} broken line(s) left out"), style="yellow")


def _summary(report: ReplayReport) -> Table:
    one, plain = report.tally, report.to_dict()
    oracle = one.oracle_hit_rate
    rows = [
        ("requests", f"{one.requests}"),
        ("hits", f"{one.hits} ({one.hit_rate:.1%}; a perfect cache: {_share(oracle, 1)})"),
        ("hits by tier", ", ".join(f"{tier} {n}" for tier, n in one.by_tier.items()) or "none"),
        ("threshold", "none" if report.threshold is None else f"{report.threshold:.3f}"),
        ("hit precision", _precision(one)),
        ("wrong per hit", _share(plain["wrong_per_hit"])),
        ("wrong per request", _share(plain["wrong_per_request"])),
        ("wrong per unlike pair", _share(plain["wrong_per_pair"])),
        ("hits of unknown groups", f"{one.unknown_hits}"),
        ("duplicates missed", _count(one.missed_duplicates)),
        ("rankings saved", f"{one.hits}"),
        ("time saved", _saved(plain)),
        ("lookup p50 / p99", _milliseconds(plain)),
    ]
    return _table("replay", ("", ""), rows)


def _precision(one: "Tally") -> str:
    if one.hit_precision is None or one.hit_precision_low is None:
        return "no hit of a known group"
    return f"{one.hit_precision:.2%} (at least {one.hit_precision_low:.2%}, 95% confidence)"


def _share(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value}"


def _saved(plain: dict[str, Any]) -> str:
    if plain["saved_ms"] is None:
        return "unknown: no cross_encoder stage to measure; pass --ranking-ms"
    each = f"{plain['ranking_ms']:.0f} ms a ranking, lookups taken off"
    return f"{plain['saved_ms'] / 1000:.1f} s ({each})"


def _milliseconds(plain: dict[str, Any]) -> str:
    if plain["p50_lookup_ms"] is None:
        return "-"
    return f"{plain['p50_lookup_ms']:.1f} / {plain['p99_lookup_ms']:.1f} ms, embedding included"


def _comparison(report: ReplayReport) -> Table:
    rows = [
        (name, f"{one.hit_rate:.1%}", _share(one.hit_precision), _count(one.wrong_hits))
        for name, one in report.baselines.items()
    ]
    for precision in PRECISIONS:
        for name, curve in (("verified", report.curve), ("cosine", report.cosine)):
            best = best_at(curve, precision) or {"hit_rate": None, "hit_precision": None}
            shares = (_share(best["hit_rate"]), _share(best["hit_precision"]))
            rows.append((f"{name}, best threshold at >= {precision:.1%}", *shares, ""))
    return _table("other rules on the same log", ("rule", "hit rate", "precision", "wrong"), rows)


def plot(curve: Sequence[CurvePoint], threshold: float | None) -> str:
    """Hit rate (``*``) and hit precision (``o``) over the threshold, as lines of text."""
    low, high = curve[0].threshold, curve[-1].threshold
    cells = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    span = max(high - low, 1e-9)
    if threshold is not None and low <= threshold <= high:
        for line in cells:
            line[round((threshold - low) / span * (_WIDTH - 1))] = "|"
    for point in curve:
        column = round((point.threshold - low) / span * (_WIDTH - 1))
        for value, mark in ((point.tally.hit_rate, "*"), (point.tally.hit_precision, "o")):
            if value is not None:
                cells[round((1 - value) * (_HEIGHT - 1))][column] = mark
    lines = [f"{1 - row / (_HEIGHT - 1):4.0%} |{''.join(line)}" for row, line in enumerate(cells)]
    axis = f"{low:<.2f}".ljust(_WIDTH - 5) + f"{high:>.2f}"
    return "\n".join([*lines, "     +" + "-" * _WIDTH, "      " + axis])


def show_calibration(
    report: CalibrationReport, out: Path, console: Console, *, written: bool = True
) -> None:
    """Print the certificates, what the data says about the target, and what became of the file."""
    rows = [
        (
            f"{point.target:.1%}",
            f"{point.threshold:.3f}",
            f"{point.accepted}",
            f"{point.wrong}",
            f"{point.precision_low:.2%}",
            f"{point.recall:.1%}",
        )
        for point in report.calibrator.points
    ]
    headings = ("target", "threshold", "accepted", "wrong", "at least", "recognised")
    console.print(_table("certified thresholds", headings, rows))
    made_from = report.calibrator
    left_out = f" ({report.left_out} repeated ones left out)" if report.left_out else ""
    scope = ", for questions in English only" if made_from.languages else ""
    console.print(Text(f"{made_from.pairs} pairs{left_out}, floor {made_from.floor:.2f}{scope}"))
    console.print(Text(report.explanation), style="green" if report.wanted else "yellow")
    if written:
        console.print(Text(f"written to {out}; name it in the YAML as cache.calibrator"))
    else:
        console.print(Text(f"nothing is certified, so {out} stays as it was"))


def show_stats(report: dict[str, Any], console: Console) -> None:
    """Print gauges and counters, nested ones with dotted names."""
    rows = [(name, str(value)) for name, value in _flat(report)]
    console.print(_table("cache", ("", ""), rows))


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            rows += _flat(inner, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", inner))
    return rows


def show_explanation(report: dict[str, Any], console: Console) -> None:
    """Print the outcome and one line for each candidate."""
    outcome = report["status"]
    if report.get("matched_query"):
        outcome += f" ({report['tier']}) on {report['matched_query']!r}"
    if report.get("reason"):
        outcome += f": {report['reason']}"
    console.print(Text(outcome, style="bold"))
    rows = [_candidate(candidate) for candidate in report.get("candidates", ())]
    if rows:
        headings = ("cached question", "cosine", "score", "needed", "verdict")
        console.print(_table("candidates", headings, rows))


def _candidate(candidate: dict[str, Any]) -> tuple[str, ...]:
    found = "; ".join(f"{f['kind']}: {f['detail']}" for f in candidate["findings"])
    verdict = "taken" if candidate["accepted"] else candidate["reason"]
    return (
        candidate["query"],
        f"{candidate['cosine']:.3f}",
        "-" if candidate["score"] is None else f"{candidate['score']:.3f}",
        "-" if candidate["needed"] is None else f"{candidate['needed']:.3f}",
        f"{verdict} ({found})" if found else verdict,
    )


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
