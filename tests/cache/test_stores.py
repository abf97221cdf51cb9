"""The contract of every store: one suite, run for each kind."""

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest

from funnel.cache.store import MISSING, Store, Stored
from funnel.errors import CacheError
from tests.cache.conftest import SHARED_KINDS, MakeStore
from tests.cache.records import DIMENSIONS, P, Q, axis, eventually, keep, keep_many, near, payload


class TestRecords:
    async def test_an_unknown_key_is_missing(self, store: Store) -> None:
        """A miss is MISSING, with the epoch read alongside."""
        reading = await store.get(P, "00")
        assert reading.found is MISSING
        assert reading.epoch == await store.epoch()

    async def test_a_record_is_read_back(self, store: Store) -> None:
        """The payload comes back byte for byte."""
        blob = bytes(range(256)) * 10
        assert await keep(store, "00", payload=blob)
        assert (await store.get(P, "00")).found == Stored(P, "00", blob)

    async def test_the_latest_put_wins(self, store: Store) -> None:
        """A second put of a key replaces the first."""
        await keep(store, "00", payload=b"old")
        await keep(store, "00", payload=b"new")
        assert await payload(store, "00") == b"new"
        assert (await store.stats()).entries == 1

    async def test_partitions_never_mix(self, store: Store) -> None:
        """The same key in another partition is another record."""
        await keep(store, "00", payload=b"mine", vector=axis(0))
        await keep(store, "00", payload=b"theirs", partition=Q, vector=axis(0))
        assert await payload(store, "00") == b"mine"
        assert await payload(store, "00", partition=Q) == b"theirs"
        assert len(await near(store, axis(0))) == 1

    async def test_many_are_read_in_order(self, store: Store) -> None:
        """get_many answers in the order asked, MISSING in the gaps."""
        await keep(store, "01")
        await keep(store, "02")
        found = await store.get_many(P, ["02", "00", "01"])
        assert [s.key if isinstance(s, Stored) else s for s in found] == ["02", MISSING, "01"]

    async def test_none_are_read_for_no_keys(self, store: Store) -> None:
        """get_many of nothing is nothing."""
        assert list(await store.get_many(P, [])) == []

    async def test_an_expired_record_is_missing_everywhere(self, store: Store) -> None:
        """Past its retention a record is found by no way of reading."""
        await keep(store, "00", retain_s=0.1, vector=axis(0), documents=["d"])
        await asyncio.sleep(0.25)
        assert await payload(store, "00") is None
        assert list(await store.get_many(P, ["00"])) == [MISSING]
        assert await near(store, axis(0)) == []
        assert await store.delete_documents(["d"]) == 0

    async def test_delete_says_whether_there_was_one(self, store: Store) -> None:
        """A deleted record is gone, and a second delete says so."""
        await keep(store, "00", vector=axis(0))
        assert await store.delete(P, "00")
        assert not await store.delete(P, "00")
        assert await payload(store, "00") is None
        assert await near(store, axis(0)) == []

    async def test_readers_at_once_get_their_own_answers(self, store: Store) -> None:
        """Two hundred concurrent reads do not cross."""
        for i in range(20):
            await keep(store, f"{i:02x}")
        keys = [f"{i % 20:02x}" for i in range(200)]
        found = await asyncio.gather(*(payload(store, key) for key in keys))
        assert found == [key.encode() for key in keys]

    async def test_cancelled_reads_do_not_disturb_others(self, store: Store) -> None:
        """An abandoned read never leaves its reply for the next reader."""
        for i in range(20):
            await keep(store, f"{i:02x}")
        chance = random.Random(7)

        async def read(key: str) -> None:
            task = asyncio.create_task(payload(store, key))
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random() * 0.002)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                assert await task == key.encode()

        for _ in range(5):
            await asyncio.gather(*(read(f"{i % 20:02x}") for i in range(60)))


