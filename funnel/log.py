"""Loggers that go where the service's own configuration sends them.

A structlog that nobody configured prints to standard output, which would mix events into a
program's results. So: a configured structlog is used as it is; otherwise events go to the standard
library's loggers under ``funnel.…``, silent below WARNING unless the service says otherwise.
"""

import logging
import threading
import time
from collections.abc import Hashable
from functools import cache
from typing import Any

import structlog

SAY_EVERY_S = 10.0


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


class Seldom:
    """What every query may bring while something is down, and would drown the log.

    Of each kind the first is logged at once and then one in ``SAY_EVERY_S``, whose ``not_logged``
    counts those between. A kind is the event and what it is ``about``, of which there must be few.
    Any thread may call.
    """

    def __init__(self, target: Log) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._said: dict[Hashable, float] = {}
        self._unsaid: dict[Hashable, int] = {}

    def warning(self, event: str, *, about: Hashable = None, **fields: Any) -> None:
        """Log something that was degraded."""
        unsaid = self._due((event, about))
        if unsaid is not None:
            self._target.warning(event, **fields, not_logged=unsaid)

    def error(self, event: str, *, about: Hashable = None, **fields: Any) -> None:
        """Log something that failed."""
        unsaid = self._due((event, about))
        if unsaid is not None:
            self._target.error(event, **fields, not_logged=unsaid)

    def _due(self, kind: Hashable) -> int | None:
        """How many of the kind were not logged since the last, or None if this is another."""
        now = time.monotonic()
        with self._lock:
            said = self._said.get(kind)
            if said is not None and now - said < SAY_EVERY_S:
                self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
                return None
            self._said[kind] = now
            return self._unsaid.pop(kind, 0)


@cache
def get_logger(name: str) -> Log:
    """Return the logger of the module called ``name``."""
    return Log(name)
