"""All measurements, one after the other; each writes its own output to ``benchmarks/results``.

    python benchmarks/run.py [--data FOLDER] [--only NAME …] [--quick]

The commands are those of the tables in ``benchmarks/README.md``. ``--data`` is the folder of the
data sets, ``../shared/data`` beside the repository by default; what needs it is skipped, and said
so, when it is absent. Run it on a machine that does nothing else: a measurement takes up to eight
minutes on two cores, with ``--quick`` (less of everything) up to four.
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
_FEW_ENTRIES = ("--entries", "1000", "10000")
_MANY_ENTRIES = ("1000", "10000", "100000", "1000000")
_MODEL = ("--model", "embedded:duplicate")


@dataclass(frozen=True, slots=True)
class Measurement:
    """A command whose standard output is the result; ``quick`` are further arguments."""

    name: str
    arguments: Sequence[str]
    needs: Path | None = None
    quick: Sequence[str] = ()


def measurements(data: Path) -> Iterator[Measurement]:
    """What ``make bench`` runs, cheap ones first."""
    movies, scifact, dl20 = data / "movies", data / "scifact", data / "trec-dl20"
    yield Measurement("engine", ["benchmarks/engine.py"])
    yield Measurement("cache", ["benchmarks/cache.py"], quick=_FEW_ENTRIES)
    yield Measurement("cache-saves", ["benchmarks/cache.py", "--funnel"])
    yield Measurement("cache-written", ["benchmarks/cache_written.py", "--json"])
    yield Measurement("stores", ["benchmarks/stores.py"], quick=_FEW_ENTRIES)
    plot = str(RESULTS / "cache-scaling.svg")
    scaling = ["benchmarks/cache_scaling.py", "--plot", plot, "--entries", *_MANY_ENTRIES]
    yield Measurement("cache-scaling", scaling, quick=_FEW_ENTRIES)
    quality = ["benchmarks/cache_quality.py", str(data), "--size", "2000", "--json"]
    yield Measurement("cache-quality", quality, data / "qqp", ["--size", "500"])
    slips = ["benchmarks/cache_slips.py", str(data), "--json"]
    yield Measurement("cache-slips", slips, data / "qqp", ["--pairs", "200"])
    corpus = str(movies / "corpus.jsonl")
    speed = ["-m", "benchmarks.indexing", "speed", corpus, "--documents", "2000"]
    yield Measurement("indexing-speed", speed, movies, ["--documents", "300", "--rounds", "1"])
    queries = ["-m", "benchmarks.indexing", "query", str(scifact)]
    yield Measurement("query-embedding", queries, scifact)
    large = data / "movies-large" / "corpus.jsonl"
    memory = ["-m", "benchmarks.indexing", "memory", str(large)]
    yield Measurement("indexing-memory", memory, large, ["--sizes", "2000,6000"])
    eval_ = ["-m", "funnel", "eval", str(scifact), "--config", "configs/embedded.yaml", "--json"]
    yield Measurement("eval-scifact", eval_, scifact)
    yield from _scoring(dl20)


def _scoring(dl20: Path) -> Iterator[Measurement]:
    """The cross-encoder: beside its peers, what it costs, and under load."""
    bench, data = ["-m", "funnel", "bench"], ["--data", str(dl20)]
    rerank = [*bench, "rerank", *data, "--limit", "12", "--json"]
    yield Measurement("rerank-dl20", rerank, dl20, ["--limit", "8", "--no-dense"])
    costs = ["-m", "benchmarks.costs", *data, *_MODEL, "--out", str(RESULTS)]
    yield Measurement("costs", costs, dl20, ["--sizes", "1000,3000,10000"])
    early = ["-m", "benchmarks.early_stop", *data, *_MODEL, "--limit", "8"]
    yield Measurement("early-stop", early, dl20, ["--limit", "2"])
    ladder = ["--depth", "30", "--rates", "0.8,1.36", "--seconds", "40"]
    plot = ["--plot", str(RESULTS / "load-dl20.svg"), "--no-cache", "--json"]
    load = [*bench, "load", *data, *_MODEL, *ladder, *plot]
    yield Measurement("load-dl20", load, dl20, ["--seconds", "10"])
    profile = RESULTS / "load-dl20.txt"
    yield Measurement("simulate-dl20", [*bench, "simulate", str(profile), "--json"], dl20)


def main() -> None:
    """Run them; a failure is reported at the end and does not stop the others."""
    options = _options()
    RESULTS.mkdir(exist_ok=True)
    failed = [
        each.name
        for each in measurements(options.data.resolve())
        if (not options.only or each.name in options.only) and not _run(each, quick=options.quick)
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(each: Measurement, *, quick: bool) -> bool:
    if each.needs is not None and not each.needs.exists():
        print(f"{each.name}: skipped, {each.needs.name} is not there")
        return True
    began = time.perf_counter()
    with (RESULTS / f"{each.name}.txt").open("w") as out:
        done = subprocess.run(
            [sys.executable, *each.arguments, *(each.quick if quick else ())],
            cwd=ROOT,
            stdout=out,
            timeout=TIMEOUT_S,
            check=False,
        )
    print(f"{each.name}: exit code {done.returncode}, {time.perf_counter() - began:.0f} s")
    return done.returncode == 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true", help="less of everything")
    return parser.parse_args()


if __name__ == "__main__":
    main()
