"""The hash of a function's code: the same for the same code, another one for another."""

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from funnel.stages.function_code import code_hash


def _made(source: str) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(source, scope)  # noqa: S102 - two functions of one name
    function: Callable[..., Any] = scope["f"]
    return function


BASE = "def f(query, found, weight=2):\n    return [weight * (query in {'a', 'b'}) for _ in found]"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("2 ", "3 "),
        ("'b'", "'c'"),
        ("weight * (", "weight + ("),
        ("in {", "not in {"),
        ("=2", "=5"),
    ],
)
def test_changed_code_has_another_hash(before: str, after: str) -> None:
    """Constants, operators, what is nested in it, defaults."""
    changed = BASE.replace(before, after)
    if changed == BASE:
        changed = BASE.replace("for _ in found", "for _ in found[:1]")
    assert code_hash(_made(BASE)) == code_hash(_made(f"\n\n{BASE}"))
    assert code_hash(_made(BASE)) != code_hash(_made(changed))


def test_whatever_can_be_called_has_one() -> None:
    """A partial function, an object, a method; none for what is not Python."""

    class Counts:
        def __call__(self, query: str) -> int:
            return len(query)

        def method(self, query: str) -> int:
            return len(query) + 1

    partial = functools.partial(_made(BASE), weight=3)
    assert len({code_hash(Counts()), code_hash(Counts().method), code_hash(partial)}) == 3
    assert code_hash(functools.partial(_made(BASE))) == code_hash(_made(BASE))
    assert code_hash(len) == ""


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any) -> Any:
        return function(*args)

    return timed


@pytest.mark.parametrize(
    "make",
    [
        lambda n: functools.partial(_made(BASE), weight=n),
        lambda n: functools.partial(functools.partial(_made(BASE), n), "found"),
        lambda n: _timed(_made(BASE.replace("=2", f"={n}"))),
        lambda n: functools.lru_cache(_made(BASE.replace("=2", f"={n}"))),
        lambda n: _made(BASE.replace("weight=2", f"*, weight={n}")),
    ],
    ids=["partial", "partial of a partial", "decorated", "remembering", "keyword only"],
)
def test_what_a_function_is_made_of_counts(make: Callable[[int], Any]) -> None:
    """Answers that another one ranked were served from the cache."""
    assert code_hash(make(2)) == code_hash(make(2)) != ""
    assert code_hash(make(2)) != code_hash(make(3))


def test_it_is_the_same_in_another_process() -> None:
    """Replicas share what they keep; the order of a set differs between them."""
    program = (
        "import sys; from funnel.stages.function_code import code_hash; scope = {};"
        f"exec({BASE!r}, scope); print(code_hash(scope['f']))"
    )
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        )
        assert told.stdout.strip() == code_hash(_made(BASE))
