"""The parts that keep a cache true and small: audits, admission, freshness, the local tier."""

import asyncio
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from funnel.cache.admission import Doorkeeper
from funnel.cache.audit import overlap
from funnel.cache.background import Background
from funnel.cache.codec import Codec, Entry, pack_hit
from funnel.cache.factory import build_cache
from funnel.cache.freshness import freshness, lifetime_s, refresh_now
from funnel.cache.local import Kept, LocalTier
from funnel.cache.metrics import CacheCollector
from funnel.cache.place import Place, place_of, scope_of
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Epoch
from funnel.cache.store_sqlite import SqliteStore
from funnel.models.pool import ModelPool
from tests.cache.records import eventually
from tests.cache.world import Clock, Stages, World, hit, settings, settle

ENTRY = Entry("q", (), created=1_000.0, fresh_s=100.0, epoch=0, elapsed_ms=500.0)


async def test_audit_runs_in_the_background_and_counts() -> None:
    """An audited hit is served as ever; the comparison comes after."""
    world = World(audit_share=1.0)
    await world.ask("one about cats")
    served = await world.ask("two about cats")
    assert served.info.tier == "semantic"
    report = (await world.cache.stats())["audit"]
    assert (report["audited"], report["hit_precision"]) == (1, 1.0)
    assert len(world.stages.runs) == 2


async def test_failed_audit_gives_the_wording_its_own_answer() -> None:
    """Where the lists disagree, the paraphrase is no longer served the other's answer."""
    world = World(audit_share=1.0)
    await world.ask("one about cats")
    world.stages.documents["cats"] = ("other-1", "other-2")
    await world.ask("two about cats")
    assert world.cache.counters.events["audit_disagreed"] == 1
    served = await world.ask("two about cats")
    assert [hit.id for hit in served.answer.hits] == ["other-1", "other-2"]


@pytest.mark.parametrize("others", [("cats-1", "cats-2"), ("other-1",)], ids=["right", "wrong"])
async def test_joined_paraphrases_are_audited(others: tuple[str, ...]) -> None:
    """Taking the answer of a paraphrase in flight is as much of a hit as taking a kept one."""
    world = World(audit_share=1.0, stages=Stages(delay_s=0.05))
    texts = ["one about cats", "two about cats"]
    asked = (world.cache.serve(world.request(text), world.stages.of(text)) for text in texts)
    served = await asyncio.gather(*asked)
    assert [one.info.tier for one in served] == [None, "flight"]
    world.stages.documents["cats"] = others  # what the audit will find

    async def audited() -> bool:
        return bool(world.cache.auditor.report()["audited"])

    await eventually(audited)
    await settle()
    report = (await world.cache.stats())["audit"]
    assert (report["audited"], report["agreed"]) == (1, int(others[0] == "cats-1"))
    again = await world.ask("two about cats")
    assert [hit.id for hit in again.answer.hits] == list(others)


async def test_same_text_in_flight_is_not_audited() -> None:
    """There is nothing to be wrong about."""
    world = World(audit_share=1.0, stages=Stages(delay_s=0.02))
    text = "one about cats"
    asked = (world.cache.serve(world.request(text), world.stages.of(text)) for _ in range(3))
    await asyncio.gather(*asked)
    assert world.stages.runs == [text]


async def test_drift_tightens_the_threshold() -> None:
    """When audited precision is surely under target, the threshold rises above the bad scores."""
    world = World(target_precision=0.9)
    auditor, before = world.cache.auditor, world.cache.matcher.policy.threshold
    for _ in range(30):
        auditor.record(6.0, True)
    for _ in range(30):
        auditor.record(3.0, False)
    assert auditor.alarms >= 1
    assert before < world.cache.matcher.policy.threshold <= 6.0


def test_drift_alarm_says_what_to_configure() -> None:
    """The raised threshold is this process's alone, so the alarm carries it and the mend."""
    world = World(target_precision=0.9)
    with capture_logs() as logs:
        for score, agreed in [(6.0, True)] * 30 + [(3.0, False)] * 30:
            world.cache.auditor.record(score, agreed)
    alarm = next(entry for entry in logs if entry["event"] == "cache.precision_drift")
    assert alarm["threshold_after"] == world.cache.matcher.policy.threshold == 6.0
    assert alarm["mend"] == "set cache.threshold to threshold_after"
    with capture_logs() as logs:
        for _ in range(60):
            world.cache.auditor.record(7.0, False)
    assert logs[-1]["threshold_after"] == math.inf
    assert "cache.semantic" in logs[-1]["mend"]


