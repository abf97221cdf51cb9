"""A local directory: one process at a time, killed at any moment, used from many tasks."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import portalocker
import pytest
from pydantic import ValidationError
from qdrant_client import QdrantClient
from qdrant_client.local.qdrant_local import QdrantLocal

from funnel.errors import BackendUnavailable, ConfigError, StageError
from funnel.index import DocumentIndex
from funnel.indexing.qdrant import QdrantSettings
from tests.fakes import FakeEncoder
from tests.index.conftest import DOCUMENTS

CORPUS = [{"id": f"n{n}", "text": f"fox number {n}"} for n in range(3_000)]
INDEXING = """
    import asyncio, sys
    from funnel.index import DocumentIndex
    from funnel.indexing.qdrant import QdrantSettings
    from tests.fakes import FakeEncoder
    from tests.index.test_local import CORPUS

    async def main():
        index = DocumentIndex(QdrantSettings(path=sys.argv[1]), "docs", FakeEncoder())
        await index.start()
        print("open", flush=True)
        if sys.argv[2] == "hold":
            await asyncio.sleep(60)
        await index.upsert(CORPUS)

    asyncio.run(main())
"""


def made(path: Path) -> DocumentIndex:
    return DocumentIndex(QdrantSettings(path=str(path)), "docs", FakeEncoder())


def started(path: Path, act: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(INDEXING), str(path), act]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.slow
async def test_a_second_process_is_told_so_until_the_first_ends(tmp_path: Path) -> None:
    """No traceback of the client, and the lock goes with the process."""
    first = started(tmp_path, "hold")
    try:
        with pytest.raises(BackendUnavailable, match=r"in use by another process.*qdrant\.url"):
            await made(tmp_path).start()
    finally:
        kill(first)
    index = made(tmp_path)
    await index.start()
    await index.aclose()


async def test_of_two_that_open_at_once_the_second_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client takes its lock last: until then, too, nobody else gets in, nor is it damage."""

    def second() -> None:
        with pytest.raises(BackendUnavailable, match="in use by another process"):
            asyncio.run(made(tmp_path).start())

    index = made(tmp_path)
    _before_the_client_opens(monkeypatch, second)
    await index.start()
    assert await index.count() == 0
    await index.aclose()


async def test_those_who_only_look_do_not_refuse_each_other(tmp_path: Path) -> None:
    """Whoever is refused has held a lock for an instant, in which a third may have come."""
    looks = tmp_path / ".opening"
    with portalocker.Lock(looks):
        opening = asyncio.create_task(made(tmp_path).start())
        await asyncio.sleep(0.1)
    await opening


