"""Distilling scores into a bi-encoder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from funnel.errors import TrainingStopped
from funnel.models import Embedder
from funnel.models.prompts import FILE
from funnel.training import (
    LabelledPair,
    RunOptions,
    TrainSettings,
    Triple,
    from_pairs,
    from_triples,
    train_bi_encoder,
)
from funnel.training.judges import model_kind, pair_scores

Pairs = list[LabelledPair]


def test_cosines_move_toward_the_teachers_scores(
    tmp_path: Path, tiny_bi: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """The squared error on held-out pairs shrinks and the result is a plain encoder."""
    output = tmp_path / "m"
    report = train_bi_encoder(
        from_pairs(pairs, scale="probability"),
        RunOptions(output=output),
        base=tiny_bi,
        settings=replace(quick, dev_share=0.2),
    )
    assert report.after["mse"] < report.before["mse"]
    assert report.losses[-1].loss < report.losses[0].loss
    vectors = Embedder(str(output)).encode(["find alpha", "about kappa"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-2)


def test_what_was_not_measured_is_said(
    tmp_path: Path, tiny_bi: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """With one query there is nothing to set aside."""
    alone = [replace(pair, query="alone", score=i % 2) for i, pair in enumerate(pairs[:40])]
    report = train_bi_encoder(
        from_pairs(alone, scale="probability"),
        RunOptions(output=tmp_path / "m"),
        base=tiny_bi,
        settings=quick,
    )
    assert report.rows["dev"] == 0
    assert "nothing was measured" in " ".join(report.notes)
    assert "nothing was measured" in (tmp_path / "m" / "README.md").read_text()


def test_margins_move_toward_the_teachers_margins(
    tmp_path: Path, tiny_bi: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """MarginMSE on triples raises the share of pairs in the teacher's order."""
    good = [pair for pair in pairs if pair.score]
    bad = [pair for pair in pairs if not pair.score]
    triples = [
        Triple(up.query, up.document, down.document, 0.9, 0.1)
        for up, down in zip(good, bad, strict=True)
    ]
    report = train_bi_encoder(
        from_triples(triples, scale="probability"),
        RunOptions(output=tmp_path / "m"),
        base=tiny_bi,
        settings=replace(quick, epochs=4, dev_share=0.2),
    )
    assert report.after["mse"] < report.before["mse"]
    assert report.after["pair_accuracy"] >= report.before["pair_accuracy"]


def test_logits_of_a_teacher_become_probabilities() -> None:
    """A margin of logits is the difference of two probabilities, within [-1, 1]."""
    (value,) = from_triples([Triple("q", "a", "b", 40.0, -40.0)], scale="logit").values
    assert value == pytest.approx(1.0)
    assert from_pairs(
        [LabelledPair("q", "a", 0.0), LabelledPair("q", "b", 30.0)], scale="logit"
    ).values == pytest.approx((0.5, 1.0))


def test_a_resumed_distillation_ends_with_the_same_weights(
    tmp_path: Path, tiny_bi: str, pairs: Pairs, exact: TrainSettings
) -> None:
    """Bit for bit, as for cross-encoders."""
    data = from_pairs(pairs, scale="probability")
    for name in ("whole", "parts"):
        options = RunOptions(output=tmp_path / name)
        if name == "parts":
            with pytest.raises(TrainingStopped):
                train_bi_encoder(data, options, base=tiny_bi, settings=replace(exact, max_steps=5))
            options = replace(options, resume=True)
        train_bi_encoder(data, options, base=tiny_bi, settings=exact)
    first, second = (
        load_file(next((tmp_path / name).rglob("model.safetensors"))) for name in ("whole", "parts")
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)


def _prompted(tiny_bi: str, folder: Path, prompts: dict[str, Any]) -> str:
    shutil.copytree(tiny_bi, folder)
    settings = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(settings | prompts))
    return str(folder)


@pytest.mark.parametrize(
    ("prompts", "query", "document"),
    [
        (
            {"prompts": {"all": "about the "}, "default_prompt_name": "all"},
            "about the ",
            "about the ",
        ),
        ({"prompts": {"query": "find: ", "passage": "about: "}}, "find: ", "about: "),
    ],
)
def test_prompts_stand_before_the_texts_in_training_too(
    tmp_path: Path,
    tiny_bi: str,
    pairs: Pairs,
    exact: TrainSettings,
    prompts: dict[str, Any],
    query: str,
    document: str,
) -> None:
    """As when the model is served: the same as if they stood in the data, figures included."""
    written = [
        replace(pair, query=query + pair.query, document=document + pair.document) for pair in pairs
    ]
    made: list[dict[str, np.ndarray]] = []
    figures = []
    for base, rows in ((_prompted(tiny_bi, tmp_path / "p", prompts), pairs), (tiny_bi, written)):
        output = tmp_path / f"m{len(made)}"
        data = from_pairs(rows, scale="probability")
        report = train_bi_encoder(
            data, RunOptions(output=output), base=base, settings=replace(exact, dev_share=0.2)
        )
        made.append(load_file(next(output.rglob("model.safetensors"))))
        figures.append(report.before)
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])
    assert figures[0] == pytest.approx(figures[1])


def test_pairs_are_judged_as_queries_with_documents(tmp_path: Path, tiny_bi: str) -> None:
    """Each side behind its own prompt."""
    prompts = {"prompts": {"query": "find: ", "passage": "about: "}}
    judged = pair_scores(_prompted(tiny_bi, tmp_path / "p", prompts))([("alpha", "beta")])
    written = pair_scores(tiny_bi)([("find: alpha", "about: beta")])
    np.testing.assert_allclose(judged, written, atol=1e-6)


def test_the_result_is_recognised_as_a_bi_encoder(
    tmp_path: Path, tiny_bi: str, tiny_base: str
) -> None:
    """By its own files; its scores are cosines."""
    assert model_kind(tiny_bi) == "bi-encoder"
    assert model_kind(tiny_base) == "cross-encoder"
    assert model_kind("embedded:relevance") == "cross-encoder"
    same, other = pair_scores(tiny_bi)([("find alpha", "find alpha"), ("find alpha", "iota 77")])
    assert same == pytest.approx(1.0, abs=1e-2)
    assert other < same