class TestNearest:
    async def test_best_first_with_cosines(self, store: Store) -> None:
        """Neighbours come in order of cosine, and say it."""
        await keep(store, "01", vector=axis(0, toward=1, share=0.5))
        await keep(store, "02", vector=axis(0))
        found = (await store.nearest(P, axis(0), limit=5, floor=0.1)).found
        assert [s.key for s in found] == ["02", "01"]
        assert [s.cosine for s in found] == pytest.approx([1.0, 0.894], abs=5e-3)

    async def test_floor_and_limit(self, store: Store) -> None:
        """Nothing below the floor, no more than the limit."""
        for i in range(1, 6):
            await keep(store, f"{i:02x}", vector=axis(0, toward=i, share=i / 5))
        assert await near(store, axis(0), limit=2) == ["01", "02"]
        assert await near(store, axis(0), floor=0.9) == ["01", "02"]

    async def test_a_record_without_a_vector_is_never_near(self, store: Store) -> None:
        """vector=None keeps a record out of nearest."""
        await keep(store, "00")
        assert await near(store, axis(0), floor=-1.0) == []

    async def test_no_neighbours_still_tell_the_epoch(self, store: Store) -> None:
        """An empty answer carries the epoch."""
        assert (await store.nearest(P, axis(0), limit=3, floor=0.5)).epoch == await store.epoch()

    async def test_anywhere_spans_partitions(self, store: Store) -> None:
        """nearest_anywhere finds over all partitions, best first."""
        await keep(store, "01", vector=axis(0, toward=1, share=0.3))
        await keep(store, "02", partition=Q, vector=axis(0))
        await keep(store, "03", partition="cc", vector=np.ones(3, dtype=np.float32) / 3**0.5)
        found = await store.nearest_anywhere(axis(0), limit=5, floor=0.5)
        assert [(s.partition, s.key) for s in found] == [(Q, "02"), (P, "01")]

    async def test_expired_neighbours_do_not_crowd_out_live_ones(self, store: Store) -> None:
        """Live records are found although nearer ones have just expired."""
        for i in range(3):
            await keep(store, f"{i:02x}", vector=axis(0), retain_s=0.1)
        for i in range(3, 6):
            await keep(store, f"{i:02x}", vector=axis(0, toward=1, share=0.2))
        await asyncio.sleep(0.25)
        assert len(await near(store, axis(0), limit=3)) == 3

    async def test_anywhere_finds_all_however_many_have_expired(self, store: Store) -> None:
        """Fewer than the limit means that there are no more, not that others were in the way."""
        for i in range(12):
            await keep(store, f"{i:02x}", vector=axis(0), retain_s=0.1)
        await keep(store, "ff", vector=axis(0, toward=1, share=0.2))
        await asyncio.sleep(0.25)
        found = await store.nearest_anywhere(axis(0), limit=2, floor=0.5)
        assert [s.key for s in found] == ["ff"]

    @pytest.mark.parametrize("store_kind", ["memory", "sqlite"], indirect=True)
    async def test_anywhere_finds_what_is_old_but_used(self, make_store: MakeStore) -> None:
        """A record can be found as long as it is kept, whatever else came and went."""
        store = await make_store(max_entries=10)
        await keep(store, "00", vector=axis(0))
        for i in range(1, 60):
            assert await payload(store, "00") is not None
            await keep(store, f"{i:02x}", vector=axis(1))
            assert len(await near(store, axis(1), limit=1)) == 1
        found = await store.nearest_anywhere(axis(0), limit=5, floor=0.5)
        assert [s.key for s in found] == ["00"]

    async def test_a_broken_vector_is_an_error_and_harms_nothing(self, store: Store) -> None:
        """A query vector that is not finite raises CacheError; the store goes on."""
        await keep(store, "00", vector=axis(0))
        with pytest.raises(CacheError):
            await store.nearest(P, np.full(DIMENSIONS, np.nan, np.float32), limit=1, floor=0)
        assert await near(store, axis(0)) == ["00"]

    async def test_a_record_with_a_broken_vector_is_not_kept(self, store: Store) -> None:
        """A vector that could never be found raises CacheError, and the former record stays."""
        await keep(store, "00", payload=b"old")
        with pytest.raises(CacheError):
            await keep(store, "00", payload=b"new", vector=np.zeros(DIMENSIONS, np.float32))
        assert await payload(store, "00") == b"old"


