"""ColBERT folders: the projection is applied to token vectors, and never dropped."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from funnel.errors import ModelError
from funnel.models import Embedder, colbert, encoder
from funnel.models.source import ModelSource
from tests.models.tiny import save_headless

pytestmark = pytest.mark.slow
Tensors = Mapping[str, torch.Tensor]
TEXTS = ["how do i reset my password", "door", "pay with card and voucher " * 40]
MATRIX = torch.randn(8, 32, generator=torch.Generator().manual_seed(4))
NAMES = {"bias": False, "activation_function": "torch.nn.modules.linear.Identity"}


def _stanford(folder: Path) -> Path:
    """``linear.weight`` beside the encoder's tensors, as in colbert-ir/colbertv2.0."""
    save_headless(folder)
    tensors = {f"bert.{n}": w for n, w in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, "linear.weight": MATRIX}, folder / "model.safetensors", {"format": "pt"})
    return folder


def _pylate(folder: Path, settings: dict[str, object], **tensors: torch.Tensor) -> Path:
    """A Dense module right after the transformer."""
    save_headless(folder)
    types = ("sentence_transformers.models.Transformer", "pylate.models.Dense.Dense")
    modules = [{"idx": i, "path": ("", "1_Dense")[i], "type": kind} for i, kind in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Dense").mkdir()
    (folder / "1_Dense" / "config.json").write_text(json.dumps(NAMES | settings))
    save_file({"linear.weight": MATRIX, **tensors}, folder / "1_Dense" / "model.safetensors")
    return folder


def _change(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})


def _expected(folder: Path, matrix: torch.Tensor = MATRIX) -> list[np.ndarray]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).float()
    found = []
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            states = model.eval()(**inputs).last_hidden_state[0]
        found.append(torch.nn.functional.normalize(states @ matrix.T, dim=-1).numpy())
    return found


@pytest.mark.parametrize("kind", ["stanford", "pylate"])
def test_token_vectors_go_through_the_projection(tmp_path: Path, kind: str) -> None:
    """Each of unit length, in the projection's dimensions, whatever the batch."""
    folder = _stanford(tmp_path / "m") if kind == "stanford" else _pylate(tmp_path / "m", {})
    encoder = Embedder(str(folder))
    assert encoder.dim == 8
    rows = encoder.represent(TEXTS)
    assert [row.truncated for row in rows] == [False, False, True]
    for row, expected in zip(rows, _expected(folder), strict=True):
        np.testing.assert_allclose(row.tokens, expected, atol=1e-5)


def test_a_colbert_is_no_encoder_of_whole_texts(tmp_path: Path) -> None:
    """An index is not built of vectors that it was never trained for."""
    with pytest.raises(ModelError, match="late_interaction"):
        Embedder(str(_stanford(tmp_path / "m"))).encode(TEXTS)


@pytest.mark.parametrize(
    ("settings", "tensors"),
    [
        ({"activation_function": "torch.nn.modules.activation.Tanh"}, {}),
        ({"use_residual": True}, {}),
        ({}, {"linear.bias": torch.ones(8)}),
    ],
)
def test_a_projection_that_is_more_than_a_matrix_is_refused(
    tmp_path: Path, settings: dict[str, object], tensors: dict[str, torch.Tensor]
) -> None:
    """Rather than half applied."""
    folder = _pylate(tmp_path / "m", settings, **tensors)
    with pytest.raises(ModelError, match="expected one Dense of one matrix without bias"):
        Embedder(str(folder)).load()


def test_a_bias_beside_the_encoder_is_refused(tmp_path: Path) -> None:
    """It would be left out together with the projection."""
    folder = _stanford(tmp_path / "m")
    _change(folder, lambda tensors: {**tensors, "linear.bias": torch.ones(8)})
    with pytest.raises(ModelError, match="expected linear.weight alone"):
        Embedder(str(folder)).load()


def test_weights_of_other_names_are_refused(tmp_path: Path) -> None:
    """The library would make random ones."""
    folder = _stanford(tmp_path / "m")
    _change(folder, lambda tensors: {n.replace("bert.", "x."): w for n, w in tensors.items()})
    with pytest.raises(ModelError, match="its vectors would be random"):
        Embedder(str(folder)).load()


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    """A processor has no fast half precision, and batches would differ by its rounding."""
    folder = _stanford(tmp_path / "m")
    _change(folder, lambda tensors: {name: each.half() for name, each in tensors.items()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    rows = Embedder(str(folder)).token_vectors(TEXTS)
    for row, expected in zip(rows, _expected(folder, MATRIX.half().float()), strict=True):
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_it_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever asks at the same time, also where other encoders have a second precision."""
    loads, load = list[object](), colbert._transformer

    def counted(source: ModelSource) -> object:
        loads.append(source)
        return load(source)

    monkeypatch.setattr(colbert, "_transformer", counted)
    monkeypatch.setattr(encoder, "cpu_has_fast_bf16", lambda: True)
    folder = str(_stanford(tmp_path / "m"))
    embedders = [Embedder(folder) for _ in range(4)]
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(Embedder.load_tokens, embedders))
    assert len(loads) == 1
