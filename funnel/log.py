"""Loggers that go where the service's own configuration sends them.

A structlog that nobody configured prints to standard output, which would mix events into a
program's results. So: a configured structlog is used as it is; otherwise events go to the standard
library's loggers under ``funnel.…``, silent below WARNING unless the service says otherwise.
"""

import logging
from functools import cache
from typing import Any

import structlog


class Log:
    """A logger by name; looks the configuration up at every event, like structlog's proxy."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **fields: Any) -> None:
        """Log details; the only level at which query text may appear."""
        self._target().debug(event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log a fact of normal running."""
        self._target().info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log something that was degraded."""
        self._target().warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log something that failed."""
        self._target().error(event, **fields)

    def _target(self) -> Any:
        if structlog.is_configured():
            return structlog.get_logger(self._name)
        return _standard(self._name)


@cache
def _standard(name: str) -> Any:
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


@cache
def get_logger(name: str) -> Log:
    """Return the logger of the module called ``name``."""
    return Log(name)
