"""``funnel query``: one query through the whole funnel, with what every stage said of each hit."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from funnel.cli.options import CONFIG, FILTERS, JSON_OUT
from funnel.errors import InputError

if TYPE_CHECKING:
    from funnel.result import FunnelResult
    from funnel.settings import FunnelSettings
    from funnel.types import Hit


def query(
    text: Annotated[str, typer.Argument(help="The query.")],
    config: CONFIG = None,
    k: Annotated[int | None, typer.Option("-k", "--k", help="How many hits.")] = None,
    filters: FILTERS = None,
    scope: Annotated[str | None, typer.Option(help="Tenant or other hard partition.")] = None,
    deadline_ms: Annotated[float | None, typer.Option(help="Limit for the whole query.")] = None,
    explain: Annotated[
        str | None, typer.Option(help="Say at which stage the document with this id died.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor fill the cache.")
    ] = False,
    json_out: JSON_OUT = False,
) -> None:
    """Answer one query and show the scores and ranks that each stage gave each hit."""
    from funnel.cli.options import open_funnel

    with open_funnel(config) as funnel:
        result = funnel.run(
            text,
            k=k,
            filters=parse_filters(filters),
            scope=scope,
            deadline_ms=deadline_ms,
            cache=not no_cache,
        )
        if not funnel.documents.identity:
            _say_nothing_is_indexed(funnel.settings)
    if json_out:
        typer.echo(json.dumps(_payload(result, explain), ensure_ascii=False))
        return
    console = Console()
    show(result, console)
    if explain is not None:
        console.print(Text(f"\n{explain}: {result.explain(explain).text}"))


def parse_filters(text: str | None) -> dict[str, Any] | None:
    """Read ``--filter``.

    Raises:
        InputError: not a JSON object.
    """
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting beyond all reason
        raise InputError(f"--filter: got {text!r:.80}, expected JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"--filter: got {text!r:.80}, expected an object such as '{{\"a\": 1}}'")
    return value


def show(result: "FunnelResult", console: Console) -> None:
    """Print hits, trace and cache status as tables."""
    console.print(_hits_table(result))
    if result.trace:
        console.print(_trace_table(result))
    console.print(_cache_line(result))
    if result.degraded:
        console.print(Text(f"degraded: {', '.join(result.degraded)}", style="yellow"))


def _say_nothing_is_indexed(settings: "FunnelSettings") -> None:
    """To people, beside the empty answer: the settings may mean another place than they think."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        Text(
            f"collection {settings.collection!r} in {settings.qdrant.place} holds nothing yet: "
            "funnel index CORPUS, or mend collection or qdrant",
            style="yellow",
        )
    )


def _payload(result: "FunnelResult", explain: str | None) -> dict[str, Any]:
    payload = result.to_dict()
    for plain, hit in zip(payload["hits"], result.hits, strict=True):
        plain["snippet"] = hit.snippet()
    if explain is not None:
        payload["explain"] = result.explain(explain).text
    return payload


def _hits_table(result: "FunnelResult") -> Table:
    table = Table(title=Text(f"“{result.query}”", style="bold"), title_justify="left")
    for heading in ("#", "document", "scores and ranks", "snippet"):
        table.add_column(heading, overflow="fold")
    for hit in result.hits:
        document = f"{hit.title or '-'}\n{hit.id}"
        table.add_row(str(hit.rank), Text(document), Text(_said(hit)), Text(hit.snippet()))
    return table


def _said(hit: "Hit") -> str:
    """One line for each source and stage: ``bm25 #3 12.1``."""
    sources = [
        f"{name.split('.', 1)[1]} #{source.rank} {source.score:.4g}"
        for name, source in hit.sources.items()
    ]
    stages = [
        f"{name} #{rank}" + (f" {hit.stage_scores[name]:.4g}" if name in hit.stage_scores else "")
        for name, rank in hit.stage_ranks.items()
    ]
    return "\n".join([*sources, *stages])


def _trace_table(result: "FunnelResult") -> Table:
    table = Table(title="trace", title_justify="left")
    for heading in ("stage", "in", "out", "ms", "cut texts", "cost $", "note"):
        table.add_column(heading, justify="left" if heading in ("stage", "note") else "right")
    for stage in result.trace:
        note = f"skipped: {stage.skipped}" if stage.skipped else stage.degraded or ""
        table.add_row(
            stage.name,
            str(stage.in_),
            str(stage.out),
            f"{stage.ms:.1f}",
            str(stage.truncated),
            f"{stage.cost_usd:.4f}",
            note,
        )
    return table


def _cache_line(result: "FunnelResult") -> Text:
    info = result.cache
    parts = [f"cache: {info.status}"]
    if info.tier:
        parts.append(f"tier {info.tier}")
    if info.matched_query:
        parts.append(f"matched “{info.matched_query}”")
    if info.score is not None and info.threshold is not None:
        parts.append(f"score {info.score:.3f} (threshold {info.threshold:.3f})")
    if info.reason:
        parts.append(info.reason)
    return Text(f"{' · '.join(parts)} · {result.elapsed_ms:.1f} ms in all")
