"""``funnel evaluations``: what ``eval`` and ``tune`` have indexed, and its removal."""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from funnel.cli.options import CONFIG, JSON_OUT, config_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from funnel.evaluation.kept import Kept


def evaluations(
    config: CONFIG = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(help="Remove this collection, or all of a data set; may be given again."),
    ] = None,
    remove_all: Annotated[bool, typer.Option("--remove-all", help="Remove all of them.")] = False,
    json_out: JSON_OUT = False,
) -> None:
    """List the collections that eval and tune have made, oldest first, or remove some.

    The next evaluation makes anew what it needs. On a server, see that none is running.
    """
    from funnel.evaluation.kept import kept
    from funnel.evaluation.kept import remove as remove_kept
    from funnel.settings import FunnelSettings

    qdrant = FunnelSettings.from_yaml(config_path(config)).qdrant
    if remove or remove_all:
        found = asyncio.run(remove_kept(qdrant, remove or (), every=remove_all))
    else:
        found = asyncio.run(kept(qdrant))
    removed = bool(remove or remove_all)
    if json_out:
        rows = [{**asdict(each), "made": each.made.isoformat()} for each in found]
        typer.echo(json.dumps({"removed" if removed else "kept": rows}, ensure_ascii=False))
    else:
        _show(found, removed=removed)


def _show(found: "Sequence[Kept]", *, removed: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not found:
        console.print("no collections of evaluations are there")
        return
    table = Table(title="removed" if removed else "collections of evaluations")
    table.add_column("collection", no_wrap=True)  # to be copied
    for name in ("documents", "embedder", "made", "MB"):
        table.add_column(name, overflow="fold", justify="right" if name in _NUMBERS else "left")
    for each in found:
        unfinished = "" if each.finished else ", unfinished"
        size = "" if each.size is None else f"{each.size / 1e6:.1f}"
        made = f"{each.made:%Y-%m-%d %H:%M}{unfinished}"
        row = (each.name, f"{each.documents:,}", each.embedder or "none", made, size)
        table.add_row(*map(Text, row))
    console.print(table)


_NUMBERS = ("documents", "MB")