async def test_a_plain_client_that_comes_in_between_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows nothing of our lock."""
    others: list[QdrantClient] = []
    _before_the_client_opens(monkeypatch, lambda: others.append(QdrantClient(path=str(tmp_path))))
    with pytest.raises(BackendUnavailable, match="in use by another process"):
        await made(tmp_path).start()
    others[0].close()


def _before_the_client_opens(patch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    load = QdrantLocal._load

    def acting(client: QdrantLocal) -> None:
        patch.undo()
        act()
        try:
            load(client)
        except RuntimeError:
            if client._flock_file is not None:  # it leaves that to the garbage collector
                client._flock_file.close()
            raise

    patch.setattr(QdrantLocal, "_load", acting)


@pytest.mark.slow
def test_a_program_that_closes_nothing_ends_without_noise(tmp_path: Path) -> None:
    """And may still search in its own handlers; the client could not close itself so late."""
    program = """
        import atexit, sys
        from funnel import Funnel

        funnel = Funnel.from_yaml(sys.argv[1])
        atexit.register(lambda: print(*funnel.run("fox").ids))
        funnel.index([{"id": "a", "text": "fox"}])
    """
    settings = tmp_path / "f.yaml"
    settings.write_text(f"stages: [{{kind: bm25, k: 5}}]\nqdrant: {{path: {tmp_path / 'index'}}}\n")
    command = [sys.executable, "-c", textwrap.dedent(program), str(settings)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stdout) == (0, "a\n"), ended.stderr
    assert "Exception ignored" not in ended.stderr


@pytest.mark.slow
async def test_a_killed_indexing_run_is_continued(tmp_path: Path) -> None:
    """After SIGKILL in the middle nothing is lost, doubled or embedded twice."""
    process = started(tmp_path, "index")
    _wait_for_points(tmp_path)
    kill(process)
    index = made(tmp_path)
    await index.start()
    stored = await index.count()
    assert 0 < stored < len(CORPUS)
    report = await index.upsert(CORPUS)
    assert (report.unchanged, report.new) == (stored, len(CORPUS) - stored)
    assert await index.count() == report.documents == len(CORPUS)
    await index.aclose()


def _wait_for_points(path: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if any(file.stat().st_size > 100_000 for file in path.rglob("storage.sqlite-wal")):
            return
        time.sleep(0.002)
    raise AssertionError("nothing was stored within 30 s")


async def test_two_indexes_of_one_process_are_told_apart(tmp_path: Path) -> None:
    """The message covers that case too."""
    first = made(tmp_path)
    await first.start()
    with pytest.raises(BackendUnavailable, match="another Funnel in this one"):
        await made(tmp_path).start()
    await first.aclose()


async def test_searches_and_writes_at_once_are_safe(tmp_path: Path) -> None:
    """Local mode is not thread-safe; the index is safe to share between tasks."""
    index = made(tmp_path)
    await index.start()
    await index.upsert(DOCUMENTS)

    async def search() -> int:
        return len((await index.search(terms="fox", k=5)).bm25)

    writes = [index.upsert([{"id": f"x{n}", "text": f"fox {n}"}]) for n in range(20)]
    counts = await asyncio.gather(*(search() for _ in range(50)), *writes)
    assert counts[:50] == [5] * 50
    assert await index.count() == 32
    await index.aclose()


async def test_a_filtered_search_is_the_clients_own_after_every_kind_of_write(
    tmp_path: Path,
) -> None:
    """New documents, other texts, other metadata alone, deletions; also in a later process."""
    random, held = Random(5), dict[str, dict[str, Any]]()
    settings = QdrantSettings(path=str(tmp_path))
    index = DocumentIndex(settings, "docs", FakeEncoder())
    await index.start()
    for step in range(12):
        ids = [f"d{random.randrange(60)}" for _ in range(15)]
        documents: list[dict[str, Any]] = [
            {
                "id": id_,
                "text": f"fox {random.choice('abc')}" if step % 3 else "fox",
                "metadata": {"n": random.randrange(5), "tags": random.sample("xyz", 2)},
            }
            for id_ in dict.fromkeys(ids)
        ]
        await index.upsert(documents)
        held |= {document["id"]: document for document in documents}
        gone = random.sample(sorted(held), 3)
        await index.delete(gone)
        held = {id_: document for id_, document in held.items() if id_ not in gone}
        if step == 8:
            await index.aclose()
            index = DocumentIndex(settings, "docs", FakeEncoder())
            await index.start()
        (vector,) = FakeEncoder().encode([random.choice(["fox a", "fox b", "fox"])])
        filters: dict[str, Any] = {
            "n": {"gte": random.randrange(4)},
            "tags": ["x", "z"][: 1 + step % 2],
        }
        wanted = {
            id_
            for id_, document in held.items()
            if document["metadata"]["n"] >= filters["n"]["gte"]
            and set(document["metadata"]["tags"]) & set(filters["tags"])
        }
        for _ in range(2):  # the second answer is a kept one
            found = await index.search(vector=vector, terms="fox", k=50, filters=filters)
            assert {item.document.id for item in found.dense} == wanted
            assert {item.document.id for item in found.bm25} == wanted
        free = await index.search(vector=vector, terms="fox", k=60)
        cosines = {item.document.id: item.score for item in free.dense}
        for item in found.dense:
            assert item.score == pytest.approx(cosines[item.document.id], abs=1e-6)
        assert [i.score for i in found.dense] == sorted(
            (i.score for i in found.dense), reverse=True
        )
    await index.aclose()


@pytest.mark.parametrize("one", [lambda n: n, str, lambda n: n / 2])
async def test_many_values_of_a_filter_cost_no_more_than_one(one: Callable[[int], Any]) -> None:
    """A thousand numbers held the index, and all queries, for a minute."""
    index = DocumentIndex(QdrantSettings(), "docs", FakeEncoder())
    await index.start()
    await index.upsert([{"id": f"d{n}", "text": "fox", "n": one(n)} for n in range(300)])
    some = {"n": [one(n) for n in range(297, 5_000)]}
    (vector,) = FakeEncoder().encode(["fox"])
    began = time.perf_counter()
    found = await index.search(vector=vector, terms="fox", k=9, filters=some)
    assert time.perf_counter() - began < 5
    for source in (found.dense, found.bm25):
        assert [item.document.id for item in source] == ["d297", "d298", "d299"]
    await index.aclose()


async def test_dates_are_compared_quickly() -> None:
    """A date without a time took 0.7 ms in each document and source."""
    index = DocumentIndex(QdrantSettings(), "docs", FakeEncoder())
    await index.start()
    days = [f"{year}-01-{day:02}" for year in range(1900, 2100) for day in range(1, 11)]
    await index.upsert([{"id": day, "text": "fox", "at": day} for day in days])
    (vector,) = FakeEncoder().encode(["fox"])
    began = time.process_time()  # what a busy host makes of it is not the index's doing
    late = {"at": {"gt": "2099-01-08"}}
    found = await index.search(vector=vector, terms="fox", k=9, filters=late)
    assert time.process_time() - began < 1.5
    for source in (found.dense, found.bm25):
        assert [item.document.id for item in source] == ["2099-01-09", "2099-01-10"]
    await index.aclose()


@pytest.mark.parametrize("content", ["", "{", '{"collections": 5}'])
async def test_a_damaged_directory_is_said_to_be_one(tmp_path: Path, content: str) -> None:
    """Not a JSON traceback."""
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises((BackendUnavailable, ConfigError), match=str(tmp_path)):
        await made(tmp_path).start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_directory_without_permission_is_named(tmp_path: Path) -> None:
    """The operating system's reason is kept."""
    _protect(tmp_path)
    with pytest.raises(BackendUnavailable, match="PermissionError"):
        await made(tmp_path / "index").start()


