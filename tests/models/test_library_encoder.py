"""Encoders that are no plain BERT: they run through the library, by the same promises."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from funnel.errors import ModelError
from funnel.models import CrossEncoderScorer, Embedder
from tests.models.tiny import save_cross_encoder, save_headless

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder that takes the first token's state for the whole text's."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("encoder")
    network = Transformer(str(save_headless(folder / "network")))
    pooling = Pooling(network.get_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[network, pooling], device="cpu")
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoilt."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A service's log is no place for a library's bars."""
    Embedder(str(folder)).load()
    CrossEncoderScorer(str(save_cross_encoder(folder.parent / "cross", kind="distilbert"))).load()
    out, err = capfd.readouterr()
    assert "Loading weights" not in out + err


def test_cut_weights_are_a_clear_error(folder: Path) -> None:
    """A download that broke off shows no trace of a library."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded: .*deserializing"):
        Embedder(str(folder)).load()


def test_weights_that_lack_a_layer_are_refused(folder: Path) -> None:
    """The library draws what is missing, anew in each process: an index would match no query."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    left = {name: each for name, each in weights.items() if "layer.1." not in name}
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="16 tensors not found.*random.*save it again"):
        Embedder(str(folder)).load()


def test_vectors_of_half_weights_have_unit_length(folder: Path) -> None:
    """bfloat16 keeps three digits; what is promised is float32."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    halves = {name: each.to(torch.bfloat16) for name, each in weights.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    vectors = Embedder(str(folder)).encode(["open a new account", "pay with card"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_texts_that_no_tokenizer_takes_and_endless_ones_are_read(saved: Path) -> None:
    """As by any other encoder; only what is within the window counts, and costs."""
    embedder = Embedder(str(saved))
    odd = embedder.encode(["open \ud800 door", "open  door", "card " * 400_000, "card " * 100])
    np.testing.assert_allclose(odd[0], odd[1], atol=1e-6)
    np.testing.assert_allclose(odd[2], odd[3], atol=1e-6)


def test_a_network_in_a_folder_of_its_own_is_found(saved: Path, folder: Path) -> None:
    """So sentence-transformers wrote its models before version 2."""
    within = folder / "0_Transformer"
    within.mkdir()
    for file in [each for each in folder.iterdir() if each.is_file()]:
        if file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(within / file.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = within.name
    (folder / "modules.json").write_text(json.dumps(modules))
    texts = ["open a new account", "pay with card"]
    np.testing.assert_array_equal(
        Embedder(str(folder)).encode(texts), Embedder(str(saved)).encode(texts)
    )
