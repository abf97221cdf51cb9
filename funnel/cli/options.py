"""Options that several commands share."""

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from funnel.engine import Funnel

CONFIG: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file; the embedded default if not given."),
]
JSON_OUT: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object for machines.")]


def config_path(config: Path | None) -> Path:
    """Return the YAML file to use: the given one, else the embedded default that ships."""
    if config is not None:
        return config
    return Path(str(files("funnel").joinpath("configs/embedded.yaml")))


def open_funnel(config: Path | None) -> "Funnel":
    """Make a funnel from ``--config``.

    Raises:
        ConfigError: the settings are wrong.
    """
    from funnel.engine import Funnel

    return Funnel.from_yaml(config_path(config))
