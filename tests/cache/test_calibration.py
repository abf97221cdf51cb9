"""Exact limits and certificates, and what they are bound to."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.cache.binomial import beta_cdf, interval, lower_limit, upper_limit
from funnel.cache.calibrate_run import CalibrationRun
from funnel.cache.calibration import ScoredLabels, certify, least_accepted
from funnel.cache.calibrator import Calibrator
from funnel.cache.guards import VERSION
from funnel.cache.matcher import threshold_for
from funnel.cache.replay_log import LabelledPair
from funnel.cache.settings import CacheSettings, GuardSettings
from funnel.cache.store_memory import MemoryStore
from funnel.errors import InputError
from funnel.models.pool import ModelPool
from tests.cache import world
from tests.cache.world import TopicEncoder, TopicScorer, World


@pytest.mark.parametrize(
    ("successes", "trials", "limit"),
    [(299, 299, 0.99003), (472, 473, 0.99001), (1044, 1049, 0.99000), (0, 10, 0.0)],
)
def test_known_lower_limits(successes: int, trials: int, limit: float) -> None:
    """299 without an error, 473 with one and 1,049 with five are what 1% takes."""
    assert lower_limit(successes, trials) == pytest.approx(limit, abs=1e-5)


def test_known_two_sided_interval() -> None:
    """The textbook interval of 5 of 10."""
    assert interval(5, 10) == pytest.approx((0.18709, 0.81291), abs=1e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_limits_are_where_the_tail_is_exact(case: tuple[int, int]) -> None:
    """At the lower limit the chance of so many successes or more is exactly what is left."""
    successes, trials = case
    low, high = lower_limit(successes, trials), upper_limit(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    if successes:
        tail = _tail(successes, trials, low)
        assert tail == pytest.approx(0.05, rel=1e-6)


def _tail(successes: int, trials: int, rate: float) -> float:
    """P(X >= successes), summed term by term."""
    from math import comb

    return sum(
        comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(successes, trials + 1)
    )


def test_beta_at_its_ends() -> None:
    """The distribution function runs from 0 to 1."""
    assert (beta_cdf(0.0, 2, 3), beta_cdf(1.0, 2, 3)) == (0.0, 1.0)
    assert beta_cdf(0.5, 2, 2) == pytest.approx(0.5)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    """More successes than trials is a mistake of the caller."""
    with pytest.raises(ValueError, match="expected 0 to 3"):
        lower_limit(successes, trials)


def _scores(seed: int, count: int, gap: float) -> ScoredLabels:
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    return ScoredLabels(np.where(labels, gap, -gap) + rng.normal(0, 2, count), labels)


def test_certificate_counts_what_it_accepts() -> None:
    """Accepted, wrong and recall are those of the threshold on the data."""
    data = _scores(0, 8_000, 3.0)
    found = certify(data, 0.95)
    assert found is not None
    accepted = data.scores >= found.threshold
    assert found.accepted == accepted.sum()
    assert found.wrong == (accepted & ~data.labels).sum()
    assert found.precision_low >= 0.95
    assert found.recall == pytest.approx((accepted & data.labels).sum() / data.duplicates)


def test_too_little_data_certifies_nothing() -> None:
    """As many perfect pairs as are said to be the least for a target certify it, and no fewer."""
    for target in (0.9, 0.99):
        least = least_accepted(target)
        enough = ScoredLabels(np.arange(float(least)), np.ones(least, dtype=bool))
        fewer = ScoredLabels(enough.scores[1:], enough.labels[1:])
        assert certify(enough, target) is not None
        assert certify(fewer, target) is None


def test_a_slip_is_evidence_below_the_floor() -> None:
    """As when serving: a misspelt question is verified there, and nothing else."""
    kept = "how do I reset the password about cats"
    pairs = [
        LabelledPair(kept.replace("password", "pasword"), kept, True),
        LabelledPair(f"please tell me {kept}", kept, True),
    ]
    run = CalibrationRun(TopicEncoder(), TopicScorer(), GuardSettings())
    assert run.scores(pairs).tolist() == [8.0, 8.0]
    assert run.scores(pairs, floor=0.995).tolist() == [8.0, -math.inf]


@pytest.mark.parametrize(
    ("duplicates", "others", "prevalence", "said"),
    [
        (300, 1, None, "takes 437 accepted pairs without an error, and it has 300 duplicates"),
        (400, 20, 0.3, "its 400 duplicates and 20 other pairs are too few"),
        (600, 600, None, "of the 1200 best-scored pairs 600 are labelled as no duplicates"),
    ],
)
def test_what_is_lacking_is_told(
    duplicates: int, others: int, prevalence: float | None, said: str
) -> None:
    """The command does not ask for what the data has."""
    pairs = [
        LabelledPair(f"a{_letters(n)} about cats", f"b{_letters(n)} about cats", label)
        for label, count in ((True, duplicates), (False, others))
        for n in range(count)
    ]
    guards = GuardSettings(entities=False)  # to which words in no dictionary are names
    run = CalibrationRun(TopicEncoder(), TopicScorer(), guards)
    report = run.run(pairs, 0.99, prevalence=prevalence)
    assert report.wanted is None
    assert said in report.explanation


def test_a_pair_counts_once() -> None:
    """Many copies of one pair are one piece of evidence; a text beside itself is none."""
    pair = LabelledPair("a about cats", "b about cats", True)
    near = [LabelledPair(f"c{_letters(n)} about cats", "d about dogs", False) for n in range(3)]
    turned = LabelledPair(pair.second, pair.first, True)
    same = LabelledPair("e about cats", "e about cats", True)
    run = CalibrationRun(TopicEncoder(), TopicScorer(), GuardSettings())
    report = run.run([*[pair] * 600, *[turned] * 600, *[same] * 600, *near], 0.9)
    assert (report.calibrator.pairs, report.calibrator.duplicates) == (4, 1)
    assert (report.wanted, report.left_out) == (None, 1799)


@pytest.mark.parametrize(("label", "said"), [(True, "all are duplicates"), (False, "none is a")])
def test_one_class_is_refused(label: bool, said: str) -> None:
    """A threshold between duplicates and others needs both."""
    pairs = [LabelledPair(f"a{_letters(n)} about cats", "b about cats", label) for n in range(500)]
    with pytest.raises(InputError, match=f"got 500 distinct pairs, of which {said}"):
        CalibrationRun(TopicEncoder(), TopicScorer(), GuardSettings()).run(pairs, 0.9)


def test_noise_certifies_nothing() -> None:
    """Scores that know nothing of the labels support no target."""
    rng = np.random.default_rng(1)
    data = ScoredLabels(rng.normal(size=5_000), rng.random(5_000) < 0.4)
    assert certify(data, 0.9) is None


def test_equal_scores_are_accepted_or_refused_together() -> None:
    """A threshold cannot cut through a tie."""
    scores = np.repeat([3.0, 2.0, 1.0], 1_000)
    labels = np.concatenate([np.ones(1_000), np.ones(1_000), np.zeros(1_000)]).astype(bool)
    found = certify(ScoredLabels(scores, labels), 0.99)
    assert found is not None
    assert (found.threshold, found.accepted) == (2.0, 2_000)


def test_refused_pairs_never_set_the_threshold() -> None:
    """Pairs that guards refused (-inf) are no evidence for accepting anything."""
    scores = np.concatenate([np.linspace(5, 6, 1_000), np.full(1_000, -np.inf)])
    found = certify(ScoredLabels(scores, np.ones(2_000, dtype=bool)), 0.99)
    assert found is not None and np.isfinite(found.threshold)


def test_rarer_duplicates_need_a_stricter_threshold() -> None:
    """At a lower prevalence the same scores are less trustworthy."""
    data = _scores(2, 20_000, 4.0)
    common, rare = certify(data, 0.95, prevalence=0.5), certify(data, 0.95, prevalence=0.02)
    assert common is not None and rare is not None
    assert rare.threshold > common.threshold


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_certificates_hold_on_fresh_data(seed: int) -> None:
    """The certified precision is met, up to chance, by data the threshold was not chosen on."""
    found = certify(_scores(seed, 6_000, 3.0), 0.95)
    fresh = _scores(seed + 1_000_000, 60_000, 3.0)
    assert found is not None
    accepted = fresh.scores >= found.threshold
    precision = (accepted & fresh.labels).sum() / accepted.sum()
    assert precision >= 0.94


def _calibrator(guards: GuardSettings | None = None) -> Calibrator:
    """Certifies 95% for the models of the tests' world."""
    pairs = [
        LabelledPair(f"{first}{_letters(n)} about cats", f"b{_letters(n)} about {topic}", same)
        for n in range(150)
        for first, topic, same in (("a", "cats", True), ("c", "dogs", False))
    ]
    run = CalibrationRun(TopicEncoder(), TopicScorer(), guards or GuardSettings())
    return run.run(pairs, 0.95).calibrator


