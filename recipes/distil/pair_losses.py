"""The losses of a cross-encoder over batches of pairs, a teacher's or a student's."""

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from recipes.distil.batches import Ints, Sides, rounded, rounds
from recipes.distil.networks import Cross
from recipes.distil.setting import Setting


class Pairs(Protocol):
    """Numbers of both sides."""

    @property
    def first(self) -> Ints:
        """Of the first sides, (pairs,)."""

    @property
    def second(self) -> Ints:
        """Of the second sides, (pairs,)."""


def cross_losses(
    setting: Setting,
    network: Cross,
    pairs: Pairs,
    targets: Tensor,
    draw: Callable[[], Ints],
    batch: int,
) -> Iterator[Tensor]:
    """Cross-entropy against ``targets`` (pairs,), for ever; ``draw`` says which make a round."""
    texts, device = setting.texts, setting.device
    sides = Sides.of(texts, pairs.first, pairs.second)
    wanted = targets.to(device.name)

    def sizes(items: Ints) -> Ints:
        return sides.together(items, network.between)

    for chosen, length in rounds(draw, sizes, batch, texts.ids.device, setting.rng):
        first, second = sides.turned_at_random(chosen)
        with device.autocast():
            logits = network(*texts.pairs(first, second, rounded(length), network.between))
        yield F.binary_cross_entropy_with_logits(logits, wanted[chosen])
