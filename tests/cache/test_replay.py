"""Replaying logs: the same decisions as when serving, counted rightly."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from structlog.testing import capture_logs

from funnel.cache.calibrate_run import CalibrationRun
from funnel.cache.decision import Policy
from funnel.cache.pair_scores import PairScores
from funnel.cache.replay import Stream, earlier_neighbours, play_scored
from funnel.cache.replay_console import plot, show_replay
from funnel.cache.replay_log import Asked, LabelledPair, Lines, is_log, read_log, read_pairs
from funnel.cache.replay_run import Replayer, best_at, embed_log
from funnel.cache.rules import CosineRule, ExactRule, VerifiedRule, peer_rules
from funnel.cache.settings import GuardSettings
from funnel.cache.tally import Tally, tally
from funnel.errors import InputError
from funnel.query import normalise_query
from tests.cache.world import TopicEncoder, TopicScorer, World

POLICY = Policy(threshold=2.0, floor=0.5)


def _log(*rows: tuple[str, str | None]) -> list[Asked]:
    return [Asked(query, group) for query, group in rows]


def _stream(log: list[Asked], floor: float = 0.5) -> Stream:
    texts = list(dict.fromkeys(asked.query for asked in log))
    return Stream(log, texts, TopicEncoder().encode(texts), floor)


def _played(log: list[Asked], policy: Policy = POLICY) -> Tally:
    scores = PairScores(TopicScorer())
    stream = _stream(log)
    return tally(stream, play_scored(stream, VerifiedRule(policy, scores), policy.limit, scores))


MIXED = _log(
    ("one about cats", "cats"),
    ("two about cats", "cats"),
    ("one about dogs", "dogs"),
    ("two about cats", "cats"),
    ("one about cats", "cats"),
    ("three about dogs", "dogs"),
    ("one about birds", None),
)


def test_hits_by_tier() -> None:
    """Exact repeats, repeats of a paraphrase, and paraphrases are told apart."""
    found = _played(MIXED)
    assert found.by_tier == {"semantic": 2, "alias": 1, "exact": 1}
    assert (found.requests, found.hits, found.wrong_hits) == (7, 4, 0)
    assert (found.oracle_hits, found.missed_duplicates) == (4, 0)
    assert found.hit_precision == 1.0


def test_wrong_hits_under_all_three_meanings() -> None:
    """A wrong hit counts per hit, per request and per unlike pair."""
    log = _log(("one about cats", "a"), ("two about cats", "b"), ("three about cats", "a"))
    found = _played(log)
    assert (found.hits, found.wrong_hits) == (2, 1)
    plain = found.to_dict()
    assert plain["wrong_per_hit"] == pytest.approx(1 / 2)
    assert plain["wrong_per_request"] == pytest.approx(1 / 3)
    assert plain["wrong_per_pair"] == pytest.approx(1.0)


def test_unknown_groups_are_neither_right_nor_wrong() -> None:
    """A hit without labels is counted apart and bounds the precision from below."""
    found = _played(_log(("one about cats", None), ("two about cats", "a")))
    assert (found.hits, found.unknown_hits, found.hit_precision) == (1, 1, None)
    assert found.to_dict()["hit_precision_if_unknown_are_wrong"] == 0.0


def test_what_no_group_tells_is_unknown() -> None:
    """A log without groups has no wrong hit, missed duplicate or perfect cache that we know of."""
    log = _log(*((query, None) for query in ("one about cats", "two about cats", "a about dogs")))
    plain = _played(log).to_dict()
    assert (plain["hits"], plain["unknown_hits"]) == (1, 1)
    unknown = {
        "wrong_hits", "wrong_per_request", "wrong_per_hit", "wrong_per_pair", "hit_precision",
        "hit_precision_low", "missed_duplicates", "oracle_hit_rate",
    }  # fmt: skip
    assert {plain[name] for name in unknown} == {None}


def test_a_known_group_makes_counts_of_what_is_known() -> None:
    """Without a hit none is wrong; with one of known groups the known ones are counted."""
    missed = _played(_log(("one about cats", "a"), ("one about dogs", None))).to_dict()
    assert (missed["wrong_hits"], missed["wrong_per_request"], missed["oracle_hit_rate"]) == (
        0,
        0,
        0,
    )
    hit = _played(_log(("one about cats", "a"), ("two about cats", "b"), ("x about cats", None)))
    assert (hit.wrong_hits, hit.known_hits, hit.unknown_hits) == (1, 1, 1)


def test_a_report_without_groups_is_shown() -> None:
    """A dash where nothing is known."""
    log = _log(("one about cats", None), ("two about cats", None))
    report = Replayer(TopicScorer(), POLICY).run(
        embed_log(TopicEncoder(), log), target_precision=0.9
    )
    console = Console(record=True, width=120)
    show_replay(report, console)
    text = console.export_text()
    assert "1 (50.0%; a perfect cache: -)" in text
    assert "None" not in text


def test_missed_duplicates_and_oracle() -> None:
    """What a perfect cache would have hit and this one did not."""
    found = _played(_log(("one about cats", "a"), ("one about dogs", "a")))
    assert (found.hits, found.missed_duplicates, found.oracle_hit_rate) == (0, 1, 0.5)


async def test_replay_decides_like_serving() -> None:
    """The same log through the live cache gives the same hits from the same questions."""
    rng = np.random.default_rng(0)
    words, topics = "abcdefghijkl", "mnopqr"
    log = [
        Asked(f"{rng.choice(list(words))} about {rng.choice(list(topics))}", None)
        for _ in range(200)
    ]
    stream = _stream(log)
    scores = PairScores(TopicScorer())
    play = play_scored(stream, VerifiedRule(POLICY, scores), POLICY.limit, scores)
    world = World(local_entries=0)
    for request, asked in enumerate(log):
        info = (await world.ask(asked.query)).info
        assert (info.tier or "") == play.tier[request]
        if info.status == "hit":
            assert info.matched_query == log[play.source[request]].query


def test_what_serving_does_not_look_up_is_no_hit() -> None:
    """What is too long for the cache, for the embedder, or beside another for the verifier."""
    endless = [f"{word} about {'cats' * 2_100}" for word in ("d", "e")]
    long = [f"{word} {'x ' * 40}about cats" for word in ("a", "b", "c")]
    short = ["plain about cats", "simple about cats"]
    log = _log(*((query, "cats") for query in [*endless, endless[0], *long, *short]))
    encoder, scorer = TopicEncoder(), TopicScorer(window=6)
    encoder.max_tokens = 20
    embedded = embed_log(encoder, log)
    assert embedded.beyond == {*long}
    report = Replayer(scorer, POLICY).run(embedded, target_precision=0.9)
    assert report.tally.by_tier == {"semantic": 1}
    assert report.tally.hits == 1


def test_all_texts_are_read_as_queries() -> None:
    """Both sides of a cache's pair are, when they are replayed, calibrated or served."""
    encoder = TopicEncoder()
    embed_log(encoder, _log(("a word about cats", "cats"), ("a word " * 40, None)))
    pairs = [LabelledPair("a about cats", "b about cats", True)]
    CalibrationRun(encoder, TopicScorer(), GuardSettings()).scores(pairs)
    assert set(encoder.sides) == {"query"}


