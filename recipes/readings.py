"""What readers said of pairs that the cache would serve from each other.

Public labels have gaps and errors, and call questions duplicates of which one asks more than the
other. So a random half of the pairs that ``embedded:duplicate`` would serve in a stream of held-out
questions (each with its best-scored one of the five nearest before it, down to a score of -.5) was
read twice, each time by another language model that saw neither labels nor scores, under a stricter
rule: would a good answer to either serve who asked the other, in substance and whole? Those that
hesitated were to say no.

The file holds no question, for the data's terms: hashes of the folded texts.
"""

import hashlib
from pathlib import Path
from typing import Literal, cast

from recipes.pairs import fold

FILE = Path(__file__).parent / "readings.tsv"
Verdict = Literal["SS", "SD", "DD"]
"""Both readers called them the same, one did, none did."""


def read_readings(path: Path = FILE) -> dict[str, Verdict]:
    """The verdicts by :func:`pair_key`."""
    lines = path.read_text("utf-8").splitlines()
    return {key: cast("Verdict", said) for key, said in (line.split("\t") for line in lines)}


def pair_key(first: str, second: str) -> str:
    """Of an unordered pair of texts, case, punctuation and spacing aside."""
    both = "\n".join(sorted((fold(first), fold(second))))
    return hashlib.sha256(both.encode()).hexdigest()[:16]
