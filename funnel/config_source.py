"""From a YAML file and the environment to plain data, remembering where each value came from."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from funnel.errors import ConfigError
from funnel.registry import suggestion
from funnel.yaml_source import K_NAMES, KeyPath, YamlSource, read_yaml, too_deep

_Place: TypeAlias = Callable[[KeyPath], str]

PREFIX = "FUNNEL__"
_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_SECRET_KEYS = frozenset({"api_key", "password", "secret", "token"})
_CACHE_ADDRESS: tuple[KeyPath, ...] = (("cache",), ("cache", "url"))


@dataclass(frozen=True, slots=True)
class RawConfig:
    """Plain data, the name of where it is from, and which keys the environment set."""

    data: dict[str, Any]
    source: str
    from_environment: Mapping[KeyPath, str] = field(default_factory=dict)
    file: YamlSource | None = None

    def place(self, path: KeyPath) -> str:
        """Where a key was set, for messages: the file's line, or an environment variable."""
        for length in range(len(path), 0, -1):
            if (name := self.from_environment.get(path[:length])) is not None:
                return f"environment variable {name}"
        line = None if self.file is None else self.file.line(path)
        return self.source if line is None else f"{self.source}: line {line}"


def read_config(path: str | Path, environment: Mapping[str, str] | None = None) -> RawConfig:
    """Read a YAML file, fill in ``${NAME}`` and lay ``FUNNEL__A__0__B`` over it.

    Raises:
        ConfigError: no such file, no valid YAML, a secret written out, or a ``${NAME}`` not set.
    """
    env = os.environ if environment is None else environment
    source = str(path)
    file = read_yaml(Path(path), source)
    return overlay(file.data, source, env, file)


def overlay(
    data: Mapping[str, Any],
    source: str,
    environment: Mapping[str, str],
    file: YamlSource | None = None,
) -> RawConfig:
    """Fill references and lay the environment's overrides over ``data`` (which is not changed)."""
    try:
        filled = _fill(data, (), RawConfig({}, source, file=file).place, environment)
    except RecursionError as error:
        raise too_deep(source) from error
    _fold_k(filled)
    if "qdrant" in filled:
        filled["qdrant"] = qdrant_mapping(filled["qdrant"])
    origins: dict[KeyPath, str] = {}
    for name, path, value in _overrides(environment):
        _set(filled, path, qdrant_mapping(value) if path == ["qdrant"] else value, name)
        origins[tuple(_index(part) for part in path)] = name
    return RawConfig(filled, source, origins, file)


def qdrant_mapping(value: Any) -> Any:
    """``qdrant: ./data/index``, or a server's URL, as keys; so that others can join it."""
    if not isinstance(value, str):
        return value
    return {"url" if "://" in value else "path": value}


def dotted(path: KeyPath) -> str:
    """``("stages", 1, "k")`` as ``stages[1].k``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "(top level)"


def shown(path: KeyPath, value: object) -> str:
    """A refused value for a message, unless it is, or may hold, a password."""
    if path in _CACHE_ADDRESS or (path and path[-1] in _SECRET_KEYS):
        return "a value that is not shown"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"{value!r:.80}"


def _fill(value: Any, path: KeyPath, place: _Place, environment: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _fill(v, (*path, k), place, environment) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(v, (*path, i), place, environment) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if path and path[-1] in _SECRET_KEYS and value and not _REFERENCE.fullmatch(value):
        name = f"{path[-1]}".upper()
        raise ConfigError(
            f"{place(path)}: {dotted(path)}: a secret is written out; expected a reference to the "
            f"environment, such as ${{{name}}}"
        )
    return _REFERENCE.sub(lambda found: _lookup(found, path, place, environment), value)


def _lookup(
    found: re.Match[str], path: KeyPath, place: _Place, environment: Mapping[str, str]
) -> str:
    default = found["default"]
    value = environment.get(found["name"], default)
    if value == "" and default is not None:  # as a shell reads it
        value = default
    if value is None:
        raise ConfigError(
            f"{place(path)}: {dotted(path)}: the environment variable {found['name']} is not set; "
            f"set it, or write ${{{found['name']}:-default}}"
        )
    return value


def _fold_k(data: dict[str, Any]) -> None:
    """Name each stage's size ``k``, so that the environment finds it whatever the file calls it."""
    stages = data.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        names = [name for name in K_NAMES if isinstance(stage, dict) and name in stage]
        if len(names) == 1:  # more are left for validation to refuse
            stage["k"] = stage.pop(names[0])


def _overrides(environment: Mapping[str, str]) -> Iterator[tuple[str, list[str], Any]]:
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and len(name) > len(PREFIX):
            path = name[len(PREFIX) :].lower().split("__")
            if len(path) == 3 and path[0] == "stages" and path[2] in K_NAMES:
                path[2] = "k"
            yield name, path, _value(environment[name].strip(), secret=path[-1] in _SECRET_KEYS)


def _value(text: str, *, secret: bool) -> Any:
    """Text as it stands, which the fields convert: YAML would make a name ``no`` a boolean."""
    if text in ("", "null"):
        return None
    if secret or not text.startswith(("[", "{")):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        return text


def _index(part: str) -> str | int:
    return int(part) if part.isdecimal() else part


def _set(data: Any, path: list[str], value: Any, name: str) -> None:
    for position, part in enumerate(path[:-1]):
        data = _child(data, part, path[position + 1], name)
    last = path[-1]
    if isinstance(data, list):
        data[_position(data, last, name)] = value
    elif isinstance(data, dict):
        data[last] = value
    else:
        raise ConfigError(f"environment variable {name}: {'.'.join(path[:-1])} has no keys")


def _child(data: Any, part: str, following: str, name: str) -> Any:
    if isinstance(data, list):
        return data[_position(data, part, name)]
    if not isinstance(data, dict):
        raise ConfigError(f"environment variable {name}: {part!r} is below a value without keys")
    if not isinstance(data.get(part), dict | list):
        if following.isdecimal():
            hint = suggestion(part, tuple(map(str, data)))
            raise ConfigError(
                f"environment variable {name}: {part!r} is not a list in the file{hint}"
            )
        data[part] = {}
    return data[part]


def _position(data: list[Any], part: str, name: str) -> int:
    if not part.isdecimal() or int(part) >= len(data):
        raise ConfigError(
            f"environment variable {name}: got position {part!r}, expected 0 to {len(data) - 1}"
        )
    return int(part)
