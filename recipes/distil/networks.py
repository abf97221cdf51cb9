"""Both shapes of network on an accelerator: the student's (BERT) and the teacher's (MPNet).

Weights are float32, products bfloat16 under autocast. Word embeddings do not learn, so they are
kept as tables of the word pieces that occur.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

Weights = Mapping[str, Tensor]
_HIDDEN = -1e4
_BUCKETS, _FURTHEST = 32, 128


@dataclass(frozen=True)
class Names:
    """What a family of models calls its parts; ``{}`` stands for the layer's number."""

    attention: tuple[str, str, str, str]
    attention_norm: str
    up: str
    down: str
    norm: str
    epsilon: float


BERT = Names(
    attention=(
        "encoder.layer.{}.attention.self.query",
        "encoder.layer.{}.attention.self.key",
        "encoder.layer.{}.attention.self.value",
        "encoder.layer.{}.attention.output.dense",
    ),
    attention_norm="encoder.layer.{}.attention.output.LayerNorm",
    up="encoder.layer.{}.intermediate.dense",
    down="encoder.layer.{}.output.dense",
    norm="encoder.layer.{}.output.LayerNorm",
    epsilon=1e-12,
)
MPNET = Names(
    attention=(
        "encoder.layer.{}.attention.attn.q",
        "encoder.layer.{}.attention.attn.k",
        "encoder.layer.{}.attention.attn.v",
        "encoder.layer.{}.attention.attn.o",
    ),
    attention_norm="encoder.layer.{}.attention.LayerNorm",
    up="encoder.layer.{}.intermediate.dense",
    down="encoder.layer.{}.output.dense",
    norm="encoder.layer.{}.output.LayerNorm",
    epsilon=1e-5,
)


