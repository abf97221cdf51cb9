"""The network that is trained is the one that serves, and it learns."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from recipes.bert import CrossEncoder, fresh_weights, mean_weights  # noqa: E402

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 20,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def _library(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(**SIZES, num_labels=1)
    return transformers.BertForSequenceClassification(config).eval()


def _inputs() -> tuple[Any, Any, Any]:
    ids = torch.randint(1, 50, (6, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 7:] = mask[4, 5:] = 0
    segments = torch.zeros_like(ids)
    segments[:, 4:] = 1
    return ids, mask, segments


def test_logits_are_those_of_transformers() -> None:
    """Same weights, same inputs, padding included: equal to within bfloat16."""
    library = _library()
    ids, mask, segments = _inputs()
    with torch.no_grad():
        library.classifier.weight.mul_(60)
        expected = library(input_ids=ids, attention_mask=mask, token_type_ids=segments).logits[:, 0]
        ours = CrossEncoder(library.state_dict(), layers=2, heads=4)(ids, mask, segments)
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), atol=0.1)
    assert ours.std() > 0.1


def test_weights_go_back_under_the_names_they_came_with() -> None:
    """What was put in comes out, ready for transformers' strict loading."""
    library = _library(3)
    out = CrossEncoder(library.state_dict(), layers=2, heads=4).weights()
    before = library.state_dict()
    library.load_state_dict(out)
    for name, tensor in before.items():
        torch.testing.assert_close(out[name], tensor)


def test_a_fresh_head_learns() -> None:
    """A few steps tell rows with an even first token from the others; embeddings stay."""
    weights = fresh_weights(dict(_library().bert.state_dict()))
    network = CrossEncoder(weights, layers=2, heads=4)
    ids, mask, segments = _inputs()
    labels = (ids[:, 0] % 2).float()
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network(ids, mask, segments), labels
        )
        losses.append(float(loss.detach()))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    words = "bert.embeddings.word_embeddings.weight"
    torch.testing.assert_close(network.weights()[words], weights[words])


def test_the_mean_of_runs_keeps_what_never_learnt() -> None:
    """Bit for bit where all are equal, the mean elsewhere: an adapter stores every difference."""
    frozen = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    learnt = [torch.full((4,), value) for value in (0.0, 3.0, 6.0)]
    mean = mean_weights([{"frozen": frozen, "learnt": each} for each in learnt])
    assert torch.equal(mean["frozen"], frozen)
    torch.testing.assert_close(mean["learnt"], torch.full((4,), 3.0))


def test_dropout_is_for_training_alone() -> None:
    """The same scores twice when it serves, others every time when it trains."""
    weights, inputs = _library().state_dict(), _inputs()
    weights["classifier.weight"] = 60 * weights["classifier.weight"]
    network = CrossEncoder(weights, layers=2, heads=4, dropout=0.5)
    plain = CrossEncoder(weights, layers=2, heads=4)
    with torch.no_grad():
        assert not torch.equal(network.train()(*inputs), network(*inputs))
        assert torch.equal(network.eval()(*inputs), plain.train()(*inputs))
