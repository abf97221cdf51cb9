"""Fine-tuning the paraphrase detector."""

from dataclasses import replace
from pathlib import Path

import pytest

from funnel.training import LabelledPair, RunOptions, TrainSettings, train_duplicate


def test_both_orders_are_trained_and_no_question_is_shared(
    tmp_path: Path, tiny_bi: str, matching: list[LabelledPair], quick: TrainSettings
) -> None:
    """Steps count both orders; the held-out figures are those that a cache lives from."""
    settings = replace(quick, epochs=1, dev_share=0.2, lora_rank=4)
    lone = [replace(pair, document=f"{pair.document} {n}") for n, pair in enumerate(matching)]
    report = train_duplicate(
        lone, RunOptions(output=tmp_path / "m"), base=tiny_bi, residual=True, settings=settings
    )
    assert report.rows["train"] + report.rows["dev"] == len(lone)
    assert report.steps == -(-2 * report.rows["train"] // settings.batch_size)
    assert {"recall@fpr1%", "recall@p95", "recall@p99"} <= report.after.keys()


def test_held_out_pairs_of_your_own_are_used_as_they_are(
    tmp_path: Path, tiny_base: str, pairs: list[LabelledPair], quick: TrainSettings
) -> None:
    """With --dev nothing is taken from the training data."""
    report = train_duplicate(
        pairs[:96],
        RunOptions(output=tmp_path / "m"),
        base=tiny_base,
        settings=replace(quick, epochs=1),
        dev=pairs[96:],
    )
    assert report.rows == {"train": 96, "dev": 32}
    assert report.before["auc"] != pytest.approx(report.after["auc"], abs=1e-12)
