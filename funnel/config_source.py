"""From a YAML file and the environment to plain data, remembering where each value came from."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from funnel.errors import ConfigError

KeyPath: TypeAlias = tuple[str | int, ...]

PREFIX = "FUNNEL__"
_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_SECRET_KEYS = frozenset({"api_key", "password", "secret", "token"})
_CACHE_ADDRESS: tuple[KeyPath, ...] = (("cache",), ("cache", "url"))
_K_ALIASES = frozenset({"top_k", "top_n"})
_Pair: TypeAlias = tuple[yaml.Node, yaml.Node]
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class RawConfig:
    """Plain data, the name of where it is from, and which keys the environment set."""

    data: dict[str, Any]
    source: str
    from_environment: Mapping[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where a key was set, for messages: the file, or an environment variable."""
        for length in range(len(path), 0, -1):
            if (name := self.from_environment.get(path[:length])) is not None:
                return f"environment variable {name}"
        return self.source


def read_config(path: str | Path, environment: Mapping[str, str] | None = None) -> RawConfig:
    """Read a YAML file, fill in ``${NAME}`` and lay ``FUNNEL__A__0__B`` over it.

    Raises:
        ConfigError: no such file, no valid YAML, a secret written out, or a ``${NAME}`` not set.
    """
    env = os.environ if environment is None else environment
    source = str(path)
    return overlay(_parse(Path(path), source), source, env)


def overlay(data: Mapping[str, Any], source: str, environment: Mapping[str, str]) -> RawConfig:
    """Fill references and lay the environment's overrides over ``data`` (which is not changed)."""
    try:
        filled = _fill(data, (), source, environment)
    except RecursionError as error:
        raise _too_deep(source) from error
    _fold_k(filled)
    if "qdrant" in filled:
        filled["qdrant"] = qdrant_mapping(filled["qdrant"])
    origins: dict[KeyPath, str] = {}
    for name, path, value in _overrides(environment):
        _set(filled, path, qdrant_mapping(value) if path == ["qdrant"] else value, name)
        origins[tuple(_index(part) for part in path)] = name
    return RawConfig(filled, source, origins)


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


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key written twice, which YAML would silently resolve to the last."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take over the keys that ``<<: *name`` refers to; the mapping's own, each unique, win.

        Of several names the first wins. PyYAML gets both wrong where mappings take over in turn.
        """
        if id(node) in self._flat:
            return
        self._flat.add(id(node))
        pairs = self._own(node)
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for key, pair in self._referred(value_node):
                    pairs.setdefault(key, pair)
        node.value = list(pairs.values())

    def _own(self, node: yaml.MappingNode) -> dict[Any, _Pair]:
        pairs: dict[Any, _Pair] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if key in pairs:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is written twice", problem_mark=key_node.start_mark
                )
            pairs[key] = (key_node, value_node)
        return pairs

    def _referred(self, value: yaml.Node) -> Iterator[tuple[Any, _Pair]]:
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(source, yaml.MappingNode):
                raise yaml.MarkedYAMLError(
                    problem="'<<' expects the *name of a mapping", problem_mark=source.start_mark
                )
            self.flatten_mapping(source)
            yield from self._own(source).items()


def _parse(path: Path, source: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{source}: no such file; give the path of a YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read as UTF-8 text: {error}") from error
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{source}: {_yaml_problem(error, text)}") from error
    except RecursionError as error:
        raise _too_deep(source) from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: got {type(data).__name__} at the top level, expected keys such as 'stages:'"
        )
    return data


def _yaml_problem(error: yaml.MarkedYAMLError, text: str) -> str:
    problem, mark = f"not valid YAML: {error.problem or error}", error.problem_mark
    if mark is None:
        return problem
    line = "".join(text.splitlines()[mark.line : mark.line + 1])
    mend = "; a '${NAME}' within { } or [ ] needs quotes" if _REFERENCE.search(line) else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{mend}"


def _too_deep(source: str) -> ConfigError:
    return ConfigError(
        f"{source}: got lists or mappings nested too deeply, or an alias inside what it stands "
        "for; write each value out"
    )


def _fill(value: Any, path: KeyPath, source: str, environment: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {k: _fill(v, (*path, k), source, environment) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(v, (*path, i), source, environment) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if path and path[-1] in _SECRET_KEYS and value and not _REFERENCE.fullmatch(value):
        name = f"{path[-1]}".upper()
        raise ConfigError(
            f"{source}: {dotted(path)}: a secret is written out; expected a reference to the "
            f"environment, such as ${{{name}}}"
        )
    return _REFERENCE.sub(lambda found: _lookup(found, path, source, environment), value)


def _lookup(
    found: re.Match[str], path: KeyPath, source: str, environment: Mapping[str, str]
) -> str:
    value = environment.get(found["name"], found["default"])
    if value is None:
        raise ConfigError(
            f"{source}: {dotted(path)}: the environment variable {found['name']} is not set; "
            f"set it, or write ${{{found['name']}:-default}}"
        )
    return value


def _fold_k(data: dict[str, Any]) -> None:
    """Name each stage's size ``k``, so that the environment finds it whatever the file calls it."""
    stages = data.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        names = [name for name in ("k", *_K_ALIASES) if isinstance(stage, dict) and name in stage]
        if len(names) == 1:  # more are left for validation to refuse
            stage["k"] = stage.pop(names[0])


def _overrides(environment: Mapping[str, str]) -> Iterator[tuple[str, list[str], Any]]:
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and len(name) > len(PREFIX):
            path = name[len(PREFIX) :].lower().split("__")
            if len(path) == 3 and path[0] == "stages" and path[2] in _K_ALIASES:
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
            raise ConfigError(f"environment variable {name}: {part!r} is not a list in the file")
        data[part] = {}
    return data[part]


def _position(data: list[Any], part: str, name: str) -> int:
    if not part.isdecimal() or int(part) >= len(data):
        raise ConfigError(
            f"environment variable {name}: got position {part!r}, expected 0 to {len(data) - 1}"
        )
    return int(part)