class TestRefusals:
    async def test_an_answer_from_before_an_index_write_is_refused(self, store: Store) -> None:
        """A put under an older epoch is not kept."""
        before = await store.epoch()
        await store.bump(invalidate=False)
        assert not await keep(store, "00", epoch=before.current)
        assert await payload(store, "00") is None

    async def test_an_answer_from_the_future_is_refused(self, store: Store) -> None:
        """A put under an epoch that the store never gave is not kept."""
        assert not await keep(store, "00", epoch=(await store.epoch()).current + 1)

    async def test_a_slower_leader_does_not_overwrite(self, store: Store) -> None:
        """A lower fencing token loses against a kept higher one; an equal one replaces."""
        assert await keep(store, "00", token=2, payload=b"second")
        assert not await keep(store, "00", token=1, payload=b"first")
        assert await payload(store, "00") == b"second"
        assert await keep(store, "00", token=2, payload=b"again")
        assert await payload(store, "00") == b"again"

    async def test_a_dead_record_does_not_fence(self, store: Store) -> None:
        """The token of an invalidated or expired record refuses nobody."""
        await keep(store, "00", token=9)
        await store.bump(invalidate=True)
        assert await keep(store, "00", token=1)
        await keep(store, "01", token=9, retain_s=0.05)
        await asyncio.sleep(0.15)
        assert await keep(store, "01", token=1)

    async def test_a_record_beyond_the_byte_cap_is_refused(self, make_store: MakeStore) -> None:
        """One record may not exceed the cap, and evicts nobody in trying."""
        store = await make_store(max_bytes=1000)
        await keep(store, "00", payload=b"x" * 100)
        assert not await keep(store, "01", payload=b"x" * 1001)
        assert await payload(store, "00") is not None


class TestAliases:
    async def test_an_alias_leads_to_the_record(self, store: Store) -> None:
        """Reading an alias gives the record under its own key, and the note."""
        await keep(store, "00", payload=b"answer")
        await store.alias(P, "01", "00", note=b"\x00note", retain_s=60)
        assert (await store.get(P, "01")).found == Stored(P, "00", b"answer", alias=b"\x00note")

    async def test_a_record_of_its_own_wins(self, store: Store) -> None:
        """A key with both a record and an alias reads as the record."""
        await keep(store, "00")
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        await keep(store, "01", payload=b"own")
        assert (await store.get(P, "01")).found == Stored(P, "01", b"own")

    async def test_an_alias_of_an_alias_leads_nowhere(self, store: Store) -> None:
        """Aliases are not chained."""
        await keep(store, "00")
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        await store.alias(P, "02", "01", note=b"", retain_s=60)
        assert await payload(store, "02") is None

    async def test_an_alias_does_not_outlive_its_target(self, store: Store) -> None:
        """With the target gone the alias is missing."""
        await keep(store, "00")
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        await store.delete(P, "00")
        assert await payload(store, "01") is None

    async def test_an_alias_expires(self, store: Store) -> None:
        """Past its retention an alias is missing; the record stays."""
        await keep(store, "00")
        await store.alias(P, "01", "00", note=b"", retain_s=0.1)
        await asyncio.sleep(0.25)
        assert await payload(store, "01") is None
        assert await payload(store, "00") is not None

    async def test_an_alias_can_be_deleted(self, store: Store) -> None:
        """Deleting an alias leaves its target."""
        await keep(store, "00")
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        assert await store.delete(P, "01")
        assert await payload(store, "01") is None
        assert await payload(store, "00") is not None

    async def test_aliases_stay_in_their_partition(self, store: Store) -> None:
        """An alias is not seen from another partition."""
        await keep(store, "00")
        await keep(store, "00", partition=Q)
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        assert await payload(store, "01", partition=Q) is None

    async def test_aliases_are_not_found_by_vector_or_in_bulk(self, store: Store) -> None:
        """Nearest and get_many see records only."""
        await keep(store, "00", vector=axis(0))
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        assert await near(store, axis(0)) == ["00"]
        assert list(await store.get_many(P, ["01"])) == [MISSING]

    async def test_aliases_are_capped(self, make_store: MakeStore) -> None:
        """Ten times the cap of aliases leaves no more than the cap."""
        store = await make_store(max_entries=10)
        await keep(store, "00")
        for i in range(100):
            await store.alias(P, f"{i + 1:03x}", "00", note=b"n", retain_s=60 + i)
        assert (await store.stats()).aliases <= 10
        assert await payload(store, f"{100:03x}") is not None


