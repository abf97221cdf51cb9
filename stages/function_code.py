"""Whether a function is still the one whose rankings the cache keeps: a hash of its code."""

import functools
import hashlib
from collections.abc import Mapping
from types import CodeType
from typing import Any


def code_hash(function: Any) -> str:
    """Changes with the function's own code, defaults and, of a partial, what was given before.

    Of a decorated function also with what ``functools.wraps`` says it wraps. Not with what it calls
    or looks up elsewhere, nor with the state of an object. Stable between processes of one Python
    version; empty where it has no code in Python.
    """
    told = _of(function)
    return hashlib.blake2b("\0".join(told).encode(), digest_size=8).hexdigest() if told else ""


def _of(function: Any) -> list[str]:
    if isinstance(function, functools.partial):
        given = [_constant(function.args), *_named(function.keywords)]
        return [*_of(function.func), *(given if function.args or function.keywords else ())]
    wrapped = getattr(function, "__dict__", {}).get("__wrapped__")
    return [*_own(function), *([] if wrapped is None else _of(wrapped))]


def _own(function: Any) -> list[str]:
    if not hasattr(function, "__code__"):
        owner = type(function)
        function = getattr(function, "__func__", None) or getattr(owner, "__call__", None)  # noqa: B004
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return []
    defaults = getattr(function, "__defaults__", None)
    return [*_told(code), _constant(defaults), *_named(getattr(function, "__kwdefaults__", None))]


def _named(values: Mapping[str, Any] | None) -> list[str]:
    return [f"{name}={_constant(value)}" for name, value in sorted((values or {}).items())]


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
