"""Adapters: a round trip gives equal scores, and every damage is a clear error."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from funnel.errors import ModelError
from funnel.models.adapters import (
    ENCODER,
    SETTINGS_FILE,
    WEIGHTS_FILE,
    Adapter,
    BaseModel,
    Combination,
    adapter_revision,
    check_base,
    is_adapter,
    read_adapter,
    save_adapter,
)
from funnel.models.low_rank import (
    export,
    load_merged,
    low_rank_difference,
    merged_encoder,
    merged_state_dict,
    quantised_difference,
)
from funnel.models.quantised import GROUP, quantised, restored

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
}
BASE = BaseModel(name="tiny", sha256="ab" * 32)


def _network(seed: int) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(**CONFIG, num_labels=1)
    return transformers.BertForSequenceClassification(config).eval()


def _encoder_weights(network: Any) -> dict[str, Any]:
    return {name: weight.clone() for name, weight in network.bert.state_dict().items()}


def _tune(network: Any, *, rank: int) -> None:
    """Change every matrix of the encoder by a random product of that rank, and the head."""
    torch.manual_seed(9)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if ".encoder." in name and weight.ndim == 2:
                weight += (
                    0.3 * torch.randn(weight.shape[0], rank) @ torch.randn(rank, weight.shape[1])
                )
        network.classifier.weight += 0.5


def _scores(network: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        return network(input_ids=torch.randint(0, 40, (7, 12))).logits[:, 0].numpy()


@pytest.fixture(scope="module")
def tuned() -> tuple[Any, dict[str, Any], Adapter]:
    network = _network(0)
    base = _encoder_weights(network)
    _tune(network, rank=3)
    tensors = low_rank_difference(base, network.state_dict(), 4)
    adapter = Adapter("tuned", BASE, 4, 4.0, 24, tensors, Combination(cosine=2.0, bias=-1.0))
    return network, base, adapter


def _loaded(adapter: Adapter, base: dict[str, Any]) -> Any:
    fresh = _network(5)
    load_merged(fresh, merged_state_dict(adapter, base))
    return fresh


def test_round_trip_keeps_scores(tuned: tuple[Any, Any, Adapter], tmp_path: Path) -> None:
    """What was cut out, saved, read and merged scores as the tuned network did."""
    network, base, adapter = tuned
    save_adapter(tmp_path / "a", adapter, card="# tuned\n")
    read = read_adapter(tmp_path / "a")
    np.testing.assert_allclose(_scores(_loaded(read, base)), _scores(network), atol=2e-2)
    assert (read.combine, read.base, read.max_tokens) == (adapter.combine, BASE, 24)
    assert read.revision == adapter_revision(tmp_path / "a")
    assert is_adapter(tmp_path / "a")
    assert not is_adapter(tmp_path)


def test_adapter_is_not_the_base(tuned: tuple[Any, Any, Adapter]) -> None:
    """The difference matters: without it the scores are others."""
    network, base, adapter = tuned
    only_head = {name: t for name, t in adapter.tensors.items() if "lora" not in name}
    bare = _loaded(replace(adapter, tensors=only_head), base)
    assert np.abs(_scores(bare) - _scores(network)).max() > 0.1


def test_lower_rank_approximates_worse(tuned: tuple[Any, Any, Adapter]) -> None:
    """Rank 1 of a difference of rank 3 loses more than rank 3 does."""
    network, base, adapter = tuned

    def error(rank: int) -> float:
        tensors = low_rank_difference(base, network.state_dict(), rank)
        merged = merged_state_dict(replace(adapter, rank=rank, alpha=rank, tensors=tensors), base)
        return sum(float((merged[n] - w).norm()) for n, w in network.state_dict().items())

    assert error(1) > 5 * error(3)


def test_four_bits_lose_little_of_a_difference_of_full_rank(
    tuned: tuple[Any, Any, Adapter], tmp_path: Path
) -> None:
    """They keep a change in all directions to within a tenth, where a low rank loses most."""
    network, base, adapter = tuned
    torch.manual_seed(0)
    moved = {f"bert.{name}": w + 0.02 * torch.randn_like(w) for name, w in base.items()}
    changed = network.state_dict() | moved

    def error(tensors: Any, rank: int) -> float:
        kept = replace(adapter, rank=rank, alpha=rank, tensors=tensors)
        save_adapter(tmp_path / "kept", kept, card="")
        merged = merged_state_dict(read_adapter(tmp_path / "kept"), base)
        lost = [float((merged[n] - w).norm()) ** 2 for n, w in changed.items() if ".layer." in n]
        return float(sum(lost) ** 0.5)

    whole = sum(0.02**2 * w.numel() for n, w in changed.items() if ".layer." in n) ** 0.5
    four_bits = error(quantised_difference(base, changed), 1)
    assert four_bits < 0.15 * whole
    assert four_bits < 0.5 * error(low_rank_difference(base, changed, 2), 2)


@given(
    arrays(np.float32, (3, 64), elements=st.floats(-5, 5, width=32)),
    st.sampled_from([1e-4, 1.0, 30.0]),
)
def test_four_bits_are_off_by_at_most_a_step(matrix: Any, size: float) -> None:
    """No number of a group is further off than what the coarsest scale cuts and rounds."""
    values = torch.from_numpy(matrix) * size
    back = restored(*quantised(values)).reshape(3, -1, GROUP)
    groups = values.reshape(3, -1, GROUP)
    widest = groups.abs().amax(-1, keepdim=True)
    assert ((back - groups).abs() <= 0.38 * widest + 2e-6).all()


def test_a_width_that_does_not_fit_is_refused() -> None:
    """The message names the way out."""
    with pytest.raises(ModelError, match="take a low-rank adapter"):
        quantised(torch.zeros(4, 33))


def test_unchanged_weights_are_left_out(tuned: tuple[Any, Any, Adapter]) -> None:
    """Embeddings that training did not touch cost nothing."""
    assert not [name for name in tuned[2].tensors if ".embeddings." in name]


def test_export_is_a_plain_directory(tuned: tuple[Any, Any, Adapter], tmp_path: Path) -> None:
    """Transformers loads the export by itself, with the same logits."""
    network, base, adapter = tuned
    export(adapter, base, CONFIG, tmp_path / "plain")
    plain = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    np.testing.assert_allclose(_scores(plain), _scores(network), atol=2e-2)


def test_damaged_weights_are_refused(tuned: tuple[Any, Any, Adapter], tmp_path: Path) -> None:
    """One flipped byte is noticed."""
    save_adapter(tmp_path / "a", tuned[2], card="")
    weights = bytearray((tmp_path / "a" / WEIGHTS_FILE).read_bytes())
    weights[-1] ^= 1
    (tmp_path / "a" / WEIGHTS_FILE).write_bytes(weights)
    with pytest.raises(ModelError, match="is damaged: its SHA-256 is"):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 7}, "reads formats 1 to 6"),
        ({"combine": {"cross": 1.0, "colbert": 2.0}}, "unknown parts of the combination"),
        ({"combine": {"order": "sideways"}}, "unknown order 'sideways'"),
        ({"combine": {"ceiling": float("nan")}}, "ceiling is nan, expected a finite number"),
        ({"combine": {"ceiling": "high"}}, "cannot be used"),
        ({"combine": {"ceiling": 1.0, "slope": float("nan")}}, "slope is nan, expected a finite"),
        ({"combine": {"slope": 2.0, "tuned": 1.0}}, "slope without a ceiling"),
        ({"combine": {"slope": 2.0, "ceiling": 1.0}}, "without the tuned encoder"),
        ({"combine": {"cross": "x"}}, "cross is 'x', expected a number"),
        ({"combine": {"bias": float("inf")}}, "bias is inf, expected a finite number"),
        ({"max_tokens": 0}, "max_tokens is 0, expected at least 1"),
        ({"lora": {"rank": 0, "alpha": 1.0}}, "lora.rank is 0, expected at least 1"),
        ({"base": {"name": "tiny"}}, "cannot be used"),
        ({"lora": {}}, "KeyError: 'rank'"),
    ],
)
def test_bad_settings_are_refused(
    tuned: tuple[Any, Any, Adapter], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """A settings file of another format, or with parts that nothing here knows."""
    save_adapter(tmp_path / "a", tuned[2], card="")
    file = tmp_path / "a" / SETTINGS_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        read_adapter(tmp_path / "a")


def test_truncated_settings_are_refused(tuned: tuple[Any, Any, Adapter], tmp_path: Path) -> None:
    """Half a JSON file."""
    save_adapter(tmp_path / "a", tuned[2], card="")
    file = tmp_path / "a" / SETTINGS_FILE
    file.write_text(file.read_text()[:40])
    with pytest.raises(ModelError, match="not JSON"):
        read_adapter(tmp_path / "a")


def test_missing_directory_is_named(tmp_path: Path) -> None:
    """The message says what an adapter consists of."""
    with pytest.raises(ModelError, match=r"cannot read .*adapter\.json"):
        read_adapter(tmp_path / "nowhere")


def test_wrong_base_is_refused(tuned: tuple[Any, Any, Adapter]) -> None:
    """Another base's hash, and a base of another shape."""
    _, base, adapter = tuned
    check_base(adapter, "tiny", BASE.sha256)
    with pytest.raises(ModelError, match="belongs to tiny .* but the base given is other"):
        check_base(adapter, "other", "cd" * 32)
    narrow = {name: weight[:8] for name, weight in base.items()}
    with pytest.raises(ModelError, match="the base has"):
        merged_state_dict(adapter, narrow)


