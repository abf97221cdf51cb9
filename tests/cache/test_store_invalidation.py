"""The contract of every store: what makes records go, by document, by epoch, all."""

import asyncio
import uuid

from funnel.cache.store import Store
from tests.cache.conftest import MakeStore
from tests.cache.records import HOSTILE_IDS, P, Q, axis, eventually, keep, keep_many, near, payload


class TestDocuments:
    async def test_a_document_takes_its_records_with_it(self, store: Store) -> None:
        """All records that hold one of the documents go, in every partition; others stay."""
        await keep(store, "00", documents=["d1", "d2"], vector=axis(0))
        await keep(store, "01", documents=["d2"], partition=Q)
        await keep(store, "02", documents=["d3"])
        assert await store.delete_documents(["d1", "d2", "unknown"]) == 2
        assert await payload(store, "00") is None
        assert await payload(store, "01", partition=Q) is None
        assert await payload(store, "02") is not None
        assert await near(store, axis(0)) == []

    async def test_hundreds_of_records_of_one_document(self, store: Store) -> None:
        """A document in many answers takes all of them."""
        await keep_many(store, [f"{i:03x}" for i in range(250)], documents=["hot", "warm"])
        await keep(store, "fff", documents=["warm", "d3"])
        assert await store.delete_documents(["cold", "hot", "d3"]) == 251
        assert (await store.stats()).entries == 0

    async def test_ids_are_the_callers_own(self, store: Store) -> None:
        """Any text is a document id."""
        for i, document in enumerate(HOSTILE_IDS):
            await keep(store, f"{i:02x}", documents=[document])
        for i, document in enumerate(HOSTILE_IDS):
            assert await store.delete_documents([document]) == 1
            assert await payload(store, f"{i:02x}") is None

    async def test_a_replaced_answer_forgets_its_old_documents(self, store: Store) -> None:
        """After a replacement only the new answer's documents count."""
        await keep(store, "00", documents=["old", "both"])
        await keep(store, "00", documents=["new", "both"])
        assert await store.delete_documents(["old"]) == 0
        assert await store.delete_documents(["both"]) == 1

    async def test_no_documents_is_nothing(self, store: Store) -> None:
        """An empty list deletes nothing."""
        await keep(store, "00")
        assert await store.delete_documents([]) == 0
        assert await payload(store, "00") is not None


class TestEpoch:
    async def test_a_bump_raises_current_only(self, store: Store) -> None:
        """Records live on through a bump that does not invalidate."""
        await keep(store, "00", vector=axis(0))
        before = await store.epoch()
        after = await store.bump(invalidate=False)
        assert (after.current, after.floor) == (before.current + 1, before.floor)
        assert await store.epoch() == after
        assert await payload(store, "00") is not None
        assert await near(store, axis(0)) == ["00"]

    async def test_an_invalidating_bump_ends_all_records(self, store: Store) -> None:
        """What was there is missing at once; what is put afterwards is not."""
        await keep(store, "00", vector=axis(0), documents=["d"])
        await store.alias(P, "01", "00", note=b"", retain_s=60)
        after = await store.bump(invalidate=True)
        assert after.floor == after.current
        assert [await payload(store, key) for key in ("00", "01")] == [None, None]
        assert await near(store, axis(0)) == []
        await keep(store, "00", vector=axis(0))
        assert await near(store, axis(0)) == ["00"]

    async def test_new_records_survive_the_tidying_up_of_old_ones(self, store: Store) -> None:
        """A key put again right after an invalidation is not swept away with its old self."""
        await keep_many(store, [f"{i:03x}" for i in range(220)], documents=["d"])
        await store.bump(invalidate=True)
        again = [f"{i:03x}" for i in range(0, 220, 11)]
        await keep_many(store, again, payload=b"new", documents=["d"])

        async def tidy() -> bool:
            return (await store.stats()).entries == len(again)

        await eventually(tidy)
        assert [await payload(store, key) for key in again] == [b"new"] * len(again)

    async def test_concurrent_bumps_all_count(self, store: Store) -> None:
        """No bump is lost."""
        before = (await store.epoch()).current
        await asyncio.gather(*(store.bump(invalidate=False) for _ in range(20)))
        assert (await store.epoch()).current == before + 20


class TestPurge:
    async def test_one_scope(self, store: Store) -> None:
        """A scope's records and the aliases to them go; other scopes stay."""
        await keep(store, "00", scope="a1", vector=axis(0))
        await keep(store, "01", scope="a1")
        await keep(store, "02", scope="b2", partition=Q)
        await store.alias(P, "03", "00", note=b"who asked", retain_s=60)
        assert await store.purge(scope="a1") == 2
        assert [await payload(store, key) for key in ("00", "01", "03")] == [None] * 3
        assert await near(store, axis(0)) == []
        assert (await store.stats()).aliases == 0
        assert await payload(store, "02", partition=Q) is not None

    async def test_everything(self, store: Store) -> None:
        """A full purge leaves nothing, and the store goes on."""
        await keep_many(store, [f"{i:03x}" for i in range(220)], vector=axis(0), documents=["d"])
        await store.alias(P, "fff", "000", note=b"", retain_s=60)
        assert await store.purge() == 220
        stats = await store.stats()
        assert (stats.entries, stats.aliases, stats.bytes) == (0, 0, 0)
        assert await near(store, axis(0)) == []
        assert await keep(store, "000")

    async def test_the_epoch_rises(self, store: Store) -> None:
        """A purge raises the epoch, so that an answer computed before it is not kept after."""
        before = await store.epoch()
        await store.purge(scope="a1")
        between = await store.epoch()
        await store.purge()
        assert before.current < between.current < (await store.epoch()).current
        assert not await keep(store, "00", epoch=before.current)

    async def test_another_namespace_is_left_alone(self, make_store: MakeStore) -> None:
        """Deployments that share a server do not purge each other."""
        ours, theirs = await make_store(), await make_store(namespace=f"test-{uuid.uuid4().hex}")
        await keep(theirs, "00", vector=axis(0))
        await ours.purge()
        assert await payload(ours, "00") is None
        assert await payload(theirs, "00") is not None
        await theirs.purge()