class TestLeases:
    async def test_one_holder_at_a_time(self, store: Store) -> None:
        """Of many who ask at once one gets the lease."""
        got = await asyncio.gather(*(store.acquire("00", ttl_s=5) for _ in range(20)))
        assert sum(lease is not None for lease in got) == 1
        assert await store.acquire("01", ttl_s=5) is not None

    async def test_released_it_can_be_taken_again(self, store: Store) -> None:
        """A release frees the name, and tokens only rise."""
        first = await store.acquire("00", ttl_s=5)
        assert first is not None
        await store.release(first)
        second = await store.acquire("00", ttl_s=5)
        assert second is not None
        assert second.token > first.token

    async def test_it_expires(self, store: Store) -> None:
        """A holder that died does not block the name for ever."""
        assert await store.acquire("00", ttl_s=0.1) is not None
        await asyncio.sleep(0.25)
        assert await store.acquire("00", ttl_s=5) is not None

    async def test_a_late_release_does_not_free_the_next_holder(self, store: Store) -> None:
        """Only the holder's own token releases."""
        late = await store.acquire("00", ttl_s=0.1)
        assert late is not None
        await asyncio.sleep(0.25)
        assert await store.acquire("00", ttl_s=5) is not None
        await store.release(late)
        assert await store.acquire("00", ttl_s=5) is None


class TestCaps:
    async def test_entries(self, make_store: MakeStore) -> None:
        """Many distinct records against a small cap leave no more than the cap, the newest."""
        store = await make_store(max_entries=20)
        await keep(store, "000", documents=["first"])
        await keep_many(store, [f"{i:03x}" for i in range(1, 200)], vector=axis(0))
        stats = await store.stats()
        assert stats.entries == 20
        assert stats.evictions == 180
        assert await payload(store, f"{199:03x}") is not None
        assert await payload(store, "000") is None
        assert await store.delete_documents(["first"]) == 0

    async def test_bytes(self, make_store: MakeStore) -> None:
        """Payloads and vectors together stay within the byte cap."""
        store = await make_store(max_bytes=10_000)
        for i in range(100):
            await keep(store, f"{i:02x}", payload=b"x" * 900, vector=axis(i % DIMENSIONS))
        stats = await store.stats()
        assert 0 < stats.bytes <= 10_000
        assert 9 <= stats.entries <= 11

    async def test_evicted_records_are_not_near(self, make_store: MakeStore) -> None:
        """What was evicted is not found by vector either."""
        store = await make_store(max_entries=3)
        for i in range(10):
            await keep(store, f"{i:02x}", vector=axis(0, toward=i + 1, share=0.05))
        assert sorted(await near(store, axis(0), limit=10)) == ["07", "08", "09"]


class TestLife:
    async def test_stats_count(self, store: Store) -> None:
        """Entries, aliases and bytes are counted, and go down again."""
        await keep(store, "00", payload=b"x" * 100, vector=axis(0))
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        stats = await store.stats()
        assert (stats.entries, stats.aliases) == (1, 1)
        assert 100 < stats.bytes <= 100 + 4 * DIMENSIONS
        assert stats.epoch == await store.epoch()
        await store.delete(P, "00")
        assert (await store.stats()).bytes == 0

    async def test_ping_answers(self, store: Store) -> None:
        """Ping returns."""
        await store.ping()

    async def test_it_works_without_start(self, make_store: MakeStore) -> None:
        """Start may be called again, and twice is as good as once."""
        store = await make_store()
        await store.start()
        assert await keep(store, "00")

    async def test_closed_it_refuses(self, store: Store) -> None:
        """After aclose every call raises CacheError; a second aclose is fine."""
        await store.aclose()
        await store.aclose()
        with pytest.raises(CacheError, match="closed"):
            await store.get(P, "00")
        with pytest.raises(CacheError, match="closed"):
            await store.epoch()


