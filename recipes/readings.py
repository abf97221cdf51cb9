"""What readers said of pairs that the cache would serve from each other.

Public labels have gaps and errors, and call questions duplicates of which one asks more than the
other. So a random half of the pairs that ``embedded:duplicate`` would serve in a stream of held-out
questions (each with its best-scored one of the five nearest before it, down to a score of -.5) was
read twice, each time by another language model that saw neither labels nor scores, under a stricter
rule: would a good answer to either serve who asked the other, in substance and whole? Those that
hesitated were to say no.

``readings.tsv`` is of one half of the held-out questions and shaped the model's weights and the
guard for whole answers. ``readings-apart.tsv`` is of 2,000 of the other half and only confirmed
that guard (its third rule, one thing against two, was settled with both in view). It was read by
two other readers, who turned out stricter by far: figures of the two do not compare, what a guard
or a threshold changes in each does.

The files hold no question, for the data's terms: hashes of the folded texts.
"""

import hashlib
from pathlib import Path
from typing import Literal, cast

from recipes.pairs import fold

FILES = {
    "quora_calibration": Path(__file__).with_name("readings.tsv"),
    "quora": Path(__file__).with_name("readings-apart.tsv"),
}
"""By the stream of ``streams.py`` that the pairs are of."""
Verdict = Literal["SS", "SD", "DD"]
"""Both readers called them the same, one did, none did."""


def read_readings(path: Path) -> dict[str, Verdict]:
    """The verdicts by :func:`pair_key`."""
    lines = path.read_text("utf-8").splitlines()
    return {key: cast("Verdict", said) for key, said in (line.split("\t") for line in lines)}


def pair_key(first: str, second: str) -> str:
    """Of an unordered pair of texts, case, punctuation and spacing aside."""
    both = "\n".join(sorted((fold(first), fold(second))))
    return hashlib.sha256(both.encode()).hexdigest()[:16]
