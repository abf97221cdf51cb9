"""Signs: operators are told apart, punctuation is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.cache.signs import signs
from tests.cache.vetoes import vetoed

_PAIRS = [
    ("==", "==="),
    ("&&", "&"),
    ("//", "/"),
    ("*", "**"),
    (">", ">>"),
    ("!=", "=="),
    ("->", "=>"),
    ("++", "+"),
    ("<=", "<"),
    ("|", "||"),
    ("..", "..."),
    ("?", "??"),
    ("?.", "?:"),
    ("~", "%"),
]


@pytest.mark.parametrize(("one", "other"), _PAIRS)
@pytest.mark.parametrize(
    "frame",
    ["What does {} do in this language?", "what is the {} operator", "when do I use `{}` here?"],
)
def test_other_operators_are_vetoed(frame: str, one: str, other: str) -> None:
    """What is asked about, or stands in quotes, is a sign of its own."""
    assert vetoed(frame.format(one), frame.format(other))
    assert vetoed(frame.format(other), frame.format(one))


@pytest.mark.parametrize(
    ("first", "second"),
    [("does a == b in JS?", "does a === b in JS?"), ("is a && b fast", "is a || b fast")],
)
def test_operators_of_code_need_no_frame(first: str, second: str) -> None:
    """No prose has them."""
    assert vetoed(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("bed & breakfast in Rome", "bed and breakfast in Rome"),
        ("tea & coffee prices", "tea / coffee prices"),
        ("open Settings > Privacy > Data", "open Settings -> Privacy -> Data"),
        ("open Settings >> Privacy", "open Settings => Privacy"),
        ("it fails - why ??", "it fails ... why ?"),
        ("help me !! it fails", "help me -- it fails"),
        ("rows where x = 5", "rows where x == 5"),
        ("rows where x <> 5", "rows where x != 5"),
        ("what is and/or ?", "what is (and/or) ?"),
        ("what does == mean?", "what does `==` mean"),
        ("what does == mean?", "what does the double equals sign mean"),
    ],
)
def test_punctuation_is_not_vetoed(first: str, second: str) -> None:
    """Dashes, dots, arrows and signs for a word mean nothing by themselves."""
    assert not vetoed(first, second)
    assert not vetoed(second, first)


_PROSE = """
- -- ... ?? !! / & > -> => | + = : word and what of
"""


@given(st.lists(st.sampled_from(_PROSE.split())))
def test_prose_has_no_operators(words: list[str]) -> None:
    """Whatever stands between words."""
    assert not signs(" ".join(words))
