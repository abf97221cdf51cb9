"""The error tree: what callers in other processes get of it."""

import pickle

import pytest

from funnel import errors

RAISED = [
    errors.ConfigError("a"),
    errors.MissingExtra("stage 'x'", "openvino"),
    errors.InputError("a"),
    errors.CorpusError("c.jsonl", ["line 1: no 'id'"], bad=12_000),
    errors.StageTimeout("a", stage="x", cause=ValueError("b")),
    errors.RateLimited("a", stage="x", retry_after=2.5),
    errors.Closed("a"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_an_error_comes_home_from_another_process(error: errors.FunnelError) -> None:
    """What cannot be unpickled breaks a pool of processes, or lets its caller wait for ever."""
    home = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert (type(home), str(home)) == (type(error), str(error))
    assert {name: repr(value) for name, value in vars(home).items()} == {
        name: repr(value) for name, value in vars(error).items()
    }
