"""The command tree and the one place where errors become exit codes.

Exit codes: 0 fine, 1 failed, 2 usage or configuration, 130 interrupted.
"""

import atexit
import codecs
import errno
import inspect
import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console
from rich.text import Text

from funnel.cli import train
from funnel.cli.bench import bench_app
from funnel.cli.cache import cache_app
from funnel.cli.demo import demo
from funnel.cli.doctor import doctor
from funnel.cli.eval import eval_
from funnel.cli.evaluations import evaluations
from funnel.cli.index import index
from funnel.cli.query import query
from funnel.cli.serve import serve
from funnel.cli.tune import tune
from funnel.errors import ConfigError, FunnelError, InputError, TrainingStopped

FAILED, USAGE, INTERRUPTED = 1, 2, 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_INDEX_KEPT = (
    "; what was indexed on a disk or a server is kept, and the same command goes on from there"
)
_KEPT = {
    "index": _INDEX_KEPT,
    "eval": _INDEX_KEPT,
    "tune": _INDEX_KEPT,
    "train": "; if OUTPUT.checkpoints is there, the same command with --resume goes on from it",
}
"""What an interrupted command leaves, and how to go on."""

app = typer.Typer(
    name="funnel",
    help="A retrieval funnel: index, query, evaluate, tune, measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    log_level: Annotated[
        str, typer.Option(help="Events at or above this level go to standard error.")
    ] = "warning",
) -> None:
    configure_logging(log_level)
    if version:
        from funnel import __version__

        typer.echo(__version__)
        raise typer.Exit


def configure_logging(level: str) -> None:
    """Send events to standard error, so that standard output holds results only."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise typer.BadParameter(
            f"got {level!r}, expected debug, info, warning or error", param_hint="--log-level"
        )
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=colours),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _flow(commands: typer.Typer) -> None:
    """Let the paragraphs of all help texts flow: Typer keeps a docstring's line ends in them."""
    for command in commands.registered_commands:
        text = inspect.cleandoc(command.callback.__doc__ or "") if command.callback else ""
        command.help = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)


app.command()(demo)
app.command()(index)
app.command()(query)
app.command("eval")(eval_)
app.command()(tune)
app.command()(evaluations)
app.command()(serve)
app.command()(doctor)
app.add_typer(train.app, name="train")
app.add_typer(bench_app, name="bench")
app.add_typer(cache_app, name="cache")
_flow(app)


def main() -> None:
    """Run the command line; a FunnelError becomes one message and an exit code.

    The process ends without the libraries' own tear-down: their threads, stopping while static
    objects are destroyed around them, have been seen to abort a process whose work was done.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    prepare_streams()
    ending = _Ending()
    atexit.register(ending)  # the first to be registered is the last to run
    ending.code = run()
    if ending.code == INTERRUPTED:  # nobody waits for threads that still read or compute
        ending()


def prepare_streams() -> None:
    r"""Make standard output take any text, closed outputs take any at all, a closed input end.

    What its encoding has no bytes for is printed as JSON escapes it, ``\u2192``: so ``--json``
    stays JSON also where the locale is not UTF-8.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # also lest the next file opened gets its number
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
            setattr(sys, name, nowhere)
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - until the end
    codecs.register_error("funnel.escape", _escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="funnel.escape")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


class _Ending:
    """Ends the process with ``code`` when Python has tidied up."""

    code = FAILED

    def __call__(self) -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # nobody reads any more
            self.code = self.code or FAILED
        os._exit(self.code)


def run() -> int:
    """Run the command line in this process; return its exit code."""
    try:
        app()
    except FunnelError as error:
        if isinstance(error, TrainingStopped) and error.interrupted:
            _say("interrupted: ", str(error))
            return INTERRUPTED
        _say("error: ", str(error))
        return USAGE if isinstance(error, ConfigError | InputError) else FAILED
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        place = error.filename or "the output"
        _say("error: ", f"{place} cannot be written ({error.strerror}); make room")
        return FAILED
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # what Typer makes of it inside a command
            return _interrupted()
        return ended.code if isinstance(ended.code, int) else FAILED if ended.code else 0
    return 0


def _interrupted() -> int:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    command = next((word for word in sys.argv[1:] if word in commands), "")
    _say("interrupted", _KEPT.get(command, ""))
    return INTERRUPTED


def _say(what: str, message: str) -> None:
    # No markup: it would take 'retrieval-funnel[openvino]' for a style, and drop it.
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        Text.assemble((what, "bold red"), message)
    )
