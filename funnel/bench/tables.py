"""The measurements as tables for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from funnel.bench.ladder import LoadReport
from funnel.bench.models import ModelsReport
from funnel.bench.rerank import RerankReport, speedups
from funnel.bench.simulate import SimulatedPoint

_LADDER = ("rate", "cache", "adaptive", "p50 ms", "p95 ms", "p99 ms")


def show_rerank(report: RerankReport, console: Console) -> None:
    """One row for each way."""
    queries, source = len(report.candidates.lists), report.candidates.source
    console.print(f"{report.model} on {report.candidates.dataset.name}, {queries} queries")
    console.print(f"candidates from {source}; {report.device}; auto is {report.chosen}")
    table = _table("way", "p50 ms", "p95 ms", "p99 ms", "pairs/s", "nDCG@10", "top-10", "speed")
    faster = speedups(report)
    for row in report.to_dict()["rows"]:
        pairs = "" if row["pairs_per_s"] is None else f"{row['pairs_per_s']:.0f}"
        table.add_row(
            row["name"],
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            pairs,
            f"{row['ndcg@10']:.4f}",
            f"{row['top10_overlap']:.1%}",
            f"{faster[row['name']]:.2f}x",
        )
    console.print(table)
    for note in report.notes:
        console.print(f"Note: {note}")


def show_models(report: ModelsReport, console: Console) -> None:
    """One row for each model, then each two compared."""
    console.print(f"{report.query!r}, {report.documents} documents")
    table = _table("model", "backend", "seconds", "documents/s", "best five")
    for row in report.rows:
        best = " ".join(row.order[:5])
        cells = (f"{row.seconds:.3f}", f"{row.documents_per_s:.0f}", best)
        table.add_row(row.name, row.backend, *cells)
    console.print(table)
    for each in report.agreements:
        console.print(
            f"{each.first} and {each.second}: Kendall tau {each.kendall_tau:.3f}, "
            f"{each.top5_overlap:.0%} of the best five in common"
        )


def show_load(report: LoadReport, console: Console) -> None:
    """One row for each rate and setting."""
    plain = report.to_dict()
    console.print(
        f"{report.model} on {report.dataset}, {report.device}: {report.capacity:.2f} queries/s at "
        f"full depth; idle p50 {plain['idle_p50_ms']:.0f} ms, p99 {plain['idle_p99_ms']:.0f} ms; "
        f"nDCG@10 {report.full_ndcg:.4f}; adapting to {report.target_ms:.0f} ms"
    )
    names = (
        "rate",
        "cache",
        "adaptive",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "degraded",
        "hits",
        "failed",
        "nDCG@10",
    )
    table = _table(*names, "loss")
    for point in report.points:
        table.add_row(
            f"{point.share:.0%}",
            *("yes" if on else "no" for on in (point.cache, point.adapt)),
            *(f"{value:.0f}" for value in (point.p50_ms, point.p95_ms, point.p99_ms)),
            *(f"{value:.0%}" for value in (point.degraded, point.cached)),
            str(point.failed),
            f"{point.ndcg:.4f}",
            "" if point.ndcg_loss is None else f"{point.ndcg_loss:.1%}",
        )
    console.print(table)


def show_simulation(points: Sequence[SimulatedPoint], console: Console) -> None:
    """Which arrivals; one row for each rate and setting, with the error where it was measured."""
    traced = any(point.arrivals == "trace" for point in points)
    console.print(
        "arrivals: those of the measured run's trace, stretched to each rate"
        if traced
        else "arrivals: Poisson, from the measured run's seed"
    )
    table = _table(
        "rate", "cache", "adaptive", "p50 ms", "p95 ms", "p99 ms", "p50 error", "p99 error"
    )
    for point in points:
        errors = (point.p50_error, point.p99_error)
        table.add_row(
            f"{point.share:.0%}",
            *("yes" if on else "no" for on in (point.cache, point.adapt)),
            *(f"{value:.0f}" for value in (point.p50_ms, point.p95_ms, point.p99_ms)),
            *("" if error is None else f"{error:+.0%}" for error in errors),
        )
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table
