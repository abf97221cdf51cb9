"""Make query logs with known intents out of public paraphrase data, for replay and calibration.

    python benchmarks/cache_streams.py DATA OUT

Writes to OUT: ``quora.jsonl`` and ``quora_calibration.jsonl`` (Quora questions that the shipped
verifier never saw in training, in two halves that share no cluster of linked questions),
``extra.jsonl`` (from qqp/extra_positives, the same rule), ``dev.jsonl`` (the questions of qqp/dev,
whose pairs are held out although some of its questions are in training pairs) and ``clinc.jsonl``
(clinc150, intents as groups, out-of-scope queries without one). Held out is what is linked by no
chain of pairs to a pair that ``recipes/questions.py`` trains on.

A group is a cluster of questions labelled as duplicates; two questions of different groups may
still ask the same, as Quora's labels have gaps, so a measured precision is a lower bound.
"""

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from recipes.intents import trained_intents
from recipes.pairs import Clusters, fold
from recipes.questions import held_apart

SIZE = 8_000
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


def write(path: Path, rows: Sequence[Row]) -> None:
    """A log of at most 8,000 requests."""
    lines = [json.dumps({"query": text, "group": group}) for text, group in sample(rows, SIZE)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(lines)} requests")


def main() -> None:
    """Write all logs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder that holds qqp/ and clinc150/")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, rows in all_logs(options.data).items():
        write(options.out / f"{name}.jsonl", rows)


if __name__ == "__main__":
    main()
