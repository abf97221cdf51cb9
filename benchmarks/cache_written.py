"""What the cache makes of the questions written for this project, with the shipped models.

    python benchmarks/cache_written.py [--config YAML] [--json] [--lost]

``swap_pairs.jsonl`` has pairs in which a small change changes the answer (number, negation, order,
entity …) and true paraphrases of the same surface: each pair goes through guards, verifier and
threshold as if one had been cached and the other asked. ``lost_to_guards`` are paraphrases that a
guard vetoed, or that missed by no more than what a guard added to the threshold. ``stream.jsonl``
and ``stream_hard.jsonl`` are replayed as logs. ``--lost`` lists wrong hits and what was not
recognised, with the reason.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from funnel.cache.decision import Candidate, Policy, Verdict, decide, reach_of, screen, to_score
from funnel.cache.matcher import calibrator_for, threshold_for
from funnel.cache.pair_scores import PairScores
from funnel.cache.replay import Stream, play_scored
from funnel.cache.replay_log import Asked
from funnel.cache.replay_run import embed_log, wrong_hits
from funnel.cache.rules import VerifiedRule
from funnel.cache.settings import CacheSettings
from funnel.cache.tally import tally
from funnel.models.base import Encoder, Scorer
from funnel.models.pool import ModelPool
from funnel.query import normalise_query
from funnel.settings import FunnelSettings

CONFIG = Path(__file__).parent.parent / "configs" / "embedded.yaml"
STREAMS = ("stream", "stream_hard")
Figures = dict[str, Any]


def rows(name: str) -> list[dict[str, Any]]:
    """The lines of one of the demo's files."""
    text = files("funnel.demo").joinpath(f"data/{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def judged(
    pairs: Sequence[dict[str, Any]], encoder: Encoder, scorer: Scorer, policy: Policy
) -> Iterator[tuple[dict[str, Any], Verdict]]:
    """Each pair with its verdict, all scores computed together."""
    texts = [(normalise_query(p["question1"]), normalise_query(p["question2"])) for p in pairs]
    first, second = (np.asarray(encoder.encode(side)) for side in zip(*texts, strict=True))
    screened = [
        screen(asked, [Candidate("", kept, float(a @ b))], policy)
        for (asked, kept), a, b in zip(texts, first, second, strict=True)
    ]
    scores = PairScores(scorer)
    scores.learn(verdict.read for verdicts in screened for verdict in to_score(verdicts))
    for row, verdicts in zip(pairs, screened, strict=True):
        known = scores.get(*verdicts[0].read) if to_score(verdicts) else None
        yield row, decide(verdicts, [] if known is None else [known], policy).verdicts[0]


def swaps(encoder: Encoder, scorer: Scorer, policy: Policy) -> Figures:
    """Wrong hits among the swaps, and what became of the true paraphrases."""
    verdicts = list(judged(rows("swap_pairs"), encoder, scorer, policy))
    same = [(row, verdict) for row, verdict in verdicts if row["is_duplicate"]]
    lost = [(row, verdict) for row, verdict in same if not verdict.accepted]
    wrong = [row for row, verdict in verdicts if verdict.accepted and not row["is_duplicate"]]
    return {
        "swaps": len(verdicts) - len(same),
        "wrong_hits": len(wrong),
        "paraphrases": len(same),
        "recognised": len(same) - len(lost),
        "lost_to_guards": sum(_lost_to_guard(verdict, policy) for _, verdict in lost),
        "lost_by_reason": dict(Counter(verdict.reason for _, verdict in lost)),
        "wrong": [(row["question1"], row["question2"], row["kind"]) for row in wrong],
        "lost": [(row["question1"], row["question2"], verdict.reason) for row, verdict in lost],
    }


def _lost_to_guard(verdict: Verdict, policy: Policy) -> bool:
    """Vetoed, or accepted but for what a guard added to the threshold."""
    raised = verdict.score is not None and verdict.score >= policy.threshold
    return verdict.reason.startswith("guard") or raised


def replayed(name: str, encoder: Encoder, scorer: Scorer, policy: Policy) -> Figures:
    """One of the streams as a log."""
    asked = [Asked(normalise_query(row["query"]), row["group"]) for row in rows(name)]
    log = embed_log(encoder, asked)
    floors = [reach_of(text, policy) for text in log.texts]
    stream = Stream(log.requests, log.texts, log.vectors, floors)
    scores = PairScores(scorer)
    play = play_scored(stream, VerifiedRule(policy, scores), policy.limit, scores)
    counted = tally(stream, play)
    return {
        "requests": counted.requests,
        "expected_hits": counted.oracle_hits,
        "hits": counted.hits,
        "wrong_hits": counted.wrong_hits,
        "wrong": [(hit["query"], hit["served"], "") for hit in wrong_hits(asked, play)],
    }


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--threshold", type=float, help="instead of the calibrated one")
    parser.add_argument("--lost", action="store_true", help="list wrong hits and lost paraphrases")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = FunnelSettings.from_yaml(options.config)
    cache = settings.cache or CacheSettings()
    if options.threshold is not None:
        cache = cache.model_copy(update={"threshold": options.threshold})
    encoder = ModelPool.shared().encoder(settings.models.embedder)
    scorer = ModelPool.shared().scorer(cache.verifier.model)
    embedder = (encoder.name, encoder.revision)
    policy = threshold_for(cache, calibrator_for(cache), scorer.revision, embedder).policy
    results = {"swap_pairs": swaps(encoder, scorer, policy)}
    results |= {name: replayed(name, encoder, scorer, policy) for name in STREAMS}
    if options.json:
        print(json.dumps({"threshold": policy.threshold, **results}))
    else:
        show(results, policy.threshold, Console(), lost=options.lost)


def show(results: dict[str, Figures], threshold: float, console: Console, *, lost: bool) -> None:
    """A table for each, and the pairs themselves if wanted."""
    for name, one in results.items():
        table = Table(title=f"{name} at threshold {threshold:.2f}", title_justify="left")
        for heading in ("", ""):
            table.add_column(heading)
        for key, value in one.items():
            if key not in ("wrong", "lost"):
                table.add_row(key, str(value))
        console.print(table)
        for kind in ("wrong", "lost") if lost else ():
            for asked, kept, reason in one.get(kind, ()):
                console.print(f"{kind}: {asked!r} / {kept!r} {reason}", markup=False)


if __name__ == "__main__":
    main()
