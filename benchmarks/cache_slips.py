"""What one slip of the pen costs the cache, and what reading it as the word meant gives back.

    python benchmarks/cache_slips.py DATA [--pairs 1000] [--json]

DATA is the folder of public data sets. Into the first question of labelled duplicates one slip is
put (two letters in each other's places, one left out, one doubled, or a neighbour's key; any inner
letter of any word of four letters or more, whether or not that makes another word), then the cache
decides, as when serving (floor, guards, verifier), whether it is the question as it was, and
whether it is its paraphrase: with slips respelt (``guards.spelling``) and without. How often pairs
that are labelled different become one text by respelling is counted, too.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from funnel.cache.calibrate_run import CalibrationRun
from funnel.cache.calibrator import Calibrator
from funnel.cache.replay_log import LabelledPair
from funnel.cache.settings import GuardSettings
from funnel.cache.spelling import read_alike
from funnel.models import CrossEncoderScorer, Embedder
from funnel.models.source import EMBEDDED, EMBEDDED_ENCODER
from funnel.query import normalise_query

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = re.compile(r"(?<!\w)[A-Za-z]{4,}(?!\w)")
Figures = dict[str, Any]


def labelled(data: Path, *names: str) -> Iterator[LabelledPair]:
    """Quora pairs with their labels, as published."""
    for name in names:
        for line in (data / "qqp" / f"{name}.jsonl").open(encoding="utf-8"):
            row = json.loads(line)
            first, second = normalise_query(row["question1"]), normalise_query(row["question2"])
            yield LabelledPair(first, second, bool(int(row["is_duplicate"])))


def slipped(text: str, chance: random.Random) -> str:
    """The text with one slip, or as it is where no word is long enough."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    found = chance.choice(words)
    word, place = found[0], chance.randrange(1, len(found[0]) - 1)
    before, letter, after = word[:place], word[place], word[place + 1 :]
    made = chance.choice(
        (
            f"{before}{after[0]}{letter}{after[1:]}",
            f"{before}{after}",
            f"{before}{letter}{letter}{after}",
            f"{before}{_neighbour(letter, chance)}{after}",
        )
    )
    return f"{text[: found.start()]}{made}{text[found.end() :]}"


def _neighbour(letter: str, chance: random.Random) -> str:
    row = next(row for row in _ROWS if letter.lower() in row)
    place = row.index(letter.lower())
    return chance.choice([row[i] for i in (place - 1, place + 1) if 0 <= i < len(row)])


def recognised(
    pairs: Sequence[LabelledPair], run: CalibrationRun, calibrator: Calibrator
) -> Figures:
    """Which share of the pairs is a hit at each threshold; all are the same question."""
    scores = run.scores(pairs, floor=calibrator.floor)
    return {
        str(point.target): round(float((scores >= point.threshold).mean()), 3)
        for point in calibrator.points
    }


def respelt(pairs: Sequence[LabelledPair]) -> Figures:
    """Labelled pairs with a slip, and those that respelling makes one text, by label."""
    found = [(pair, read_alike(pair.first, pair.second)) for pair in pairs]
    touched = [(pair, read) for pair, (read, slips) in found if slips]
    merged = [
        pair for pair, read in touched if len({re.sub(r"\W+", " ", t).strip() for t in read}) == 1
    ]
    return {
        "pairs": len(pairs),
        "with_a_slip": len(touched),
        "one_text": len(merged),
        "one_text_labelled_different": [(p.first, p.second) for p in merged if not p.duplicate],
    }


def measure(data: Path, size: int) -> Figures:
    """All figures."""
    chance = random.Random(0)  # noqa: S311 - repeatable is what it has to be
    same = [pair for pair in labelled(data, "dev") if pair.duplicate]
    same = chance.sample(same, min(size, len(same)))
    slips = [slipped(pair.first, chance) for pair in same]
    kinds = {
        "paraphrase": same,
        "question with a slip": [
            LabelledPair(slip, pair.first, True)
            for slip, pair in zip(slips, same, strict=True)
            if slip != pair.first
        ],
        "paraphrase with a slip": [
            LabelledPair(slip, pair.second, True)
            for slip, pair in zip(slips, same, strict=True)
            if slip != pair.first
        ],
    }
    calibrator = Calibrator.shipped()
    encoder, scorer = Embedder(EMBEDDED_ENCODER), CrossEncoderScorer(f"{EMBEDDED}duplicate")
    shares = {}
    for kind, pairs in kinds.items():
        for spelling in (False, True):
            run = CalibrationRun(encoder, scorer, GuardSettings(spelling=spelling))
            shares[f"{kind}, {'respelt' if spelling else 'as written'}"] = {
                "pairs": len(pairs),
                **recognised(pairs, run, calibrator),
            }
    return {"recognised": shares, "labelled": respelt(list(labelled(data, "train", "dev")))}


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder that holds qqp/")
    parser.add_argument("--pairs", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.data, options.pairs)
    if options.json:
        print(json.dumps(figures))
        return
    table = Table(title="share recognised at the threshold of each target precision")
    columns = list(next(iter(figures["recognised"].values())))
    for heading in ("", *columns):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, row in figures["recognised"].items():
        table.add_row(kind, *(f"{row[column]}" for column in columns))
    console = Console(width=120)
    console.print(table)
    console.print(figures["labelled"])


if __name__ == "__main__":
    main()