def test_missing_weight_is_never_random(tuned: tuple[Any, Any, Adapter]) -> None:
    """An adapter without its head must not score with a fresh one."""
    _, base, adapter = tuned
    headless = {name: t for name, t in adapter.tensors.items() if "classifier" not in name}
    with pytest.raises(ModelError, match="missing"):
        _loaded(replace(adapter, tensors=headless), base)


def test_failed_save_leaves_the_old_adapter(
    tuned: tuple[Any, Any, Adapter], tmp_path: Path
) -> None:
    """A card that cannot be encoded stops the save; the former files stay readable."""
    save_adapter(tmp_path / "a", tuned[2], card="first")
    with pytest.raises(UnicodeEncodeError):
        save_adapter(tmp_path / "a", replace(tuned[2], name="second"), card="\ud800")
    assert read_adapter(tmp_path / "a").name == "tuned"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


_LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=8)


@given(_LOGITS, st.randoms(use_true_random=False))
def test_both_orders_are_symmetric(first: list[float], random: Any) -> None:
    """Exchanging the two orders changes no score; the lower is never above the mean."""
    second = [random.uniform(-20, 20) for _ in first]
    both = np.array([first, second], dtype=np.float32)
    lower = Combination(order="both_min").logits(both)
    mean = Combination(order="both_mean").logits(both)
    np.testing.assert_array_equal(lower, Combination(order="both_min").logits(both[::-1]))
    assert (lower <= mean + 1e-5).all()


