"""``funnel bench``: how fast here, against what, and what happens under load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from funnel.cli.options import JSON_OUT, ON_BAD_LINE, bad_lines, make_room, writing

bench_app = typer.Typer(
    help="Measure reranking, models and load on this machine.", no_args_is_help=True
)

DATA = Annotated[
    Path, typer.Option("--data", help="BEIR folder; its *.run file gives the candidates, or BM25.")
]
MODEL = Annotated[str, typer.Option(help="Cross-encoder: embedded:…, a hub id or a path.")]
SPLIT = Annotated[str, typer.Option(help="Which judgements: qrels/SPLIT.tsv.")]
LIMIT = Annotated[int | None, typer.Option(min=1, help="Only the first so many judged queries.")]
DEPTH = Annotated[int, typer.Option(min=1, help="Candidates of each query.")]

_MAX_SHARE = 100
"""Far beyond any overload worth measuring; the arrivals of a run are made before it."""


@bench_app.command()
def rerank(
    data: DATA,
    model: Annotated[
        str | None,
        typer.Option(help="Cross-encoder; the embedded one that weighs one in if not given."),
    ] = None,
    split: SPLIT = "test",
    limit: LIMIT = None,
    depth: DEPTH = 100,
    dense: Annotated[bool, typer.Option(help="Also pure dense retrieval.")] = True,
    json_out: JSON_OUT = False,
) -> None:
    """Time reranking with each backend and each library that is installed, at equal weights."""
    from funnel.bench.candidates import load_candidates
    from funnel.bench.rerank import bench_rerank
    from funnel.bench.tables import show_rerank
    from funnel.bench.ways import default_model
    from funnel.models.source import check_scorer_name

    model = model or default_model()
    check_scorer_name(model)
    candidates = load_candidates(data, split=split, depth=depth, limit=limit)
    report = bench_rerank(candidates, model, dense=dense, progress=not json_out)
    if json_out:
        typer.echo(json.dumps(report.to_dict()))
        return
    show_rerank(report, Console())


@bench_app.command()
def models(
    names: Annotated[list[str], typer.Argument(help="Cross-encoders: embedded:…, ids or paths.")],
    data: DATA,
    query: Annotated[
        str | None, typer.Option(help="A query of the folder by its text; the first if not given.")
    ] = None,
    split: SPLIT = "test",
    depth: DEPTH = 100,
    json_out: JSON_OUT = False,
) -> None:
    """Score one query's candidates with several models: time, order, agreement."""
    from funnel.bench.candidates import load_candidates
    from funnel.bench.models import bench_models
    from funnel.bench.tables import show_models

    candidates = load_candidates(data, split=split, depth=depth, limit=None)
    query_id = _query_id(candidates.dataset.queries, query)
    ids = candidates.lists[query_id]
    texts = [candidates.texts[doc_id] for doc_id in ids]
    report = bench_models(names, candidates.dataset.queries[query_id], ids, texts)
    if json_out:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False))
        return
    show_models(report, Console())


@bench_app.command()
def load(
    data: DATA,
    model: MODEL = "embedded:relevance",
    embedder: Annotated[str, typer.Option(help="Encoder of the index and the cache.")] = (
        "embedded:all-MiniLM-L6-v2"
    ),
    split: SPLIT = "test",
    limit: LIMIT = None,
    depth: DEPTH = 100,
    rates: Annotated[str, typer.Option(help="Shares of capacity.")] = "0.5,0.8,1.0,1.36",
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="Length of each run.")] = 30.0,
    warm_up: Annotated[
        float, typer.Option(min=0, max=86_400, help="Seconds before that, which do not count.")
    ] = 15.0,
    cache: Annotated[bool, typer.Option(help="Also with the cache.")] = True,
    seed: Annotated[int, typer.Option(help="Of arrivals and questions.")] = 0,
    trace: Annotated[
        Path | None, typer.Option(help="Arrival times, a number of seconds a line; else Poisson.")
    ] = None,
    on_bad_line: ON_BAD_LINE = "fail",
    plot: Annotated[Path | None, typer.Option(help="Latency against rate, .png or .svg.")] = None,
    json_out: JSON_OUT = False,
) -> None:
    """Climb a ladder of rates in an open loop, with and without cache and adaptive depth."""
    from funnel.bench.ladder import LoadPlan, bench_load
    from funnel.bench.load import read_trace
    from funnel.bench.plots import check_plot, plot_load
    from funnel.bench.tables import show_load
    from funnel.evaluation.beir import load_beir

    plan = LoadPlan(
        shares=_shares(rates),
        seconds=seconds,
        warm_up=warm_up,
        caches=(False, True) if cache else (False,),
        depth=depth,
        seed=seed,
        trace=None if trace is None else read_trace(trace),
    )
    on_bad = bad_lines(on_bad_line)
    if plot is not None:
        check_plot(plot)
        make_room("--plot", plot)
    dataset = load_beir(data, split).first(limit)
    report = bench_load(dataset, model, embedder, plan, on_bad=on_bad, progress=not json_out)
    try:
        if json_out:
            typer.echo(json.dumps(report.to_dict()))
        else:
            show_load(report, Console())
    finally:  # also when nobody reads to the end
        if plot is not None:
            with writing("--plot", plot):
                plot_load(report.points, plot)


@bench_app.command()
def simulate(
    profile: Annotated[Path, typer.Argument(help="The JSON that funnel bench load printed.")],
    rates: Annotated[str, typer.Option(help="Further shares of capacity.")] = "0.5,0.8,1.0,1.36,2",
    json_out: JSON_OUT = False,
) -> None:
    """The same ladder from a measured profile, without running models, and how far it is off."""
    from funnel.bench.simulate import simulate as simulated
    from funnel.bench.tables import show_simulation

    points = simulated(profile, _shares(rates))
    if json_out:
        typer.echo(json.dumps({"points": [point.to_dict() for point in points]}))
        return
    show_simulation(points, Console())


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= _MAX_SHARE for share in shares):
        raise typer.BadParameter(
            f"got {text!r}, expected numbers above 0, at most {_MAX_SHARE}, with commas",
            param_hint="--rates",
        )
    return shares


def _query_id(queries: Mapping[str, str], text: str | None) -> str:
    if text is None:
        return next(iter(queries))
    found = [query_id for query_id, known in queries.items() if text in (known, query_id)]
    if not found:
        raise typer.BadParameter(
            f"got {text!r}, expected the text or id of a judged query", param_hint="--query"
        )
    return found[0]
