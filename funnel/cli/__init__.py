"""The ``funnel`` command. ``main`` is its entry point; one file per command beside this one."""

import signal

__all__ = ["main"]


def main() -> None:
    """Run the command line.

    Ctrl-C while it is still being imported, which takes a moment, ends the process as it ends any
    program: Python would show where in the imports it was.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from funnel.cli.app import main as run

    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, handler)
    run()
