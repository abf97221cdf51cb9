"""Differences of weights: merging them into a base and cutting them out of a tuned model.

A matrix's difference is kept as two factors of low rank, whole in four bits, or in both ways.

Names are those of ``BertForSequenceClassification``; a base encoder's weights may come under its
own names (``encoder.layer.0…``) or under these (``bert.encoder.layer.0…``).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from funnel.errors import ModelError
from funnel.models.quantised import CODES, SCALES, quantised, restored
from funnel.models.quiet import quiet_loading
from funnel.training.output import atomic_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from funnel.models.adapters import Adapter

    Weights = Mapping[str, torch.Tensor]

LEFT, RIGHT = ".lora_B", ".lora_A"
_NOT_WEIGHTS = ("position_ids",)
_CLASSIFIER = "bert."
_OTHER_HEADS = "cls."
"""Of a base that was saved with what it was pre-trained for, such as filling gaps."""


def merged_state_dict(adapter: "Adapter", base_weights: "Weights") -> "dict[str, torch.Tensor]":
    """All weights of the tuned classifier, float32: ``W + D + alpha / rank * B @ A``.

    A matrix may have either difference, or both: what a base adapter kept in four bits stays as it
    is when that adapter is tuned further.

    Raises:
        ModelError: the adapter changes a weight that the base lacks or has in another shape.
    """
    weights = _under_classifier_names(base_weights)
    for name, tensor in adapter.tensors.items():
        if name in adapter.fixed:
            continue
        if name.endswith((RIGHT, CODES)):
            changed = name.removesuffix(RIGHT).removesuffix(CODES)
            delta = (
                _restored(adapter, changed) if name.endswith(CODES) else _product(adapter, changed)
            )
            weights[changed] = _matching(adapter, weights, changed, delta) + delta
        elif not name.endswith((LEFT, SCALES)):
            weights[name] = tensor.float()
    return weights


def merged_encoder(adapter: "Adapter", base_weights: "Weights") -> "dict[str, torch.Tensor]":
    """All weights of the adapter's tuned encoder, float32, under an encoder's own names.

    Raises:
        ModelError: it has none, or one that does not fit the base.
    """
    merged = merged_state_dict(adapter.encoder, base_weights)
    return {name.removeprefix(_CLASSIFIER): weight for name, weight in merged.items()}


def four_bit_part(adapter: "Adapter") -> "Weights":
    """What the adapter's cross-encoder has in four bits, by the adapter's own names."""
    return {
        name: tensor
        for name, tensor in adapter.tensors.items()
        if name.endswith((CODES, SCALES)) and name not in adapter.fixed
    }


def _restored(adapter: "Adapter", name: str) -> "torch.Tensor":
    return restored(adapter.tensors[name + CODES], adapter.tensors[name + SCALES])


def _product(adapter: "Adapter", name: str) -> "torch.Tensor":
    left, right = adapter.tensors[name + LEFT], adapter.tensors[name + RIGHT]
    return (adapter.alpha / adapter.rank) * (left.float() @ right.float())


def _under_classifier_names(base_weights: "Weights") -> "dict[str, torch.Tensor]":
    named = {
        name if name.startswith((_CLASSIFIER, "classifier.")) else f"{_CLASSIFIER}{name}": tensor
        for name, tensor in base_weights.items()
        if not name.endswith(_NOT_WEIGHTS) and not name.startswith(_OTHER_HEADS)
    }
    return {name: tensor.float() for name, tensor in named.items()}


def _matching(
    adapter: "Adapter", weights: "Weights", name: str, delta: "torch.Tensor"
) -> "torch.Tensor":
    weight = weights.get(name)
    if weight is None or weight.shape != delta.shape:
        found = "nothing" if weight is None else tuple(weight.shape)
        raise ModelError(
            f"adapter {adapter.name!r} changes {name} of shape {tuple(delta.shape)}, the base has "
            f"{found}; load it over {adapter.base.name}"
        )
    return weight


def low_rank_difference(base_weights: "Weights", tuned: "Weights", rank: int) -> "Weights":
    """Cut ``tuned - base`` down to low rank for every matrix; keep the head and vectors whole.

    The best approximation in the least-squares sense (Eckart and Young, 1936). ``rank`` is what
    every matrix would get if all got the same; the same number of parameters is spent where it
    saves most error, so that single matrices get more or less. Singular values are shared evenly
    between both factors, so that float16 loses little. Matrices that did not change are left out.
    Returned as float16, ready for ``Adapter(alpha=rank)``.
    """
    whole, deltas = _differences(base_weights, tuned)
    return whole | _factors(deltas, rank)


def quantised_difference(base_weights: "Weights", tuned: "Weights") -> "Weights":
    """Keep ``tuned - base`` in four bits for every matrix; keep the head and vectors whole.

    Half a byte for each weight that changed. Matrices that did not change are left out.
    """
    whole, deltas = _differences(base_weights, tuned)
    for name, delta in deltas.items():
        whole[name + CODES], whole[name + SCALES] = quantised(delta)
    return whole


def _differences(
    base_weights: "Weights", tuned: "Weights"
) -> "tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]":
    """What is kept whole, as float16, and the differences of the other matrices."""
    base = _under_classifier_names(base_weights)
    whole: dict[str, torch.Tensor] = {}
    deltas: dict[str, torch.Tensor] = {}
    for name, weight in tuned.items():
        if name.endswith(_NOT_WEIGHTS):
            continue
        before = base.get(name)
        delta = None if before is None else weight.float() - before
        if delta is None or weight.ndim != 2 or ".pooler." in name:
            if delta is None or delta.any():
                whole[name] = weight.half()
        elif delta.any():
            deltas[name] = delta
    return whole, deltas


def _factors(deltas: "Weights", rank: int) -> "dict[str, torch.Tensor]":
    import torch

    parts = {name: torch.linalg.svd(delta, full_matrices=False) for name, delta in deltas.items()}
    costs = {name: sum(delta.shape) for name, delta in deltas.items()}
    ranks = _spread({name: values for name, (_, values, _) in parts.items()}, costs, rank)
    factors: dict[str, torch.Tensor] = {}
    for name, (left, values, right) in parts.items():
        kept = ranks[name]
        root = values[:kept].sqrt()
        factors[name + LEFT] = (left[:, :kept] * root).half()
        factors[name + RIGHT] = (root[:, None] * right[:kept]).half()
    return factors


def _spread(values: "Weights", costs: "Mapping[str, int]", rank: int) -> dict[str, int]:
    """How many directions of each matrix are kept: those that explain most for each parameter."""
    budget = rank * sum(costs.values())
    gains = [
        (float(value) ** 2 / costs[name], name) for name, each in values.items() for value in each
    ]
    ranks = dict.fromkeys(values, 1)
    budget -= sum(costs.values())
    for _, name in sorted(gains, reverse=True):
        if ranks[name] < len(values[name]) and costs[name] <= budget:
            ranks[name] += 1
            budget -= costs[name]
    return ranks


def classifier_config(base_config: "Mapping[str, Any]") -> Any:
    """A transformers config for one logit over the base, without dropout surprises at serving."""
    from transformers import BertConfig

    known = {key: value for key, value in base_config.items() if not key.startswith("_")}
    return BertConfig(**{**known, "num_labels": 1, "architectures": None})


def export(
    adapter: "Adapter", base_weights: "Weights", base_config: "Mapping[str, Any]", path: Path
) -> None:
    """Write the merged cross-encoder as a plain transformers directory (weights and config).

    The combination with cosine and MaxSim is not part of it: ``adapter.json`` is what tells the
    scorer about those. The tokenizer's files are the base's own.

    Raises:
        ModelError: the weights do not fit, or the directory cannot be written.
    """
    from transformers import BertForSequenceClassification

    network = BertForSequenceClassification(classifier_config(base_config))
    load_merged(network, merged_state_dict(adapter, base_weights))
    with atomic_directory(path) as staging, quiet_loading():  # else a bar of its own
        network.save_pretrained(staging)


def load_merged(network: Any, weights: "Weights") -> None:
    """Load strictly: a missing weight would silently be a random one.

    Raises:
        ModelError: names what is missing or left over.
    """
    missing, unexpected = network.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith(_NOT_WEIGHTS)]
    if missing or unexpected:
        raise ModelError(
            f"merged weights do not fit the network: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}; the adapter and its base do not belong together"
        )
