"""Changes to the stages of a YAML file that leave all else of its text as it stands.

A value is replaced where it is written, a key is added beside the others, a stage that is left out
becomes a comment. Comments, order, quoting, anchors and line ends stay.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from math import inf
from typing import Any, TypeAlias

import yaml

from funnel.errors import ConfigError
from funnel.log import get_logger
from funnel.yaml_source import K_NAMES, parse_yaml, value_at

log = get_logger(__name__)
Change: TypeAlias = Mapping[str, Any]
_Edit: TypeAlias = tuple[int, int, str]
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_COMMENT = re.compile("#[^\r\n\x85\u2028\u2029]*")
_COMMA = re.compile(r"[ \t]*,")
_ROUNDS = 4


def edit_stages(text: str, changes: Sequence[Change | None], source: str) -> str:
    """Return ``text`` with keys of its stages set; a stage whose change is None is left out.

    ``k`` keeps the name it has. Where the text is too unusual to be changed in place (such as
    ``stages`` that stand for an anchor) it is written anew, without its comments, and a warning
    says so.

    Raises:
        ConfigError: the text is no YAML, or has another number of stages.
    """
    wanted = _wanted(parse_yaml(text, source).data, changes, source)
    try:
        edited = _edited(text, wanted, changes, source)
    except (_Unusual, yaml.YAMLError, ConfigError, LookupError, TypeError):
        log.warning(
            "yaml_written_anew",
            file=source,
            lost="comments, anchors and layout",
            mend="to keep them, set the recommended sizes in your file by hand",
        )
        return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
    return edited


class _Unusual(Exception):
    """The text is written in a way that is not changed in place."""


def _wanted(
    data: Mapping[str, Any], changes: Sequence[Change | None], source: str
) -> dict[str, Any]:
    stages = data.get("stages")
    if not isinstance(stages, list) or len(stages) != len(changes):
        raise ConfigError(
            f"{source}: got other stages than were tuned ({len(changes)}), perhaps from FUNNEL__… "
            "variables; write the stages into the file"
        )
    kept = [
        {**stage, **{_name(key, stage): value for key, value in change.items()}}
        for stage, change in zip(stages, changes, strict=True)
        if change is not None
    ]
    return {**data, "stages": kept}


def _name(key: str, stage: Mapping[str, Any]) -> str:
    """What the stage calls its size."""
    return next((name for name in K_NAMES if name in stage), key) if key == "k" else key


def _edited(
    text: str, wanted: dict[str, Any], changes: Sequence[Change | None], source: str
) -> str:
    """Set what differs, and again what differs then: an alias follows the value it stands for."""
    if None in changes:
        text = _without(text, [place for place, change in enumerate(changes) if change is None])
    original = text
    for _ in range(_ROUNDS):
        data = parse_yaml(text, source).data
        if _same(data, wanted):
            return text
        root = _tree(text)
        stages = _stage_list(root).children
        if not len(stages) == len(data["stages"]) == len(wanted["stages"]):
            raise _Unusual
        differing = [
            (stage, key, value)
            for stage, found, goal in zip(stages, data["stages"], wanted["stages"], strict=True)
            for key, value in goal.items()
            if not (key in found and _same(found[key], value))
        ]
        edits = [_setting(text, *each) for each in differing]
        text = _apply(text, edits or _standing_alone(original, root, _changed(original, text)))
    raise _Unusual


def _same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: ``1`` is neither ``true`` nor ``1.0``."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return repr(one) == repr(other)


def _apply(text: str, edits: Sequence[_Edit]) -> str:
    for start, end, new in sorted(set(edits), reverse=True):
        text = text[:start] + new + text[end:]
    return text


# -- where everything is written


@dataclass(slots=True)
class _Node:
    """A value as it is written: an alias is a leaf of its own."""

    event: yaml.NodeEvent
    start: int
    end: int
    """Where its own text ends, before comments and blank lines."""
    column: int
    children: "list[_Node]" = field(default_factory=list)

    @property
    def alias(self) -> str:
        """The anchor that stands here in place of a value, or nothing."""
        return (self.event.anchor or "") if isinstance(self.event, yaml.AliasEvent) else ""

    @property
    def anchor(self) -> str:
        """Its name for aliases, or nothing."""
        return "" if self.alias else self.event.anchor or ""

    @property
    def is_flow(self) -> bool:
        return bool(getattr(self.event, "flow_style", False))

    def pairs(self) -> "Iterator[tuple[_Node, _Node]]":
        """Keys and values of a mapping."""
        if not isinstance(self.event, yaml.MappingStartEvent):
            raise _Unusual
        return zip(self.children[::2], self.children[1::2], strict=True)

    def value(self, *names: str) -> "tuple[_Node, _Node] | None":
        """The first pair of which the key has one of these names."""
        named = (pair for pair in self.pairs() if getattr(pair[0].event, "value", None) in names)
        return next(named, None)

    def all(self) -> "Iterator[_Node]":
        """Itself and all that is in it, in the order of the text."""
        yield self
        for child in self.children:
            yield from child.all()


def _tree(text: str) -> _Node:
    events = iter(yaml.parse(text))
    next(events), next(events)  # the stream's start and the document's
    return _node(text, next(events), events)


def _node(text: str, event: Any, events: Iterator[Any]) -> _Node:
    start, end = event.start_mark.index, _end(event)
    if getattr(event, "style", None) in ("|", ">"):  # whose end is on the next line
        end = start + len(text[start:end].rstrip())
    node = _Node(event, start, end, event.start_mark.column)
    if not isinstance(event, yaml.CollectionStartEvent):
        return node
    while not isinstance(following := next(events), yaml.CollectionEndEvent):
        node.children.append(_node(text, following, events))
        node.end = node.children[-1].end
    if node.is_flow:
        node.end = _end(following)
    return node


def _end(event: Any) -> int:
    return int(event.end_mark.index)


def _stage_list(root: _Node) -> _Node:
    found = next((pair for each in _merged(root) if (pair := each.value("stages"))), None)
    if found is None or not isinstance(found[1].event, yaml.SequenceStartEvent):
        raise _Unusual
    return found[1]


def _merged(root: _Node) -> "Iterator[_Node]":
    """The mapping, and those whose keys it takes over by ``<<`` where they are written there."""
    yield root
    if (merge := root.value("<<")) is not None:
        _, taken = merge
        is_list = isinstance(taken.event, yaml.SequenceStartEvent)
        yield from taken.children if is_list else [taken]


# -- a key of a stage


def _setting(text: str, stage: _Node, key: str, value: Any) -> _Edit:
    found = stage.value(key)
    return _replacing(text, found[1], value) if found else _adding(text, stage, key, value)


def _replacing(text: str, node: _Node, value: Any) -> _Edit:
    event = node.event
    anchor = f"&{node.anchor} " if node.anchor else ""
    quote = event.style if isinstance(event, yaml.ScalarEvent) else None
    new = anchor + _written(value, quote if quote in ("'", '"') else "")
    if node.start == node.end:  # nothing is written there
        new = f" {new}" if text[: node.start].endswith(":") else f": {new}"
    return node.start, node.end, new


def _adding(text: str, stage: _Node, key: str, value: Any) -> _Edit:
    """After ``kind``, or what the mapping begins with."""
    name, held = stage.value("kind") or next(stage.pairs(), (None, None))
    if name is None or held is None:
        raise _Unusual
    quote = getattr(name.event, "style", None) or ""
    pair = f"{quote}{key}{quote}: {_written(value, quote)}"
    if stage.is_flow:
        return held.end, held.end, f", {pair}"
    end = _line_end(text, held.end)
    return end, end, f"{_line_break(text)}{' ' * stage.children[0].column}{pair}"


def _written(value: Any, quote: str) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    return f"{quote}{value}{quote}"


def _line_break(text: str) -> str:
    found = _BREAK.search(text)
    return found[0] if found else "\n"


def _line_end(text: str, start: int) -> int:
    found = _BREAK.search(text, start)
    return found.start() if found else len(text)


# -- a stage that is left out


def _without(text: str, places: Sequence[int]) -> str:
    root = _tree(text)
    stages = _stage_list(root)
    dropped = [stages.children[place] for place in places]
    inside = [node for stage in dropped for node in stage.all()]
    edits = _standing_alone(text, root, {node.anchor for node in inside}, inside)
    if stages.is_flow:
        edits += [_cut(text, stages.children, run) for run in _runs(places)]
    else:
        edits += [edit for stage in dropped for edit in _commented(text, stage)]
    return _apply(text, edits)


def _standing_alone(
    original: str, root: _Node, anchors: Set[str], spared: Sequence[_Node] = ()
) -> list[_Edit]:
    """Write out what these anchors stood for, wherever else something refers to them."""
    anchored = _anchored(_tree(original))
    untouched = set(map(id, spared))
    return [
        (node.start, node.end, _in_one_line(_value(original, anchored[node.alias])))
        for node in root.all()
        if node.alias and node.alias in anchors and id(node) not in untouched
    ]


def _changed(original: str, text: str) -> set[str]:
    """The anchors that stand for something else now."""
    before, now = _anchored(_tree(original)), _anchored(_tree(text))
    return {
        name
        for name in before.keys() & now.keys()
        if not _same(_value(original, before[name]), _value(text, now[name]))
    }


def _anchored(root: _Node) -> dict[str, _Node]:
    return {node.anchor: node for node in root.all() if node.anchor}


def _value(text: str, node: _Node) -> Any:
    return value_at(text, node.start, scalar=isinstance(node.event, yaml.ScalarEvent))


def _in_one_line(value: Any) -> str:
    listed = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=inf)
    line = listed.strip()[1:-1]
    return json.dumps(value) if "\n" in line else line


def _commented(text: str, stage: _Node) -> list[_Edit]:
    """Make each of its lines a comment, at the column of its dash."""
    dash = max(at for at in _dashes(text) if at < stage.start)
    start = max((found.end() for found in _BREAK.finditer(text, 0, dash)), default=0)
    if text[start:dash].strip(" "):
        raise _Unusual
    marks: list[_Edit] = []
    column = dash - start
    while start < stage.end:
        end = _line_end(text, start)
        line = text[start:end]
        if line.strip():
            at = start + min(column, len(line) - len(line.lstrip(" ")))
            marks.append((at, at, "# "))
        found = _BREAK.match(text, end)
        start = found.end() if found else len(text)
    return marks


def _dashes(text: str) -> list[int]:
    tokens: Iterator[Any] = yaml.scan(text)
    return [token.start_mark.index for token in tokens if isinstance(token, yaml.BlockEntryToken)]


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours as first and last: ``[1, 2, 5]`` is ``[(1, 2), (5, 5)]``."""
    groups = groupby(enumerate(places), key=lambda each: each[1] - each[0])
    runs = [[place for _, place in group] for _, group in groups]
    return [(run[0], run[-1]) for run in runs]


def _cut(text: str, stages: Sequence[_Node], run: tuple[int, int]) -> _Edit:
    """Take stages out of a list in brackets, with a comma; the comments among them stay."""
    first, last = run
    comma = _COMMA.match(text, stages[last].end)
    if last + 1 < len(stages):
        start, end = stages[first].start, stages[last + 1].start
    elif comma:
        start, end = stages[first].start, comma.end()
    elif first > 0:
        start, end = stages[first - 1].end, stages[last].end
    else:
        raise _Unusual
    comments = _comments(text, start, end)
    follows = f"{_line_break(text)}{' ' * stages[first].column}"
    kept = "".join(f"{comment}{follows}" for comment in comments)
    return start, end, f" {kept}" if comments and start < stages[first].start else kept


def _comments(text: str, start: int, end: int) -> list[str]:
    """The comments of a part of the text: they stand where no token does."""
    found: list[str] = []
    at = start
    for token in yaml.scan(text):
        if token.end_mark.index <= at:
            continue
        found += _COMMENT.findall(text[at : max(at, min(end, token.start_mark.index))])
        at = token.end_mark.index
        if at >= end:
            break
    return found
