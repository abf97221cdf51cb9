"""A YAML file as plain data, with the line of each key and limits on what is read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from funnel.errors import ConfigError

KeyPath: TypeAlias = tuple[str | int, ...]
_Pair: TypeAlias = tuple[yaml.Node, yaml.Node]

MOST_BYTES = 1 << 20
MOST_VALUES = 1_000_000
K_NAMES = ("k", "top_k", "top_n")
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True, repr=False)
class YamlSource:
    """What a file holds, and where."""

    data: dict[str, Any]
    root: yaml.Node

    def line(self, path: KeyPath) -> int | None:
        """The line of a key, or of the nearest one above it; None if not even the first is here."""
        node, line = self.root, None
        for part in path:
            found = _within(node, part)
            if found is None:
                break
            key, node = found
            line = key.start_mark.line + 1
        return line


def read_yaml(path: Path, source: str) -> YamlSource:
    """Read and parse a file.

    Raises:
        ConfigError: it cannot be read, is too large, or is no YAML with keys at the top.
    """
    return parse_yaml(read_text(path, source), source)


def read_text(path: Path, source: str) -> str:
    """Read a file with the line ends that it has.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(
                f"{source}: got more than {MOST_BYTES:,} bytes, expected a file of settings; "
                "is it another one?"
            )
        return content.decode("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{source}: no such file; give the path of a YAML file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{source}: it is a folder; give the path of a YAML file") from error
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ConfigError(f"{source}: cannot be read as UTF-8 text: {error}") from error


def parse_yaml(text: str, source: str) -> YamlSource:
    """Parse a text whose top level has keys.

    Raises:
        ConfigError: names the line and what is wrong with it.
    """
    try:
        loader = _UniqueKeyLoader(text)
        root = loader.get_single_node()
        _check_size(root, source)
        data = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{source}: {_problem(error, text)}") from error
    except RecursionError as error:
        raise too_deep(source) from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    if root is None or not isinstance(data, dict):
        got = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{source}: got {got} at the top level, expected keys such as 'stages:'")
    return YamlSource(data, root)


def value_at(text: str, index: int, *, scalar: bool) -> Any:
    """The value that begins at a character, a scalar or not, with its aliases filled in.

    Raises:
        LookupError: none does.
    """
    loader = _UniqueKeyLoader(text)
    root, seen = loader.get_single_node(), set[int]()
    nodes = [] if root is None else [root]
    while nodes:
        node = nodes.pop()
        if node.start_mark.index == index and isinstance(node, yaml.ScalarNode) == scalar:
            return loader.construct_document(node)
        if id(node) not in seen:
            seen.add(id(node))
            nodes += _parts(node)
    raise LookupError(index)


def too_deep(source: str) -> ConfigError:
    """The error of data that go on for ever, or nearly."""
    return ConfigError(
        f"{source}: got lists or mappings nested too deeply, or an alias inside what it stands "
        "for; write each value out"
    )


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


def _check_size(root: yaml.Node | None, source: str) -> None:
    """Refuse a few lines of aliases that stand for more than fits into memory."""
    if root is not None and _expanded(root, {}) > MOST_VALUES:
        raise ConfigError(
            f"{source}: got aliases that stand for more than {MOST_VALUES:,} values in all, "
            "expected settings; write out what is meant"
        )


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for when each alias is written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0  # an alias inside what it stands for
        known[id(node)] = 1 + sum(_expanded(part, known) for part in _parts(node))
    return known[id(node)]


def _parts(node: yaml.Node) -> list[Any]:
    """Keys and values of a mapping, items of a list."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _problem(error: yaml.MarkedYAMLError, text: str) -> str:
    problem, mark = f"not valid YAML: {error.problem or error}", error.problem_mark
    if mark is None:
        return problem
    line = "".join(text.splitlines()[mark.line : mark.line + 1])
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{_mend(line, mark.column)}"


def _mend(line: str, column: int) -> str:
    if line[column : column + 1] == "\t":
        return "; indent with spaces"
    return "; a '${NAME}' within { } or [ ] needs quotes" if "${" in line else ""


def _within(node: yaml.Node, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The node that bears the line of a part of a path, and the one that holds its value."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return (node.value[part], node.value[part]) if part < len(node.value) else None
    if not isinstance(node, yaml.MappingNode):
        return None
    names = K_NAMES if part == "k" else (str(part),)
    return next((pair for pair in node.value if pair[0].value in names), None)
