"""Shadow audits: what raises the drift alarm, what does not, and what the alarm does."""

import asyncio
import json
import math
import random
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from funnel.cache.audit import Auditor, Evidence, evidence_below
from funnel.cache.counters import REASONS
from funnel.cache.guards import FindingKind
from tests.cache.world import TopicScorer, World


def _auditor(target: float = 0.95) -> tuple[Auditor, World]:
    world = World(target_precision=target)
    return world.cache.auditor, world


def _audits_until_alarm(auditor: Auditor, precision: float, most: int, seed: int) -> int:
    """How many audits it took, or ``most`` + 1; scores say nothing of what is right."""
    chance = random.Random(seed)
    for number in range(1, most + 1):
        auditor.record(chance.uniform(2.0, 6.0), chance.random() < precision)
        if auditor.alarms:
            return number
    return most + 1


@pytest.mark.parametrize(("target", "precision"), [(0.95, 0.95), (0.95, 0.96), (0.9, 0.9)])
def test_precision_on_target_hardly_ever_alarms(target: float, precision: float) -> None:
    """However often the audits are looked at, chance alone is under 1 alarm in 20 processes."""
    taken = [_audits_until_alarm(_auditor(target)[0], precision, 500, seed) for seed in range(60)]
    assert sum(number <= 500 for number in taken) <= 3


def test_drift_is_noticed_soon() -> None:
    """A precision of 0.8 where 0.95 is wanted takes about 50 to 80 audits."""
    taken = sorted(_audits_until_alarm(_auditor()[0], 0.8, 500, seed) for seed in range(30))
    assert taken[0] >= 50
    assert taken[15] <= 80 and taken[-1] <= 200


def test_good_audits_of_long_ago_hide_no_drift() -> None:
    """After 2,000 good ones a drift is noticed about as soon as after none."""
    auditor, _ = _auditor()
    for number in range(2_000):
        auditor.record(4.0, number % 50 != 0)
    assert auditor.alarms == 0
    assert _audits_until_alarm(auditor, 0.8, 500, seed=1) <= 200


def test_few_audits_change_nothing() -> None:
    """Not even 49 wrong hits in a row."""
    auditor, world = _auditor()
    before = world.cache.matcher.policy.threshold
    for _ in range(49):
        auditor.record(4.0, False)
    assert (auditor.alarms, world.cache.matcher.policy.threshold) == (0, before)


def test_alarm_without_a_supported_threshold_halves_the_hits() -> None:
    """The semantic tier goes on above the better half, and is off after three such alarms."""
    auditor, world = _auditor()
    thresholds: list[float] = []
    number = 0
    while len(thresholds) < 3:
        score = world.cache.matcher.policy.threshold + number * 7 % 10 / 10
        auditor.record(score, number % 4 != 0)
        number += 1
        if auditor.alarms > len(thresholds):
            thresholds.append(world.cache.matcher.policy.threshold)
    assert 2.0 < thresholds[0] < thresholds[1] < thresholds[2] == math.inf
    assert thresholds[0] < 3.0


async def test_an_infinite_threshold_ends_the_semantic_tier() -> None:
    """No verifier is asked for nothing, and results and stats say why; what is exact is served."""
    world = World()
    await world.ask("a word about cats")
    await world.ask("something about cats")
    world.cache.matcher.tighten(math.inf)
    asked = len(world.scorer.calls)
    served = await world.ask("other words about cats")
    assert (served.info.status, served.info.reason) == ("miss", "tightened")
    assert (served.info.threshold, len(world.scorer.calls)) == (None, asked)
    assert (await world.ask("a word about cats")).info.tier == "exact"
    assert (await world.ask("something about cats")).info.reason == "tightened"  # was an alias
    stats = await world.cache.stats()
    told = (stats["semantic"], stats["semantic_problem"], stats["threshold"])
    assert told == (False, "tightened", None)
    assert stats["reasons"]["tightened"] == 2


