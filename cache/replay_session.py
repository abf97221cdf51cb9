"""Replay and calibration with the models and settings that a YAML file names."""

import asyncio
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from funnel.cache.base import Answer, CacheRequest
from funnel.cache.calibrate_run import CalibrationReport, CalibrationRun
from funnel.cache.codec import Codec, Entry
from funnel.cache.matcher import calibrator_for, threshold_for
from funnel.cache.pair_scores import Progress
from funnel.cache.place import key_of, place_of
from funnel.cache.replay_log import Asked, LabelledPair, is_log, read_log, read_pairs
from funnel.cache.replay_run import EmbeddedLog, Replayer, ReplayReport, embed_log
from funnel.cache.semantic import SemanticCache
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Record, StoreLimits
from funnel.cache.store_memory import MemoryStore
from funnel.cache.synonyms import Synonyms
from funnel.config_source import PREFIX
from funnel.errors import InputError
from funnel.log import get_logger
from funnel.models.base import Encoder, Scorer
from funnel.models.pool import ModelPool
from funnel.query import Query
from funnel.settings import FunnelSettings

if TYPE_CHECKING:
    from rich.console import Console

    from funnel.cache.store import Vector

log = get_logger(__name__)
_TIMED = 200
_RANKED = 100
_PASSAGE_WORDS = 80


def replay_log(
    path: Path,
    config: Path,
    *,
    threshold: float | None = None,
    ranking_ms: float | None = None,
    console: "Console | None" = None,
) -> ReplayReport:
    """Replay a log with the embedder, verifier and policy of a YAML file; needs no index.

    Raises:
        InputError: the log cannot be read, or no line of it is good.
        ConfigError: the settings are wrong.
        ModelError: a model cannot be loaded.
    """
    lines = read_log(path)
    for problem in lines.problems[:5]:
        log.warning("replay.bad_line", file=str(path), problem=problem)
    settings = FunnelSettings.from_yaml(config)
    cache = settings.cache or CacheSettings()
    if threshold is not None:
        cache = cache.model_copy(update={"threshold": threshold})
    encoder, scorer = _models(settings, cache)
    embedder = (encoder.name, encoder.revision)
    chosen = threshold_for(cache, calibrator_for(cache), scorer.revision, embedder)
    cost = ranking_ms if ranking_ms is not None else _ranking_ms(settings, lines.items)
    bar = _bar(console)
    asked = [_said(asked, Synonyms(cache.synonyms)) for asked in lines.items]
    embedded = embed_log(encoder, asked, progress=bar is not None)
    return Replayer(scorer, chosen.policy, bar).run(
        embedded,
        target_precision=cache.target_precision,
        problem=chosen.problem,
        lookup_ms=asyncio.run(_time_lookups(cache, encoder, scorer, embedded)),
        ranking_ms=cost,
        skipped_lines=len(lines.problems),
    )


def calibrate_file(
    path: Path,
    config: Path,
    target: float | None = None,
    *,
    prevalence: float | None = None,
    source: str = "",
    console: "Console | None" = None,
) -> CalibrationReport:
    """Calibrate the verifier of a YAML file on labelled pairs or on a log with groups.

    Without a target for what the file asks of the cache.

    Raises:
        InputError: the file cannot be read, no line is good, or a log came with a prevalence.
        ConfigError: the settings are wrong.
        ModelError: a model cannot be loaded.
    """
    # The calibrator that the settings name may be the one that is to be made.
    without = {**os.environ, f"{PREFIX}CACHE__CALIBRATOR": ""}
    settings = FunnelSettings.from_yaml(config, environment=without)
    cache = settings.cache or CacheSettings()
    target = cache.target_precision if target is None else target
    log_given = is_log(path)
    if log_given and prevalence is not None:
        raise InputError("--prevalence: a query log has its own; it goes with labelled pairs only")
    lines = read_log(path) if log_given else read_pairs(path)
    for problem in lines.problems[:5]:
        log.warning("calibrate.bad_line", file=str(path), problem=problem)
    encoder, scorer = _models(settings, cache)
    run = CalibrationRun(encoder, scorer, cache.guards, progress=_bar(console))
    synonyms = Synonyms(cache.synonyms)
    if log_given:
        asked = [_said(item, synonyms) for item in lines.items if isinstance(item, Asked)]
        return run.run_log(asked, target, source=source)
    pairs = [_paired(item, synonyms) for item in lines.items if isinstance(item, LabelledPair)]
    return run.run(pairs, target, prevalence=prevalence, source=source)


