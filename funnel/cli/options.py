"""Options that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from funnel.errors import ConfigError

if TYPE_CHECKING:
    from funnel.engine import Funnel

CONFIG: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML file; the embedded default if not given."),
]
FILTERS: TypeAlias = Annotated[
    str | None, typer.Option("--filter", help='Metadata filters as JSON: \'{"lang": "en"}\'.')
]
JSON_OUT: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object for machines.")]

ON_BAD_LINE: TypeAlias = Annotated[
    str, typer.Option(help="Bad lines of the corpus: fail, or skip them with a warning.")
]


def bad_lines(text: str) -> Literal["skip", "fail"]:
    """Read ``--on-bad-line``.

    Raises:
        BadParameter: it is neither.
    """
    if text == "fail":
        return "fail"
    if text == "skip":
        return "skip"
    raise typer.BadParameter(f"got {text!r}, expected fail or skip", param_hint="--on-bad-line")


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Around what makes or writes the file or folder that an option names.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{option}: got {path}, which cannot be written ({error.strerror or error}); "
            "expected a path in a folder that exists or can be made"
        ) from error


def make_room(option: str, path: Path) -> None:
    """Make the folder of a file to be written, before the work whose result it is to hold.

    Raises:
        ConfigError: the file cannot be written there, or the path is a folder itself.
    """
    with writing(option, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        is_new = not path.exists()
        if is_new or path.is_file():
            path.open("ab").close()
        if is_new:  # what stops the work leaves no empty file
            path.unlink()


def make_folder(option: str, path: Path) -> None:
    """Make a folder of results, before the work that fills it.

    Raises:
        ConfigError: it cannot be made, or nothing can be written into it.
    """
    with writing(option, path):
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()


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