def test_combination_is_the_weighted_sum() -> None:
    """Each part counts with its weight, parts of weight zero need not be there."""
    ones = np.ones(3, dtype=np.float32)
    full = Combination(cross=2.0, cosine=3.0, maxsim=5.0, tuned=7.0, bias=-1.0)
    np.testing.assert_allclose(full.logits(ones, cosine=ones, maxsim=ones, tuned=ones), 16.0)
    dense = Combination(cross=0.0, cosine=3.0)
    np.testing.assert_allclose(dense.logits(cosine=ones), 3.0)
    assert (full.orders, dense.orders, Combination(order="both_min").orders) == (1, 0, 2)


def test_a_ceiling_levels_the_logit_off() -> None:
    """Far below it nothing changes, above it nothing is added; without one revisions stay."""
    logits = np.array([-20.0, 0.0, 1.0, 30.0], dtype=np.float32)
    levelled = Combination(cross=2.0, cosine=1.0, ceiling=1.0)
    found = levelled.logits(logits, cosine=np.zeros(4, dtype=np.float32))
    expected = 2 * np.array([-21.0, -1.0 - np.log1p(np.exp(-1.0)), -np.log(2.0), 0.0])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    assert (np.diff(found) > 0).all()
    both = replace(levelled, order="both_mean").logits(
        np.stack([logits - 1, logits + 1]), cosine=np.zeros(4, dtype=np.float32)
    )
    np.testing.assert_allclose(both, found, atol=1e-5)
    assert "ceiling" not in Combination().named()
    assert levelled.named()["ceiling"] == 1.0


