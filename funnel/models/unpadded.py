"""BERT without padding: all rows of a batch behind one another in one long row.

The linear layers then work on real tokens only, and attention is told where each row begins. For
CUDA, where padding costs as much as work. Imports torch: import lazily.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from funnel.models.bert import Bert
from funnel.models.cross_networks import CrossBert
from funnel.models.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows behind one another.

    ``ids``, ``second`` and ``places`` are int64 (tokens,): token ids, 1 in a pair's second text,
    and positions in the row. ``starts`` is int32 (rows + 1,): where each row begins, and the end.
    """

    ids: Tensor
    second: Tensor
    places: Tensor
    starts: Tensor
    longest: int

    def to(self, device: str) -> "Packed":
        """The same on another device."""
        return Packed(
            ids=self.ids.to(device),
            second=self.second.to(device),
            places=self.places.to(device),
            starts=self.starts.to(device),
            longest=self.longest,
        )


Attention = Callable[[Tensor, Tensor, Tensor, Packed, bool], Tensor]
"""Query, key and value (tokens, heads, size), the rows, and whether queries are first tokens only;
returns (queries, heads, size)."""


def pack(rows: Sequence[Tokens]) -> Packed:
    """Put tokenised pairs behind one another.

    With NumPy: a batch for CUDA has tens of thousands of tokens, and a loop over them takes longer
    than the device needs for the batch.
    """
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    splits = np.fromiter((row.split or len(row) for row in rows), np.int64, len(rows))
    starts = np.concatenate(([0], lengths.cumsum()))
    places = np.arange(starts[-1]) - starts[:-1].repeat(lengths)
    return Packed(
        ids=torch.from_numpy(np.concatenate([np.array(row.ids, np.int64) for row in rows])),
        second=torch.from_numpy((places >= splits.repeat(lengths)).astype(np.int64)),
        places=torch.from_numpy(places),
        starts=torch.from_numpy(starts.astype(np.int32)),
        longest=int(lengths.max()),
    )


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Packed, first_only: bool
) -> Tensor:
    """FlashAttention over rows of any length: half precision on CUDA only."""
    from torch.nn.attention.varlen import varlen_attn

    asked, longest = rows.starts, rows.longest
    if first_only:
        asked, longest = torch.arange(len(rows.starts), device=query.device).int(), 1
    seen = varlen_attn(query, key, value, asked, rows.starts, longest, rows.longest)
    return cast("Tensor", seen)


def padded_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: Packed, first_only: bool
) -> Tensor:
    """The same anywhere: padded for the attention alone, masked, and unpadded again."""
    starts = rows.starts.long()
    lengths = starts.diff()
    inside = torch.arange(rows.longest, device=query.device) < lengths[:, None]
    keys, values = (_padded(each, inside).transpose(1, 2) for each in (key, value))
    queries = query[:, None] if first_only else _padded(query, inside)
    seen = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=inside[:, None, None, :]
    ).transpose(1, 2)
    return seen[:, 0] if first_only else seen[inside]


def _padded(each: Tensor, inside: Tensor) -> Tensor:
    spread = each.new_zeros((*inside.shape, *each.shape[1:]))
    spread[inside] = each
    return spread


def best_attention(size: int, capability: tuple[int, int]) -> Attention:
    """The fused one where it can run, else the padded one.

    Args:
        size: of a head; the fused one takes multiples of 8, at most 256.
        capability: of the device; the fused one needs Ampere or later, and torch 2.10.
    """
    from importlib.util import find_spec

    able = capability >= (8, 0) and size % 8 == 0 and size <= 256
    return fused_attention if able and find_spec("torch.nn.attention.varlen") else padded_attention


def first_states(encoder: Bert, rows: Packed, attention: Attention) -> Tensor:
    """Hidden states of each row's first token, (rows, hidden)."""
    x = encoder.words(rows.ids) + encoder.positions(rows.places)
    x = encoder.norm(x + rows.second[:, None].to(x.dtype) * encoder.second)
    firsts = rows.starts[:-1].long()
    layers = list[Any](encoder.layers)
    last = len(layers) - 1
    for i, layer in enumerate(layers):
        query, key, value = layer.qkv(x).view(len(x), 3, layer.heads, layer.size).unbind(1)
        if i == last:
            query, x = query[firsts], x[firsts]
        seen = attention(query, key, value, rows, i == last).reshape(len(x), -1)
        x = layer.norm1(x + layer.out(seen))
        x = layer.norm2(x + layer.down(layer.up(x)))
    states: Tensor = x
    return states


def unpadded_logits(model: CrossBert, rows: Packed, attention: Attention) -> Tensor:
    """Logits (rows,), as of the padded forward pass."""
    return model.head(first_states(model.encoder, rows, attention))
