"""Streams of questions with known intents, made of public paraphrase data.

Held out is what no chain of pairs links to a pair that ``recipes/questions.py`` trains on. A group
is a cluster of questions labelled as duplicates; two questions of different groups may still ask
the same, as Quora's labels have gaps, so a precision measured by them is a lower bound.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from recipes.intents import trained_intents
from recipes.pairs import Clusters, fold
from recipes.questions import held_apart

LARGEST = 20
Pair = tuple[str, str, bool]
Row = tuple[str, str | None]


def read_pairs(path: Path) -> list[Pair]:
    """Labelled pairs of one file."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        (row["question1"].strip(), row["question2"].strip(), bool(int(row["is_duplicate"])))
        for row in rows
    ]


def place(cluster: str, salt: str, modulus: int) -> int:
    """A stable number for the cluster that a question stands for."""
    return int(hashlib.sha1(f"{salt}{cluster}".encode()).hexdigest(), 16) % modulus  # noqa: S324


def quora(data: Path) -> dict[str, list[Row]]:
    """(question, group): the held-out clusters in two halves, the extra positives, qqp/dev."""
    development = read_pairs(data / "qqp/dev.jsonl")
    labelled = read_pairs(data / "qqp/train.jsonl") + development
    extra = read_pairs(data / "qqp/extra_positives.jsonl")
    linked = Clusters()
    for first, second, _ in [*labelled, *extra]:
        linked.join(fold(first), fold(second))
    known = {linked.find(text) for text in trained_on(data)}

    def held_out(text: str) -> bool:
        return linked.find(fold(text)) not in known

    def half(text: str) -> int:
        return place(min(groups[linked.find(fold(text))]), "s", 2)

    groups: dict[str, set[str]] = {}
    for first, second, _ in [*labelled, *extra]:
        groups.setdefault(linked.find(fold(first)), set()).update((fold(first), fold(second)))
    everything = grouped([pair for pair in [*labelled, *extra] if held_out(pair[0])])
    asked = {fold(text) for first, second, _ in development for text in (first, second)}
    return {
        "quora_calibration": [row for row in everything if half(row[0]) == 0],
        "quora": [row for row in everything if half(row[0]) == 1],
        "extra": [row for row in grouped(p for p in extra if held_out(p[0])) if half(row[0]) == 1],
        "dev": [row for row in grouped([*labelled, *extra]) if fold(row[0]) in asked],
    }


def trained_on(data: Path) -> set[str]:
    """Folded questions of all pairs that the recipe trains on."""
    parts = held_apart(data)
    return {fold(text) for pair in parts["train"] for text in (pair.first, pair.second)}


def all_logs(data: Path) -> dict[str, list[Row]]:
    """Every log by name."""
    logs = quora(data)
    trained = trained_on(data)
    seen = sum(fold(text) in trained for text, _ in logs["dev"]) / len(logs["dev"])
    share = f"{seen:.0%} of its questions are in training pairs"
    print(f"dev: {share}, none of its pairs is", file=sys.stderr)
    return {**logs, "clinc": clinc(data)}


def sample(rows: Sequence[Row], size: int) -> list[Row]:
    """About ``size`` of the rows, always the same: whole groups, of large ones twenty rows each.

    Single questions drawn from many would leave their paraphrases behind.
    """
    draw = random.Random(0)  # noqa: S311 - sampling
    groups: dict[str, list[Row]] = {}
    for number, (text, group) in enumerate(rows):
        groups.setdefault(f"#{number}" if group is None else group, []).append((text, group))
    members = [draw.sample(group, min(len(group), LARGEST)) for group in groups.values()]
    draw.shuffle(members)
    chosen: list[Row] = []
    for some in members:
        if len(chosen) + len(some) <= size:
            chosen += some
    draw.shuffle(chosen)
    return chosen


def grouped(pairs: Iterable[Pair]) -> list[Row]:
    """Each distinct question once, with the cluster of its duplicates."""
    same = Clusters()
    texts: dict[str, str] = {}
    for first, second, duplicate in pairs:
        for text in (first, second):
            texts.setdefault(fold(text), text)
            same.find(fold(text))
        if duplicate:
            same.join(fold(first), fold(second))
    return [(text, same.find(folded)) for folded, text in texts.items()]


def clinc(data: Path) -> list[Row]:
    """Queries of clinc150 with the intents that trained nothing; out of scope has none."""
    trained = trained_intents(data)
    parts = json.loads((data / "clinc150/data_full.json").read_text("utf-8"))
    rows = [row for name in sorted(parts) for row in parts[name]]
    return [
        (text, None if intent == "oos" else intent)
        for text, intent in rows
        if intent not in trained
    ]
