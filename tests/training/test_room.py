"""Whether a disk has room for a run is told before it begins."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.numpy import load_file

from funnel.errors import ModelError, TrainingStopped
from funnel.training import LabelledPair, RunOptions, TrainSettings, train_cross_encoder
from funnel.training.room import _SMALL_FILES, needed_bytes
from funnel.training.session import check_place

Pairs = list[LabelledPair]
Free = Callable[[int], None]


class Usage(NamedTuple):
    """As ``shutil.disk_usage`` gives it."""

    total: int
    used: int
    free: int


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Let the disk have so many bytes free."""

    def left(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(size, 0, size))

    return left


@pytest.mark.parametrize("rank", [None, 4])
def test_the_need_is_what_a_run_takes(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings, rank: int | None
) -> None:
    """Three checkpoints at once, of a parameter and two moments each, or two and the model."""
    settings = replace(quick, evaluations=4, lora_rank=rank)
    options = RunOptions(output=tmp_path / "m", keep_checkpoints=True)
    train_cross_encoder(pairs, options, base=tiny_base, settings=settings, form="model")
    kept = list(tmp_path.glob("m.checkpoints/checkpoint-*"))
    assert len(kept) == 2
    trained = _bytes(kept[0] / "trained.safetensors")
    assert 2 * trained <= (kept[0] / "optimizer.pt").stat().st_size
    most = max(3 * 3 * trained, 2 * 3 * trained + _bytes(tmp_path / "m" / "model.safetensors"))
    assert needed_bytes(tiny_base, settings) - _SMALL_FILES == pytest.approx(most, rel=0.1)


def _bytes(file: Path) -> int:
    return sum(tensor.nbytes for tensor in load_file(file).values())


def test_a_disk_on_which_the_run_would_die_is_refused(
    tmp_path: Path, free: Free, quick: TrainSettings
) -> None:
    """With what there is, what is needed and what needs less; LoRA's rank of 16 fits."""
    settings, options = replace(quick, evaluations=4), RunOptions(output=tmp_path / "m")
    free(450_000_000)
    told = r"has 450 MB free, about 8\d\d MB are needed .* 3 checkpoints .*--lora-rank"
    with pytest.raises(ModelError, match=told):
        check_place("embedded:duplicate", settings, options)
    check_place("embedded:duplicate", replace(settings, lora_rank=16), options)
    free(900_000_000)
    check_place("embedded:duplicate", settings, options)


def test_what_a_run_that_goes_on_has_written_is_not_needed_again(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings, free: Free
) -> None:
    """Its checkpoints are among those that there are at once."""
    options = RunOptions(output=tmp_path / "m")
    with pytest.raises(TrainingStopped):
        train_cross_encoder(pairs, options, base=tiny_base, settings=replace(quick, max_steps=2))
    (checkpoint,) = tmp_path.glob("m.checkpoints/checkpoint-*")
    needed = needed_bytes(tiny_base, quick)
    free(needed - (checkpoint / "optimizer.pt").stat().st_size)
    check_place(tiny_base, quick, replace(options, resume=True))
    check_place(tiny_base, quick, replace(options, overwrite=True))
    with pytest.raises(ModelError, match="MB are needed"):
        check_place(tiny_base, quick, RunOptions(output=tmp_path / "another"))
