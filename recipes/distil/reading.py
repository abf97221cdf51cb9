"""Passes over many texts or pairs without gradients."""

import numpy as np
import torch
from torch import Tensor

from recipes.distil.batches import Ints, Sides, Texts, by_length, rounded
from recipes.distil.networks import Cross, Twin
from recipes.distil.prepared import Floats, Part
from recipes.distil.training import Device

_PAIRS, _TEXTS = 1_024, 2_048
_AT_ONCE = 200_000


@torch.no_grad()
def cross_logits(network: Cross, texts: Texts, first: Ints, second: Ints, device: Device) -> Floats:
    """Logits of pairs, shape (n,)."""
    sides = Sides.of(texts, first, second)
    order = np.arange(len(first))
    sizes = sides.together(order, network.between)
    out = torch.zeros(len(first), device=texts.ids.device)
    for where, longest in by_length(sizes, _PAIRS, texts.ids.device, order, None):
        one, two = sides.numbers[:, where]
        with device.autocast():
            out[where] = network(*texts.pairs(one, two, rounded(longest), network.between))
    return np.asarray(out.cpu().numpy(), dtype=np.float32)


def both_orders(network: Cross, texts: Texts, part: Part, device: Device) -> Floats:
    """Mean logits of the pairs as given and turned, shape (n,)."""
    given = cross_logits(network, texts, part.first, part.second, device)
    turned = cross_logits(network, texts, part.second, part.first, device)
    return np.asarray((given + turned) / 2, dtype=np.float32)


@torch.no_grad()
def vectors(network: Twin, texts: Texts, device: Device) -> Tensor:
    """Unit vectors of all texts (texts, width), float16, on the device."""
    there = texts.ids.device
    out = torch.zeros(len(texts), network.trunk.width, dtype=torch.half, device=there)
    order = np.arange(len(texts))
    for where, longest in by_length(texts.sizes + 2, _TEXTS, there, order, None):
        with device.autocast():
            out[where] = network(*texts.singles(where, rounded(longest))).half()
    return out


def cosines(space: Tensor, first: Ints, second: Ints) -> Floats:
    """Of texts by their numbers, shape (n,)."""
    found = []
    for start in range(0, len(first), _AT_ONCE):
        one, two = (
            space[torch.from_numpy(side[start : start + _AT_ONCE]).to(space.device)].float()
            for side in (first, second)
        )
        found.append((one * two).sum(1).cpu().numpy())
    return np.concatenate(found).astype(np.float32)
