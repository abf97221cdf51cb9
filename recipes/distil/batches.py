"""Texts on the device, and batches of them by length without a copy from the host for each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
PAD, FIRST, END = 0, 1, 2
"""Compact ids of the special tokens; each model's own rows stand there."""
_STEP = 8
_CHUNK = 48


@dataclass
class Texts:
    """Compact word-piece ids of all texts: (texts, window) on the device, lengths on both sides."""

    ids: Tensor
    lengths: Tensor
    sizes: Ints

    @classmethod
    def of(cls, flat: NDArray[np.uint16], sizes: Ints, window: int, device: str) -> "Texts":
        """From the ids of all texts one after another."""
        kept = np.minimum(sizes, window)
        ids = np.zeros((len(sizes), window), dtype=np.int32)
        places = np.arange(window)[None] < kept[:, None]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        source = starts[:, None] + np.arange(window)[None]
        ids[places] = flat[source[places]]
        return cls(
            torch.from_numpy(ids).to(device), torch.from_numpy(kept).to(device), kept.astype(np.int64)
        )

    def pairs(self, first: Tensor, second: Tensor, length: int, between: int) -> tuple[Tensor, ...]:
        """Ids, mask and segments of ``[first] A [end] B [end]`` with ``between`` ends inside."""
        one, two = self.lengths[first][:, None], self.lengths[second][:, None]
        place = torch.arange(length, device=first.device)[None]
        inner = place - 1
        outer = place - 1 - one - between
        last = self.ids.shape[1] - 1
        left = self.ids[first[:, None], inner.clamp(0, last)]
        right = self.ids[second[:, None], outer.clamp(0, last)]
        total = one + two + between + 2
        ids = torch.where(inner < one, left, torch.where(outer < 0, END, right))
        ids = torch.where((outer >= two) & (place < total), END, ids)
        ids = torch.where(place >= total, PAD, torch.where(place == 0, FIRST, ids))
        seen = place < total
        segments = ((outer >= 0) & seen).long()
        return ids.long(), seen, segments

    def singles(self, chosen: Tensor, length: int) -> tuple[Tensor, ...]:
        """Ids, mask and segments of ``[first] A [end]``."""
        size = self.lengths[chosen][:, None]
        place = torch.arange(length, device=chosen.device)[None]
        inner = self.ids[chosen[:, None], (place - 1).clamp(0, self.ids.shape[1] - 1)]
        ids = torch.where(place <= size, inner, torch.where(place == size + 1, END, PAD))
        ids = torch.where(place == 0, FIRST, ids)
        return ids.long(), place < size + 2, torch.zeros_like(ids).long()


def rounded(length: int) -> int:
    """Up to a multiple of eight, which matrix units like."""
    return -(-length // _STEP) * _STEP


def by_length(
    sizes: Ints, batch: int, device: str, order: Ints, rng: np.random.Generator | None
) -> Iterator[tuple[Tensor, int]]:
    """Positions on the device and their longest size; shuffled batches of alike sizes."""
    span = batch * _CHUNK if rng is not None else len(order)
    for start in range(0, len(order), span):
        part = order[start : start + span]
        part = part[np.argsort(sizes[part], kind="stable")]
        where = torch.from_numpy(part).to(device)
        begins = np.arange(0, len(part), batch)
        if rng is not None:
            rng.shuffle(begins)
        for begin in begins:
            longest = int(sizes[part[min(begin + batch, len(part)) - 1]])
            yield where[begin : begin + batch], longest