async def test_chance_does_not_tighten() -> None:
    """A wrong hit now and then is what the target allows."""
    world = World(target_precision=0.9)
    for number in range(500):
        world.cache.auditor.record(6.0, number % 20 != 0)
    assert world.cache.auditor.alarms == 0


async def test_tightened_threshold_retires_aliases() -> None:
    """What was accepted at a looser threshold is not served past the tightening."""
    world = World()
    await world.ask("one about cats")
    await world.ask("two about cats")
    world.cache.matcher.tighten(9.0)
    assert (await world.ask("two about cats")).info.status == "miss"


@pytest.mark.parametrize(
    ("served", "fresh", "share"),
    [("ab", "ab", 1.0), ("ab", "ba", 1.0), ("ab", "bc", 0.5), ("", "", 1.0), ("a", "", 0.0)],
)
def test_overlap_of_lists(served: str, fresh: str, share: float) -> None:
    """The share of the longer list that both have."""
    assert overlap(list(served), list(fresh)) == share


def test_doorkeeper_lets_all_in_while_there_is_room() -> None:
    """Admission costs nothing before the cache is full."""
    keeper = Doorkeeper(100)
    assert all(keeper.admits(_place(number)) for number in range(50))


def test_doorkeeper_of_a_full_cache_prefers_the_known() -> None:
    """Seen twice: in. Seen once: one in 32."""
    keeper = Doorkeeper(1_000)
    keeper.full = True
    strangers = [keeper.admits(_place(number)) for number in range(160)]
    assert sum(strangers) == 5
    assert all(keeper.admits(_place(number)) for number in range(160))


def test_doorkeeper_memory_is_bounded_by_capacity() -> None:
    """However many queries come: two generations of 2 bytes each, a third while they change."""
    tracemalloc.start()
    keeper = Doorkeeper(2_000)
    for number in range(10_000):
        keeper.admits(_place(number))
    taken, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 2 * 2 * 2_000 + 5_000
    assert peak < 3 * 2 * 2_000 + 5_000


def test_doorkeeper_knows_the_latest_and_mistakes_few() -> None:
    """All of the latest ``capacity`` queries are known, those long gone are strangers again."""
    capacity = 5_000
    keeper = Doorkeeper(capacity)
    for number in range(4 * capacity - 1):  # two generations are as full as they get
        keeper.admits(_place(number))
    keeper.full = True
    latest = range(3 * capacity, 4 * capacity - 1)
    assert all(keeper.admits(_place(number)) for number in latest)
    for strangers in (range(100_000, 100_800), range(800)):
        admitted = sum(keeper.admits(_place(number)) for number in strangers)
        assert 25 <= admitted < 25 + 0.01 * 800


def _place(number: int) -> Place:
    return Place("a" * 8, f"{number:08x}", "")


def test_ttl_jitter_only_shortens() -> None:
    """No entry outlives its TTL; entries of one moment end at different ones."""
    some = settings(ttl_s=100, ttl_jitter=0.1)
    assert lifetime_s(some, empty=False, spread=lambda: 0.0) == 100
    assert lifetime_s(some, empty=False, spread=lambda: 1.0) == pytest.approx(90)
    assert lifetime_s(some, empty=True, spread=lambda: 0.0) == 60


@given(st.floats(-1e6, 1e6, allow_nan=False))
def test_freshness_never_serves_the_old_as_fresh(offset: float) -> None:
    """Whatever the clock says: fresh means made, by this clock, within its lifetime."""
    some = settings(ttl_s=100, stale_while_revalidate_s=50, stale_on_error_s=500)
    state = freshness(ENTRY, ENTRY.created + offset, some)
    if state == "fresh":
        assert -30 <= offset < 100
    if state == "revalidate":
        assert 100 <= offset < 150
    if state == "on_error":
        assert 150 <= offset < 600


def test_refresh_comes_likelier_near_the_end() -> None:
    """Far from the end nobody recomputes; at the end the unlucky draw does."""
    assert not refresh_now(ENTRY, 1_010.0, 1.0, spread=lambda: 0.01)
    assert refresh_now(ENTRY, 1_099.0, 1.0, spread=lambda: 0.01)
    assert not refresh_now(ENTRY, 1_099.9, 0.0, spread=lambda: 0.01)


