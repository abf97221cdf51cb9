"""A clinc150 of a few intents, and stand-ins for the base model."""

import json
from pathlib import Path
from typing import Any

import numpy as np

INTENTS = {
    "pin_change": "please change the pin code of my card",
    "report_fraud": "please report the fraud code of my card",
    "translate": "please change the word {} to german",
    "w2": "please report where my tax card is",
}
"""In the order of their names: the first and the third train."""


class SmallBase:
    """A random vector of positive numbers for every text, of unit length: all are a bit alike."""

    def vectors(self, texts: list[str]) -> Any:
        """Shape (n, 8)."""
        rows = np.random.default_rng(0).random((len(texts), 8))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class UnlikeBase:
    """Every text has a vector of its own, of unit length; no two are alike."""

    def vectors(self, texts: list[str]) -> Any:
        """Shape (n, 16)."""
        rows = [np.random.default_rng(sum(map(ord, text))).normal(size=16) for text in texts]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)

    def cosines(self, pairs: list[tuple[str, str]]) -> Any:
        """Shape (n,)."""
        first, second = (self.vectors([pair[side] for pair in pairs]) for side in (0, 1))
        return (first * second).sum(1)


def write_intents(data: Path) -> None:
    """Ten wordings of each intent, under ``clinc150``; every other one names a bank or a word."""
    folder = data / "clinc150"
    folder.mkdir(parents=True)
    particular = ("chase", "visa", "amex", "discover", "delta")
    rows = []
    for intent, text in INTENTS.items():
        for number in range(10):
            words = text.format(f"slot{number}").split()
            words = [*words[number % 5 :], *words[: number % 5]]
            if number % 2:
                words.append(particular[number // 2])
            rows.append([" ".join(words), intent])
    parts = {"train": rows, "test": [["held out", "pin_change"]], "oos_train": [["x", "oos"]]}
    (folder / "data_full.json").write_text(json.dumps(parts))
    (folder / "domains.json").write_text(json.dumps({"all": list(INTENTS)}))
