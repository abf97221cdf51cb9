"""One text through OpenVINO: the same vector as torch's, or torch."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.models import sealed, single_text  # noqa: E402
from funnel.models.bert import Bert, bert_shape, packed, read_config, read_weights  # noqa: E402
from funnel.models.single_text import Comparison, OpenVinoSingle, open_single  # noqa: E402
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
    def way(ids: Any) -> Any:
        with torch.inference_mode():
            states = running(ids, torch.zeros_like(ids), None, first_only=False)
        return torch.nn.functional.normalize(states.mean(1), dim=-1).numpy()

    return way


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_vectors_are_torchs(networks: tuple[Bert, Bert], length: int) -> None:
    """Any length, to within rounding; unit length."""
    pytest.importorskip("openvino")
    ids = torch.randint(160, (1, length), generator=torch.Generator().manual_seed(length))
    vector = OpenVinoSingle(*networks, key="test")(ids)
    np.testing.assert_allclose(vector, _by_torch(networks[0])(ids), atol=1e-6)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_damaged_compiled_model_is_made_anew(networks: tuple[Bert, Bert]) -> None:
    """Bytes that are no model cost a compilation, nothing else."""
    pytest.importorskip("openvino")
    sealed.write("openvino/single-damaged.blob", b"no model")
    ids = torch.tensor([[2, 5, 3]])
    vector = OpenVinoSingle(*networks, key="damaged")(ids)
    np.testing.assert_allclose(vector, _by_torch(networks[0])(ids), atol=1e-6)


def test_without_openvino_torch_does_it(
    networks: tuple[Bert, Bert], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is compiled, nothing fails."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert open_single(*networks, _by_torch(networks[0]), "absent") is None


def test_another_vector_is_refused(
    networks: tuple[Bert, Bert], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However fast: what does not agree with torch does not run, also when it is remembered."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(single_text, "WORTHWHILE", 1e9)
    agreeing = _by_torch(networks[0])
    assert open_single(*networks, agreeing, "agrees") is not None

    def turned(ids: Any) -> Any:
        return -agreeing(ids)

    assert open_single(*networks, turned, "turned") is None
    assert open_single(*networks, agreeing, "turned") is None


def test_faster_and_equal_is_what_wins() -> None:
    """A tie stays with torch."""
    assert Comparison(torch_ms=10, openvino_ms=5, difference=1e-7).openvino_wins
    assert not Comparison(torch_ms=10, openvino_ms=9.9, difference=0).openvino_wins
    assert not Comparison(torch_ms=10, openvino_ms=1, difference=1e-3).openvino_wins
