"""How many requests the cache may answer at which hit precision, beside the usual cosine threshold.

    python benchmarks/cache_quality.py DATA                  # 3,000 requests of each stream
    python benchmarks/cache_quality.py DATA --stream quora extra --size 8000 --json

DATA is the folder of public data sets; the streams are those of ``cache_streams.py``. Both rules
replay the same log at many thresholds, and each is given the one of its highest hit rate
among those whose measured precision is at least 95, 98.5 and 99%. That choice is made on the log
itself, for both alike: it compares the rules, it is no promise. What the configured threshold does
stands in the last columns.
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

from benchmarks.cache_streams import Row, all_logs, sample
from funnel.cache.matcher import calibrator_for, threshold_for
from funnel.cache.replay_log import Asked
from funnel.cache.replay_run import PRECISIONS, Replayer, ReplayReport, embed_log
from funnel.cache.settings import CacheSettings
from funnel.models.pool import ModelPool
from funnel.query import normalise_query
from funnel.settings import FunnelSettings

STREAMS = ("quora", "extra", "dev", "clinc")
CONFIG = Path(__file__).parent.parent / "configs" / "embedded.yaml"
Figures = dict[str, Any]


def replay(rows: Sequence[Row], settings: FunnelSettings) -> ReplayReport:
    """One log under the models and the policy of the settings."""
    cache = settings.cache or CacheSettings()
    pool = ModelPool.shared()
    encoder, scorer = pool.encoder(settings.models.embedder), pool.scorer(cache.verifier.model)
    chosen = threshold_for(cache, calibrator_for(cache), scorer.revision)
    log = [Asked(normalise_query(text), group) for text, group in rows]
    return Replayer(scorer, chosen.policy).run(
        embed_log(encoder, log), target_precision=cache.target_precision, problem=chosen.problem
    )


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
    sizes = {"requests": plain["requests"], "oracle_hit_rate": plain["oracle_hit_rate"]}
    return {"stream": name, **sizes, "at_precision": rates, "configured": served,
            "seconds": plain["seconds"]}  # fmt: skip


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
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = FunnelSettings.from_yaml(options.config)
    logs = all_logs(options.data)
    results = [
        figures(name, replay(sample(logs[name], options.size), settings))
        for name in track(options.stream, "replay", console=Console(stderr=True))
    ]
    if options.json:
        print(json.dumps(results))
    else:
        show(results, Console())


if __name__ == "__main__":
    main()
