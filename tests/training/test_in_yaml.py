"""What training writes drops into the YAML."""

from dataclasses import replace
from pathlib import Path

from funnel import Funnel, FunnelSettings
from funnel.training import (
    LabelledPair,
    RunOptions,
    TrainSettings,
    from_pairs,
    train_bi_encoder,
    train_cross_encoder,
)
from tests.training.conftest import BAD, GOOD

CORPUS = [{"id": name, "text": f"about {name}"} for name in (*BAD, *GOOD)]
YAML = """
models: {{embedder: "{encoder}"}}
qdrant: ":memory:"
stages:
  - {{kind: dense, k: 10}}
  - {{kind: cross_encoder, model: "{cross}", backend: torch-fp32, k: 10}}
"""


def test_trained_models_change_what_the_funnel_answers(
    tmp_path: Path,
    tiny_base: str,
    tiny_bi: str,
    pairs: list[LabelledPair],
    quick: TrainSettings,
) -> None:
    """A tuned encoder and a tuned cross-encoder, by their paths; the good names come to the top."""
    encoder, cross = tmp_path / "encoder", tmp_path / "cross"
    data = from_pairs(pairs, scale="probability")
    train_bi_encoder(data, RunOptions(output=encoder), base=tiny_bi, settings=quick)
    train_cross_encoder(
        pairs, RunOptions(output=cross), base=tiny_base, settings=replace(quick, epochs=8)
    )
    config = tmp_path / "funnel.yaml"
    config.write_text(YAML.format(encoder=encoder, cross=cross), encoding="utf-8")
    with Funnel(FunnelSettings.from_yaml(config)) as funnel:
        funnel.index(CORPUS)
        hits = funnel.run("find alpha 7").hits
    assert {hit.id for hit in hits[:4]} <= set(GOOD)
    assert set(hits[0].stage_scores) == {"dense", "cross_encoder"}