def test_a_ceiling_rises_with_what_the_tuned_encoder_sees() -> None:
    """Each pair has its own; a level one is the same as none that rises, and keeps its revision."""
    tuned = np.array([0.2, 0.9], dtype=np.float32)
    sloping = Combination(cross=2.0, tuned=3.0, ceiling=-4.0, slope=10.0)
    found = sloping.logits(np.array([30.0, -30.0], dtype=np.float32), tuned=tuned)
    np.testing.assert_allclose(found, [0.6, 2.7 + 2 * (-30.0 - 5.0)], rtol=1e-5)
    assert found.dtype == np.float32
    assert sloping.named()["slope"] == 10.0
    assert "slope" not in replace(sloping, slope=0.0).named()
    with pytest.raises(ModelError, match="the tuned encoder's cosine, which is missing"):
        sloping.logits(tuned)


@given(
    arrays(np.float32, 8, elements=st.floats(-30, 30, width=32)),
    arrays(np.float32, 8, elements=st.floats(-1, 1, width=32)),
    st.floats(-10, 10),
    st.floats(-10, 10),
)
def test_no_logit_lifts_a_score_above_what_encoders_say(
    logits: Any, tuned: Any, ceiling: float, slope: float
) -> None:
    """So what they rule out need not be read; and the surer the logit, the higher the score."""
    combine = Combination(cross=0.9, tuned=7.5, ceiling=ceiling, slope=slope)
    most = combine.logits(np.full(8, np.inf, np.float32), tuned=tuned)
    np.testing.assert_allclose(most, np.float32(7.5) * tuned, atol=1e-5)
    scores = combine.logits(logits, tuned=tuned)
    assert (scores <= most + 1e-5).all()
    assert (combine.logits(logits + 1, tuned=tuned) >= scores).all()


def test_missing_part_is_an_error() -> None:
    """A weight without its part, or without any weight, cannot score."""
    ones = np.ones(2, dtype=np.float32)
    with pytest.raises(ModelError, match="'cosine' by 3.0"):
        Combination(cosine=3.0).logits(ones)
    with pytest.raises(ModelError, match="every weight"):
        Combination(cross=0.0).logits(ones)
    with pytest.raises(ModelError, match=r"needs \(2, n\)"):
        Combination(order="both_min").logits(ones)


def test_a_tuned_encoder_lies_beside_the_cross_encoder(tuned: tuple[Any, Any, Adapter]) -> None:
    """Each is merged from its own difference; the other's tensors do not touch it."""
    _, base, adapter = tuned
    moved = {f"bert.{name}": w + 0.01 * w.abs().max() for name, w in base.items()}
    difference = quantised_difference(base, moved)
    both = replace(
        adapter,
        tensors={**adapter.tensors, **{ENCODER + name: t for name, t in difference.items()}},
        combine=Combination(tuned=2.0),
    )
    np.testing.assert_array_equal(_scores(_loaded(both, base)), _scores(_loaded(adapter, base)))
    merged = merged_encoder(both, base)
    assert set(merged) == set(base)
    for name, weight in merged.items():
        near = moved[f"bert.{name}"]
        torch.testing.assert_close(weight, near, atol=1e-3 * float(near.abs().max()), rtol=1e-2)


def test_tuned_encoders_are_told_apart_before_they_are_saved(
    tuned: tuple[Any, Any, Adapter],
) -> None:
    """What is being trained has no file yet, and its vectors are kept all the same."""
    adapter = tuned[2]
    one, other = (
        replace(adapter, tensors={f"{ENCODER}bias": torch.full((4,), value)}, sha256="")
        for value in (0.5, 0.25)
    )
    assert one.encoder_revision != other.encoder_revision
    assert one.encoder_revision == replace(one, combine=Combination()).encoder_revision


def test_an_encoder_that_is_weighed_in_but_missing_is_told(
    tuned: tuple[Any, Any, Adapter],
) -> None:
    """Half an adapter does not score as if nothing were wrong."""
    _, base, adapter = tuned
    with pytest.raises(ModelError, match="has no tensors under 'encoder.'"):
        merged_encoder(replace(adapter, combine=Combination(tuned=2.0)), base)


def test_other_weights_of_the_parts_are_another_revision(tuned: tuple[Any, Any, Adapter]) -> None:
    """Thresholds and kept scores of one combination mean nothing for another."""
    adapter = tuned[2]
    assert adapter.revision == replace(adapter).revision
    assert adapter.revision != replace(adapter, combine=Combination(cosine=2.5)).revision
