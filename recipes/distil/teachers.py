"""The teachers: one large model as an encoder, and as cross-encoders that miss a fold each.

An opinion on a labelled pair is worth something only if it is no memory of its label, so each pair
is read by a teacher that has seen none of the questions in its fold.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from recipes.distil.batches import Ints, Sides, rounded, rounds
from recipes.distil.losses import contrast, smoothed
from recipes.distil.networks import Cross, Twin
from recipes.distil.pair_losses import cross_losses
from recipes.distil.setting import SEED, Setting
from recipes.distil.training import Schedule, optimise

CAPS: Final = {
    "extra": 22_000, "transitive": 8_000, "one word apart": 6_000, "swap": 10_000, "name": 6_000,
    "antonym": 5_000, "number": 3_500, "negation": 2_500, "clause": 4_000, "conjunct": 4_000,
    "surface": 4_000, "same sentence": 3_000, "stsb": 4_000, "mrpc": 2_500,
}  # fmt: skip
"""Most pairs of a kind in a round; kinds that are not named enter whole."""
_CONTRASTED = frozenset({"real", "extra", "transitive", "overlap", "intent", "written"})
_SURE = 0.8
_BATCH = 192
_CONTRAST = 0.3
_DROPOUT = 0.1


def untaught_encoder(setting: Setting) -> Twin:
    """The large model's encoder as it was published, ready to learn."""
    return Twin(setting.teacher(_DROPOUT)).to(setting.device.name).eval()


def teach_encoder(setting: Setting, network: Twin, reference: Tensor) -> None:
    """Tune its cosine to tell questions apart; ``reference`` are vectors of it before."""
    schedule = Schedule(setting.plan.bi_encoder, 3e-5, 200)
    losses = _encoder_losses(setting, network, reference)
    optimise(network, losses, schedule, setting.device, setting.log, "large encoder")


def taught_cross(setting: Setting, fold: int) -> Cross:
    """A large cross-encoder that has seen no question of one fold."""
    torch.manual_seed(SEED + fold)
    network = Cross(setting.teacher(_DROPOUT)).to(setting.device.name)
    schedule = Schedule(setting.plan.cross_encoder, 5e-5, 200)
    train, allowed = setting.data.train, without_fold(setting.data.folds, fold)
    targets = smoothed(torch.from_numpy(train.labels))

    def draw() -> Ints:
        return capped(setting, allowed)

    losses = cross_losses(setting, network, train, targets, draw, _BATCH)
    optimise(network, losses, schedule, setting.device, setting.log, f"teacher {fold}")
    return network


def without_fold(folds: NDArray[np.int8], fold: int) -> Ints:
    """Positions of pairs of which no side is in the fold."""
    return np.flatnonzero((folds != fold).all(1))


def capped(setting: Setting, chosen: Ints) -> Ints:
    """Some of the chosen training pairs, of each kind no more than its cap, drawn anew."""
    kinds = setting.data.train.kinds[chosen]
    kept = []
    for number, kind in enumerate(setting.data.kinds):
        found = chosen[kinds == number]
        kept.append(setting.rng.permutation(found)[: CAPS.get(kind, len(found))])
    return np.concatenate(kept)


def _encoder_losses(setting: Setting, network: Twin, reference: Tensor) -> Iterator[Tensor]:
    train, texts, device = setting.data.train, setting.texts, setting.device
    sides = Sides.of(texts, train.first, train.second)
    labels = torch.from_numpy(train.labels).to(device.name)
    contrasted = torch.from_numpy(setting.data.of_kinds(_CONTRASTED)).to(device.name)
    everything = np.arange(len(train))

    def draw() -> Ints:
        return capped(setting, everything)

    there = texts.ids.device
    for chosen, length in rounds(draw, sides.longest, _BATCH, there, setting.rng):
        numbers = sides.numbers[:, chosen].reshape(-1)
        with device.autocast():
            made = network(*texts.singles(numbers, rounded(length)))
        first, second = made.chunk(2)
        logits = network.logits((first * second).sum(1))
        loss = F.binary_cross_entropy_with_logits(logits, smoothed(labels[chosen]))
        sure = contrasted[chosen] & (labels[chosen] >= _SURE)
        yield loss + _CONTRAST * contrast(made, sure, numbers, reference[numbers])