def _protect(path: Path) -> None:
    path.chmod(0o500)


async def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    """As above, with the setting that is wrong; no server is said to be down."""
    (tmp_path / "index").write_text("x")
    for place in (tmp_path / "index", tmp_path / "index" / "below"):
        with pytest.raises(BackendUnavailable, match=r"qdrant\.path: got .*index.* a folder"):
            await made(place).start()


def test_an_empty_path_is_refused() -> None:
    """It must not be taken for memory, which forgets everything."""
    with pytest.raises(ValidationError, match="at least 1 character"):
        QdrantSettings(path="")


async def test_a_write_that_fails_half_way_is_searched_as_far_as_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the client holds counts, not what it held before."""
    index = DocumentIndex(QdrantSettings(), "docs", FakeEncoder())
    await index.start()
    await index.upsert([{"id": "d1", "text": "fox", "n": 1}])
    (vector,) = FakeEncoder().encode(["fox"])
    await index.search(vector=vector, terms="fox", k=9, filters={"n": 1})
    upsert = QdrantClient.upsert

    def failing(client: QdrantClient, *args: Any, **arguments: Any) -> None:
        upsert(client, *args, **arguments)
        raise OSError("disk full")

    monkeypatch.setattr(QdrantClient, "upsert", failing)
    with pytest.raises(StageError):
        await index.upsert([{"id": "d2", "text": "fox", "n": 1}])
    monkeypatch.undo()
    found = await index.search(vector=vector, terms="fox", k=9, filters={"n": 1})
    for source in (found.dense, found.bm25):
        assert {item.document.id for item in source} == {"d1", "d2"}
    await index.aclose()
