"""How many requests the cache may answer at which hit precision, beside the usual cosine threshold.

    python benchmarks/cache_quality.py DATA                  # 3,000 requests of each stream
    python benchmarks/cache_quality.py DATA --stream quora extra --size 8000 --json
    python benchmarks/cache_quality.py DATA --wrong wrong.jsonl        # what either rule got wrong
    python benchmarks/cache_quality.py DATA --same read.jsonl          # after reading it

DATA is the folder of public data sets; the streams are those of ``cache_streams.py``. Both rules
replay the same log at many thresholds, and each is given the one of its highest hit rate among
those whose measured precision is at least 95, 98.5 and 99%. That choice is made on the log itself,
for both alike: it compares the rules, it is no promise. What the configured threshold does stands
in the last columns, with the cosine's precision at the threshold that answers as many.

Public labels have gaps: many a "wrong" hit is right. So a precision by the labels is a lower bound,
and above 98% mostly measures the labels. ``--wrong`` writes down every pair that either rule served
against the labels at its 95% threshold, mixed and without saying whose it is; a reader copies those
that do ask the same into a file, and ``--same`` joins their groups and measures again. Duplicates
by the labels that are none stay, so that is no lower bound any more: quote both.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from funnel.cache.matcher import calibrator_for, threshold_for
from funnel.cache.replay_log import Asked
from funnel.cache.replay_run import (
    PRECISIONS,
    Replayer,
    ReplayReport,
    best_point,
    embed_log,
    wrong_hits,
)
from funnel.cache.settings import CacheSettings
from funnel.models.pool import ModelPool
from funnel.query import normalise_query
from funnel.settings import FunnelSettings
from recipes.pairs import Clusters, fold
from recipes.streams import Row, all_logs, sample

STREAMS = ("quora", "extra", "dev", "clinc")
CONFIG = Path(__file__).parent.parent / "configs" / "embedded.yaml"
Figures = dict[str, Any]


def joined(rows: Sequence[Row], same: Sequence[Mapping[str, str]]) -> list[Row]:
    """The rows with the groups of pairs that were read as the same question made one."""
    clusters = Clusters()
    groups = {fold(text): group for text, group in rows if group is not None}
    for pair in same:
        first, second = (groups.get(fold(pair[side])) for side in ("query", "served"))
        if first is not None and second is not None:
            clusters.join(first, second)
    return [(text, None if group is None else clusters.find(group)) for text, group in rows]


def replay(rows: Sequence[Row], settings: FunnelSettings) -> ReplayReport:
    """One log under the models and the policy of the settings."""
    cache = settings.cache or CacheSettings()
    pool = ModelPool.shared()
    encoder, scorer = pool.encoder(settings.models.embedder), pool.scorer(cache.verifier.model)
    embedder = (encoder.name, encoder.revision)
    chosen = threshold_for(cache, calibrator_for(cache), scorer.revision, embedder)
    log = [Asked(normalise_query(text), group) for text, group in rows]
    return Replayer(scorer, chosen.policy).run(
        embed_log(encoder, log), target_precision=cache.target_precision, problem=chosen.problem
    )


def disputed(report: ReplayReport, rows: Sequence[Row]) -> set[tuple[str, str]]:
    """The pairs that either rule served against the labels at its 95% threshold."""
    log = [Asked(normalise_query(text), group) for text, group in rows]
    points = (best_point(curve, PRECISIONS[0]) for curve in (report.curve, report.cosine))
    return {
        (wrong["query"], wrong["served"])
        for point in points
        if point is not None
        for wrong in wrong_hits(log, point.play)
    }


def figures(name: str, report: ReplayReport) -> Figures:
    """What the comparison says of one stream."""
    plain = report.to_dict()
    rates = {
        str(precision): _compared(plain["best_at_precision"][str(precision)])
        for precision in PRECISIONS
    }
    served = {
        name: plain[name]
        for name in ("hit_rate", "hit_precision", "hit_precision_low", "threshold")
    }
    served["cosine_precision"] = _cosine_precision(report, plain["hit_rate"])
    sizes = {"requests": plain["requests"], "oracle_hit_rate": plain["oracle_hit_rate"]}
    return {"stream": name, **sizes, "at_precision": rates, "configured": served,
            "seconds": plain["seconds"]}  # fmt: skip


def _cosine_precision(report: ReplayReport, hit_rate: float) -> float | None:
    """Hit precision of the cosine rule at the threshold that answers just as many requests."""
    enough = [point.tally for point in report.cosine if point.tally.hit_rate >= hit_rate]
    nearest = min(enough, key=lambda tally: tally.hit_rate, default=None)
    return None if nearest is None else nearest.hit_precision


def _compared(best: Mapping[str, Any]) -> Figures:
    """Hit rates of both rules beyond nothing, and their ratio; None where one reaches nothing."""
    ours, cosine = ((best[rule] or {}).get("hit_rate") for rule in ("verified", "cosine"))
    return {"ours": ours, "cosine": cosine, "ratio": ours / cosine if ours and cosine else None}


def show(results: Sequence[Figures], console: Console) -> None:
    """One row for each stream and precision."""
    table = Table(title="hit rate at a hit precision", title_justify="left")
    headings = (
        "stream",
        "requests",
        "oracle",
        "precision",
        "ours",
        "cosine",
        "ratio",
        "configured",
        "cosine as often",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "stream" else "right")
    for one in results:
        for precision, rates in one["at_precision"].items():
            table.add_row(
                one["stream"],
                f"{one['requests']}",
                _share(one["oracle_hit_rate"]),
                f">= {float(precision):.1%}",
                _share(rates["ours"]),
                _share(rates["cosine"]),
                "-" if rates["ratio"] is None else f"{rates['ratio']:.2f}",
                f"{_share(one['configured']['hit_rate'])} at "
                f"{_share(one['configured']['hit_precision'])}",
                _share(one["configured"]["cosine_precision"]),
            )
    console.print(table)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def main() -> None:
    """Replay what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder that holds qqp/ and clinc150/")
    parser.add_argument("--stream", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--size", type=int, default=3_000, help="requests of each stream, at most")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--wrong", type=Path, help="write what either rule served wrongly")
    parser.add_argument("--same", type=Path, help="pairs of that file that ask the same after all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = FunnelSettings.from_yaml(options.config)
    logs = all_logs(options.data)
    same = _read(options.same) if options.same else []
    results, wrong = [], set[tuple[str, str]]()
    for name in track(options.stream, "replay", console=Console(stderr=True)):
        rows = joined(sample(logs[name], options.size), same)
        report = replay(rows, settings)
        results.append(figures(name, report))
        wrong |= disputed(report, rows)
    if options.wrong:
        lines = (json.dumps({"query": query, "served": served}) for query, served in sorted(wrong))
        options.wrong.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if options.json:
        print(json.dumps(results))
    else:
        show(results, Console())


def _read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    main()
