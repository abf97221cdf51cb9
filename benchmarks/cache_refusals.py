"""What it costs to refuse near questions, with and without asking the verifier's encoders first.

    python benchmarks/cache_refusals.py DATA

Requests of clinc150 against the five nearest of those before them, under the shipped calibrator at
a target of .9. Both ways take every request, in turn first and second, each over a text that was
not read before; that both decide the same is asserted.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from funnel.cache.decision import Candidate, Decision
from funnel.cache.matcher import Matcher
from funnel.cache.settings import CacheSettings
from funnel.cache.verifier import Verifier
from funnel.deadline import Deadline
from funnel.models import CrossEncoderScorer, Embedder
from funnel.models.base import Scorer
from recipes.streams import all_logs, sample

KEPT, ASKED = 600, 300
WAYS = ("whole", "encoders first")


class _WithoutCeiling:
    """A scorer that nothing can be ruled out by."""

    has_ceiling = False

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)


async def matcher(encoder: Embedder, scorer: Any) -> Matcher:
    """Ready to judge."""
    settings = CacheSettings.model_validate({"store": "memory", "target_precision": 0.9})
    made = Matcher(settings, encoder, Verifier(scorer, 10.0))
    await made.prepare()
    return made


def outcome(decision: Decision) -> str:
    """Hit or miss, and of how many candidates the verifier was asked."""
    asked = sum(verdict.asked for verdict in decision.verdicts)
    kind = "hit" if decision.chosen else decision.reason
    return f"{kind}, {'one' if asked == 1 else 'several'} compared" if asked else "none compared"


async def measure(texts: list[str]) -> dict[tuple[str, str], list[float]]:
    """(outcome, way) -> milliseconds."""
    encoder, scorer = (
        Embedder("embedded:all-MiniLM-L6-v2"),
        CrossEncoderScorer("embedded:duplicate"),
    )
    vectors = encoder.encode(texts)
    scorers = dict(zip(WAYS, (_WithoutCeiling(scorer), scorer), strict=True))
    matchers = {way: await matcher(encoder, each) for way, each in scorers.items()}
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(KEPT, len(texts)):
        cosines = vectors[:number] @ vectors[number]
        near = [
            Candidate(str(place), texts[place], float(cosines[place]))
            for place in np.argsort(-cosines)[:5]
        ]
        decisions = {}
        for way in WAYS if number % 2 else WAYS[::-1]:
            unread = texts[number] + " " * (1 + WAYS.index(way))
            began = time.perf_counter()
            decisions[way] = await matchers[way].judge(unread, near, Deadline())
            took[outcome(decisions[way]), way].append((time.perf_counter() - began) * 1000)
        chosen = {each.chosen.candidate.key if each.chosen else "" for each in decisions.values()}
        assert len(chosen) == 1, (texts[number], chosen)
    return took


def main() -> None:
    """Print medians and means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder that holds qqp/ and clinc150/")
    rows = sample(all_logs(parser.parse_args().data)["clinc"], 8_000)
    texts = list(dict.fromkeys(text for text, _ in rows))[: KEPT + ASKED]
    for (kind, way), values in sorted(asyncio.run(measure(texts)).items()):
        print(
            f"{kind:40} {way:15} n {len(values):3}  median {median(values):6.1f} ms"
            f"  mean {sum(values) / len(values):6.1f} ms"
        )


if __name__ == "__main__":
    main()
