"""Texts through OpenVINO: the same vectors as torch's, or torch."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.models import openvino_encoder, sealed  # noqa: E402
from funnel.models.bert import (  # noqa: E402
    Batch,
    Bert,
    bert_shape,
    collate,
    packed,
    read_config,
    read_weights,
)
from funnel.models.openvino_encoder import (  # noqa: E402
    Comparison,
    OpenVinoEncoder,
    choose_ways,
    compare,
)
from tests.models.tiny import save_cross_encoder  # noqa: E402


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bert, Bert]:
    """The same weights twice: packed as they run, and plain to compile."""
    folder = save_cross_encoder(tmp_path_factory.mktemp("tiny"))
    shape = bert_shape(read_config(folder))
    assert shape is not None
    plain = Bert(read_weights(folder), shape)
    return packed(plain, torch.float32), plain


def _by_torch(running: Bert) -> Any:
    def way(batch: Batch) -> Any:
        inside = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        with torch.inference_mode():
            mask = batch.mask(torch.float32)
            states = running(batch.ids, batch.second, mask, first_only=False)
        return torch.nn.functional.normalize((states * inside[..., None]).sum(1), dim=-1).numpy()

    return way


def _batch(*lengths: int) -> Batch:
    draw = np.random.default_rng(len(lengths))
    return collate(
        [draw.integers(160, size=length).tolist() for length in lengths], [0] * len(lengths)
    )


@pytest.mark.parametrize("lengths", [(1,), (2,), (40,), (7, 7), (1, 40, 3)])
@pytest.mark.parametrize("streams", [1, 2])
def test_vectors_are_torchs(
    networks: tuple[Bert, Bert], lengths: tuple[int, ...], streams: int
) -> None:
    """Any length and any company, to within rounding; unit length."""
    pytest.importorskip("openvino")
    batch = _batch(*lengths)
    vectors = OpenVinoEncoder(*networks, "test", streams)(batch)
    np.testing.assert_allclose(vectors, _by_torch(networks[0])(batch), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_damaged_compiled_model_is_made_anew(networks: tuple[Bert, Bert]) -> None:
    """Bytes that are no model cost a compilation, nothing else."""
    pytest.importorskip("openvino")
    sealed.write("openvino/encoder-damaged-1.blob", b"no model")
    batch = _batch(3)
    vectors = OpenVinoEncoder(*networks, "damaged", 1)(batch)
    np.testing.assert_allclose(vectors, _by_torch(networks[0])(batch), atol=1e-6)


def test_without_openvino_torch_does_it(
    networks: tuple[Bert, Bert], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is compiled, nothing fails."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    by_torch = _by_torch(networks[0])
    ways = choose_ways(*networks, by_torch, "absent")
    assert ways.single is ways.several is by_torch
    assert ways.reason == "torch"


def test_another_vector_is_refused(
    networks: tuple[Bert, Bert], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However fast: what does not agree with torch does not run, also when it is remembered."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(openvino_encoder, "WORTHWHILE", 1e9)
    agreeing = _by_torch(networks[0])
    ways = choose_ways(*networks, agreeing, "agrees")
    assert ways.single is not agreeing
    assert ways.several is not agreeing

    def turned(batch: Batch) -> Any:
        return -agreeing(batch)

    refused = choose_ways(*networks, turned, "turned")
    assert refused.single is turned
    assert refused.reason.startswith("single: torch (openvino")
    assert choose_ways(*networks, agreeing, "turned").several is agreeing


def test_a_damaged_measurement_is_made_anew(
    networks: tuple[Bert, Bert], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the file holds, both ways work."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path))
    agreeing = _by_torch(networks[0])
    choose_ways(*networks, agreeing, "kept")
    (file,) = (tmp_path / "calibration").glob("encoder-*")
    for content in (b"[]", b"no json", b'{"single": {"wrong": 1}}'):
        sealed.write(f"calibration/{file.name}", content)
        ways = choose_ways(*networks, agreeing, "kept")
        np.testing.assert_allclose(ways.single(_batch(5)), agreeing(_batch(5)), atol=1e-6)


def test_both_ways_are_timed(networks: tuple[Bert, Bert]) -> None:
    """A way that sleeps is the slower one, and its vectors are compared all the same."""
    agreeing = _by_torch(networks[0])

    def late(batch: Batch) -> Any:
        time.sleep(0.01)
        return agreeing(batch)

    found = compare(agreeing, late, [_batch(4)])
    assert found.openvino_ms >= 10
    assert found.openvino_ms > found.torch_ms
    assert found.difference == 0


def test_faster_and_equal_is_what_wins() -> None:
    """A tie stays with torch."""
    assert Comparison(torch_ms=10, openvino_ms=5, difference=1e-7).openvino_wins
    assert not Comparison(torch_ms=10, openvino_ms=9.9, difference=0).openvino_wins
    assert not Comparison(torch_ms=10, openvino_ms=1, difference=1e-3).openvino_wins
