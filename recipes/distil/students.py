"""The students: the small model as a cross-encoder and as an encoder, towards what teachers say."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from recipes.distil.batches import Ints, Sides, rounded, rounds
from recipes.distil.losses import contrast, relations
from recipes.distil.networks import Cross, Twin
from recipes.distil.opinions import Taught
from recipes.distil.pair_losses import cross_losses
from recipes.distil.setting import SEED, Setting
from recipes.distil.training import Schedule, optimise

_CROSS_BATCH, _ENCODER_BATCH = 512, 640
_OTHERS, _OTHERS_LENGTH = 256, 40
_CONTRAST, _RELATIONS = 0.2, 0.3
_DROPOUT = 0.05


def taught_student(setting: Setting, taught: Taught) -> Cross:
    """The small cross-encoder, towards the teachers' probabilities."""
    torch.manual_seed(SEED)
    pooler = (setting.base["pooler.dense.weight"], setting.base["pooler.dense.bias"])
    network = Cross(setting.student(_DROPOUT), pooler).to(setting.device.name)
    schedule = Schedule(setting.plan.student, 3e-4, 400)
    targets = torch.from_numpy(taught.targets)

    def draw() -> Ints:
        return taught.round(setting.rng)

    losses = cross_losses(setting, network, taught, targets, draw, _CROSS_BATCH)
    optimise(network, losses, schedule, setting.device, setting.log, "student")
    return network


def taught_encoder(setting: Setting, taught: Taught, space: Tensor) -> Twin:
    """The small encoder, towards the probabilities and the similarities of the large one's space.

    Similarities also of sentences about everything else, so that it stays of use for those.
    """
    torch.manual_seed(SEED)
    network = Twin(setting.student(_DROPOUT)).to(setting.device.name)
    schedule = Schedule(setting.plan.encoder, 2e-4, 400)
    losses = _encoder_losses(setting, network, taught, space)
    optimise(network, losses, schedule, setting.device, setting.log, "encoder")
    return network


def _encoder_losses(
    setting: Setting, network: Twin, taught: Taught, space: Tensor
) -> Iterator[Tensor]:
    texts, device, rng = setting.texts, setting.device, setting.rng
    sides = Sides.of(texts, taught.first, taught.second)
    targets = torch.from_numpy(taught.targets).to(device.name)
    sure = torch.from_numpy(taught.sure).to(device.name)

    def draw() -> Ints:
        return taught.round(rng)

    for chosen, length in rounds(draw, sides.longest, _ENCODER_BATCH, texts.ids.device, rng):
        numbers = sides.numbers[:, chosen].reshape(-1)
        others = torch.from_numpy(rng.choice(setting.data.others, _OTHERS)).to(device.name)
        with device.autocast():
            made = network(*texts.singles(numbers, rounded(length)))
            more = network(*texts.singles(others, _OTHERS_LENGTH))
        first, second = made.chunk(2)
        logits = network.logits((first * second).sum(1))
        loss = F.binary_cross_entropy_with_logits(logits, targets[chosen])
        loss = loss + _CONTRAST * contrast(made, sure[chosen], numbers, space[numbers])
        everything = torch.cat([numbers, others])
        yield loss + _RELATIONS * relations(torch.cat([made, more]), space[everything])
