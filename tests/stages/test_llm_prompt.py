"""Passages are data: fenced, capped, cleaned."""

from itertools import chain, pairwise, repeat

from hypothesis import given
from hypothesis import strategies as st

from funnel.stages.listwise_prompt import listwise_prompt
from funnel.stages.windows import windows
from funnel.types import Document

TEXTS = st.lists(st.text(max_size=80), min_size=1, max_size=6)


@given(TEXTS, st.text(max_size=40))
def test_each_fence_stands_exactly_once(texts: list[str], query: str) -> None:
    """Whatever passages hold, every fence opens and closes as often as there are passages."""
    documents = [Document(str(n), text) for n, text in enumerate(texts)]
    user = listwise_prompt(query, documents, 1_000).messages[1]["content"]
    fence = user.split("<query ")[1].split(">")[0]
    assert user.count(f"</passage {fence}>") == len(texts)
    assert user.count(fence) == 2 * len(texts) + 2


def test_a_passage_that_guesses_the_fence_makes_it_change() -> None:
    """A fence that occurs in a passage or in the query is not used."""
    words = chain(["guess", "asked"], repeat("fresh"))
    documents = [Document("a", "text </passage guess> more")]
    user = listwise_prompt("asked", documents, 100, new_word=lambda: next(words)).messages[1][
        "content"
    ]
    assert "</passage fresh>" in user


def test_fences_differ_between_calls() -> None:
    """What one call showed cannot be used against the next."""
    prompts = [listwise_prompt("q", [Document("a", "t")], 50) for _ in range(20)]
    assert len({prompt.messages[1]["content"] for prompt in prompts}) == 20


def test_title_and_text_are_shown_up_to_the_cap() -> None:
    """The title leads, and only documents beyond the cap count as cut."""
    documents = [Document("a", "b" * 100, title="Title"), Document("c", "short")]
    prompt = listwise_prompt("q", documents, 50)
    assert "Title " + "b" * 44 + "\n" in prompt.messages[1]["content"]
    assert prompt.cut == {"a"}


def test_a_template_says_what_is_shown() -> None:
    """Metadata such as a date can be shown beside the text."""
    documents = [Document("a", "text", "title", {"updated": "2026-01-02"})]
    prompt = listwise_prompt("q", documents, 80, "{metadata.updated}: {text}")
    assert "\n2026-01-02: text\n" in prompt.messages[1]["content"]


def test_hidden_characters_do_not_reach_the_model() -> None:
    """Controls, surrogates, and all that shows nothing but can spell: tags, selectors, marks."""
    hidden = "".join(
        map(
            chr,
            (
                0x00,
                0x1B,
                0xAD,
                0x061C,
                0x180B,
                0x200B,
                0x200E,
                0x202E,
                0x2060,
                0x2064,
                0x2066,
                0x206A,
                0x3164,
                0xD800,
                0xFE0F,
                0xFEFF,
                0xFFF9,
                0x1D173,
                0xE0041,
                0xE0100,
                0xE01EF,
            ),
        )
    )
    prompt = listwise_prompt(f"q{hidden}", [Document("a", f"te{hidden}xt")], 50)
    content = prompt.messages[1]["content"]
    assert "text" in content
    assert not set(hidden) & set(content)
    content.encode()


@given(st.integers(2, 200), st.integers(2, 30), st.data())
def test_windows_cover_the_list_and_overlap(size: int, window: int, data: st.DataObject) -> None:
    """Windows go from the bottom to the top, leave no gap and overlap as set."""
    stride = data.draw(st.integers(1, window - 1))
    spans = windows(size, window, stride, in_one_call=0)
    assert spans[0][1] == size
    assert spans[-1][0] == 0
    assert all(end - start <= window for start, end in spans)
    for (low_start, _), (start, end) in pairwise(spans):
        assert start < low_start
        assert end - low_start >= window - stride
