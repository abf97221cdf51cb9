"""Collections of evaluations: listed and removed, and nothing else is."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from funnel.cli.app import app
from funnel.engine import Funnel
from funnel.errors import BackendUnavailable, ConfigError
from funnel.evaluation.beir import load_beir
from funnel.evaluation.evaluate import evaluate, evaluation_settings, index_dataset
from funnel.evaluation.kept import Kept, kept, remove
from funnel.indexing.qdrant import QdrantSettings
from funnel.settings import FunnelSettings
from tests.evaluation.folders import CORPUS, FakeModels, beir_folder, funnel_over, settings
from tests.index.loopback import serving

OWN = "eval-mine-0123456789ab"
"""A service's own collection, named as if it were an evaluation's."""


@pytest.fixture(params=["path", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantSettings]:
    if request.param == "path":
        yield QdrantSettings(path=str(tmp_path / "index"))
        return
    with serving() as loopback:
        yield QdrantSettings(url=loopback.url)


def base_at(place: QdrantSettings) -> FunnelSettings:
    return settings(qdrant=place.model_dump(exclude_unset=True), collection="help")


def evaluated(place: QdrantSettings, folder: Path, size: int = len(CORPUS)) -> str:
    """Index a data set of so many documents for measuring; returns the collection's name."""
    dataset = load_beir(beir_folder(folder, CORPUS[:size]))
    with funnel_over(dataset, base_at(place)) as funnel:
        index_dataset(funnel, dataset)
    return evaluation_settings(base_at(place), dataset).collection


def names(found: list[Kept]) -> list[str]:
    return [each.name for each in found]


def there(place: QdrantSettings) -> list[Kept]:
    return asyncio.run(kept(place))


def test_all_that_were_made_are_listed(place: QdrantSettings, tmp_path: Path) -> None:
    """Of one data set the oldest first, with what made them; an operator's own is none."""
    assert there(place) == []
    old, new = evaluated(place, tmp_path / "tiny", 4), evaluated(place, tmp_path / "tiny")
    other = evaluated(place, tmp_path / "a")
    found = there(place)
    assert names(found) == [other, old, new]
    assert [each.documents for each in found] == [5, 4, 5]
    assert {each.dataset for each in found} == {"a", "tiny"}
    assert all(each.finished and each.embedder for each in found)
    assert all((each.size or 0) > 0 for each in found) or place.url


@pytest.mark.parametrize(
    "alone",
    [{"kind": "bm25", "k": 4}, {"kind": "hybrid", "k": 4, "weights": {"dense": 0}}],
    ids=["bm25", "hybrid"],
)
def test_what_no_stage_reads_is_neither_embedded_nor_taken_for_what_was(
    place: QdrantSettings, tmp_path: Path, alone: dict[str, Any]
) -> None:
    """BM25 alone has a collection of its own, without an embedder; one for both has another."""
    dataset = load_beir(beir_folder(tmp_path / "tiny"))
    found = []
    for first in (alone, {"kind": "hybrid", "k": 4}):
        pool = FakeModels()
        base = base_at(place).model_copy(
            update={"stages": FunnelSettings.from_mapping({"stages": [first]}).stages}
        )
        with funnel_over(dataset, base, pool=pool) as funnel:
            index_dataset(funnel, dataset)
            documents = len(pool.encoder("").texts)
            run = evaluate(funnel, dataset)
        found.append((documents, len(pool.encoder("").texts) > documents))
        assert run.metrics["recall@100"] > 0.5
    assert found == [(0, False), (len(CORPUS), True)]
    assert sorted(each.embedder for each in there(place)) == ["", "fake:hashing"]


def test_what_is_removed_is_made_anew_and_the_rest_stays(
    place: QdrantSettings, tmp_path: Path
) -> None:
    """By the collection's name, by the data set's, or all; the operator's documents stay."""
    with Funnel(
        base_at(place),
        functions={"words": lambda _query, found: [0.0] * len(found)},
        models=FakeModels(),  # type: ignore[arg-type]
    ) as funnel:
        funnel.index([{"id": "x", "text": "help me"}])
    old, new = evaluated(place, tmp_path / "tiny", 4), evaluated(place, tmp_path / "tiny")
    other = evaluated(place, tmp_path / "a")
    assert names(asyncio.run(remove(place, [old]))) == [old]
    assert names(there(place)) == [other, new]
    assert names(asyncio.run(remove(place, ["tiny"]))) == [new]
    assert evaluated(place, tmp_path / "tiny") == new
    assert len(asyncio.run(remove(place, [], every=True))) == 2
    assert there(place) == []
    with Funnel(
        base_at(place),
        functions={"words": lambda _query, found: [0.0] * len(found)},
        models=FakeModels(),  # type: ignore[arg-type]
    ) as funnel:
        assert funnel.run("help").ids == ("x",)


def test_a_name_that_is_not_there_removes_nothing(place: QdrantSettings, tmp_path: Path) -> None:
    """Not even what else was named; the message says what there is."""
    name = evaluated(place, tmp_path / "tiny")
    with pytest.raises(ConfigError, match="'tinny'; did you mean 'tiny'\\?.*nothing was removed"):
        asyncio.run(remove(place, [name, "tinny"]))
    assert names(there(place)) == [name]


def test_what_funnel_did_not_make_is_none(tmp_path: Path) -> None:
    """Whatever it is called."""
    from qdrant_client import QdrantClient, models

    with serving() as loopback:
        client = QdrantClient(url=loopback.url, check_compatibility=False)
        client.create_collection(
            f"{OWN}--{2**50:x}",
            vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE),
        )
        client.close()
        assert there(QdrantSettings(url=loopback.url)) == []
    assert asyncio.run(remove(QdrantSettings(path=str(tmp_path / "no")), [], every=True)) == []
    assert not (tmp_path / "no").exists()


def test_memory_keeps_nothing_and_a_running_evaluation_is_left_alone(tmp_path: Path) -> None:
    """Both are told with the mend."""
    with pytest.raises(ConfigError, match="nothing is kept"):
        there(QdrantSettings())
    place = QdrantSettings(path=str(tmp_path / "index"))
    dataset = load_beir(beir_folder(tmp_path / "tiny"))
    with funnel_over(dataset, base_at(place)) as funnel:
        index_dataset(funnel, dataset)
        with pytest.raises(BackendUnavailable, match="in use"):
            asyncio.run(remove(place, [], every=True))


def test_the_command_lists_and_removes(tmp_path: Path) -> None:
    """With --json as with the table."""
    name = evaluated(QdrantSettings(path=str(tmp_path / "index")), tmp_path / "tiny")
    config = tmp_path / "f.yaml"
    config.write_text(f"stages: [{{kind: bm25, k: 3}}]\nqdrant: {{path: '{tmp_path / 'index'}'}}\n")
    asked = ["evaluations", "-c", str(config)]
    listed = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert name in listed.output
    removed = CliRunner().invoke(app, [*asked, "--remove", "tiny", "--json"])
    assert [row["name"] for row in json.loads(removed.output)["removed"]] == [name]
    assert json.loads(CliRunner().invoke(app, [*asked, "--json"]).output) == {"kept": []}
