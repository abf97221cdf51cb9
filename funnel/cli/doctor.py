"""``funnel doctor``: what is installed, reachable and fast here."""

import json
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from funnel.cli.options import CONFIG, JSON_OUT, config_path

_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red", "absent": "dim", "skipped": "dim"}


def doctor(config: CONFIG = None, json_out: JSON_OUT = False) -> None:
    """Say what is installed, reachable and fast here, and what to do about the rest."""
    from funnel.doctor import examine

    checks = list(examine(config_path(config)))
    healthy = not any(check.status == "fail" for check in checks)
    if json_out:
        typer.echo(json.dumps({"healthy": healthy, "checks": [asdict(c) for c in checks]}))
    else:
        table = Table()
        for heading in ("check", "status", "detail", "what to do"):
            table.add_column(heading, overflow="fold")  # a command cut short cannot be copied
        for check in checks:
            status = Text(check.status, style=_STYLE[check.status])
            table.add_row(check.name, status, Text(check.detail), Text(check.mend))
        Console().print(table)
    if not healthy:
        raise typer.Exit(1)
