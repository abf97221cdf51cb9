"""BERT, with one logit or one vector on top, written to be trained fast on CPUs.

bfloat16 throughout where the processor multiplies in it (weights and their updates stay float32;
elsewhere all is), one product for query, key and value, attention spelt out, which is faster than
the fused one where texts are short: a fifth more pairs a second than transformers' own under
autocast. Dropout, where asked for, leaves out whole channels of a pair, which costs no time.
Weights go in and out under the names of
``BertForSequenceClassification``.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from funnel.models.hardware import cpu_has_fast_bf16

Weights = Mapping[str, Tensor]
_PARTS = ("query", "key", "value")
_HIDDEN = -1e4
_EPSILON = 1e-12
_WORKING = torch.bfloat16 if cpu_has_fast_bf16() else torch.float32


class _Affine(nn.Module):
    """A matrix and a bias in float32 that work in the faster type."""

    def __init__(self, matrix: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(matrix.float().clone())
        self.bias = nn.Parameter(bias.float().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(_WORKING), self.bias.to(_WORKING))


class _Norm(_Affine):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias, _EPSILON)


def _affine(weights: Weights, *names: str) -> _Affine:
    return _Affine(
        torch.cat([weights[f"{name}.weight"] for name in names]),
        torch.cat([weights[f"{name}.bias"] for name in names]),
    )


def _norm(weights: Weights, name: str) -> _Norm:
    return _Norm(weights[f"{name}.weight"], weights[f"{name}.bias"])


class _Layer(nn.Module):
    def __init__(self, weights: Weights, prefix: str, heads: int, dropout: float) -> None:
        super().__init__()
        self.prefix, self.heads = prefix, heads
        self.dropout = nn.Dropout1d(dropout)
        self.qkv = _affine(weights, *(f"{prefix}attention.self.{part}" for part in _PARTS))
        self.out = _affine(weights, f"{prefix}attention.output.dense")
        self.norm1 = _norm(weights, f"{prefix}attention.output.LayerNorm")
        self.up = _affine(weights, f"{prefix}intermediate.dense")
        self.down = _affine(weights, f"{prefix}output.dense")
        self.norm2 = _norm(weights, f"{prefix}output.LayerNorm")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, length, hidden = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        alike = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + mask
        seen = (torch.softmax(alike, -1) @ value).transpose(1, 2).reshape(rows, length, hidden)
        x = self.norm1(x + self._dropped(self.out(seen)))
        changed: Tensor = self.norm2(x + self._dropped(self.down(F.gelu(self.up(x)))))
        return changed

    def _dropped(self, x: Tensor) -> Tensor:
        dropped: Tensor = x * self.dropout(x.new_ones(len(x), x.shape[2], 1)).transpose(1, 2)
        return dropped

    def named(self) -> dict[str, _Affine]:
        """The parts with one name each; query, key and value are apart."""
        return {
            "attention.output.dense": self.out,
            "attention.output.LayerNorm": self.norm1,
            "intermediate.dense": self.up,
            "output.dense": self.down,
            "output.LayerNorm": self.norm2,
        }


class Trunk(nn.Module):
    """Token ids to hidden states. The embeddings do not learn."""

    def __init__(self, weights: Weights, *, layers: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        table = {part: f"bert.embeddings.{part}" for part in ("word", "position", "token_type")}
        self._tables = {
            part: weights[f"{name}_embeddings.weight"].float() for part, name in table.items()
        }
        self._norm = _norm(weights, "bert.embeddings.LayerNorm").requires_grad_(False)
        self._layers = [
            _Layer(weights, f"bert.encoder.layer.{number}.", heads, dropout)
            for number in range(layers)
        ]
        self.layers = nn.ModuleList(self._layers)
        self.width = self._tables["word"].shape[1]

    def states(self, ids: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """Last hidden states (rows, length, width), in the faster type, of int64 (rows, length)."""
        tables = self._tables
        words = tables["word"][ids] + tables["position"][: ids.shape[1]]
        x: Tensor = self._norm(words + tables["token_type"][segments]).to(_WORKING)
        hidden = torch.zeros(mask.shape, dtype=x.dtype).masked_fill_(mask == 0, _HIDDEN)
        for layer in self._layers:
            x = layer(x, hidden[:, None, None, :])
        return x

    def weights(self) -> dict[str, Tensor]:
        """All weights, float32, detached."""
        found: dict[str, Tensor] = {}
        for part, table in self._tables.items():
            found[f"bert.embeddings.{part}_embeddings.weight"] = table
        parts = {"bert.embeddings.LayerNorm": self._norm, **self._heads()}
        for layer in self._layers:
            parts |= {layer.prefix + name: part for name, part in layer.named().items()}
            for kind in ("weight", "bias"):
                thirds = getattr(layer.qkv, kind).detach().chunk(3)
                for part, third in zip(_PARTS, thirds, strict=True):
                    found[f"{layer.prefix}attention.self.{part}.{kind}"] = third.clone()
        for name, affine in parts.items():
            found[f"{name}.weight"] = affine.weight.detach().clone()
            found[f"{name}.bias"] = affine.bias.detach().clone()
        return found

    def _heads(self) -> dict[str, _Affine]:
        """What stands on top, by name."""
        return {}


class CrossEncoder(Trunk):
    """Token ids of two texts to a logit."""

    def __init__(self, weights: Weights, *, layers: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(weights, layers=layers, heads=heads, dropout=dropout)
        self.pooler = _affine(weights, "bert.pooler.dense")
        self.classifier = _affine(weights, "classifier")

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """Logits (rows,), float32, of ids, mask and segments (rows, length), int64."""
        first = self.states(ids, mask, segments)[:, 0]
        logits: Tensor = self.classifier(torch.tanh(self.pooler(first)))[:, 0]
        return logits.float()

    def _heads(self) -> dict[str, _Affine]:
        return {"bert.pooler.dense": self.pooler, "classifier": self.classifier}


class TwinEncoder(Trunk):
    """Token ids of one text to a vector; a weight and a bias make a logit of two texts' cosine."""

    def __init__(self, weights: Weights, *, layers: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(weights, layers=layers, heads=heads, dropout=dropout)
        self.weight = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Means over the texts' tokens, of unit length: (rows, width), float32."""
        states = self.states(ids, mask, torch.zeros_like(ids)).float()
        seen = mask[:, :, None].float()
        return F.normalize((states * seen).sum(1) / seen.sum(1), dim=-1)


def mean_weights(runs: Sequence[Weights]) -> dict[str, Tensor]:
    """The mean of the weights of runs that went on from one another.

    Weights that are equal in all stay equal bit for bit, so that no adapter has to keep a rounding
    error of what never learnt. "Model soups: averaging weights of multiple fine-tuned models
    improves accuracy" (Wortsman et al., 2022).
    """
    first, *others = runs
    return {
        name: weight + sum(each[name] - weight for each in others) / len(runs)
        for name, weight in first.items()
    }


def long_names(base: Weights) -> dict[str, Tensor]:
    """The base's weights under the names of ``BertForSequenceClassification``."""
    return {
        name if name.startswith("bert.") else f"bert.{name}": tensor
        for name, tensor in base.items()
        if not name.endswith("position_ids")
    }


def trunk_weights(base: Weights) -> dict[str, Tensor]:
    """Those of them that are no head's."""
    named = long_names(base)
    return {name: w for name, w in named.items() if name.startswith(("bert.em", "bert.en"))}


def fresh_weights(base: Weights) -> dict[str, Tensor]:
    """The base's weights with a new head."""
    named = long_names(base)
    width = named["bert.embeddings.word_embeddings.weight"].shape[1]
    head = {
        "classifier.weight": torch.normal(0.0, 0.01, (1, width)),
        "classifier.bias": torch.zeros(1),
    }
    return named | head