def test_local_tier_needs_a_recent_epoch() -> None:
    """Without news of the epoch for longer than the lag nothing comes from here."""
    clock = Clock()
    tier = LocalTier(10, 0.5, clock=clock)
    tier.saw(Epoch(1, 0))
    tier.put(_place(1), Kept(ENTRY, "k"), 1)
    assert tier.get(_place(1)) is not None
    clock.now += 0.6
    assert tier.get(_place(1)) is None


def test_local_tier_empties_with_the_epoch() -> None:
    """Any change of the epoch, up or (after a flush) down, forgets everything."""
    tier = LocalTier(10, 0.5, clock=Clock())
    for epoch in (Epoch(2, 0), Epoch(0, 0)):
        tier.saw(Epoch(1, 0))
        tier.put(_place(1), Kept(ENTRY, "k"), 1)
        tier.saw(epoch)
        assert len(tier) == 0


def test_local_tier_is_bounded() -> None:
    """The least recently used goes."""
    tier = LocalTier(2, 0.5, clock=Clock())
    tier.saw(Epoch(0, 0))
    for number in (1, 2):
        tier.put(_place(number), Kept(ENTRY, "k"), 0)
    tier.get(_place(1))
    tier.put(_place(3), Kept(ENTRY, "k"), 0)
    assert tier.get(_place(2)) is None
    assert tier.get(_place(1)) is not None


def test_local_tier_is_bounded_in_bytes() -> None:
    """Large entries push out the least recently used; one beyond the cap pushes out none."""
    tier = LocalTier(1_000, 0.5, max_bytes=100_000, clock=Clock())
    tier.saw(Epoch(0, 0))
    for number in range(100):
        tier.put(_place(number), Kept(ENTRY, "k", size=9_000), 0)
        tier.put(_place(number), Kept(ENTRY, "k", size=8_000), 0)
        assert tier.bytes <= 100_000
    assert [number for number in range(100) if tier.get(_place(number))] == list(range(90, 100))
    tier.put(_place(200), Kept(ENTRY, "k", size=100_000), 0)
    assert (tier.get(_place(200)), len(tier)) == (None, 10)
    tier.drop(_place(99))
    assert (len(tier), tier.bytes) == (9, 9 * Kept(ENTRY, "k", size=8_000).weight)
    tier.saw(Epoch(1, 0))
    assert tier.bytes == 0


_PLAIN = {"lang": "en", "year": 2_020}
_RICH = {
    "tags": [f"tag {n}" for n in range(50)],
    "prices": [{"on": f"{n}.1.", "is": n / 3} for n in range(30)],
}


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        ("x" * 2_000, _PLAIN),
        ("x☃" * 1_000, _PLAIN),
        ("x😀" * 1_000, _PLAIN),
        ("", _PLAIN),
        ("", _RICH),
    ],
)
def test_weight_of_an_entry_is_about_its_memory(text: str, metadata: dict[str, Any]) -> None:
    """Whatever is in it: not less than it takes, and not twice as much."""
    codec = Codec(b"secret")
    hits = tuple(
        pack_hit(replace(hit(n, f"{n}"), text=text, metadata=metadata)) for n in range(1, 11)
    )
    payload = codec.seal(Entry("q", hits, 0.0, 0.0, 0, 0.0), "p", "k")
    tracemalloc.start()
    kept = [Kept(codec.open(payload, Entry, "p", "k"), "k", size=len(payload)) for _ in range(50)]
    taken = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    assert 0.8 * taken < kept[0].weight < 2 * taken


async def test_what_is_kept_locally_is_weighed() -> None:
    """However an entry came here (computed, read, led to by an alias), its size is counted."""
    world = World(max_entry_bytes=200_000)
    world.stages.documents["cats"] = tuple("x" * 1_000 + str(n) for n in range(50))
    weights = []
    for text in ("one about cats", "two about cats"):
        before = world.cache._local.bytes
        await world.ask(text)
        weights.append(world.cache._local.bytes - before)
    world.cache._local.saw(Epoch(9, 9))
    await world.ask("one about cats")
    weights.append(world.cache._local.bytes)
    assert min(weights) == max(weights) > 50_000


