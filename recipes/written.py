"""Groups of queries written for this project: what asks the same, and what nearly does.

Labelled pairs from the web know little of what a cache must tell apart: a near miss there is an
accident. Each group here has wordings that one answer serves, as far apart as they can be, and near
misses that share most of their words: another number, role, order, condition … A part of the
groups is held out by topic.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from recipes.pairs import Pair, overlap

FOLDER: Final = Path(__file__).with_name("written")
SAME: Final = "written"
KINDS: Final = frozenset({
    "number", "unit", "negation", "antonym", "entity", "direction", "order", "attribute", "scope",
    "action", "condition", "reason",
})  # fmt: skip
_HELD_OUT = 100  # per thousand groups


@dataclass
class Group:
    """One question in several wordings, and others with the kind of their difference."""

    area: str
    topic: str
    same: list[str] = field(default_factory=list)
    other: list[tuple[str, str]] = field(default_factory=list)

    @property
    def held_out(self) -> bool:
        """Whether training never sees it."""
        digest = hashlib.sha1(self.topic.lower().encode()).hexdigest()  # noqa: S324
        return int(digest, 16) % 1000 < _HELD_OUT


def read_groups(folder: Path = FOLDER) -> list[Group]:
    """All groups, file by file.

    ``@ topic`` begins a group, ``= wording`` is one of the same question, ``! kind | wording`` a
    near miss. A line that is none of them, and a group without two wordings or a near miss, is a
    ``ValueError``.
    """
    return [group for path in sorted(folder.glob("*.txt")) for group in _read(path)]


def _read(path: Path) -> list[Group]:
    groups: list[Group] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark, text = line[:1], line[1:].strip()
        kind, _, other = (part.strip() for part in text.partition("|"))
        if mark == "@" and text:
            groups.append(Group(path.stem, text))
        elif mark == "=" and text and groups:
            groups[-1].same.append(text)
        elif mark == "!" and kind in KINDS and other and groups:
            groups[-1].other.append((kind, other))
        elif line.strip():
            raise ValueError(
                f"{path.name}:{number}: neither topic, wording nor near miss: {line!r}"
            )
    for group in groups:
        if len(group.same) < 2 or not group.other:
            raise ValueError(f"{path.name}: {group.topic!r} lacks wordings or near misses")
    return groups


def trained_pairs(groups: Iterable[Group], rng: random.Random) -> list[Pair]:
    """Of the groups that train: any two wordings, and each near miss with two of the wordings."""
    pairs = []
    for group in groups:
        if group.held_out:
            continue
        pairs += _wordings(group)
        for kind, other in group.other:
            nearest = _nearest(other, group.same)
            further = rng.choice([text for text in group.same if text != nearest])
            pairs += [Pair(text, other, 0.0, _kind(kind)) for text in (nearest, further)]
    return pairs


def held_out_pairs(groups: Iterable[Group]) -> list[Pair]:
    """Of the others: any two wordings, and each near miss with the wording most like it."""
    return [
        pair
        for group in groups
        if group.held_out
        for pair in [
            *_wordings(group),
            *(Pair(_nearest(o, group.same), o, 0.0, _kind(kind)) for kind, o in group.other),
        ]
    ]


def _wordings(group: Group) -> list[Pair]:
    return [
        Pair(first, second, 1.0, SAME)
        for place, first in enumerate(group.same)
        for second in group.same[place + 1 :]
    ]


def _nearest(text: str, wordings: Sequence[str]) -> str:
    return max(wordings, key=lambda wording: overlap(text, wording))


def _kind(kind: str) -> str:
    return f"{SAME} {kind}"
