"""Both shapes of network on an accelerator: the student's (BERT) and the teacher's (MPNet).

Weights are float32, products bfloat16 under autocast. Word embeddings do not learn, so they are
kept as tables of the word pieces that occur.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, takewhile

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

Weights = Mapping[str, Tensor]
_HIDDEN = -1e4
_BUCKETS, _FURTHEST = 32, 128
_KINDS = ("weight", "bias")


@dataclass(frozen=True)
class Family:
    """How a family of models differs from another, and what it calls a layer's parts.

    Attributes:
        attention: query, key, value and what follows them.
        epsilon: of its norms.
        first_position: row of the table that a text's first token has.
        between: ends between two texts in one row.
    """

    attention: tuple[str, str, str, str]
    attention_norm: str
    epsilon: float
    first_position: int
    between: int


BERT = Family(
    attention=(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ),
    attention_norm="attention.output.LayerNorm",
    epsilon=1e-12,
    first_position=0,
    between=1,
)
MPNET = Family(
    attention=(
        "attention.attn.q",
        "attention.attn.k",
        "attention.attn.v",
        "attention.attn.o",
    ),
    attention_norm="attention.LayerNorm",
    epsilon=1e-5,
    first_position=2,
    between=2,
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


def _both(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    weight, bias = (weights[f"{name}.{kind}"] for kind in _KINDS)
    return weight, bias


class _Layer(nn.Module):
    """One layer; ``prefix`` is what the names of its weights begin with."""

    def __init__(
        self, weights: Weights, family: Family, prefix: str, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        *parts, out = (prefix + name for name in family.attention)
        self.qkv = _Affine(
            *(torch.cat([weights[f"{part}.{kind}"] for part in parts]) for kind in _KINDS)
        )
        self.out = _Affine(*_both(weights, out))
        self.up = _Affine(*_both(weights, f"{prefix}intermediate.dense"))
        self.down = _Affine(*_both(weights, f"{prefix}output.dense"))
        attention_norm = prefix + family.attention_norm
        self.norm1 = _Norm(*_both(weights, attention_norm), family.epsilon)
        self.norm2 = _Norm(*_both(weights, f"{prefix}output.LayerNorm"), family.epsilon)
        self._thirds = parts
        self._names = {
            out: self.out,
            f"{prefix}intermediate.dense": self.up,
            f"{prefix}output.dense": self.down,
            attention_norm: self.norm1,
            f"{prefix}output.LayerNorm": self.norm2,
        }

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, length, hidden = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))
        seen = seen.transpose(1, 2).reshape(rows, length, hidden)
        x = self.norm1(x + self._dropped(self.out(seen)))
        changed: Tensor = self.norm2(x + self._dropped(self.down(F.gelu(self.up(x)))))
        return changed

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def named(self) -> dict[str, Tensor]:
        """Weights under the names they came with."""
        found: dict[str, Tensor] = {}
        for kind in _KINDS:
            thirds = getattr(self.qkv, kind).detach().chunk(3)
            pairs = zip(self._thirds, thirds, strict=True)
            found |= {f"{part}.{kind}": third for part, third in pairs}
        return found | _detached(self._names)


def _detached(parts: Mapping[str, _Affine]) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}": getattr(part, kind).detach()
        for name, part in parts.items()
        for kind in _KINDS
    }


class Trunk(nn.Module):
    """Token ids to hidden states."""

    table: Tensor
    positions: Tensor
    segments: Tensor
    near: Tensor

    def __init__(
        self, weights: Weights, family: Family, *, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.family = family
        position = weights["embeddings.position_embeddings.weight"].float()
        self.width = position.shape[1]
        none = torch.zeros(2, self.width)
        self.register_buffer("table", weights["embeddings.word_embeddings.weight"].half())
        self.register_buffer("positions", position[family.first_position :])
        segments = weights.get("embeddings.token_type_embeddings.weight", none)
        self.register_buffer("segments", segments.float())
        near = weights.get("encoder.relative_attention_bias.weight", torch.zeros(0, heads))
        self.register_buffer("near", near.float())
        norm = _both(weights, "embeddings.LayerNorm")
        self.norm = _Norm(*norm, family.epsilon).requires_grad_(False)
        prefixes = takewhile(
            lambda prefix: f"{prefix}output.dense.weight" in weights,
            (f"encoder.layer.{number}." for number in count()),
        )
        self._layers = [_Layer(weights, family, each, heads, dropout) for each in prefixes]
        self.layers = nn.ModuleList(self._layers)

    def forward(self, ids: Tensor, seen: Tensor, segments: Tensor) -> Tensor:
        """Hidden states (rows, length, width) of int64 ids, bool mask and int64 segments."""
        length = ids.shape[1]
        x = self.table[ids].float() + self.positions[:length] + self.segments[segments]
        mask = torch.zeros(seen.shape, device=x.device).masked_fill_(~seen, _HIDDEN)
        mask = mask[:, None, None, :].expand(-1, -1, length, -1)
        if len(self.near):
            mask = mask + self._nearness(length)
        x = self.norm(x)
        for layer in self._layers:
            x = layer(x, mask)
        states: Tensor = x
        return states

    def _nearness(self, length: int) -> Tensor:
        """MPNet's bias by relative position, (1, heads, length, length)."""
        place = torch.arange(length, device=self.near.device)
        away = place[:, None] - place[None]
        half, exact = _BUCKETS // 2, _BUCKETS // 4
        far = away.abs().clamp(min=1).float() / exact
        coarse = exact + (far.log() / torch.tensor(_FURTHEST / exact).log() * (half - exact)).long()
        bucket = torch.where(away.abs() < exact, away.abs(), coarse.clamp(max=half - 1))
        bias: Tensor = self.near[bucket + half * (away < 0)]
        return bias.permute(2, 0, 1)[None]

    def weights(self) -> dict[str, Tensor]:
        """What learns, under the names it came with."""
        return {name: weight for layer in self._layers for name, weight in layer.named().items()}


class Cross(nn.Module):
    """Two texts to a logit, from the first token's state.

    ``pooler``: weight and bias of the layer below the logit's; fresh ones if not given.
    """

    def __init__(self, trunk: Trunk, pooler: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        width = trunk.width
        self.pooler = _Affine(*(pooler or (torch.randn(width, width) * 0.02, torch.zeros(width))))
        self.classifier = _Affine(torch.randn(1, width) * 0.01, torch.zeros(1))

    @property
    def between(self) -> int:
        """Ends between the two texts."""
        return self.trunk.family.between

    def forward(self, ids: Tensor, seen: Tensor, segments: Tensor) -> Tensor:
        """Logits (rows,), float32."""
        first = self.trunk(ids, seen, segments)[:, 0]
        logits: Tensor = self.classifier(torch.tanh(self.pooler(first)))[:, 0]
        return logits.float()

    def weights(self) -> dict[str, Tensor]:
        """What learns, under the names of ``BertForSequenceClassification``."""
        named = {f"bert.{name}": weight for name, weight in self.trunk.weights().items()}
        return named | _detached({"bert.pooler.dense": self.pooler, "classifier": self.classifier})


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

    def logits(self, cosines: Tensor) -> Tensor:
        """Of duplicates, given cosines of vectors."""
        return self.weight * cosines + self.bias

    def weights(self) -> dict[str, Tensor]:
        """What learns, under the names of ``BertForSequenceClassification``."""
        return {f"bert.{name}": weight for name, weight in self.trunk.weights().items()}
