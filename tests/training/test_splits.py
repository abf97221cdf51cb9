"""Development parts share no query with training parts."""

from hypothesis import given
from hypothesis import strategies as st

from funnel.training.splits import split_by_group

rows_of_keys = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda row: tuple(sorted(row))),
    max_size=60,
)


@given(rows_of_keys, st.floats(0, 0.9), st.integers(0, 5))
def test_no_key_is_on_both_sides_and_no_row_is_lost(
    rows: list[tuple[int, ...]], share: float, seed: int
) -> None:
    """Holds for rows chained by shared keys; dev is never bigger than asked for."""
    train, dev = split_by_group(rows, lambda row: row, share=share, seed=seed)
    assert sorted(train + dev) == sorted(rows)
    assert not {key for row in train for key in row} & {key for row in dev for key in row}
    assert len(dev) <= round(share * len(rows))


def test_the_same_seed_gives_the_same_split() -> None:
    """And another seed another one."""
    rows = [(number,) for number in range(200)]
    one, again, other = (
        split_by_group(rows, lambda row: row, share=0.2, seed=seed)[1] for seed in (1, 1, 2)
    )
    assert one == again != other
    assert len(one) == 40


@given(st.integers(0, 200), st.sampled_from([0.1, 0.2, 0.5]))
def test_train_keeps_both_kinds_of_rows(seed: int, share: float) -> None:
    """All four negatives belong to one query: it stays, and others are set aside instead."""
    rows = [(f"q{number}", 1.0) for number in range(36)] + [("hard", 0.0)] * 4
    train, dev = split_by_group(
        rows, lambda row: row[:1], share=share, seed=seed, kind=lambda row: row[1]
    )
    assert {label for _, label in train} == {0.0, 1.0}
    assert len(dev) == round(share * len(rows))


@given(rows_of_keys, st.floats(0, 0.9), st.integers(0, 5))
def test_train_tells_apart_what_the_rows_do(
    rows: list[tuple[int, ...]], share: float, seed: int
) -> None:
    """Two kinds are left wherever there were two, and one where there was one."""
    train, dev = split_by_group(
        rows, lambda row: row, share=share, seed=seed, kind=lambda row: row[0] % 3
    )
    kinds = {row[0] % 3 for row in rows}
    assert len({row[0] % 3 for row in train}) >= min(2, len(kinds))
    assert sorted(train + dev) == sorted(rows)