@pytest.mark.parametrize("store_kind", SHARED_KINDS, indirect=True)
class TestSharing:
    """Two stores on one namespace, as two processes would have them."""

    @pytest.fixture
    async def pair(self, make_store: MakeStore) -> Sequence[Store]:
        """Two stores that share what they keep."""
        return [await make_store(), await make_store()]

    async def test_they_say_so(self, pair: Sequence[Store]) -> None:
        """A store that processes share says it is shared, so that leases are used."""
        assert all(store.shared for store in pair)

    async def test_records_are_seen_by_the_other(self, pair: Sequence[Store]) -> None:
        """What one puts the other reads, and finds by vector within a second."""
        one, other = pair
        await keep(one, "00", vector=axis(0))
        assert await payload(other, "00") is not None

        async def seen() -> bool:
            return await near(other, axis(0)) == ["00"]

        await eventually(seen, within_s=1.0)

    async def test_anywhere_knows_what_the_other_has_just_put(self, pair: Sequence[Store]) -> None:
        """A process that writes the index and serves no query misses nothing."""
        one, other = pair
        for i in range(10):
            await keep(other, f"{i:02x}", vector=axis(0))
            await one.bump(invalidate=False)
            assert len(await one.nearest_anywhere(axis(0), limit=20, floor=0.5)) == i + 1

    async def test_a_record_put_before_the_other_came_is_found(self, make_store: MakeStore) -> None:
        """A store that starts later finds by vector what was there."""
        one = await make_store()
        for i in range(5):
            await keep(one, f"{i:02x}", vector=axis(i))
        assert await near(await make_store(), axis(3)) == ["03"]

    async def test_invalidations_are_seen_at_once(self, pair: Sequence[Store]) -> None:
        """The other's very next reading has the new epoch and no stale record."""
        one, other = pair
        await keep(one, "00", vector=axis(0))
        epoch = await one.bump(invalidate=True)
        reading = await other.get(P, "00")
        assert (reading.found, reading.epoch) == (MISSING, epoch)
        assert await near(other, axis(0)) == []

    async def test_a_writer_that_died_before_it_told(self, pair: Sequence[Store]) -> None:
        """Nothing from before is read when its time is over, by whatever way of reading."""
        one, other = pair
        await keep(other, "00", vector=axis(0))
        before = await one.epoch()
        await one.announce("w1", ttl_s=0.2)
        await one.announce("w2", ttl_s=60)
        assert await payload(other, "00") is not None
        await asyncio.sleep(0.3)
        assert await payload(other, "00") is None
        assert await near(other, axis(0)) == []
        assert not await keep(one, "01", epoch=before.current)
        ended = await one.epoch()
        assert ended.floor > before.current
        assert await other.epoch() == ended  # once only

    async def test_a_writer_that_told(self, pair: Sequence[Store]) -> None:
        """It may take its time as long as it says so, and leaves nothing behind."""
        one, other = pair
        await keep(one, "00", vector=axis(0))
        for _ in range(3):
            await one.announce("w1", ttl_s=0.4)
            await asyncio.sleep(0.2)
        await one.withdraw("w1")
        await one.withdraw("w1")
        await asyncio.sleep(0.4)
        assert await payload(other, "00") is not None

    async def test_an_old_answer_is_refused_at_the_other(self, pair: Sequence[Store]) -> None:
        """An epoch raised by one refuses the other's late put."""
        one, other = pair
        before = await other.epoch()
        await one.bump(invalidate=False)
        assert not await keep(other, "00", epoch=before.current)

    async def test_deletions_are_seen_at_once(self, pair: Sequence[Store]) -> None:
        """A record deleted by document is gone for the other, near or not."""
        one, other = pair
        await keep(one, "00", vector=axis(0), documents=["d"])
        assert await payload(other, "00") is not None
        await one.delete_documents(["d"])
        assert await payload(other, "00") is None
        assert await near(other, axis(0)) == []

    async def test_leases_exclude_each_other(self, pair: Sequence[Store]) -> None:
        """One holder over both, and tokens rise over both."""
        one, other = pair
        first = await one.acquire("00", ttl_s=5)
        assert first is not None
        assert await other.acquire("00", ttl_s=5) is None
        await one.release(first)
        second = await other.acquire("00", ttl_s=5)
        assert second is not None
        assert second.token > first.token
