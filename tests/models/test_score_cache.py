"""Remembered scores: exact, bounded, counted, and never those of another pair."""

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.deadline import Deadline
from funnel.models import CrossEncoderScorer
from funnel.models.base import ScoredPairs, TextPair
from funnel.models.score_cache import ENTRY_BYTES, PairScoreCache, pair_keys
from tests.models.tiny import WORDS, save_cross_encoder

_TEXTS = st.text(max_size=6)
_PAIRS = st.lists(st.tuples(_TEXTS, _TEXTS), max_size=20)


def _true(pair: TextPair) -> float:
    return float(np.float32(len(pair[0]) * 1.37 - len(pair[1]) / 3))


def _ask(cache: PairScoreCache, pairs: list[TextPair]) -> ScoredPairs:
    recall = cache.recall("m", pairs)
    fresh = [pairs[place] for place in recall.missing]
    values = np.array([_true(pair) for pair in fresh], np.float32)
    keys = [recall.keys[place] for place in recall.missing]
    cache.learn(keys, values, [len(pair[1]) > 3 for pair in fresh])
    truncated = sum(len(pair[1]) > 3 for pair in fresh)
    return recall.merged(ScoredPairs(values, truncated, len(fresh)))


@settings(deadline=None)
@given(lists=st.lists(_PAIRS, max_size=6), entries=st.integers(0, 30))
def test_scores_are_right_whatever_was_forgotten(lists: list[list[TextPair]], entries: int) -> None:
    """With any bound, in any order of asking; the bound holds, and every pair counts once."""
    cache = PairScoreCache(entries * ENTRY_BYTES)
    for pairs in lists:
        scored = _ask(cache, pairs)
        assert scored.values.tolist() == [_true(pair) for pair in pairs]
        assert scored.truncated == sum(len(pair[1]) > 3 for pair in pairs)
        assert scored.scored == len(pairs)
        assert len(cache) <= entries
    assert cache.hits + cache.misses == sum(map(len, lists))


@settings(deadline=None)
@given(known=st.sets(st.integers(0, 11)), done=st.integers(0, 12))
def test_what_was_scored_is_a_beginning(known: set[int], done: int) -> None:
    """When a deadline leaves missing pairs out, nothing behind the first of them counts."""
    pairs = [("q", str(i)) for i in range(12)]
    cache = PairScoreCache(2**20)
    keys = pair_keys("m", [pairs[i] for i in sorted(known)])
    cache.learn(keys, np.array(sorted(known), np.float32), [False] * len(known))
    recall = cache.recall("m", pairs)
    done = min(done, len(recall.missing))
    values = np.full(len(recall.missing), np.nan, np.float32)
    values[:done] = list(recall.missing)[:done]
    merged = recall.merged(ScoredPairs(values, 0, done))
    end = recall.missing[done] if done < len(recall.missing) else 12
    assert merged.scored == end
    assert merged.values[:end].tolist() == list(range(end))
    assert np.isnan(merged.values[end:]).all()
    assert merged.remembered == len([i for i in known if i < end])


@settings(deadline=None)
@given(first=st.tuples(_TEXTS, _TEXTS), second=st.tuples(_TEXTS, _TEXTS))
def test_keys_tell_pairs_apart(first: TextPair, second: TextPair) -> None:
    """Also those whose texts run together alike, and other models'."""
    assert (pair_keys("m", [first]) == pair_keys("m", [second])) == (first == second)
    assert pair_keys("m", [first]) != pair_keys("n", [first])


def test_an_entry_takes_what_is_stated() -> None:
    """The bound in bytes is one in truth."""
    cache = PairScoreCache(2**30)
    keys = pair_keys("m", [("q", str(i)) for i in range(20_000)])
    tracemalloc.start()
    cache.learn(
        [bytes(bytearray(key)) for key in keys], np.arange(2e4, dtype=np.float32), [False] * 20_000
    )
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.3 * cache.size_bytes < used <= cache.size_bytes


def test_threads_share_it() -> None:
    """No score is lost or exchanged while eight threads ask for overlapping pairs."""
    cache = PairScoreCache(50 * ENTRY_BYTES)
    wrong: list[TextPair] = []

    def ask(start: int) -> None:
        for step in range(200):
            pairs = [("q", "x" * ((start + step + i) % 80)) for i in range(10)]
            values = _ask(cache, pairs).values.tolist()
            wrong.extend(p for p, v in zip(pairs, values, strict=True) if v != _true(p))

    threads = [threading.Thread(target=ask, args=(i * 7,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(cache) <= 50
    assert cache.hits + cache.misses == 8 * 200 * 10


@pytest.mark.slow
async def test_a_scorer_gives_the_same_scores_again(tmp_path: Path) -> None:
    """Bit for bit, from both of its doors, with truncation counted; another list shares pairs."""
    folder = save_cross_encoder(tmp_path)
    scorer = CrossEncoderScorer(str(folder), backend="torch-fp32", score_cache_mb=1)
    pairs = [(WORDS[0], " ".join(WORDS[: 1 + i % 9])) for i in range(9)]
    pairs += [(WORDS[1], "delete all data " * 400)]
    first = await scorer.ascore(pairs, deadline=Deadline())
    again = await scorer.ascore(pairs, deadline=Deadline())
    assert (first.remembered, again.remembered) == (0, 10)
    assert first.truncated == again.truncated == 1
    np.testing.assert_array_equal(again.values, first.values)
    np.testing.assert_array_equal(scorer.score(pairs[::-1])[::-1], first.values)
    wider = await scorer.ascore([*pairs[5:], (WORDS[3], "card")], deadline=Deadline())
    assert wider.remembered == 5
    np.testing.assert_array_equal(wider.values[:5], first.values[5:])
    assert scorer.score_cache is not None
    assert scorer.score_cache.hits == 25