def _letters(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def _uncertified(**changes: Any) -> CacheSettings:
    return world.settings(threshold=None, floor=None, **changes)


def test_certificate_is_of_one_embedder() -> None:
    """The floor is a cosine, and those of another embedder mean something else."""
    calibrator = _calibrator()
    assert threshold_for(_uncertified(), calibrator, "1", ("world:topics", "1")).problem == ""
    for other in (("world:topics", "2"), ("other", "3")):
        chosen = threshold_for(_uncertified(), calibrator, "1", other)
        assert chosen.problem == "calibrated_for_another_embedder"
        assert chosen.policy.threshold == np.inf
    same_weights = threshold_for(_uncertified(), calibrator, "1", ("a/path", "1"))
    assert same_weights.problem == ""


def test_certificate_is_of_the_verifiers_weights() -> None:
    """Whatever its folder is called: a trained model is calibrated here and served there."""
    embedder = ("world:topics", "1")
    moved = _uncertified(verifier={"model": str(Path(__file__).parent)})
    assert threshold_for(moved, _calibrator(), "1", embedder).problem == ""
    trained_anew = threshold_for(_uncertified(), _calibrator(), "2", embedder)
    assert trained_anew.problem == "calibrated_for_another_verifier"


def test_older_file_knows_its_embedder_by_name() -> None:
    """One that names no revision and no guards is as good as before."""
    shipped = Calibrator.shipped().model_copy(
        update={"embedder_revision": "", "guards_version": ""}
    )
    settings = CacheSettings(target_precision=0.9)
    name = "embedded:all-MiniLM-L6-v2"
    assert threshold_for(settings, shipped, shipped.revision, (name, "any")).problem == ""
    other = threshold_for(settings, shipped, shipped.revision, ("other", "any"))
    assert other.problem == "calibrated_for_another_embedder"


def test_the_shipped_calibrator_is_for_what_ships() -> None:
    """Verifier, embedder and guards are those of this version: nothing of them is stale."""
    shipped = Calibrator.shipped()
    models = ModelPool.shared()
    embedder = models.encoder("embedded:all-MiniLM-L6-v2")
    assert shipped.guards_version == VERSION
    found = threshold_for(
        CacheSettings(target_precision=0.9),
        shipped,
        models.scorer("embedded:duplicate").revision,
        (embedder.name, embedder.revision),
    )
    assert found.problem == ""


def test_certificate_is_of_the_guards_it_was_made_with(tmp_path: Path) -> None:
    """Pairs that a guard refused were no evidence; without the guard they would be hits."""
    embedder = ("world:topics", "1")
    unguarded = _uncertified(guards={"numbers": False})
    assert threshold_for(unguarded, _calibrator(), "1", embedder).problem == (
        "calibrated_with_other_guards"
    )
    made = _calibrator(unguarded.guards)
    made.save(tmp_path / "calibrator.json")
    plain = json.loads((tmp_path / "calibrator.json").read_text("utf-8"))
    assert (plain["guards"]["numbers"], plain["guards_version"]) == (False, VERSION)
    assert (
        threshold_for(unguarded, Calibrator.load(tmp_path / "calibrator.json"), "1").problem == ""
    )
    assert threshold_for(_uncertified(), made, "1").problem == "calibrated_with_other_guards"


async def test_missing_certificate_is_said_and_leaves_the_exact_tiers(tmp_path: Path) -> None:
    """Through the cache itself: another embedder than the calibrator's is a reason to miss."""
    path = tmp_path / "calibrator.json"
    _calibrator().model_copy(update={"embedder_revision": "another"}).save(path)
    one = World(threshold=None, floor=None, calibrator=path)
    await one.ask("a word about cats")
    info = (await one.ask("another word about cats")).info
    assert (info.status, info.reason) == ("miss", "calibrated_for_another_embedder")
    assert (await one.ask("a word about cats")).info.tier == "exact"


async def test_what_was_let_through_without_a_guard_is_not_served_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Settings and version of the guards are part of an entry's place, so of every alias."""
    clock = world.Clock()
    store = MemoryStore(world.settings().limits, clock=clock)
    lax = World(store=store, clock=clock, guards={"numbers": False})
    await lax.ask("room 5 about cats")
    assert (await lax.ask("room 7 about cats")).info.tier == "semantic"
    assert (await lax.ask("room 7 about cats")).info.tier == "alias"
    strict = World(store=store, clock=clock)
    assert (await strict.ask("room 7 about cats")).info.status == "miss"
    assert (await strict.ask("room 7 about cats")).info.tier == "exact"
    monkeypatch.setattr("funnel.cache.matcher.VERSION", "next")
    changed = World(store=store, clock=clock)
    assert (await changed.ask("room 7 about cats")).info.status == "miss"
