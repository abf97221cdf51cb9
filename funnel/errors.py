"""The one error tree; everything this library raises on purpose is a :class:`FunnelError`.

::

    FunnelError
    ├── ConfigError            a file, key, name or extra is wrong; nothing was started
    │   └── MissingExtra       an optional dependency is not installed
    ├── InputError             the caller's query, document or argument is wrong (also a ValueError)
    ├── CorpusError            lines of a corpus could not be read; carries every bad line
    │   └── ExamplesError      lines of training data or test cases (also an InputError)
    ├── ModelError             a model is missing, damaged or of the wrong shape
    │   └── UnknownModel       no model has that name here (also a ConfigError)
    ├── TrainingStopped        training ended early; a checkpoint was kept
    ├── StageError             a stage failed; ``.stage`` and ``.cause``
    │   ├── StageTimeout       it ran past its share of the deadline
    │   ├── BackendUnavailable a server or index could not be reached
    │   ├── RateLimited        ``.retry_after`` seconds
    │   ├── BudgetExceeded     a spend cap would be passed
    │   ├── AuthError          a key is missing or was refused
    │   └── MalformedOutput    a model's answer could not be used
    ├── Overloaded             a bounded queue is full; try again later
    ├── CacheError             a cache store failed (never reaches a caller of ``Funnel.run``)
    └── Closed                 the funnel was closed

Messages follow one form: what was got, what was expected, and the mend.
"""

from collections.abc import Sequence
from typing import Any


class FunnelError(Exception):
    """Base of every error this library raises on purpose. It can be sent to another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle message and fields; the class may be called with others than these."""
        return _made_again, (type(self), self.args), self._fields()

    def _fields(self) -> dict[str, Any]:
        return dict(self.__dict__)


class ConfigError(FunnelError):
    """A setting, name or file is wrong. The message names file, key path, value and mend."""


class MissingExtra(ConfigError):
    """An optional dependency is needed and not installed."""

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs an extra: pip install 'retrieval-funnel[{extra}]'")


class InputError(FunnelError, ValueError):
    """A query, document or argument that the caller handed in cannot be used."""


class CorpusError(FunnelError):
    """Lines of a corpus are bad.

    ``problems`` holds ``"line 17: …"`` strings, in file order: all of them, or the first 10,000.
    ``bad`` counts all.
    """

    _consequence = "nothing was written"
    _leave_out = "on_bad='skip', --on-bad-line skip"

    def __init__(self, source: str, problems: Sequence[str], *, bad: int | None = None) -> None:
        self.source = source
        self.problems = tuple(problems)
        self.bad = len(self.problems) if bad is None else bad
        shown = "\n  ".join(self.problems[:10])
        more = f"\n  … and {self.bad - 10:,} more" if self.bad > 10 else ""
        super().__init__(
            f"{source}: {self.bad:,} bad line(s), {self._consequence}; "
            f"mend them or leave them out ({self._leave_out}):\n  {shown}{more}"
        )


class ExamplesError(CorpusError, InputError):
    """Lines of training data or of test cases are bad; the fields are those of ``CorpusError``."""

    _consequence = "nothing was done"
    _leave_out = "on_bad_line='skip', --on-bad-line skip"


class ModelError(FunnelError):
    """A model is missing, damaged, of another base or shape, or has an untrained head."""


class UnknownModel(ModelError, ConfigError):
    """No model can have that name, or what brings it is not installed; nothing was read."""


class TrainingStopped(FunnelError):
    """Training ended early between two steps; a checkpoint was kept and can be resumed.

    ``interrupted`` tells a signal from ``max_steps``.
    """

    def __init__(self, message: str, *, interrupted: bool = False) -> None:
        self.interrupted = interrupted
        super().__init__(message)


class StageError(FunnelError):
    """A stage failed. ``stage`` is its name, ``cause`` the underlying error if there is one."""

    reason = "error"

    def __init__(
        self, message: str, *, stage: str | None = None, cause: BaseException | None = None
    ) -> None:
        self.stage = stage
        self.cause = cause
        super().__init__(message)

    def _fields(self) -> dict[str, Any]:
        """Without the cause: many libraries' errors cannot be pickled; the message tells it."""
        return {**super()._fields(), "cause": None}


class StageTimeout(StageError):
    """A stage ran past its share of the deadline."""

    reason = "timeout"


class BackendUnavailable(StageError):
    """A server, index or endpoint could not be reached or answered with a server error."""

    reason = "unavailable"


class RateLimited(StageError):
    """An endpoint asked us to slow down; ``retry_after`` is in seconds, None if it did not say."""

    reason = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        stage: str | None = None,
        cause: BaseException | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.retry_after = retry_after
        super().__init__(message, stage=stage, cause=cause)


class BudgetExceeded(StageError):
    """A call would pass a spend cap, or the endpoint says that credit is used up."""

    reason = "budget"


class AuthError(StageError):
    """A key is missing, or was refused."""

    reason = "auth"


class MalformedOutput(StageError):
    """A model's answer holds nothing that can be used."""

    reason = "malformed"


class Overloaded(FunnelError):
    """A bounded queue is full. Nothing was done; the caller may try again later."""

    reason = "overloaded"


class CacheError(FunnelError):
    """A cache store failed. Caught at the cache's border: queries never see it."""


class Closed(FunnelError):
    """The funnel was closed; make a new one."""


def _made_again(kind: type[FunnelError], arguments: tuple[Any, ...]) -> FunnelError:
    return kind.__new__(kind, *arguments)