def test_baselines_play_by_their_own_rules() -> None:
    """Exact takes repeats only; cosine takes the nearest at its threshold."""
    stream = _stream(MIXED)
    assert tally(stream, stream.play(ExactRule(), 5)).by_tier == {"exact": 2}
    assert tally(stream, stream.play(CosineRule(0.5), 5)).hits == 4
    assert tally(stream, stream.play(CosineRule(0.9999), 5)).hits == 2


def test_a_peer_that_is_half_installed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and the replay goes on."""
    (tmp_path / "gptcache").mkdir()
    (tmp_path / "gptcache" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gptcache", raising=False)
    with capture_logs() as logs:
        assert "gptcache" not in [rule.name for rule in peer_rules()]
    assert [entry["peer"] for entry in logs] == ["gptcache"]
    monkeypatch.delitem(sys.modules, "gptcache", raising=False)


def test_neighbours_come_earlier_and_nearest_first() -> None:
    """Only what was asked before can have been cached."""
    vectors = TopicEncoder().encode([f"{word} about cats" for word in "abcdef"])
    near = earlier_neighbours(vectors, 0.0, 3)
    assert [len(line) for line in near] == [0, 1, 2, 3, 3, 3]
    for row, line in enumerate(near):
        assert all(other < row for other, _ in line)
        assert [cosine for _, cosine in line] == sorted((c for _, c in line), reverse=True)


def test_a_misspelt_request_is_looked_for_as_when_serving() -> None:
    """Below the floor: it is a hit; what is spelt well has no neighbour there."""
    texts = ["how do I reset the password about cats", "how do I reset the pasword about cats"]
    log = [Asked(text, "cats") for text in (*texts, "two about cats")]
    replayer = Replayer(TopicScorer(), replace(POLICY, floor=0.995))
    report = replayer.run(embed_log(TopicEncoder(), log), target_precision=0.99)
    assert report.tally.by_tier == {"semantic": 1}


def test_report_has_the_promised_keys_and_curves() -> None:
    """The JSON for machines, the sweep and the comparison at equal precision."""
    replayer = Replayer(TopicScorer(), POLICY)
    report = replayer.run(
        embed_log(TopicEncoder(), MIXED),
        target_precision=0.99,
        lookup_ms=[1.0, 3.0],
        ranking_ms=50.0,
    )
    plain = report.to_dict()
    promised = {
        "requests", "hits", "hit_rate", "wrong_hits", "hit_precision", "hit_precision_low",
        "missed_duplicates", "oracle_hit_rate", "rankings_saved", "p50_lookup_ms",
        "p99_lookup_ms", "threshold",
    }  # fmt: skip
    assert promised <= plain.keys()
    assert plain["saved_ms"] == pytest.approx(4 * 50.0 - 5 * 2.0)  # two of the seven were exact
    assert json.loads(json.dumps(plain)) == plain
    rates = [point.tally.hit_rate for point in report.curve]
    assert rates == sorted(rates, reverse=True)
    assert best_at(report.cosine, 0.95) is not None
    drawn = plot(report.curve, report.threshold)
    assert "*" in drawn and "o" in drawn and "|" in drawn


def test_replay_without_a_certificate_counts_the_exact_tiers() -> None:
    """No threshold: exact and nothing else, said plainly."""
    policy = Policy(threshold=float("inf"), floor=0.5)
    report = Replayer(TopicScorer(), policy).run(
        embed_log(TopicEncoder(), MIXED), target_precision=0.99, problem="uncalibrated"
    )
    assert (report.threshold, report.tally.by_tier) == (None, {"exact": 2})


def test_broken_lines_are_counted_and_named(tmp_path: Path) -> None:
    """Bad JSON, wrong types and blank queries are left out with their line numbers."""
    path = tmp_path / "log.jsonl"
    lines = [
        '{"query": "a", "group": "x"}',
        "{broken",
        '{"query": 5, "group": "x"}',
        "[]",
        '{"query": "   ", "group": "x"}',
        '{"query": "b", "group": {"no": 1}}',
        "",
        '{"query": "c"}',
        "[" * 100_000,
        '{"query": "d", "group": true}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    read = read_log(path)
    assert read.items == (Asked("a", "x"), Asked("c", None))
    assert [problem.split(":")[0] for problem in read.problems] == [
        f"line {number}" for number in (2, 3, 4, 5, 6, 9, 10)
    ]
    assert read.problems[-1].endswith("group: got true, expected a text, a whole number or null")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    """Windows editors write one before JSONL as well."""
    log, pairs = tmp_path / "log.jsonl", tmp_path / "pairs.jsonl"
    log.write_text('{"query": "a", "group": "x"}\n', encoding="utf-8-sig")
    pair = {"question1": "a", "question2": "b", "is_duplicate": 1}
    pairs.write_text(json.dumps(pair), encoding="utf-8-sig")
    assert is_log(log) and not is_log(pairs)
    assert read_log(log) == Lines((Asked("a", "x"),), ())
    assert read_pairs(pairs) == Lines((LabelledPair("a", "b", True),), ())


@pytest.mark.parametrize("content", ["", "{broken\n", '{"other": 1}\n'])
def test_log_without_a_usable_line_is_refused(tmp_path: Path, content: str) -> None:
    """Nothing to replay is an error that shows the expected form."""
    path = tmp_path / "log.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="expected lines of"):
        read_log(path)


def test_missing_log_is_refused(tmp_path: Path) -> None:
    """A path that cannot be read is named."""
    with pytest.raises(InputError, match="nowhere.jsonl: cannot be read"):
        read_log(tmp_path / "nowhere.jsonl")


def test_pairs_and_logs_are_told_apart(tmp_path: Path) -> None:
    """Labels may be numbers or digits as text; anything else is a broken line."""
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"question1": "a", "question2": "b", "is_duplicate": 1},
        {"question1": "a", "question2": "c", "is_duplicate": "0"},
        {"question1": "a", "question2": "d", "is_duplicate": "maybe"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    read = read_pairs(path)
    assert read.items == (LabelledPair("a", "b", True), LabelledPair("a", "c", False))
    assert len(read.problems) == 1
    assert not is_log(path)


@pytest.mark.parametrize(("name", "mark"), [("pairs.csv", ","), ("pairs.TSV", "\t")])
def test_pairs_in_a_table_are_read(tmp_path: Path, name: str, mark: str) -> None:
    """As ``funnel train duplicate`` takes them, with a spreadsheet's byte-order mark."""
    path = tmp_path / name
    rows = [
        ("id", "question1", "question2", "is_duplicate"),
        ("1", f'"a{mark} b"', "2012", "1"),
        ("2", "a", "b"),
        ("3", "a", "b", "0", "more"),
        ("4", "a", '"b\nc"', "0"),
        ("5", '"a"b', "c", "1"),
        ("6", "e", "f", "yes"),
        ("7", "g", "h", "0"),
    ]
    path.write_text("\n".join(map(mark.join, rows)), encoding="utf-8-sig")
    read = read_pairs(path)
    assert read.items == (
        LabelledPair(normalise_query(f"a{mark} b"), "2012", True),
        LabelledPair("a", normalise_query("b\nc"), False),
        LabelledPair("g", "h", False),
    )
    assert [problem.split(":")[0] for problem in read.problems] == [
        f"line {number}" for number in (3, 4, 7, 8)
    ]
    assert not is_log(path)


