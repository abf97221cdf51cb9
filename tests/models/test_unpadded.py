"""Packed rows: what the linear layers see without padding gives the padded scores."""

from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.models.cross_networks import CrossBert, TorchCross, read_cross_bert
from funnel.models.source import locate
from funnel.models.tokens import Tokens
from funnel.models.unpadded import (
    Packed,
    best_attention,
    fused_attention,
    pack,
    padded_attention,
    unpadded_logits,
)
from tests.models.tiny import save_cross_encoder

pytestmark = pytest.mark.slow
_IDS = st.lists(st.integers(5, 80), min_size=1, max_size=40)
_ROWS = st.lists(
    st.builds(lambda ids, share: Tokens(ids, int(len(ids) * share), False), _IDS, st.floats(0, 1)),
    min_size=1,
    max_size=9,
)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CrossBert:
    kind: str = request.param
    folder = save_cross_encoder(tmp_path_factory.mktemp(kind), kind=kind)
    read = read_cross_bert(locate(str(folder)))
    assert read is not None
    return read


@settings(deadline=None, max_examples=30)
@given(rows=_ROWS)
def test_unpadded_scores_equal_padded_ones(model: CrossBert, rows: list[Tokens]) -> None:
    """Rows of one token beside long ones, with and without a second text."""
    expected = TorchCross(model, "fp32").logits(rows)
    with torch.inference_mode():
        logits = unpadded_logits(model, pack(rows), padded_attention).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@settings(deadline=None)
@given(rows=_ROWS)
def test_packing_keeps_every_token_in_its_place(rows: list[Tokens]) -> None:
    """What lies between two starts is the row, its places counted from 0."""
    packed = pack(rows)
    assert packed.longest == max(map(len, rows))
    for row, (start, end) in zip(rows, _spans(packed), strict=True):
        assert packed.ids[start:end].tolist() == row.ids
        assert packed.places[start:end].tolist() == list(range(len(row)))
        expected = [int(bool(row.split) and i >= row.split) for i in range(len(row))]
        assert packed.second[start:end].tolist() == expected


def _spans(packed: Packed) -> list[tuple[int, int]]:
    return list(pairwise(packed.starts.tolist()))


@pytest.mark.skipif(find_spec("torch.nn.attention.varlen") is None, reason="an older torch")
@pytest.mark.parametrize(
    ("size", "capability", "fused"),
    [(32, (8, 0), True), (64, (9, 0), True), (32, (7, 5), False), (20, (9, 0), False)],
)
def test_the_fused_attention_is_taken_where_it_runs(
    size: int, capability: tuple[int, int], fused: bool
) -> None:
    """On older devices, and for heads of another size, the padded one stands in."""
    assert best_attention(size, capability) is (fused_attention if fused else padded_attention)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_cuda_gives_the_same_ranking(model: CrossBert, precision: str) -> None:
    """Scores within a few per cent of the spread of float32's."""
    from funnel.models.cuda_cross import CudaCross

    random = np.random.default_rng(5)
    rows = [Tokens(random.integers(5, 80, n).tolist(), n // 2, False) for n in range(1, 60)]
    expected = TorchCross(model, "fp32").logits(rows)
    logits = CudaCross(model, precision).logits(rows)
    np.testing.assert_allclose(logits, expected, atol=0.1 * float(np.ptp(expected)))