async def test_a_threshold_that_rises_during_a_lookup_is_plain_json() -> None:
    """What was compared with infinity is told without it."""
    world = World(scorer=TopicScorer(delay_s=0.05))
    await world.ask("a word about cats")
    asking = asyncio.ensure_future(world.ask("something about cats"))
    await asyncio.sleep(0.03)
    world.cache.matcher.tighten(math.inf)
    info = (await asking).info
    assert (info.reason, info.threshold) == ("below_threshold", None)


async def test_the_evidence_of_an_alarm_stays_visible() -> None:
    """The window begins anew; what spoke against the old threshold is told until the next alarm."""
    auditor, _ = _auditor()
    assert auditor.report()["last_alarm"] is None
    taken = _audits_until_alarm(auditor, 0.0, 500, seed=1)
    report = auditor.report()
    assert report["audited"] == 0
    alarm = report["last_alarm"]
    assert (alarm["audited"], alarm["agreed"], alarm["hit_precision"]) == (taken, 0, 0.0)
    assert 0 < alarm["hit_precision_high"] < 0.1
    assert (alarm["threshold_before"], alarm["threshold_after"]) == (2.0, None)
    json.dumps(report, allow_nan=False)


def test_equal_scores_are_no_reason_to_turn_it_off() -> None:
    """Where all audits have one score, the next higher one is still served."""
    auditor, world = _auditor()
    for number in range(200):
        auditor.record(4.0, number % 5 != 0)
    assert auditor.alarms == 1
    assert world.cache.matcher.policy.threshold == math.nextafter(4.0, 5.0)


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_evidence_is_a_fair_game_at_the_target(right: int, wrong: int, target: float) -> None:
    """At a true precision of the target, the evidence is expected to stay what it is."""
    count = right + wrong
    better = evidence_below(right + 1, count + 1, target)
    worse = evidence_below(right, count + 1, target)
    assume(worse < 1e300)  # where it would be more than a number can be, it is cut off
    expected = target * better + (1 - target) * worse
    assert expected == pytest.approx(evidence_below(right, count, target), rel=1e-6)


def test_runs_share_the_evidence() -> None:
    """What the runs start with is at most 1 together, whenever they start."""
    evidence = Evidence(0.5)
    assert evidence.below() == 0.0
    evidence.add(False)
    assert evidence.below() == pytest.approx(evidence_below(0, 1, 0.5) / 2)
    for _ in range(99):
        evidence.add(False)
    runs = evidence_below(0, 100, 0.5) / 2 + evidence_below(0, 50, 0.5) / 6
    assert evidence.below() == pytest.approx(runs)


async def test_alias_is_audited_with_the_guards_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a guard added to the threshold counts for the paraphrase and for its alias alike."""
    world = World(audit_share=1.0)
    recorded: list[float] = []
    monkeypatch.setattr(world.cache.auditor, "record", lambda score, _: recorded.append(score))
    await world.ask("how to about refunds")
    tiers = [(await world.ask("words for the 3 about refunds")).info.tier for _ in range(2)]
    assert tiers == ["semantic", "alias"]
    assert recorded == [7.5, 7.5]


async def test_an_audit_across_a_write_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists may differ because the corpus does: that is no wrong hit."""
    world = World(audit_share=1.0)
    recorded: list[bool] = []
    monkeypatch.setattr(world.cache.auditor, "record", lambda _, agreed: recorded.append(agreed))
    await world.ask("one about cats")
    await world.cache.documents_changed(deleted=["dogs-1"])
    world.stages.documents["cats"] = ("cats-9",)
    assert (await world.ask("two about cats")).info.tier == "semantic"
    assert recorded == []
    assert world.cache.counters.snapshot()["events"]["audit_unusable"] == 1


def test_every_reason_has_a_name() -> None:
    """No guard's veto, and no verifier that is not there yet, is counted as "other"."""
    assert {f"guard_{kind}" for kind in get_args(FindingKind)} <= REASONS
    assert "verifier_not_loaded" in REASONS
