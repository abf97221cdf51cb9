"""Pairs of near questions that nobody has labelled, for the teachers to read."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recipes.distil.batches import Ints
from recipes.distil.prepared import Prepared

_AT_ONCE = 4_096
_LAST = 24
_FROM_TUNED, _FROM_BASE = (6, 3), (6, 2)
"""Of each text's neighbours: so many of the nearest, and so many of those up to the last."""
_ITSELF = -2


class Mined(NamedTuple):
    """Numbers of both sides, in a random order."""

    first: Ints
    second: Ints


def mine(data: Prepared, tuned: Tensor, base: Tensor, rng: np.random.Generator) -> Mined:
    """Distinct pairs of near texts of the pool, by either space, none of them held out.

    What the base holds for near is what a cache looks up, what the tuned space does is hard.
    """
    found = []
    for space, (near, further) in ((tuned, _FROM_TUNED), (base, _FROM_BASE)):
        others = neighbours(space[torch.from_numpy(data.pool).to(space.device)], near, further, rng)
        found.append(np.stack([np.repeat(data.pool, others.shape[1]), data.pool[others].ravel()]))
    keys = np.unique(_keys(np.concatenate(found, axis=1)))
    keys = rng.permutation(keys[~np.isin(keys, _keys(data.barred.T))])
    pairs = np.stack([keys >> 32, keys & (2**32 - 1)])
    turned = rng.random(len(keys)) < 0.5
    return Mined(*np.where(turned, pairs[::-1], pairs))


def neighbours(pool: Tensor, near: int, further: int, rng: np.random.Generator) -> Ints:
    """For each vector the positions of its nearest, and of some of those further off."""
    found = []
    for start in range(0, len(pool), _AT_ONCE):
        alike = pool[start : start + _AT_ONCE] @ pool.T
        rows = torch.arange(len(alike), device=pool.device)
        alike[rows, rows + start] = _ITSELF
        found.append(alike.topk(min(_LAST, len(pool) - 1), dim=1).indices.cpu().numpy())
    ranked = np.concatenate(found)
    beyond = ranked[:, near:]
    places = np.tile(np.arange(beyond.shape[1]), (len(ranked), 1))
    chosen = rng.permuted(places, axis=1)[:, :further]
    return np.concatenate([ranked[:, :near], np.take_along_axis(beyond, chosen, 1)], axis=1)


def _keys(pairs: Ints) -> Ints:
    """One number for each pair, (2, n), whichever side comes first."""
    low, high = np.sort(pairs, axis=0)
    return np.asarray(low * 2**32 + high)
