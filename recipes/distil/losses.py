"""What both encoders and all cross-encoders are trained with."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

_SMOOTHING = (0.97, 0.015)
_NEVER = -1e4
_SCALE = 20.0
_MARGIN = 0.02
_TEMPERATURE = 0.05


def smoothed(labels: Tensor) -> Tensor:
    """Labels that allow for some wrong ones."""
    scale, floor = _SMOOTHING
    return labels * scale + floor


def contrast(made: Tensor, sure: Tensor, numbers: Tensor, reference: Tensor) -> Tensor:
    """InfoNCE of the batch's sure duplicates against its other texts, both sides.

    "Representation learning with contrastive predictive coding" (van den Oord et al., 2018). What
    the reference holds for about as near as the duplicate, or nearer, is no negative ("GISTEmbed",
    Solatorio, 2024).

    Args:
        made: vectors of first sides, then second sides, (2 * pairs, width).
        sure: which pairs are duplicates, (pairs,).
        numbers: of the texts, (2 * pairs,).
        reference: other vectors of the same texts, (2 * pairs, any width).
    """
    count = len(made) // 2
    alike, known = similarities(made), similarities(reference)
    partner = ((torch.arange(2 * count, device=made.device) + count) % (2 * count))[:, None]
    positive, bound = alike.gather(1, partner), known.gather(1, partner)
    same = numbers[:, None] == numbers[None]
    choices = alike.masked_fill(same | (known >= bound - _MARGIN), _NEVER)
    first = torch.zeros(2 * count, dtype=torch.long, device=made.device)
    logits = _SCALE * torch.cat([positive, choices], 1)
    losses = F.cross_entropy(logits, first, reduction="none")
    wanted = torch.cat([sure, sure]).float()
    return (losses * wanted).sum() / wanted.sum().clamp(min=1)


def relations(made: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of the batch's similarities against those of other vectors of its texts."""
    itself = torch.eye(len(made), dtype=torch.bool, device=made.device)
    with torch.no_grad():
        goal = (similarities(wanted) / _TEMPERATURE).masked_fill(itself, _NEVER).softmax(1)
    seen = (similarities(made) / _TEMPERATURE).masked_fill(itself, _NEVER).log_softmax(1)
    return -(goal * seen).sum(1).mean()


def similarities(vectors: Tensor) -> Tensor:
    """Of all with all, float32."""
    return vectors.float() @ vectors.float().T