def test_a_log_in_a_table_is_read(tmp_path: Path) -> None:
    """An empty group is one that nobody knows, also in JSONL; a number is the text there."""
    path = tmp_path / "log.csv"
    path.write_text("query,group\na,x\nb,\nc,7\n9.50,1.10\n", encoding="utf-8")
    assert is_log(path)
    assert read_log(path).items == (
        *(Asked("a", "x"), Asked("b", None), Asked("c", "7"), Asked("9.50", "1.10")),
    )
    plain = tmp_path / "log.jsonl"
    groups = ("", " ", None, 7, "x")
    rows = [json.dumps({"query": "a", "group": group}) for group in groups]
    plain.write_text("\n".join(rows), encoding="utf-8")
    assert [asked.group for asked in read_log(plain).items] == [None, None, None, "7", "x"]


def _pairs(count: int) -> list[LabelledPair]:
    same = [
        LabelledPair(f"x{_word(n)} about cats", f"y{_word(n)} about cats", True)
        for n in range(count)
    ]
    other = [
        LabelledPair(f"x{_word(n)} about cats", f"y{_word(n)} about dogs", False)
        for n in range(count)
    ]
    return [*same, *other]


def _word(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def test_calibration_on_pairs() -> None:
    """Enough clean pairs certify the target; the file says on what."""
    guards = GuardSettings(entities=False)  # to which words in no dictionary are names
    run = CalibrationRun(TopicEncoder(), TopicScorer(), guards)
    report = run.run(_pairs(600), 0.99, source="the topics of the tests")
    assert report.wanted is not None and report.wanted.wrong == 0
    calibrator = report.calibrator
    assert (calibrator.pairs, calibrator.duplicates) == (1_200, 600)
    assert (calibrator.verifier, calibrator.revision) == ("world/verifier", "1")
    assert calibrator.scripts == ("LATIN",)
    point = calibrator.point(0.99)
    assert point is not None and -8.0 < point.threshold <= 8.0


def test_calibration_on_too_little_says_so() -> None:
    """A hundred pairs cannot support 99%, whatever their scores."""
    run = CalibrationRun(TopicEncoder(), TopicScorer(), GuardSettings())
    report = run.run(_pairs(100), 0.99)
    assert report.wanted is None
    assert "cannot support 99.0%" in report.explanation
    assert report.calibrator.point(0.99) is None


def test_a_log_of_one_group_certifies_nothing() -> None:
    """Without a single near miss there is no threshold to find."""
    log = [Asked(f"x{_word(n)} about cats", "one") for n in range(400)]
    run = CalibrationRun(TopicEncoder(), TopicScorer(), GuardSettings())
    with pytest.raises(InputError, match="near requests, of which all are duplicates"):
        run.run_log(log, 0.95)


def test_calibration_on_a_log_is_about_served_hits() -> None:
    """One unit per request that has a neighbour, labelled by its best-scored one."""
    log = [Asked(f"x{_word(n)} about t{_word(n // 2)}", f"g{n // 2}") for n in range(1_400)]
    run = CalibrationRun(TopicEncoder(), TopicScorer(), GuardSettings())
    report = run.run_log(log, 0.99)
    assert report.calibrator.duplicates == 700
    assert report.wanted is not None and report.wanted.wrong == 0