def test_partitions_tell_models_apart() -> None:
    """Another verifier, embedder or calibrator: another partition."""
    world = World()
    request = world.request("a word about cats")
    places = {place_of(request, {"verifier": name}) for name in ("one", "two")}
    assert len({place.partition for place in places if place}) == 2


def test_scopes_are_hashed() -> None:
    """Tenant names, even hostile ones, never reach a store."""
    for scope in ("tenant", "a\0b", "\ud800", "x" * 10_000):
        assert len(scope_of(scope)) == 16
    assert scope_of(None) == ""


async def test_background_is_bounded_and_survives_failures() -> None:
    """More than the limit is refused; a failing task harms nobody."""
    background = Background(1)
    gate = asyncio.Event()
    assert background.start(gate.wait, "wait") is not None
    assert background.start(gate.wait, "wait") is None
    gate.set()
    await settle()

    async def fails() -> None:
        raise RuntimeError("boom")

    task = background.start(fails, "fails")
    assert task is not None
    await task
    await background.aclose()


async def test_metrics_have_bounded_labels() -> None:
    """Texts and tenants never become labels; hits and misses are there."""
    prometheus = pytest.importorskip("prometheus_client")
    world = World(namespace="metrics")
    await world.ask("a word about cats", scope="tenant-7")
    await world.ask("a word about cats", scope="tenant-7")
    await world.cache.stats()
    registry = prometheus.CollectorRegistry()
    collector = CacheCollector()
    collector.add(world.cache)
    registry.register(collector)
    text = prometheus.generate_latest(registry).decode()
    assert 'funnel_cache_requests_total{cache="metrics",status="hit",tier="exact"} 1.0' in text
    assert 'reason="no_candidates"' in text
    assert 'funnel_cache_gauge{cache="metrics",name="store_entries"} 1.0' in text
    assert "cats" not in text and "tenant-7" not in text


async def test_metrics_are_a_setting() -> None:
    """``metrics: true`` is all it takes to be in the default registry, until the cache closes."""
    prometheus = pytest.importorskip("prometheus_client")
    plain = {"namespace": "exported", "metrics": True, "semantic": False}
    models = ModelPool()
    cache = build_cache(CacheSettings.model_validate(plain), models, "embedded:all-MiniLM-L6-v2")
    assert 'cache="exported"' in prometheus.generate_latest().decode()
    await cache.aclose()
    assert 'cache="exported"' not in prometheus.generate_latest().decode()


async def test_metrics_of_one_namespace_are_summed() -> None:
    """Two caches of a namespace give no label twice, and counters do not fall when one closes."""
    pytest.importorskip("prometheus_client")
    collector = CacheCollector()
    hits = ("funnel_cache_requests_total", "one", "hit", "exact")
    worlds = [World(namespace="one"), World(namespace="one"), World(namespace="two")]
    for world in worlds:
        collector.add(world.cache)
        for _ in range(3):
            await world.ask("a word about cats")
        await world.cache.stats()
    before = _samples(collector)
    assert before[hits] == 4.0
    assert before["funnel_cache_gauge", "one", "store_entries"] == 2.0
    collector.remove(worlds[0].cache)
    after = _samples(collector)
    assert after[hits] == 4.0
    assert after["funnel_cache_gauge", "one", "store_entries"] == 1.0
    collector.remove(worlds[1].cache)
    assert {labels[1] for labels in _samples(collector)} == {"two"}


async def test_metrics_count_a_shared_store_once(tmp_path: Path) -> None:
    """Two caches on one file see the same entries; they are not twice as many."""
    pytest.importorskip("prometheus_client")
    collector = CacheCollector()
    path = tmp_path / "cache.sqlite"
    worlds = [World(store=SqliteStore(path, settings().limits)) for _ in range(2)]
    for world in worlds:
        collector.add(world.cache)
        await world.ask("a word about cats")
        await world.cache.stats()
    assert _samples(collector)["funnel_cache_gauge", "funnel", "store_entries"] == 1.0
    for world in worlds:
        await world.cache.aclose()


def _samples(collector: CacheCollector) -> dict[tuple[str, ...], float]:
    """All samples by name and labels; a pair of the same labels fails, as it does in a server."""
    samples: dict[tuple[str, ...], float] = {}
    for family in collector.collect():
        for sample in family.samples:
            labels = (sample.name, *sample.labels.values())
            assert labels not in samples
            samples[labels] = sample.value
    return samples
