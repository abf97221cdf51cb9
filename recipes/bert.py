"""BERT, with one logit or one vector on top, as measuring needs it: fast on CPUs.

bfloat16 throughout where the processor multiplies in it, elsewhere float32; one product for
query, key and value; attention spelt out, which is faster than the fused one where texts are
short. Weights have the names of ``BertForSequenceClassification``.
"""

from collections.abc import Mapping

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
    """A matrix and a bias in the faster type."""

    def __init__(self, weights: Weights, *names: str) -> None:
        super().__init__()
        matrix, bias = (
            torch.cat([weights[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias")
        )
        self.weight = nn.Parameter(matrix.to(_WORKING), requires_grad=False)
        self.bias = nn.Parameter(bias.to(_WORKING), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Norm(nn.Module):
    """In the type of what it is given."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights[f"{name}.weight"].float(), requires_grad=False)
        self.bias = nn.Parameter(weights[f"{name}.bias"].float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias, _EPSILON)


class _Layer(nn.Module):
    def __init__(self, weights: Weights, prefix: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _Affine(weights, *(f"{prefix}attention.self.{part}" for part in _PARTS))
        self.out = _Affine(weights, f"{prefix}attention.output.dense")
        self.norm1 = _Norm(weights, f"{prefix}attention.output.LayerNorm")
        self.up = _Affine(weights, f"{prefix}intermediate.dense")
        self.down = _Affine(weights, f"{prefix}output.dense")
        self.norm2 = _Norm(weights, f"{prefix}output.LayerNorm")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, length, hidden = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        alike = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + mask
        seen = (torch.softmax(alike, -1) @ value).transpose(1, 2).reshape(rows, length, hidden)
        x = self.norm1(x + self.out(seen))
        changed: Tensor = self.norm2(x + self.down(F.gelu(self.up(x))))
        return changed


class Trunk(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, weights: Weights, *, layers: int, heads: int) -> None:
        super().__init__()
        self._tables = {
            part: weights[f"bert.embeddings.{part}_embeddings.weight"].float()
            for part in ("word", "position", "token_type")
        }
        self._norm = _Norm(weights, "bert.embeddings.LayerNorm")
        self._layers = [
            _Layer(weights, f"bert.encoder.layer.{number}.", heads) for number in range(layers)
        ]
        self.layers = nn.ModuleList(self._layers)

    def states(self, ids: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """Last hidden states (rows, length, width), in the faster type, of int64 (rows, length)."""
        tables = self._tables
        words = tables["word"][ids] + tables["position"][: ids.shape[1]]
        x: Tensor = self._norm(words + tables["token_type"][segments]).to(_WORKING)
        hidden = torch.zeros(mask.shape, dtype=x.dtype).masked_fill_(mask == 0, _HIDDEN)
        for layer in self._layers:
            x = layer(x, hidden[:, None, None, :])
        return x


class CrossEncoder(Trunk):
    """Token ids of two texts to a logit."""

    def __init__(self, weights: Weights, *, layers: int, heads: int) -> None:
        super().__init__(weights, layers=layers, heads=heads)
        self.pooler = _Affine(weights, "bert.pooler.dense")
        self.classifier = _Affine(weights, "classifier")

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """Logits (rows,), float32, of ids, mask and segments (rows, length), int64."""
        first = self.states(ids, mask, segments)[:, 0]
        logits: Tensor = self.classifier(torch.tanh(self.pooler(first)))[:, 0]
        return logits.float()


class TwinEncoder(Trunk):
    """Token ids of one text to a vector."""

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Means over the texts' tokens, of unit length: (rows, width), float32."""
        states = self.states(ids, mask, torch.zeros_like(ids)).float()
        seen = mask[:, :, None].float()
        return F.normalize((states * seen).sum(1) / seen.sum(1), dim=-1)


def long_names(base: Weights) -> dict[str, Tensor]:
    """An encoder's weights under the names of ``BertForSequenceClassification``."""
    return {
        name if name.startswith("bert.") else f"bert.{name}": tensor
        for name, tensor in base.items()
        if not name.endswith("position_ids")
    }
