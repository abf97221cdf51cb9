"""Wordings that a service declares to be one and the same."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache import replay_session
from funnel.cache.store_memory import MemoryStore
from funnel.cache.synonyms import Synonyms
from funnel.errors import ConfigError
from funnel.settings import FunnelSettings
from tests.cache.world import TopicEncoder, TopicScorer, World, settings

GROUPS = [["parcel", "package"], ["two-factor authentication", "2FA", "two-step sign-in"]]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Where is my package?", "Where is my parcel?"),
        ("PACKAGE lost", "parcel lost"),
        ("enable 2fa", "enable two-factor authentication"),
        ("enable Two Step Sign-In now", "enable two-factor authentication now"),
        ("two factor  authentication", "two-factor authentication"),
        ("packages, repackage, 12FA", "packages, repackage, 12FA"),
        ("package or parcel", "parcel or parcel"),
        ("nothing of it", "nothing of it"),
    ],
)
def test_wordings_are_read_as_the_first_of_their_group(text: str, read: str) -> None:
    """Whole words, in any case; hyphens and spaces are alike."""
    assert Synonyms(GROUPS).applied(text) == read


@given(st.text(alphabet="ab -C.+2", max_size=12))
def test_of_overlapping_wordings_the_longest_counts(text: str) -> None:
    """Whatever stands around them."""
    groups = [["x", "a b"], ["y", "a b c"], ["z", "c+"]]
    read = Synonyms(groups).applied(f"{text} a b c {text}")
    assert " y " in f" {read} "
    assert Synonyms([]).applied(text) == text


async def test_they_share_one_answer_and_the_stages_get_what_was_asked() -> None:
    """The second wording is an exact hit; what it matched is told as it was asked."""
    world = World(synonyms=GROUPS)
    first = await world.ask("where is my package about cats")
    again = await world.ask("where is my parcel about cats")
    assert (first.info.status, again.info.tier) == ("miss", "exact")
    assert again.info.matched_query == "where is my package about cats"
    near = await world.ask("where could my parcel be about cats")
    assert near.info.tier == "semantic"
    assert near.info.matched_query == "where is my package about cats"
    assert world.stages.runs == ["where is my package about cats"]
    report = await world.cache.explain(world.request("where is my Package about cats"))
    assert report["tier"] == "exact"
    assert await world.cache.forget(world.request("where is my package about cats"))
    assert (await world.ask("where is my parcel about cats")).info.status == "miss"


async def test_other_synonyms_share_nothing() -> None:
    """An answer that was shared by a wrong group goes with the group."""
    store = MemoryStore(settings().limits)
    before = World(store=store, synonyms=[["parcel", "letter"]])
    await before.ask("where is my letter about cats")
    for changed in ([], [["parcel", "package"]]):
        after = World(store=store, synonyms=changed)
        assert (await after.ask("where is my parcel about cats")).info.status == "miss"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["parcel"]], r"got \['parcel'\], expected a list of two wordings or more"),
        ([["wi-fi", "Wi Fi"]], "expected a list of two wordings or more"),
        ([["a", "b"], ["c", "B"]], "'B' is in two groups; leave it in one, or join them"),
        ([["a", "?"]], r"got '\?' of 1 characters, expected a wording"),
        ([["a", "b" * 201]], "of 201 characters, expected a wording"),
    ],
)
def test_groups_that_cannot_be_meant_are_told(groups: Any, message: str) -> None:
    """At load, with the place."""
    plain = {"stages": [{"kind": "bm25", "k": 5}], "cache": {"synonyms": groups}}
    with pytest.raises(ConfigError, match=rf"cache\.synonyms: .*{message}"):
        FunnelSettings.from_mapping(plain)


@pytest.mark.parametrize("groups", ["[]", "[[cats, felines]]"])
def test_replay_and_calibration_read_as_the_cache_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str
) -> None:
    """What only synonyms make equal is a hit, and a pair to certify on, with them alone."""
    config, pairs, log = tmp_path / "c.yaml", tmp_path / "pairs.jsonl", tmp_path / "log.jsonl"
    config.write_text(
        f"stages: [{{kind: bm25, k: 5}}]\ncache: {{threshold: 2.0, synonyms: {groups}}}\n"
    )
    breeds = ["".join(letters) for letters in product("abcdefgh", repeat=2)]
    asked = [(f"ask about {breed} cats", f"tell about {breed} felines") for breed in breeds]
    rows = [{"question1": a, "question2": b, "is_duplicate": 1} for a, b in asked]
    rows.append({"question1": "one about cats", "question2": "two about dogs", "is_duplicate": 0})
    pairs.write_text("\n".join(map(json.dumps, rows)))
    requests = [{"query": q, "group": str(n)} for n, both in enumerate(asked) for q in both]
    log.write_text("\n".join(map(json.dumps, requests)))
    models = (TopicEncoder(), TopicScorer())
    monkeypatch.setattr(replay_session, "_models", lambda *_: models)
    certified = replay_session.calibrate_file(pairs, config, 0.9).wanted is not None
    report = replay_session.replay_log(log, config, ranking_ms=1.0)
    assert certified == (groups != "[]")
    assert (report.to_dict()["hits"] > 0) == certified
