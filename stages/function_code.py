"""Whether a function is still the one whose rankings the cache keeps: a hash of its code."""

import functools
import hashlib
from types import CodeType
from typing import Any


def code_hash(function: Any) -> str:
    """Changes with the function's own code and defaults; empty where it has none in Python.

    Not with what it calls or looks up elsewhere, nor with the state of an object. Stable between
    processes of one Python version.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__code__"):
        owner = type(function)
        function = getattr(function, "__func__", None) or getattr(owner, "__call__", None)  # noqa: B004
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    told = [*_told(code), _constant(getattr(function, "__defaults__", None))]
    return hashlib.blake2b("\0".join(told).encode(), digest_size=8).hexdigest()


def _told(code: CodeType) -> list[str]:
    names = [code.co_name, *code.co_names, *code.co_varnames, *code.co_freevars]
    return [code.co_code.hex(), *names, *map(_constant, code.co_consts)]


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return "\0".join(_told(value))
    if isinstance(value, frozenset):  # its own order differs from process to process
        return f"frozenset({sorted(map(repr, value))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))})"
    simple = isinstance(value, (str, bytes, int, float, complex, type(None), type(...)))
    return repr(value) if simple else type(value).__qualname__