def _said(asked: Asked, synonyms: Synonyms) -> Asked:
    """A request as the cache reads it."""
    return replace(asked, query=synonyms.applied(asked.query))


def _paired(pair: LabelledPair, synonyms: Synonyms) -> LabelledPair:
    first, second = synonyms.applied(pair.first), synonyms.applied(pair.second)
    return replace(pair, first=first, second=second)


def _models(settings: FunnelSettings, cache: CacheSettings) -> tuple[Encoder, Scorer]:
    pool = ModelPool.shared()
    return pool.encoder(settings.models.embedder), pool.scorer(cache.verifier.model)


async def _time_lookups(
    settings: CacheSettings, encoder: Encoder, scorer: Scorer, log: EmbeddedLog
) -> list[float]:
    """Milliseconds of whole lookups, one after the other, with all of the log in a cache.

    Each asks a question of the log in slightly other words, so it goes the whole way: embedding,
    nearest questions, and the verifier wherever some are near enough.
    """
    changes = {"audit_share": 0, "early_refresh": 0, "timeout_ms": 1_000, "synonyms": ()}
    store = MemoryStore(StoreLimits(max_entries=len(log.texts) + 2 * _TIMED))
    cache = SemanticCache(settings.model_copy(update=changes), store, encoder, scorer)
    await cache.start()
    await _fill(cache, store, encoder, log)
    took = []
    for text in random.Random(0).sample(log.texts, min(_TIMED, len(log.texts))):  # noqa: S311
        request = _request(f"{text} please", encoder)
        began = time.perf_counter()
        await cache.serve(request, _nothing)
        took.append((time.perf_counter() - began) * 1000)
    await cache.aclose()
    return took


async def _fill(
    cache: SemanticCache, store: MemoryStore, encoder: Encoder, log: EmbeddedLog
) -> None:
    """Keep an empty answer for every text of the log."""
    place = place_of(_request(log.texts[0], encoder), cache.matcher.identity)
    if place is None:
        return
    codec, now = Codec(), time.time()
    for text, vector in zip(log.texts, log.vectors, strict=True):
        key = key_of(text)
        payload = codec.seal(Entry(text, (), now, 3_600.0, 0, 0.0), place.partition, key)
        await store.put(Record(place.partition, key, "", payload, 3_600.0, 0, vector=vector))


def _request(text: str, encoder: Encoder) -> CacheRequest:
    async def embed(text: str) -> "Vector":
        vectors = await encoder.aencode([text], side="query")
        vector: Vector = vectors[0]
        return vector

    return CacheRequest(Query(text, query_id="replay", embed=embed), {})


async def _nothing() -> Answer:
    return Answer(())


def _ranking_ms(settings: FunnelSettings, log: Sequence[Asked]) -> float | None:
    """What scoring 100 passages with the configured cross-encoder takes here: most of a ranking.

    None when no stage has one. The passages are 80 words each, made of the log's own words.
    """
    model = next((s.model for s in settings.stages if s.kind == "cross_encoder"), None)  # type: ignore[attr-defined]
    if model is None:
        return None
    words = " ".join(asked.query for asked in log[:2_000]).split()
    draw = random.Random(0)  # noqa: S311 - not secret
    passages = [" ".join(draw.choices(words, k=_PASSAGE_WORDS)) for _ in range(_RANKED)]
    scorer = ModelPool.shared().scorer(model)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        scorer.score([(log[0].query, passage) for passage in passages])
        took.append((time.perf_counter() - began) * 1000)
    return min(took) if math.isfinite(min(took)) else None


def _bar(console: "Console | None") -> Callable[[str], Progress] | None:
    """A progress bar per task, on a terminal only."""
    if console is None or not console.is_terminal:
        return None
    from rich.progress import Progress as Bar

    def start(name: str) -> Progress:
        bar = Bar(console=console, transient=True)
        task = bar.add_task(name, total=None)
        bar.start()

        def step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if done >= total:
                bar.stop()

        return step

    return start
