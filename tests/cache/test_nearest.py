"""The nearest-query index: exact rows, the graph above them, and what moves between."""

import subprocess
import sys
import time
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from funnel.cache.graph import graphs_available
from funnel.cache.nearest import NearestIndex
from funnel.errors import CacheError, ConfigError

DIMENSIONS = 24


def unit_rows(count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Random unit vectors of shape (count, DIMENSIONS)."""
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def names(count: int) -> list[str]:
    """Ids in order."""
    return [f"id{i}" for i in range(count)]


def wait_until_settled(index: NearestIndex) -> None:
    """Until the background thread has nothing left to move."""
    end = time.monotonic() + 20
    while not index.settled():
        assert time.monotonic() < end, "the graph did not settle"
        time.sleep(0.005)


def best(rows: NDArray[np.float32], query: NDArray[np.float32], count: int) -> list[str]:
    """The ids that an exhaustive search finds."""
    return [f"id{i}" for i in np.argsort(-(rows @ query))[:count]]


class TestExact:
    def test_finds_what_an_exhaustive_search_finds(self) -> None:
        """The nearest in order, with their cosines."""
        rows, query = unit_rows(200), unit_rows(1, seed=1)[0]
        index = NearestIndex()
        index.add_many("p", names(200), rows)
        found = index.search("p", query, 10)
        assert [hit.id for hit in found] == best(rows, query, 10)
        assert [hit.score for hit in found] == pytest.approx(
            sorted(rows @ query, reverse=True)[:10], abs=1e-5
        )

    def test_vectors_of_any_length_count_by_direction(self) -> None:
        """Scores are cosines although nothing was normalised."""
        index = NearestIndex()
        index.add("p", "a", [3.0, 0.0])
        assert index.search("p", [0.5, 0.0], 1)[0].score == pytest.approx(1.0)

    def test_the_floor_is_inclusive(self) -> None:
        """A neighbour exactly at the floor counts."""
        index = NearestIndex()
        index.add("p", "a", [1.0, 0.0])
        assert [hit.id for hit in index.search("p", [1.0, 0.0], 1, floor=1.0)] == ["a"]
        assert index.search("p", [0.0, 1.0], 1, floor=0.1) == []

    def test_an_unknown_partition_is_empty(self) -> None:
        """Searching where nothing is finds nothing."""
        assert NearestIndex().search("p", [1.0], 3) == []

    def test_a_replaced_vector_is_found_at_its_new_place(self) -> None:
        """Adding an id again moves it."""
        index = NearestIndex()
        index.add("p", "a", [1.0, 0.0])
        index.add("p", "a", [0.0, 1.0])
        assert len(index) == 1
        assert index.search("p", [0.0, 1.0], 1)[0].score == pytest.approx(1.0)

    def test_an_id_that_changes_partition_leaves_the_old_one(self) -> None:
        """An id is in one partition at a time."""
        index = NearestIndex()
        index.add("p", "a", [1.0, 0.0])
        index.add("q", "a", [1.0, 0.0])
        assert index.search("p", [1.0, 0.0], 1) == []
        assert index.stats()["partitions"] == 1

    def test_everywhere_skips_vectors_of_another_length(self) -> None:
        """A search over all partitions takes part only where lengths agree."""
        index = NearestIndex()
        index.add("p", "a", [1.0, 0.0])
        index.add("q", "b", [1.0, 0.1])
        index.add("r", "c", [1.0, 0.0, 0.0])
        assert [hit.id for hit in index.search_everywhere([1.0, 0.0], 5)] == ["a", "b"]

    @pytest.mark.parametrize("bad", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [], [1.0, 0.0, 0.0]])
    def test_unusable_vectors_are_refused(self, bad: list[float]) -> None:
        """Zero, not finite, empty or of another length: CacheError, and nothing changes."""
        index = NearestIndex()
        index.add("p", "a", [1.0, 0.0])
        with pytest.raises(CacheError):
            index.add("p", "b", bad)
        with pytest.raises(CacheError):
            index.search("p", bad, 1)
        assert index.ids() == ["a"]

    def test_limits_below_one_are_a_configuration_error(self) -> None:
        """The message says what was got."""
        with pytest.raises(ConfigError, match="exact_limit=0"):
            NearestIndex(exact_limit=0)


class TestBounds:
    def test_the_cap_drops_the_oldest(self) -> None:
        """Over max_vectors the ones put in longest ago go, over all partitions."""
        index = NearestIndex(max_vectors=3)
        for i in range(6):
            index.add(f"p{i % 2}", f"id{i}", [1.0, float(i)])
        assert index.ids() == ["id3", "id4", "id5"]

    def test_memory_comes_back(self) -> None:
        """Removing nearly everything gives the rows back."""
        index = NearestIndex()
        index.add_many("p", names(5000), unit_rows(5000))
        full = index.stats()["bytes"]
        index.remove_many(names(4990))
        assert index.stats()["bytes"] < full / 50
        index.remove_many(names(5000))
        assert index.stats() == {"vectors": 0, "exact": 0, "partitions": 0, "bytes": 0}

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.booleans(), st.integers(0, 11), st.integers(0, 2)), min_size=1, max_size=80
        )
    )
    def test_any_order_of_changes_leaves_what_a_dictionary_would(
        self, changes: list[tuple[bool, int, int]]
    ) -> None:
        """Adds, moves and removals in any order: the same ids, each at its own vector."""
        rows = unit_rows(12)
        index, kept = NearestIndex(), dict[str, str]()
        for adds, number, place in changes:
            id_, partition = f"id{number}", f"p{place}"
            if adds:
                index.add(partition, id_, rows[number])
                kept[id_] = partition
            else:
                assert index.remove(id_) == (kept.pop(id_, None) is not None)
        assert sorted(index.ids()) == sorted(kept)
        for id_, partition in kept.items():
            top = index.search(partition, rows[int(id_[2:])], 1)[0]
            assert top.id == id_
            assert top.score == pytest.approx(1.0, abs=1e-5)


@pytest.mark.skipif(not graphs_available(), reason="usearch (the cache extra) is not installed")
def test_a_process_that_ends_while_a_graph_grows_ends_in_order() -> None:
    """Who forgets to close gets no abort of the interpreter for it."""
    script = """
        import time
        import numpy as np
        from funnel.cache.nearest import NearestIndex

        index = NearestIndex(exact_limit=10)
        rows = np.random.default_rng(0).normal(size=(20_000, 384))
        index.add_many("p", [str(i) for i in range(len(rows))], rows)
        time.sleep(0.2)  # by now the thread is in usearch's code nearly all the time
        """
    ended = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_without_usearch_everything_is_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra costs time above the limit, not answers."""
    monkeypatch.setattr("funnel.cache.nearest.graphs_available", lambda: False)
    rows = unit_rows(300)
    index = NearestIndex(exact_limit=100)
    index.add_many("p", names(300), rows)
    assert index.settled()
    assert index.stats()["exact"] == 300
    assert index.search("p", rows[7], 1)[0].id == "id7"


async def test_a_long_search_is_the_same_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer is the same in a thread of its own."""
    rows = unit_rows(300)
    index = NearestIndex()
    index.add_many("p", names(300), rows)
    expected = index.search("p", rows[7], 5)
    assert await index.asearch("p", rows[7], 5) == expected
    monkeypatch.setattr("funnel.cache.nearest._LONG", 1)
    assert await index.asearch("p", rows[7], 5) == expected


@pytest.mark.skipif(not graphs_available(), reason="usearch (the cache extra) is not installed")
class TestGraph:
    def test_the_surplus_moves_into_the_graph(self) -> None:
        """Above the limit old vectors are found through the graph, new ones exactly."""
        rows = unit_rows(1500)
        index = NearestIndex(exact_limit=500)
        index.add_many("p", names(1500), rows)
        wait_until_settled(index)
        assert index.stats()["exact"] == 50
        queries = unit_rows(50, seed=2)
        overlap = [
            len({hit.id for hit in index.search("p", query, 10)} & set(best(rows, query, 10)))
            for query in queries
        ]
        assert sum(overlap) / 500 > 0.97
        index.close()

    def test_it_answers_while_it_settles(self) -> None:
        """Every vector is findable at every moment of the move."""
        rows = unit_rows(2000)
        index = NearestIndex(exact_limit=100)
        index.add_many("p", names(2000), rows)
        looked = 0
        while not index.settled() or looked < 50:
            number = (looked * 37) % 2000
            assert index.search("p", rows[number], 3)[0].id == f"id{number}"
            looked += 1
        index.close()

    def test_graph_scores_are_cosines(self) -> None:
        """Sixteen bits cost two thousandths at most, even with so few dimensions."""
        rows = unit_rows(300)
        index = NearestIndex(exact_limit=1)
        index.add_many("p", names(300), rows)
        wait_until_settled(index)
        for hit in index.search("p", rows[7], 20):
            assert hit.score == pytest.approx(float(rows[int(hit.id[2:])] @ rows[7]), abs=2e-3)
        index.close()

    def test_removed_and_replaced_vectors_leave_the_graph(self) -> None:
        """Neither a removed id nor a replaced vector is found at its old place."""
        rows = unit_rows(400)
        index = NearestIndex(exact_limit=10)
        index.add_many("p", names(400), rows)
        wait_until_settled(index)
        index.remove("id3")
        index.add("p", "id4", -rows[4])
        assert index.search("p", rows[3], 1)[0].id != "id3"
        assert index.search("p", rows[4], 1)[0].id != "id4"
        assert index.search("p", -rows[4], 1)[0].id == "id4"
        index.close()

    def test_a_hollow_graph_is_given_up(self) -> None:
        """When most of a graph is removed its memory comes back and the rest is found exactly."""
        rows = unit_rows(2000)
        index = NearestIndex(exact_limit=100)
        index.add_many("p", names(2000), rows)
        wait_until_settled(index)
        full = index.stats()["bytes"]
        index.remove_many(names(1950))
        wait_until_settled(index)
        stats = index.stats()
        assert (stats["vectors"], stats["exact"]) == (50, 50)
        assert stats["bytes"] < full / 10
        assert index.search("p", rows[1977], 1)[0].id == "id1977"
        index.close()

    def test_churn_costs_no_memory(self) -> None:
        """Ten times as many vectors through a capped index take no more room than the cap."""
        index = NearestIndex(exact_limit=100, max_vectors=1000)
        index.add_many("p", names(1000), unit_rows(1000))
        wait_until_settled(index)
        full = index.stats()["bytes"]
        for turn in range(1, 10):
            ids = [f"{turn}-{i}" for i in range(1000)]
            index.add_many("p", ids, unit_rows(1000, seed=turn))
            wait_until_settled(index)
        assert len(index) == 1000
        assert index.stats()["bytes"] <= 2 * full
        index.close()

    def test_closed_it_still_searches(self) -> None:
        """After close everything new is searched exactly."""
        rows = unit_rows(300)
        index = NearestIndex(exact_limit=100)
        index.close()
        index.add_many("p", names(300), rows)
        assert index.search("p", rows[250], 1)[0].id == "id250"
        assert index.stats()["exact"] == 300

    def test_growing_graph_does_not_starve_searches(self) -> None:
        """Beside a thread that moves vectors without pause, a search waits for one turn of it."""
        dimensions = 384
        rows = np.random.default_rng(0).normal(size=(6000, dimensions)).astype(np.float32)
        index = NearestIndex(exact_limit=500)
        index.add_many("p", names(6000), rows)
        waited: list[float] = []
        while not index.settled() and len(waited) < 200:
            began = time.perf_counter()
            index.search("p", rows[len(waited)], 5)
            waited.append(time.perf_counter() - began)
        index.close()
        assert len(waited) > 20
        assert sorted(waited)[len(waited) // 2] < 0.05


async def test_many_partitions_take_what_their_vectors_take() -> None:
    """One question each of many tenants: no spare rows, and found over all without a difference."""
    rows = unit_rows(300)
    index = NearestIndex()
    for number, row in enumerate(rows):
        index.add(f"p{number}", f"id{number}", row)
    assert index.stats()["bytes"] == rows.nbytes
    expected = best(rows, rows[7], 5)
    assert [hit.id for hit in index.search_everywhere(rows[7], 5)] == expected
    assert [hit.id for hit in await index.asearch_everywhere(rows[7], 5)] == expected
    near = await index.asearch_everywhere(rows[7], 300, floor=0.5)
    assert len(near) == (rows @ rows[7] >= 0.5).sum()
