"""The chain of runs behind ``embedded:duplicate``: what is there is not trained again."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from recipes.network import Words  # noqa: E402
from recipes.opened import Opened  # noqa: E402
from recipes.stages import SHIPPED, STAGES, Chain  # noqa: E402
from tests.recipes.assistant import UnlikeBase  # noqa: E402
from tests.recipes.hotels import write_data, write_groups  # noqa: E402
from tests.training.tiny import tiny_encoder  # noqa: E402

if TYPE_CHECKING:
    from recipes.network import Base


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Two steps of every run, from a tiny base."""
    write_data(tmp_path / "data")
    folder = Path(tiny_encoder(tmp_path / "encoder"))
    words = Words(transformers.AutoTokenizer.from_pretrained(folder))
    opened = Opened(folder, words, cast("Base", UnlikeBase()))
    (tmp_path / "scratch").mkdir()
    write_groups(tmp_path / "written")
    return Chain(
        opened, tmp_path / "data", tmp_path / "scratch", share=1.0, steps=2,
        written=tmp_path / "written",
    )  # fmt: skip


def test_a_chain_leaves_every_run_and_repeats_none(chain: Chain, tmp_path: Path) -> None:
    """A run whose weights were lost is trained again, from what is there; the others stay."""
    chain.run()
    left = {path.stem: path for path in (tmp_path / "scratch").iterdir()}
    assert left.keys() == {stage.name for stage in STAGES}
    first, *_, last = STAGES
    before = {name: path.stat().st_mtime_ns for name, path in left.items()}
    left[last.name].unlink()
    chain.run()
    after = {name: path.stat().st_mtime_ns for name, path in left.items()}
    assert {name for name in after if after[name] != before[name]} == {last.name}
    assert load_file(left[first.name]).keys() == load_file(left["third"]).keys()


def test_what_ships_is_a_mean_of_runs(chain: Chain, tmp_path: Path) -> None:
    """Of weights, whatever their names are in the file."""
    chain.run()
    for kind, names in SHIPPED.items():
        found = chain.mean(kind, names)
        assert all(torch.isfinite(weight).all() for weight in found.values())
    one = load_file(tmp_path / "scratch/first.safetensors")
    two = load_file(tmp_path / "scratch/second.safetensors")
    mean = chain.mean("cross-encoder", ("first", "second"))
    for name, weight in mean.items():
        torch.testing.assert_close(weight, (one[name] + two[name]) / 2)


def test_every_run_starts_from_earlier_ones() -> None:
    """So the order of the list is an order to train in."""
    known = {"base"}
    for stage in STAGES:
        assert set(stage.start) <= known
        known.add(stage.name)
    assert {name for names in SHIPPED.values() for name in names} <= known
