"""``funnel cache``: measure hit rates on a log, calibrate, look inside, purge."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from funnel.cli.options import CONFIG, FILTERS, JSON_OUT, config_path, open_funnel
from funnel.errors import ConfigError, InputError

if TYPE_CHECKING:
    from funnel.cache.base import QueryCache
    from funnel.settings import FunnelSettings

_LIVE_COUNTERS = (
    "in the serving process: funnel.cache_stats(), or Prometheus with cache.metrics: true"
)
_ELSEWHERE = "the memory store of a service is in that process too, not seen here"

cache_app = typer.Typer(
    name="cache",
    help="The semantic cache: replay a log, calibrate, stats, explain, purge.",
    no_args_is_help=True,
)


@cache_app.command()
def replay(
    log: Annotated[Path, typer.Argument(help='JSONL of {"query": …, "group": … or null}, or CSV.')],
    config: CONFIG = None,
    threshold: Annotated[
        float | None, typer.Option(help="Use this threshold instead of the calibrated one.")
    ] = None,
    ranking_ms: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="What one ranking costs; measured on this machine if not given."
        ),
    ] = None,
    show_wrong: Annotated[int, typer.Option(help="Show that many wrong hits.")] = 5,
    json_out: JSON_OUT = False,
) -> None:
    """Say what the cache would have done with a query log, and draw it against the threshold."""
    from funnel.cache.replay_console import show_replay
    from funnel.cache.replay_session import replay_log

    for name, value in (("--threshold", threshold), ("--ranking-ms", ranking_ms)):
        if value is not None and not math.isfinite(value):
            raise InputError(f"{name}: got {value}, expected a finite number")
    console = Console(stderr=True)
    report = replay_log(
        log, config_path(config), threshold=threshold, ranking_ms=ranking_ms, console=console
    )
    if json_out:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False))
        return
    show_replay(report, Console(), show_wrong=show_wrong)


@cache_app.command()
def calibrate(
    pairs: Annotated[
        Path,
        typer.Argument(
            help='JSONL of {"question1": …, "question2": …, "is_duplicate": 0|1}, or a log of '
            '{"query": …, "group": …}; or CSV with these columns.'
        ),
    ],
    target_precision: Annotated[
        float | None,
        typer.Option(min=0.5, max=0.9999, help="Of the hits; cache.target_precision if not given."),
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            min=0.0001, max=0.9999, help="Share of duplicates among your traffic's candidates."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The calibrator file; name it in the YAML as cache.calibrator.")
    ] = Path("calibrator.json"),
    source: Annotated[str, typer.Option(help="Where the pairs come from, for the file.")] = "",
    config: CONFIG = None,
    json_out: JSON_OUT = False,
) -> None:
    """Find the loosest threshold that these pairs certify, and write it to a file.

    With a log instead of pairs the certificate is about served hits: each question against the
    nearest ones before it.

    Exits with 1 when the data cannot support the target; what it can support is written. A file
    that is there is kept when the data supports nothing.
    """
    from funnel.cache.calibrator import check_target
    from funnel.cache.replay_console import show_calibration
    from funnel.cache.replay_session import calibrate_file

    check_target(out)
    report = calibrate_file(
        pairs,
        config_path(config),
        target_precision,
        prevalence=prevalence,
        source=source or pairs.name,
        console=Console(stderr=True),
    )
    written = bool(report.calibrator.points) or not out.exists()
    if written:
        report.calibrator.save(out)
    if json_out:
        plain = report.calibrator.model_dump(mode="json")
        said = {
            "target": report.target,
            "met": report.wanted is not None,
            "left_out": report.left_out,
        }
        typer.echo(json.dumps({**plain, **said, "file": str(out) if written else None}))
    else:
        show_calibration(report, out, Console(), written=written)
    if report.wanted is None:
        raise typer.Exit(1)


@cache_app.command()
def stats(config: CONFIG = None, json_out: JSON_OUT = False) -> None:
    """Gauges of the configured store: entries, bytes, epoch, state of the semantic tier.

    Requests, hits and latencies are counted in each serving process: funnel.cache_stats() there,
    or Prometheus with metrics: true.
    """
    from funnel.cache.report import seen_from_outside

    report = seen_from_outside(asyncio.run(_stats(_settings(config))))
    _print({**report, "live_counters": _LIVE_COUNTERS}, json_out, _show_gauges)


def _show_gauges(report: dict[str, Any], console: Console) -> None:
    from funnel.cache.replay_console import show_stats

    where = report.pop("live_counters")
    show_stats(report, console)
    console.print(Text(f"requests, hits, latencies: {where}"))
    if report["store"] != "none" and report["store"]["kind"] == "memory":
        console.print(Text(_ELSEWHERE))


@cache_app.command()
def explain(
    query: Annotated[str, typer.Argument(help="The query.")],
    config: CONFIG = None,
    k: Annotated[
        int | None, typer.Option("-k", "--k", help="How many hits it is asked with.")
    ] = None,
    filters: FILTERS = None,
    scope: Annotated[str | None, typer.Option(help="Tenant or other hard partition.")] = None,
    json_out: JSON_OUT = False,
) -> None:
    """Show the cached questions nearest to a query and why each is or is not a hit."""
    from funnel.cache.replay_console import show_explanation
    from funnel.cli.query import parse_filters

    with open_funnel(config) as funnel:
        report = funnel.explain_cache(query, k=k, filters=parse_filters(filters), scope=scope)
        _say_if_elsewhere(funnel.settings)
    _print(dict(report), json_out, show_explanation)


@cache_app.command()
def purge(
    scope: Annotated[str | None, typer.Option(help="Only this tenant's entries.")] = None,
    query: Annotated[
        str | None,
        typer.Option(help="Only the answer to this query, asked with --k, --filter, --scope."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", "--k", help="How many hits --query was asked with.")
    ] = None,
    filters: FILTERS = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: CONFIG = None,
    json_out: JSON_OUT = False,
) -> None:
    """Drop all kept answers, those of one scope, or that of one query, for all processes."""
    from funnel.cli.query import parse_filters

    if scope == "":  # an empty $TENANT must not look as if its answers had been dropped
        raise InputError("--scope: got '', expected the name of a tenant; nothing was dropped")
    if query is None and (k is not None or filters is not None):
        raise InputError("--k and --filter say how a query was asked; they go with --query")
    if json_out and not yes:
        raise InputError("--json asks no question: say --yes as well; nothing was dropped")
    settings = _settings(config)
    if settings.cache is None:
        raise ConfigError(f"{config_path(config)}: it has no cache: block; nothing to purge")
    if not yes:
        typer.confirm(f"Drop {_what(scope, query)}?", abort=True)
    if query is None:
        count = asyncio.run(_purged(settings, scope))
    else:
        where = parse_filters(filters)
        with open_funnel(config) as funnel:
            count = int(funnel.forget_cached(query, k=k, filters=where, scope=scope))
    _say_if_elsewhere(settings)
    _print({"purged": count, "scope": scope, "query": query}, json_out, _say_purged)


def _say_if_elsewhere(settings: "FunnelSettings") -> None:
    """What this process sees and drops is not what the service has."""
    if settings.cache is not None and settings.cache.store == "memory":
        typer.echo(_ELSEWHERE, err=True)


def _settings(config: Path | None) -> "FunnelSettings":
    from funnel.settings import FunnelSettings

    return FunnelSettings.from_yaml(config_path(config))


async def _stats(settings: "FunnelSettings") -> Mapping[str, Any]:
    from funnel.cache.semantic import SemanticCache

    async with _alone(settings) as cache:
        if isinstance(cache, SemanticCache):
            await cache.inspect()
        return await cache.stats()


async def _purged(settings: "FunnelSettings", scope: str | None) -> int:
    from funnel.cache.semantic import SemanticCache

    async with _alone(settings) as cache:
        if isinstance(cache, SemanticCache):
            await cache.connect()  # no model is needed for it
        return await cache.purge(scope=scope)


@asynccontextmanager
async def _alone(settings: "FunnelSettings") -> "AsyncIterator[QueryCache]":
    """The cache without the funnel: a service may hold the local index, or Qdrant be away."""
    from funnel.cache.factory import build_cache
    from funnel.models.pool import ModelPool

    cache = build_cache(settings.cache, ModelPool.shared(), settings.models.embedder)
    try:
        yield cache
    finally:
        await cache.aclose()


def _what(scope: str | None, query: str | None) -> str:
    if query is not None:
        return f"the kept answer of {query!r}"
    return "all kept answers" if scope is None else f"the kept answers of scope {scope!r}"


def _say_purged(report: dict[str, Any], console: Console) -> None:
    console.print(f"dropped {report['purged']} entries")


def _print(report: dict[str, Any], json_out: bool, show: Any) -> None:
    if json_out:
        typer.echo(json.dumps(report, ensure_ascii=False, default=str))
    else:
        show(report, Console())
