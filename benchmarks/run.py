"""All measurements, one after the other; each writes its own output to ``benchmarks/results``.

    python benchmarks/run.py [--data FOLDER] [--only NAME …]

``--data`` is the folder of the data sets, ``../shared/data`` beside the repository by default; what
needs it is skipped, and said so, when it is absent. Run it on a machine that does nothing else.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
TIMEOUT_S = 3_600


@dataclass(frozen=True, slots=True)
class Measurement:
    """A command whose standard output is the result."""

    name: str
    arguments: Sequence[str]
    needs: Path | None = None


def measurements(data: Path) -> Iterator[Measurement]:
    """What ``make bench`` runs, cheap ones first."""
    movies, scifact, dl20 = data / "movies", data / "scifact", data / "trec-dl20"
    yield Measurement("engine", ["benchmarks/engine.py"])
    yield Measurement("cache", ["benchmarks/cache.py"])
    yield Measurement("cache-saves", ["benchmarks/cache.py", "--funnel"])
    yield Measurement("stores", ["benchmarks/stores.py"])
    plot = str(RESULTS / "cache-scaling.svg")
    yield Measurement("cache-scaling", ["benchmarks/cache_scaling.py", "--plot", plot])
    quality = ["benchmarks/cache_quality.py", str(data), "--json"]
    yield Measurement("cache-quality", quality, data / "qqp")
    speed = ["-m", "benchmarks.indexing", "speed", str(movies / "corpus.jsonl")]
    yield Measurement("indexing-speed", speed, movies)
    queries = ["-m", "benchmarks.indexing", "query", str(scifact)]
    yield Measurement("query-embedding", queries, scifact)
    large = data / "movies-large" / "corpus.jsonl"
    yield Measurement("indexing-memory", ["-m", "benchmarks.indexing", "memory", str(large)], large)
    eval_ = ["-m", "funnel", "eval", str(scifact), "--config", "configs/embedded.yaml", "--json"]
    yield Measurement("eval-scifact", eval_, scifact)
    rerank = ["-m", "funnel", "bench", "rerank", "--data", str(dl20), "--json"]
    yield Measurement("rerank-dl20", rerank, dl20)


def main() -> None:
    """Run them; a failure is reported at the end and does not stop the others."""
    options = _options()
    RESULTS.mkdir(exist_ok=True)
    failed = [
        each.name
        for each in measurements(options.data.resolve())
        if (not options.only or each.name in options.only) and not _run(each)
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(each: Measurement) -> bool:
    if each.needs is not None and not each.needs.exists():
        print(f"{each.name}: skipped, {each.needs.name} is not there")
        return True
    began = time.perf_counter()
    with (RESULTS / f"{each.name}.txt").open("w") as out:
        done = subprocess.run(
            [sys.executable, *each.arguments], cwd=ROOT, stdout=out, timeout=TIMEOUT_S, check=False
        )
    print(f"{each.name}: exit code {done.returncode}, {time.perf_counter() - began:.0f} s")
    return done.returncode == 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
