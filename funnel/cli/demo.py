"""``funnel demo``: the shipped help centre through every stage and the cache, measured here."""

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from funnel.cli.options import CONFIG, JSON_OUT, config_path

if TYPE_CHECKING:
    from funnel.settings import FunnelSettings


def demo(
    config: CONFIG = None,
    query: Annotated[
        str | None, typer.Option(help="Id of the graded query to show in full.")
    ] = None,
    json_out: JSON_OUT = False,
) -> None:
    """Index the shipped help centre, grade each stage on it, and play questions at the cache.

    With OPENROUTER_API_KEY set, the list-wise LLM stage runs too.
    """
    from funnel.demo.render import render
    from funnel.demo.runner import run_demo
    from funnel.engine import Funnel

    with Funnel(_settings(config)) as funnel:
        report = run_demo(funnel, query_id=query, progress=not json_out)
    if json_out:
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False))
        return
    render(report, Console())


def _settings(config: Path | None) -> "FunnelSettings":
    from funnel.demo.runner import demo_settings
    from funnel.settings import FunnelSettings, Secrets

    has_key = Secrets().openrouter_api_key is not None
    llm = Path(str(files("funnel").joinpath("configs/llm.yaml")))
    return demo_settings(FunnelSettings.from_yaml(config_path(config)), llm if has_key else None)