class _Affine(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().clone())
        self.bias = nn.Parameter(bias.float().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Norm(_Affine):
    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        super().__init__(weight, bias)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class _Layer(nn.Module):
    def __init__(self, weights: Weights, names: Names, number: int, heads: int, drop: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.number, self.names = number, names
        *parts, out = (name.format(number) for name in names.attention)
        self.qkv = _Affine(
            torch.cat([weights[f"{part}.weight"] for part in parts]),
            torch.cat([weights[f"{part}.bias"] for part in parts]),
        )
        self.out = self._affine(weights, out)
        self.up = self._affine(weights, names.up.format(number))
        self.down = self._affine(weights, names.down.format(number))
        self.norm1 = self._norm(weights, names.attention_norm.format(number))
        self.norm2 = self._norm(weights, names.norm.format(number))

    def _affine(self, weights: Weights, name: str) -> _Affine:
        return _Affine(weights[f"{name}.weight"], weights[f"{name}.bias"])

    def _norm(self, weights: Weights, name: str) -> _Norm:
        return _Norm(weights[f"{name}.weight"], weights[f"{name}.bias"], self.names.epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, length, hidden = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))
        seen = seen.transpose(1, 2).reshape(rows, length, hidden)
        x = self.norm1(x + F.dropout(self.out(seen), self.drop, self.training))
        changed = self.down(F.gelu(self.up(x)))
        result: Tensor = self.norm2(x + F.dropout(changed, self.drop, self.training))
        return result

    def named(self) -> dict[str, Tensor]:
        """Weights under the names they came with."""
        *parts, out = (name.format(self.number) for name in self.names.attention)
        found: dict[str, Tensor] = {}
        for kind in ("weight", "bias"):
            thirds = getattr(self.qkv, kind).detach().chunk(3)
            found |= {f"{part}.{kind}": third for part, third in zip(parts, thirds, strict=True)}
        single = {
            out: self.out,
            self.names.up.format(self.number): self.up,
            self.names.down.format(self.number): self.down,
            self.names.attention_norm.format(self.number): self.norm1,
            self.names.norm.format(self.number): self.norm2,
        }
        for name, part in single.items():
            found |= {f"{name}.weight": part.weight.detach(), f"{name}.bias": part.bias.detach()}
        return found


class Trunk(nn.Module):
    """Token ids to hidden states."""

    table: Tensor
    positions: Tensor
    segments: Tensor
    near: Tensor

    def __init__(self, weights: Weights, names: Names, heads: int, drop: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("table", weights["embeddings.word_embeddings.weight"].half())
        position = weights["embeddings.position_embeddings.weight"].float()
        self.is_mpnet = names is MPNET
        self.register_buffer("positions", position[2:] if self.is_mpnet else position)
        none = torch.zeros(2, position.shape[1])
        segments = weights.get("embeddings.token_type_embeddings.weight", none)
        self.register_buffer("segments", segments.float())
        near = weights.get("encoder.relative_attention_bias.weight", torch.zeros(_BUCKETS, heads))
        self.register_buffer("near", near.float())
        norm = (weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias"))
        self.norm = _Norm(*norm, names.epsilon).requires_grad_(False)
        count = sum(names.up.format(number) + ".weight" in weights for number in range(48))
        self._layers = [_Layer(weights, names, each, heads, drop) for each in range(count)]
        self.layers = nn.ModuleList(self._layers)
        self.width = position.shape[1]

    def forward(self, ids: Tensor, seen: Tensor, segments: Tensor) -> Tensor:
        """Hidden states (rows, length, width) of int64 ids, bool mask and int64 segments."""
        length = ids.shape[1]
        x = self.table[ids].float() + self.positions[:length] + self.segments[segments]
        mask = torch.zeros(seen.shape, device=x.device).masked_fill_(~seen, _HIDDEN)
        mask = mask[:, None, None, :]
        if self.is_mpnet:
            mask = mask + self._nearness(length)
        mask = mask.expand(-1, -1, length, -1) if mask.shape[2] == 1 else mask
        x = self.norm(x)
        for layer in self._layers:
            x = layer(x, mask)
        return x

    def _nearness(self, length: int) -> Tensor:
        """MPNet's bias by relative position, (1, heads, length, length)."""
        place = torch.arange(length, device=self.near.device)
        away = place[:, None] - place[None]
        half, exact = _BUCKETS // 2, _BUCKETS // 4
        far = away.abs().clamp(min=1).float() / exact
        coarse = exact + (far.log() / torch.tensor(_FURTHEST / exact).log() * (half - exact)).long()
        bucket = torch.where(away.abs() < exact, away.abs(), coarse.clamp(max=half - 1))
        bucket = bucket + half * (away < 0)
        return self.near[bucket].permute(2, 0, 1)[None]

    def weights(self) -> dict[str, Tensor]:
        """What learns, under the names it came with."""
        return {name: w for layer in self._layers for name, w in layer.named().items()}


class Cross(nn.Module):
    """Two texts to a logit, from the first token's state."""

    def __init__(self, trunk: Trunk, dense: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        width = trunk.width
        weight, bias = dense or (torch.randn(width, width) * 0.02, torch.zeros(width))
        self.pooler = _Affine(weight, bias)
        self.classifier = _Affine(torch.randn(1, width) * 0.01, torch.zeros(1))

    def forward(self, ids: Tensor, seen: Tensor, segments: Tensor) -> Tensor:
        """Logits (rows,), float32."""
        first = self.trunk(ids, seen, segments)[:, 0]
        logits: Tensor = self.classifier(torch.tanh(self.pooler(first)))[:, 0]
        return logits.float()

    def weights(self) -> dict[str, Tensor]:
        """What learns, under the names of ``BertForSequenceClassification``."""
        named = {f"bert.{name}": weight for name, weight in self.trunk.weights().items()}
        heads = {"bert.pooler.dense": self.pooler, "classifier": self.classifier}
        for name, part in heads.items():
            named |= {f"{name}.weight": part.weight.detach(), f"{name}.bias": part.bias.detach()}
        return named


class Twin(nn.Module):
    """One text to a vector of unit length; a weight and a bias make a logit of a cosine."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.weight = nn.Parameter(torch.tensor(12.0))
        self.bias = nn.Parameter(torch.tensor(-9.0))

    def forward(self, ids: Tensor, seen: Tensor, segments: Tensor) -> Tensor:
        """Means over tokens, of unit length: (rows, width), float32."""
        states = self.trunk(ids, seen, segments).float()
        share = seen[:, :, None].float()
        return F.normalize((states * share).sum(1) / share.sum(1), dim=-1)

    def weights(self) -> dict[str, Tensor]:
        """What learns, under the names of ``BertForSequenceClassification``."""
        return {f"bert.{name}": weight for name, weight in self.trunk.weights().items()}
