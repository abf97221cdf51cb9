"""``funnel index``: a corpus into the collection, checked before anything is written."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from funnel.cli.options import CONFIG, JSON_OUT, config_path
from funnel.errors import CacheError, ConfigError

if TYPE_CHECKING:
    from funnel.index import IndexReport
    from funnel.indexing.corpus import Corpus
    from funnel.settings import FunnelSettings

_SHOWN_PROBLEMS = 20
_TOLD_S = 10.0


def index(
    corpus: Annotated[
        str,
        typer.Argument(
            help="A BEIR folder, or a .jsonl, .ndjson, .csv or .tsv file (also .gz); - for JSON "
            "lines on standard input."
        ),
    ],
    config: CONFIG = None,
    on_bad_line: Annotated[
        str, typer.Option(help="fail: write nothing if a line is bad; skip: leave bad lines out.")
    ] = "fail",
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild", help="Into a new collection, switched to when complete; drops the old."
        ),
    ] = False,
    json_out: JSON_OUT = False,
) -> None:
    """Insert or replace a corpus's documents. Run it again after a kill: it continues.

    The answers that the cache keeps are dropped, also by a run that finds nothing to write: the
    one before may have been killed before it could. Exits with 1 when the cache's store could not
    be told.
    """
    from funnel.indexing.corpus import read_corpus
    from funnel.settings import FunnelSettings

    if on_bad_line not in ("fail", "skip"):
        raise typer.BadParameter(
            f"got {on_bad_line!r}, expected fail or skip", param_hint="--on-bad-line"
        )
    rows = read_corpus(corpus)
    settings = FunnelSettings.from_yaml(config_path(config))
    _check_kept(settings, config)
    report, told = asyncio.run(_write(settings, rows, on_bad_line, rebuild=rebuild))
    if json_out:
        typer.echo(json.dumps(_payload(report), ensure_ascii=False))
    else:
        _show(report)
    if not told:
        raise CacheError(
            f"the documents are written, but the cache's store did not answer within {_TOLD_S:.0f}"
            " s, so it may go on to serve answers from before; run the same command again when "
            "the store can be reached"
        )


def _check_kept(settings: "FunnelSettings", config: Path | None) -> None:
    from funnel.indexing.qdrant import MEMORY

    if settings.qdrant.place == MEMORY:
        raise ConfigError(
            f"{config or 'the settings'}: qdrant.path: got {MEMORY!r}, which ends with this "
            "command; expected a directory, or qdrant.url"
        )


async def _write(
    settings: "FunnelSettings", rows: "Corpus", on_bad: Any, *, rebuild: bool
) -> "tuple[IndexReport, bool]":
    """Write and tell the cache; returns also whether its store has heard of it.

    No model of a stage or of the cache is loaded for this.
    """
    from funnel.cache.factory import build_cache
    from funnel.cache.semantic import SemanticCache
    from funnel.index import DocumentIndex
    from funnel.models.pool import ModelPool
    from funnel.writing import Writer

    models = ModelPool.shared()
    encoder = models.encoder(settings.models.embedder)
    documents = DocumentIndex(settings.qdrant, settings.collection, encoder, bm25=settings.bm25)
    cache = build_cache(settings.cache, models, settings.models.embedder)
    keeps = cache if isinstance(cache, SemanticCache) else None
    try:
        if not rebuild:  # which works where start refuses
            await documents.start()
        if keeps:
            await keeps.connect()
        report = await Writer(documents, cache).index(
            rows, on_bad=on_bad, rebuild=rebuild, progress=True, always_tell=True
        )
        return report, keeps is None or await keeps.settled(_TOLD_S)
    finally:
        await cache.aclose()
        await documents.aclose()


def _payload(report: "IndexReport") -> dict[str, Any]:
    return {
        **asdict(report),
        "written": report.written,
        "documents_per_s": round(report.documents_per_s, 2),
    }


def _show(report: "IndexReport") -> None:
    console = Console(highlight=False)
    counts = {
        "new": report.new,
        "replaced": report.replaced,
        "metadata only": report.metadata_only,
        "unchanged": report.unchanged,
        "repeated": report.repeats,
    }
    said = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    console.print(
        f"{report.collection}: {report.documents:,} documents ({said or 'nothing new'}) in "
        f"{report.seconds:.1f} s, {report.documents_per_s:.0f} written per second"
    )
    if not report.rows:
        console.print(Text("the corpus has no rows: is it the right one?", style="yellow"))
    if report.problems:
        console.print(Text(f"{report.bad_rows:,} bad rows left out:", style="yellow"))
        for problem in report.problems[:_SHOWN_PROBLEMS]:
            console.print(Text(f"  {problem}"))
        if report.bad_rows > _SHOWN_PROBLEMS:
            console.print(f"  … and {report.bad_rows - _SHOWN_PROBLEMS:,} more (see --json)")
