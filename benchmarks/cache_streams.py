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
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from recipes.streams import Row, all_logs, sample

SIZE = 8_000


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
