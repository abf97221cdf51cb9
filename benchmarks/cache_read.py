"""How right the cache's hits are to readers, who are stricter than public labels.

    python benchmarks/cache_read.py DATA [--json]

DATA is the folder of public data sets. Pairs of two streams of held-out Quora questions that the
cache would serve from each other were read twice (``recipes/readings.py`` says how, and how the two
differ); this scores them with the shipped verifier behind the guards, with and without the one for
whole answers, and shows for thresholds of the score what share both readers, one of them, and the
public labels call the same question; and what that guard refuses at the configured threshold.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from funnel.cache.asking import other_answer
from funnel.cache.calibrate_run import CalibrationRun
from funnel.cache.calibrator import Calibrator
from funnel.cache.replay import earlier_neighbours
from funnel.cache.replay_log import LabelledPair
from funnel.cache.settings import GuardSettings
from funnel.models import CrossEncoderScorer, Embedder
from funnel.models.source import EMBEDDED, EMBEDDED_ENCODER
from funnel.query import normalise_query
from recipes.readings import FILES, Verdict, pair_key, read_readings
from recipes.streams import Row, quora, sample

THRESHOLDS = (2.5, 2.3, 2.0, 1.5, 0.0)
FLOOR, CANDIDATES = 0.57, 5
SIZES = {"quora_calibration": None, "quora": 2_000}
"""Questions of a stream whose pairs were read; None: all."""
Line = dict[str, Any]


class Read(NamedTuple):
    """A pair as the labels have it, and what the readers said."""

    pair: LabelledPair
    said: Verdict


def read_pairs(rows: Sequence[Row], said: Mapping[str, Verdict], encoder: Embedder) -> list[Read]:
    """The pairs of a stream that were read."""
    groups = {normalise_query(text): group for text, group in rows}
    texts = list(groups)
    vectors = np.asarray(encoder.encode(texts), dtype=np.float32)
    near = earlier_neighbours(vectors, FLOOR, CANDIDATES)
    return [
        Read(LabelledPair(text, other, groups[text] == groups[other]), said[key])
        for text, earlier in zip(texts, near, strict=True)
        for other in (texts[number] for number, _ in earlier)
        if (key := pair_key(text, other)) in said
    ]


def figures(scores: Sequence[float], rows: Sequence[Read], threshold: float) -> dict[str, float]:
    """Of the pairs at or above a threshold: how many, and what share is right, and to whom."""
    served = [row for row, score in zip(rows, scores, strict=True) if score >= threshold]
    shares = {
        "both_readers": np.mean([row.said == "SS" for row in served]),
        "a_reader": np.mean([row.said != "DD" for row in served]),
        "labels": np.mean([row.pair.duplicate for row in served]),
    }
    rounded = {name: round(float(share), 4) for name, share in shares.items()}
    return {"pairs": len(served), **rounded}


def results_of(
    stream: str, data: Path, encoder: Embedder, scorer: CrossEncoderScorer
) -> list[Line]:
    """One line for each threshold and guard."""
    rows = quora(data)[stream]
    size = SIZES[stream]
    pairs = read_pairs(
        rows if size is None else sample(rows, size), read_readings(FILES[stream]), encoder
    )
    lines: list[Line] = []
    for whole_answer in (False, True):
        run = CalibrationRun(encoder, scorer, GuardSettings(whole_answer=whole_answer))
        scores = run.scores([row.pair for row in pairs]).tolist()
        certified = [
            point.threshold for point in Calibrator.shipped(whole_answer=whole_answer).points
        ]
        part = f"{stream}{', behind guards.whole_answer' if whole_answer else ''}"
        lines += [
            {"part": part, "of": f"{threshold:.2f}", **figures(scores, pairs, threshold)}
            for threshold in sorted(_distinct([*THRESHOLDS, *certified]), reverse=True)
        ]
        if not whole_answer:
            lines += refused(stream, scores, pairs, min(certified))
    return lines


def _distinct(thresholds: Sequence[float]) -> list[float]:
    """Of those that are shown as equal the last."""
    return list({f"{threshold:.2f}": threshold for threshold in thresholds}.values())


def refused(
    stream: str, scores: Sequence[float], pairs: Sequence[Read], threshold: float
) -> list[Line]:
    """What the guard for whole answers says of the pairs at or above a threshold, by reason."""
    parts: dict[str, list[tuple[float, Read]]] = defaultdict(list)
    for score, row in zip(scores, pairs, strict=True):
        parts[other_answer(row.pair.first, row.pair.second) or "nothing"].append((score, row))
    part = f"{stream}, by what guards.whole_answer says at {threshold:.2f}"
    return [
        {"part": part, "of": reason, **figures(*zip(*rows, strict=True), threshold)}
        for reason, rows in sorted(parts.items())
        if any(score >= threshold for score, _ in rows)
    ]


def main() -> None:
    """Score, count and show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder that holds qqp/")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    encoder, scorer = Embedder(EMBEDDED_ENCODER), CrossEncoderScorer(f"{EMBEDDED}duplicate")
    results = [
        line for stream in FILES for line in results_of(stream, options.data, encoder, scorer)
    ]
    if options.json:
        print(json.dumps(results))
        return
    show(results, Console())


def show(results: Sequence[Line], console: Console) -> None:
    """A table for each part."""
    for part, lines in groupby(results, itemgetter("part")):
        table = Table(title=f"{part}: the same question to …", title_justify="left")
        for name in ("score or reason", "pairs", "both readers", "one of them", "labels"):
            table.add_column(name, justify="right")
        for line in lines:
            _, of, pairs, *shares = line.values()
            table.add_row(of, f"{pairs}", *(f"{share:.3f}" for share in shares))
        console.print(table)


if __name__ == "__main__":
    main()
