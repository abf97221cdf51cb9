"""The sliding windows of list-wise ranking (RankGPT, Sun et al. 2023)."""


def windows(size: int, window: int, stride: int, in_one_call: int) -> list[tuple[int, int]]:
    """Half-open spans of positions to rank one after the other, from the bottom to the top.

    Each span overlaps the one below it by ``window - stride``, so that so many good documents can
    rise from any depth to the top in one pass. A list of at most ``in_one_call`` is one span.

    >>> windows(40, window=20, stride=10, in_one_call=30)
    [(20, 40), (10, 30), (0, 20)]
    """
    if size <= max(window, in_one_call):
        return [(0, size)]
    ends = range(size, window, -stride)
    return [*((end - window, end) for end in ends), (0, window)]
