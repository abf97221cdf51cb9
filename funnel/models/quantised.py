"""Differences of weights in four bits: all directions of a change, each roughly.

A fully fine-tuned matrix differs from its base in many directions; cut down to a low rank it loses
most of them. Its difference is small and evenly spread, though, so that four bits and a scale for
every 32 of its numbers keep it to within a tenth, in the space of a low-rank adapter (after the
idea of delta compression, Yao and Klimovic 2023, "DeltaZip").
"""

from typing import TYPE_CHECKING

from funnel.errors import ModelError

if TYPE_CHECKING:
    import torch

CODES, SCALES = ".codes", ".scales"
GROUP = 32
_LEVELS = 7
_SHRINK = (1.0, 0.9, 0.8, 0.7)


def quantised(matrix: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Codes and scales of a matrix.

    Args:
        matrix: (out, in), ``in`` a multiple of 32.

    Returns:
        Codes, uint8 (out, in / 2), two to a byte, and scales, float16 (out, in / 32). Of a few
        scales for each group, that with the least squared error is taken.

    Raises:
        ModelError: ``in`` is no multiple of 32.
    """
    import torch

    rows, columns = matrix.shape
    if columns % GROUP:
        raise ModelError(
            f"a matrix of shape {(rows, columns)} cannot be kept in four bits; expected a multiple "
            f"of {GROUP} columns: take a low-rank adapter"
        )
    groups = matrix.float().reshape(rows, -1, GROUP)
    widest = groups.abs().amax(-1, keepdim=True) / _LEVELS
    tried = [(widest * share).half().float().clamp_min(1e-7) for share in _SHRINK]
    coded = [(groups / scale).round().clamp(-_LEVELS, _LEVELS) for scale in tried]
    errors = [
        ((codes * scale - groups) ** 2).sum(-1) for codes, scale in zip(coded, tried, strict=True)
    ]
    best = torch.stack(errors).argmin(0)[None, :, :, None]
    codes = torch.stack(coded).take_along_dim(best, 0)[0].reshape(rows, columns)
    scales = torch.stack(tried).take_along_dim(best, 0)[0, :, :, 0].half()
    shifted = (codes + _LEVELS).to(torch.uint8)
    return shifted[:, ::2] | (shifted[:, 1::2] << 4), scales


def restored(codes: "torch.Tensor", scales: "torch.Tensor") -> "torch.Tensor":
    """The matrix (out, in), float32, that :func:`quantised` kept."""
    import torch

    rows = codes.shape[0]
    values = torch.stack([codes & 15, codes >> 4], dim=-1).reshape(rows, -1).float() - _LEVELS
    return (values.reshape(rows, -1, GROUP) * scales.float()[:, :, None]).reshape(rows, -1)
