"""The one error tree."""

import pickle
from collections.abc import Iterator

import pytest

from funnel.errors import (
    CorpusError,
    ExamplesError,
    FunnelError,
    InputError,
    MissingExtra,
    RateLimited,
    StageError,
    StageTimeout,
)


class Unpicklable(Exception):
    """As many libraries have: made by other arguments than it keeps."""

    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")


def _all(kind: type[FunnelError]) -> Iterator[type[FunnelError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _all(below)


def _elsewhere(error: FunnelError) -> FunnelError:
    there: FunnelError = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert (type(there), str(there)) == (type(error), str(error))
    return there


@pytest.mark.parametrize(
    "error",
    [
        MissingExtra("'late_interaction'", "embedded"),
        CorpusError("a.jsonl", ["line 1: bad", "line 2: bad"], bad=7),
        ExamplesError("pairs.jsonl", ["line 1: bad"]),
        InputError("k: got 0"),
        RateLimited("slower", retry_after=2.5, stage="llm_listwise"),
    ],
)
def test_errors_reach_another_process_as_they_are(error: FunnelError) -> None:
    """With all their fields: one that cannot be read back hangs a multiprocessing.Pool."""
    assert vars(_elsewhere(error)) == vars(error)


def test_a_cause_stays_where_it_was() -> None:
    """What other libraries raise often cannot be pickled; the message names it."""
    error = StageTimeout("too late", stage="hybrid", cause=Unpicklable(status=500))
    there = _elsewhere(error)
    assert isinstance(there, StageError)
    assert (there.stage, there.reason, there.cause) == ("hybrid", "timeout", None)


def test_no_error_needs_a_way_of_its_own() -> None:
    """Whatever a subclass's ``__init__`` takes."""
    assert all(kind.__reduce__ is FunnelError.__reduce__ for kind in _all(FunnelError))
