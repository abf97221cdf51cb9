"""``funnel serve``: the funnel behind HTTP."""

import faulthandler
import os
import threading
from importlib.util import find_spec
from typing import Annotated

import typer

from funnel.cli.options import CONFIG, open_funnel
from funnel.errors import MissingExtra
from funnel.log import get_logger

log = get_logger(__name__)
_END_S = 29.0
"""The longest from a signal to the end, whatever hangs: just before orchestrators kill (30 s)."""


def serve(
    config: CONFIG = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Also write documents and drop kept answers.")
    ] = False,
    allow_overrides: Annotated[
        bool, typer.Option("--allow-overrides", help="Let a call change stages.")
    ] = False,
    max_k: Annotated[int, typer.Option(min=1, help="The most hits of a call.")] = 100,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Queries at once; more are refused with 429.")
    ] = 256,
) -> None:
    """Answer queries over HTTP: POST /query, see docs/service.md. FUNNEL_SERVICE_TOKEN guards it.

    One process. SIGTERM lets running queries end. For more, start more processes on one Qdrant
    and one Redis.
    """
    if any(find_spec(name) is None for name in ("starlette", "uvicorn", "prometheus_client")):
        raise MissingExtra("funnel serve", "serve")
    from funnel.service.options import ServiceOptions
    from funnel.service.server import serve as listen
    from funnel.settings import Secrets

    options = ServiceOptions(
        token=Secrets().funnel_service_token,
        writes=allow_writes,
        overrides=allow_overrides,
        max_k=max_k,
        max_in_flight=max_in_flight,
    )
    with open_funnel(config) as funnel:
        listen(funnel, options, host=host, port=port, listening=_say, ending=_end_in_time)


def _say(address: str) -> None:
    typer.echo(f"listening on {address}", err=True)


def _end_in_time() -> None:
    """See to it that the process ends, also if a thread never comes back from a model or a call."""
    watch = threading.Timer(_END_S, _give_up)
    watch.daemon = True
    watch.start()


def _give_up() -> None:
    log.error("end_forced", after_s=_END_S, threads=[each.name for each in threading.enumerate()])
    faulthandler.dump_traceback()  # of all threads: what held it
    os._exit(1)
