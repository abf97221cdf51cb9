"""What goes wrong in a run is said in one sentence, and what was not measured is said, too."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from funnel.errors import InputError, ModelError, TrainingStopped
from funnel.training import LabelledPair, RunOptions, TrainSettings, loop, train_cross_encoder

Pairs = list[LabelledPair]


@pytest.mark.slow
def test_a_disk_that_is_full_at_a_checkpoint(
    tmp_path: Path,
    tiny_base: str,
    pairs: Pairs,
    quick: TrainSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real limit on file size stands in for it: it says how to go on, if one can."""
    options = RunOptions(output=tmp_path / "m")
    make = loop._trainer
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*given: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        return make(*given)

    monkeypatch.setattr(loop, "_trainer", limited)
    try:
        with pytest.raises(ModelError, match="could not save to.*no checkpoint .* begin again"):
            train_cross_encoder(pairs, options, base=tiny_base, settings=quick)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        monkeypatch.setattr(loop, "_trainer", make)
        with pytest.raises(TrainingStopped):
            begun = replace(quick, max_steps=2)
            train_cross_encoder(pairs, options, base=tiny_base, settings=begun)
        monkeypatch.setattr(loop, "_trainer", limited)
        with pytest.raises(ModelError, match="could not save to.*--resume"):
            train_cross_encoder(
                pairs, replace(options, resume=True), base=tiny_base, settings=quick
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_run_that_breaks_is_no_model(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings, keep_best: bool
) -> None:
    """Weights that are not finite are never written, whatever the logged loss says."""
    settings = replace(quick, learning_rate=1e38, keep_best=keep_best)
    with pytest.raises(ModelError, match="NaN or infinite"):
        train_cross_encoder(
            pairs, RunOptions(output=tmp_path / "m"), base=tiny_base, settings=settings
        )
    assert not (tmp_path / "m").exists()


def test_held_out_pairs_that_were_trained_on_are_counted(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """Figures on them flatter."""
    report = train_cross_encoder(
        pairs, RunOptions(output=tmp_path / "m"), base=tiny_base, dev=pairs[:8],
        settings=replace(quick, epochs=1),
    )  # fmt: skip
    assert "8 of the 8 held-out pairs were trained on, too" in report.notes


def test_held_out_data_of_ones_own_are_named_where_they_cannot_be_used(
    tmp_path: Path, tiny_base: str, pairs: Pairs
) -> None:
    """Whoever is told that all pairs are relevant would look for them in the other file."""
    good = [pair for pair in pairs if pair.score]
    with pytest.raises(InputError, match=r"held-out data \(--dev\): all 64 pairs are relevant"):
        train_cross_encoder(pairs, RunOptions(output=tmp_path / "m"), base=tiny_base, dev=good)


def test_a_held_out_part_of_one_class_is_not_measured(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """An AUC of nothing would look like the worst there is."""
    few = [replace(pair, query=f"{'yes' if pair.score else 'no'} {n % 4 // 2}")
           for n, pair in enumerate(pairs)]  # fmt: skip
    report = train_cross_encoder(
        few, RunOptions(output=tmp_path / "m"), base=tiny_base,
        settings=replace(quick, epochs=1, dev_share=0.25),
    )  # fmt: skip
    assert report.rows["dev"] > 0
    assert report.after == {}
    assert any("are all alike" in note for note in report.notes)


def test_a_split_that_leaves_nothing_to_hold_out_is_said(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """All pairs of one query stay together."""
    one = [replace(pair, query="find alpha", document=f"{pair.document} {n}")
           for n, pair in enumerate(pairs)]  # fmt: skip
    report = train_cross_encoder(
        one, RunOptions(output=tmp_path / "m"), base=tiny_base, settings=replace(quick, epochs=1)
    )
    assert report.rows["dev"] == 0
    assert any("no pair could be set aside" in note for note in report.notes)


def test_one_class_left_after_the_split_is_refused(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """Classes are checked where training happens, not only in the whole file."""
    bad = [pair for pair in pairs if pair.score == 0.0]
    with pytest.raises(InputError, match="are irrelevant"):
        train_cross_encoder(
            bad, RunOptions(output=tmp_path / "m"), base=tiny_base, dev=pairs, settings=quick
        )
