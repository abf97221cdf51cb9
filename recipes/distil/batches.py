"""Texts on the device, and batches of them by length without a copy from the host for each."""

from collections.abc import Callable, Iterator
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


@dataclass(frozen=True)
class Texts:
    """Compact word-piece ids of all texts: (texts, window) on the device, lengths on both sides."""

    ids: Tensor
    lengths: Tensor
    sizes: Ints

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def of(cls, flat: NDArray[np.uint16], sizes: Ints, window: int, device: str) -> "Texts":
        """From the ids of all texts one after another; what is beyond the window is cut."""
        kept = np.minimum(sizes, window)
        ids = np.zeros((len(sizes), window), dtype=np.int32)
        places = np.arange(window)[None] < kept[:, None]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        source = starts[:, None] + np.arange(window)[None]
        ids[places] = flat[source[places]]
        lengths = torch.from_numpy(kept).to(device)
        return cls(torch.from_numpy(ids).to(device), lengths, kept.astype(np.int64))

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


@dataclass(frozen=True)
class Sides:
    """Pairs of texts by their numbers: on the host, where lengths are known, and on the device."""

    texts: Texts
    first: Ints
    second: Ints
    numbers: Tensor
    """Shape (2, pairs)."""

    @classmethod
    def of(cls, texts: Texts, first: Ints, second: Ints) -> "Sides":
        """The same numbers at both places."""
        numbers = torch.from_numpy(np.stack([first, second])).to(texts.ids.device)
        return cls(texts, first, second, numbers)

    def together(self, items: Ints, between: int) -> Ints:
        """Tokens of each pair in one row, with its special ones."""
        sizes = self.texts.sizes
        return np.asarray(sizes[self.first[items]] + sizes[self.second[items]] + between + 2)

    def longest(self, items: Ints) -> Ints:
        """Tokens of each pair's longer text, with its special ones."""
        sizes = self.texts.sizes
        return np.maximum(sizes[self.first[items]], sizes[self.second[items]]) + 2

    def turned_at_random(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """First and second numbers of pairs, about every other pair turned."""
        one, two = self.numbers[:, chosen]
        turned = torch.rand(len(chosen), device=one.device) < 0.5
        return torch.where(turned, two, one), torch.where(turned, one, two)


def rounded(length: int) -> int:
    """Up to a multiple of eight, which matrix units like."""
    return -(-length // _STEP) * _STEP


def by_length(
    sizes: Ints, batch: int, device: torch.device, order: Ints, rng: np.random.Generator | None
) -> Iterator[tuple[Tensor, int]]:
    """Positions on the device and their longest size; shuffled batches of alike sizes.

    Without ``rng`` one sort for all, nothing shuffled.
    """
    span = batch * _CHUNK if rng is not None else max(1, len(order))
    for start in range(0, len(order), span):
        part = order[start : start + span]
        part = part[np.argsort(sizes[part], kind="stable")]
        where = torch.from_numpy(part).to(device)
        begins: Ints = np.arange(0, len(part), batch)
        if rng is not None:
            rng.shuffle(begins)
        for begin in begins:
            longest = int(sizes[part[begin : begin + batch][-1]])
            yield where[begin : begin + batch], longest


def rounds(
    draw: Callable[[], Ints],
    sizes: Callable[[Ints], Ints],
    batch: int,
    device: torch.device,
    rng: np.random.Generator,
) -> Iterator[tuple[Tensor, int]]:
    """Batches for ever of what ``draw`` gives for a round: (items on the device, longest size)."""
    while True:
        items = draw()
        on_device = torch.from_numpy(items).to(device)
        order = rng.permutation(len(items))
        for where, longest in by_length(sizes(items), batch, device, order, rng):
            yield on_device[where], longest
