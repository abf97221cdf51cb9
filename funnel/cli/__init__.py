"""The ``funnel`` command. ``main`` is its entry point; one file per command beside this one."""

from funnel.cli.app import main

__all__ = ["main"]
