"""A folder of small data sets about hotels in many places, as the duplicate recipe reads it."""

import json
from pathlib import Path

from tests.recipes.assistant import write_intents

TOPICS = [f"{name}{number}" for name in ("Lisbon", "Oslo", "Cairo", "Lima") for number in range(40)]


def _write(path: Path, rows: list[tuple[str, str, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("question1", "question2", "is_duplicate")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))


def write_data(data: Path) -> None:
    """Quora, MRPC, STS, SQuAD and clinc150 in their folders."""
    rows = []
    for topic in TOPICS:
        best = f"What is the best family hotel in {topic}?"
        rows += [
            (best, f"Which hotel in {topic} is best for families?", 1),
            (best, f"What is the worst family hotel in {topic}?", 0),
            (best, f"How do I fly from {topic} to the old harbour?", 0),
            (f"How old is the bridge of {topic}?", f"When was {topic}'s bridge built?", 1),
        ]
    _write(data / "qqp/train.jsonl", rows)
    asked = [
        (f"Which hotel in {t} is best for families?", f"Is {t} by the sea?", 0) for t in TOPICS
    ]
    _write(data / "qqp/dev.jsonl", [*asked, rows[3]])
    _write(data / "qqp/extra_positives.jsonl", [(rows[0][1], "Best family hotel there?", 1)])
    for name in ("mrpc/msr-para-train.tsv", "mrpc/msr-para-test.tsv"):
        path = data / "paraphrase" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Quality\tid\tid\ta\tb\n1\t1\t2\tHe left {name}.\tHe went away.\n")
    for name in ("stsb/sts-train.csv", "stsb/sts-dev.csv"):
        path = data / "paraphrase" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"\tid\ta\tb\tsimilarity\n0\tx\tA dog {name}.\tA cat.\t1.2\n1\ty\tA {name}.\tA!\t5.0\n"
        )
    squad = data / "qa/squad_nqg"
    squad.mkdir(parents=True)
    for split in ("dev", "test"):
        (squad / f"src-{split}.txt").write_text("the sky is blue .\n" * 2)
        (squad / f"tgt-{split}.txt").write_text("what is blue ?\nwhich colour has the sky ?\n")
    write_intents(data)


def write_groups(folder: Path) -> None:
    """One question about each topic in two wordings, and a near miss."""
    folder.mkdir()
    groups = (
        f"@ {topic}\n= Is {topic} safe at night?\n= can one walk in {topic} after dark\n"
        f"! negation | Is {topic} not safe at night?\n"
        for topic in TOPICS
    )
    (folder / "safety.txt").write_text("\n".join(groups))
