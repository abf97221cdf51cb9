"""Make query logs with known intents out of public paraphrase data, for replay and calibration.

    python benchmarks/cache_streams.py DATA OUT

Writes to OUT: ``quora.jsonl`` and ``quora_calibration.jsonl`` (Quora questions that the shipped
verifier never saw in training, in two halves that share no cluster of linked questions),
``extra.jsonl`` (from qqp/extra_positives, the same rule) and ``clinc.jsonl`` (clinc150, intents as
groups, out-of-scope queries without one). A group is a cluster of questions labelled as
duplicates; two questions of different groups may still ask the same, as Quora's labels have gaps,
so a measured precision is a lower bound.
"""

import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

HELD_OUT = 65  # per thousand clusters, as in recipes/questions.py: its dev and test parts
SIZE = 8_000
Pair = tuple[str, str, bool]


class Clusters:
    """Disjoint sets of folded questions."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, item: str) -> str:
        """The item that stands for the set of ``item``."""
        parent = self._parent
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, left: str, right: str) -> None:
        """Make two sets one."""
        self._parent[self.find(left)] = self.find(right)


def fold(text: str) -> str:
    """Case, punctuation and spacing aside, as in recipes/questions.py."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def read_pairs(path: Path) -> list[Pair]:
    """Labelled pairs of one file."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        (row["question1"].strip(), row["question2"].strip(), bool(int(row["is_duplicate"])))
        for row in rows
    ]


def place(cluster: str, salt: str, modulus: int) -> int:
    """A stable number for a cluster."""
    return int(hashlib.sha1(f"{salt}{cluster}".encode()).hexdigest(), 16) % modulus  # noqa: S324


def quora(data: Path) -> dict[str, list[tuple[str, str]]]:
    """(question, group) of the held-out clusters: two halves, and the extra positives' own."""
    labelled = read_pairs(data / "qqp/train.jsonl") + read_pairs(data / "qqp/dev.jsonl")
    extra = read_pairs(data / "qqp/extra_positives.jsonl")
    linked = Clusters()
    for first, second, _ in [*labelled, *extra]:
        linked.join(fold(first), fold(second))

    def held_out(text: str) -> bool:
        return place(linked.find(fold(text)), "h", 1_000) < HELD_OUT

    def half(text: str) -> int:
        return place(linked.find(fold(text)), "s", 2)

    everything = grouped([pair for pair in [*labelled, *extra] if held_out(pair[0])])
    return {
        "quora_calibration": [row for row in everything if half(row[0]) == 0],
        "quora": [row for row in everything if half(row[0]) == 1],
        "extra": [row for row in grouped(p for p in extra if held_out(p[0])) if half(row[0]) == 1],
    }


def grouped(pairs: Iterable[Pair]) -> list[tuple[str, str]]:
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


def clinc(data: Path) -> list[tuple[str, str | None]]:
    """All queries of clinc150 with their intents; out of scope has none."""
    parts = json.loads((data / "clinc150/data_full.json").read_text("utf-8"))
    rows = [row for name in sorted(parts) for row in parts[name]]
    return [(text, None if intent == "oos" else intent) for text, intent in rows]


def write(path: Path, rows: Sequence[tuple[str, str | None]]) -> None:
    """A shuffled log of at most 8,000 requests."""
    chosen = list(rows)
    random.Random(0).shuffle(chosen)  # noqa: S311 - sampling
    lines = [json.dumps({"query": text, "group": group}) for text, group in chosen[:SIZE]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(lines)} requests")


def main() -> None:
    """Write all logs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder that holds qqp/ and clinc150/")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    logs: dict[str, Sequence[tuple[str, str | None]]] = {
        **quora(options.data),
        "clinc": clinc(options.data),
    }
    for name, rows in logs.items():
        write(options.out / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
