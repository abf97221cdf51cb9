"""Networks and batches of the accelerator's run are those of the libraries."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from recipes.distil.batches import Sides, Texts, by_length, rounded  # noqa: E402
from recipes.distil.networks import BERT, MPNET, Cross, Family, Trunk, Twin  # noqa: E402
from recipes.distil.weights import (  # noqa: E402
    about_difference,
    compact,
    load_difference,
    load_pieces,
    save_difference,
    save_in_pieces,
)
from tests.recipes import classroom  # noqa: E402
from tests.training.tiny import tiny_bert  # noqa: E402

LONG = 40
"""Tokens: MPNet's near places are counted one by one up to 8 and in ever wider steps beyond."""


def _inputs() -> tuple[Any, Any]:
    ids = torch.randint(3, classroom.ROWS, (5, LONG), generator=torch.Generator().manual_seed(1))
    seen = torch.ones_like(ids, dtype=torch.bool)
    seen[1, 30:] = seen[3, 5:] = False
    return ids, seen


@pytest.mark.parametrize("family", [BERT, MPNET])
def test_hidden_states_are_those_of_transformers(family: Family) -> None:
    """Of both shapes, padding, segments and near places included."""
    library = classroom.bert() if family is BERT else classroom.mpnet()
    ids, seen = _inputs()
    segments = torch.zeros_like(ids)
    more = {}
    if family is BERT:
        segments[:, 12:] = 1
        more = {"token_type_ids": segments}
    else:
        ids[~seen] = 1  # the library counts places from the padding that it finds
    table = library.embeddings.word_embeddings.weight
    table.data = table.data.half().float()  # ours is kept in half precision
    weights = library.state_dict()
    with torch.no_grad():
        expected = library(input_ids=ids, attention_mask=seen.long(), **more).last_hidden_state
        ours = Trunk(weights, family, heads=12)(ids, seen, segments)
    np.testing.assert_allclose(ours[seen].numpy(), expected[seen].numpy(), atol=1e-4)
    assert expected[seen].std() > 0.5


def test_weights_go_back_under_the_names_they_came_with() -> None:
    """All that learn, ready to be subtracted from the base's."""
    weights = classroom.bert().state_dict()
    trunk = Trunk(weights, BERT, heads=12)
    found = trunk.weights()
    assert found.keys() == {name for name in weights if name.startswith("encoder.")}
    for name, weight in found.items():
        assert torch.equal(weight, weights[name])
    assert Twin(trunk).weights().keys() == {f"bert.{name}" for name in found}
    assert "classifier.bias" in Cross(trunk).weights()


def test_pairs_are_rows_as_the_tokenizer_makes_them(tmp_path: Path) -> None:
    """Ids, mask and segments, of texts of any lengths, in both families' ways."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert(tmp_path / "bert"))
    words = ["how about the alpha", "find beta 1", "what not", "the gamma about kappa and zeta"]
    pieces = [tokenizer(each, add_special_tokens=False)["input_ids"] for each in words]
    rows = [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    rows += sorted({piece for each in pieces for piece in each})
    flat = np.array([rows.index(piece) for each in pieces for piece in each], dtype=np.uint16)
    texts = Texts.of(flat, np.array(list(map(len, pieces))), 16, "cpu")
    first, second = torch.tensor([0, 3, 1]), torch.tensor([1, 2, 0])
    ids, seen, segments = texts.pairs(first, second, rounded(15), BERT.between)
    expected = tokenizer(
        [words[i] for i in first], [words[i] for i in second],
        padding="max_length", max_length=16, return_tensors="pt",
    )  # fmt: skip
    assert torch.equal(torch.tensor(rows)[ids], expected["input_ids"])
    assert torch.equal(seen.long(), expected["attention_mask"])
    assert torch.equal(segments, expected["token_type_ids"])
    ids, seen, _ = texts.pairs(first[:1], second[:1], 16, MPNET.between)
    one, two = ([rows.index(piece) for piece in pieces[i]] for i in (0, 1))
    assert ids[0][seen[0]].tolist() == [1, *one, 2, 2, *two, 2]
    ids, seen, _ = texts.singles(first, 8)
    assert ids[0][seen[0]].tolist() == [1, *one, 2]


def test_every_item_is_in_one_batch_of_alike_lengths() -> None:
    """Shuffled or not; none is longer than is said."""
    sizes = np.random.default_rng(0).integers(3, 40, 1_000)
    order = np.arange(len(sizes))
    for rng in (None, np.random.default_rng(1)):
        batches = list(by_length(sizes, 16, torch.device("cpu"), order, rng))
        assert sorted(torch.cat([where for where, _ in batches]).tolist()) == order.tolist()
        for where, longest in batches:
            assert sizes[where.numpy()].max() == longest
            assert np.ptp(sizes[where.numpy()]) < 5


def test_sides_know_their_tokens() -> None:
    """Of a row with both texts, and of the longer one alone."""
    texts = Texts.of(np.arange(3, 12, dtype=np.uint16), np.array([2, 7]), 5, "cpu")
    sides = Sides.of(texts, np.array([0, 1]), np.array([1, 1]))
    assert sides.together(np.array([0, 1]), BERT.between).tolist() == [2 + 5 + 3, 5 + 5 + 3]
    assert sides.longest(np.array([0, 1])).tolist() == [7, 7]


def test_a_model_in_pieces_is_nearly_the_same(tmp_path: Path) -> None:
    """Within half a step of eight bits; names and shapes stay."""
    weights = compact(classroom.mpnet().state_dict(), range(classroom.ROWS))
    save_in_pieces(weights, tmp_path, "large")
    found = load_pieces(tmp_path, "large")
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        largest = weight.float().abs().max()
        assert (found[name].float() - weight.float()).abs().max() <= 0.006 * largest


def test_a_difference_comes_back_with_what_made_it(tmp_path: Path) -> None:
    """A head that the base lacks is kept whole, as nearly as eight bits can."""
    base = {"encoder.w": torch.randn(4, 6), "encoder.b": torch.randn(6)}
    tuned = {"bert.encoder.w": base["encoder.w"] + 0.01, "classifier.weight": torch.randn(1, 6)}
    tuned["bert.encoder.b"] = base["encoder.b"] + 0.5
    save_difference(tuned, base, tmp_path / "d.safetensors", {"pairs": 3})
    found = load_difference(tmp_path / "d.safetensors")
    torch.testing.assert_close(found["bert.encoder.w"], torch.full((4, 6), 0.01))
    torch.testing.assert_close(found["bert.encoder.b"], torch.full((6,), 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        found["classifier.weight"], tuned["classifier.weight"], atol=0.02, rtol=0
    )
    assert about_difference(tmp_path / "d.safetensors") == {"pairs": 3}
