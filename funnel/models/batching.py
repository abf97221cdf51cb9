"""Batches by tokens, not by rows: padding is work, so neighbours in length go together."""

from collections.abc import Sequence


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut positions into batches whose padded size stays within a budget.

    Longest first, so that the largest batch comes when memory is freshest and the last batch,
    which others wait for, is the cheapest.

    Args:
        lengths: tokens of each item.
        budget: most tokens of a batch, padding included; an item longer than it goes alone.

    Returns:
        Lists of positions; every position in exactly one.
    """
    order = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))
    batches: list[list[int]] = []
    for position in order:
        if batches and _fits(batches[-1], lengths, budget):
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def _fits(batch: Sequence[int], lengths: Sequence[int], budget: int) -> bool:
    return (len(batch) + 1) * lengths[batch[0]] <= budget


def pair_lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """How much of two texts is kept when both must fit in ``room`` tokens.

    The rule of the ``tokenizers`` library for ``longest_first``: the shorter one is cut only when
    cutting the longer one to the same length is not enough.
    """
    if first + second <= room:
        return first, second
    short, long = min(first, second), max(first, second)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)
