"""A changed YAML file: the intended settings, and every other character as it was."""

import difflib
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from funnel.errors import ConfigError
from funnel.yaml_edit import edit_stages
from funnel.yaml_source import parse_yaml

Changes = Sequence[Mapping[str, Any] | None]

FILE = """\
# our help centre
collection: 'help-centre'   # quoted

stages:
  # finds
  - kind: "hybrid"            # dense + bm25
    k: 100   # wide
    weights: { dense: 2 }

  # thinks
  - kind: cross_encoder
    model: ${MODEL:-embedded:relevance}
    top_k: ${K:-10}
qdrant: {path: ":memory:"}
# the end
"""


def changed(old: str, new: str) -> list[str]:
    """The lines that differ, as a diff shows them."""
    lines = difflib.ndiff(old.splitlines(keepends=True), new.splitlines(keepends=True))
    return [line for line in lines if line[0] in "+-"]


def edited(text: str, *changes: Mapping[str, Any] | None) -> list[str]:
    return changed(text, edit_stages(text, changes, "c.yaml"))


def test_nothing_to_change_changes_nothing() -> None:
    """Not a character."""
    assert edit_stages(FILE, [{}, {}], "c.yaml") == FILE


def test_only_the_numbers_change() -> None:
    """Each where it stands, by the name that it has; references that stay stay."""
    assert edited(FILE, {"k": 40}, {}) == ["-     k: 100   # wide\n", "+     k: 40   # wide\n"]
    assert edited(FILE, {}, {"k": 5}) == ["-     top_k: ${K:-10}\n", "+     top_k: 5\n"]


def test_a_key_that_is_missing_is_added() -> None:
    """Beside the others, with the indent and the line ends of the file."""
    assert edited(FILE, {"prefetch": 300}, {}) == ["+     prefetch: 300\n"]
    text = FILE.replace("\n", "\r\n")
    assert edited(text, {"prefetch": 300}, {}) == ["+     prefetch: 300\r\n"]
    assert edited("stages:\n- kind: a", {"k": 3}) == ["- - kind: a", "+ - kind: a\n", "+   k: 3"]


def test_a_stage_that_is_left_out_becomes_a_comment() -> None:
    """So that it can be put back, and what is said of it stays with it."""
    assert [line for line in edited(FILE, {}, None) if line[0] == "+"] == [
        "+   # - kind: cross_encoder\n",
        "+   #   model: ${MODEL:-embedded:relevance}\n",
        "+   #   top_k: ${K:-10}\n",
    ]


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("stages: [{kind: a, k: 9}, {kind: b}]", [{"k": 5}, None], "stages: [{kind: a, k: 5}]"),
        ('{"stages":[{"kind":"a"}]}', [{"k": 5}], '{"stages":[{"kind":"a", "k": 5}]}'),
        ("stages: [{kind: a, prefetch}]", [{"prefetch": 5}], "stages: [{kind: a, prefetch: 5}]"),
        (
            "stages:\n- kind: a\n  prefetch:\n",
            [{"prefetch": 5}],
            "stages:\n- kind: a\n  prefetch: 5\n",
        ),
        ("stages:\n- tail: 'keep'\n", [{"tail": "drop"}], "stages:\n- tail: 'drop'\n"),
        ("\ufeffstages:\r\n- k: 4 # c", [{"k": 3}], "\ufeffstages:\r\n- k: 3 # c"),
        (
            "stages:\n- &a {k: 9}\n- {<<: *a, name: b}\n",  # which took its k from the first
            [{"k": 8}, {}],
            "stages:\n- &a {k: 8}\n- {<<: *a, k: 9, name: b}\n",
        ),
        (
            "stages:\n- k: &n 9\n- k: *n\ncache: {candidates: *n}\n",
            [{"k": 8}, {"k": 7}],
            "stages:\n- k: &n 8\n- k: 7\ncache: {candidates: 9}\n",
        ),
        (
            "stages:\n- kind: a\n- k: &n 9\n- k: *n\n",
            [{}, None, {}],
            "stages:\n- kind: a\n# - k: &n 9\n- k: 9\n",
        ),
        (
            "stages: [\n {k: 9}, # a\n {k: 8, # b\n  n: '# no'}, # c\n]\n",
            [{}, None],
            "stages: [\n {k: 9}, # a\n # b\n  # c\n]\n",
        ),
        (
            "<<: # base\n  stages: # all\n  - k: 9 # wide\ncollection: c\n",
            [{"k": 8}],
            "<<: # base\n  stages: # all\n  - k: 8 # wide\ncollection: c\n",
        ),
        (
            "<<: [{reserve_ms: 5}, {stages: [{k: 9}]}] # base\n",
            [{"k": 8}],
            "<<: [{reserve_ms: 5}, {stages: [{k: 8}]}] # base\n",
        ),
    ],
)
def test_unusual_ways_to_write(text: str, changes: Changes, expected: str) -> None:
    """Brackets, JSON, values that are missing, anchors, merge keys, a byte order mark."""
    assert edit_stages(text, changes, "c.yaml") == expected


def test_what_cannot_be_changed_in_place_is_written_anew() -> None:
    """The settings are right, even so, and a warning says what is lost."""
    text = "other: &s [{kind: a, k: 9}] # said\nstages: *s\n"
    with capture_logs() as logs:
        new = edit_stages(text, [{"k": 4}], "c.yaml")
    assert yaml.safe_load(new)["stages"] == [{"kind": "a", "k": 4}]
    assert [(each["event"], each["file"]) for each in logs] == [("yaml_written_anew", "c.yaml")]
    assert "comments" in logs[0]["lost"]


def test_other_stages_than_were_tuned_are_refused() -> None:
    """A plan does not fit them."""
    with pytest.raises(ConfigError, match="got other stages than were tuned"):
        edit_stages(FILE, [{"k": 4}], "c.yaml")


# -- whatever the file looks like

SIZES = st.integers(1, 10_000)
CHANGES = st.none() | st.fixed_dictionaries(
    {}, optional={"k": SIZES, "prefetch": SIZES, "tail": st.just("drop")}
)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, Changes]:
    """A file in any style, with comments everywhere, and changes to its stages."""
    numbers = count()

    def comment(indent: str = "  ") -> str:
        return f"{indent}# note {next(numbers)}: \"it's {{a: [}}" if draw(st.booleans()) else ""

    def lines(indent: str) -> list[str]:
        return [line for _ in range(draw(st.integers(0, 2))) if (line := comment(indent)) or True]

    def key(name: str, quoted: str) -> str:
        return f"{quoted}{name}{quoted}"

    def size(place: int) -> str:
        plain = str(draw(SIZES))
        written = [plain, plain, f"'{plain}'", f'"${{K:-{plain}}}"', f"&n{place} {plain}"]
        if place:
            written.append("*n0" if anchored else plain)
        return draw(st.sampled_from(written))

    number = draw(st.integers(1, 4))
    is_flow = draw(st.booleans())
    indent = draw(st.sampled_from(["", "  ", "      "]))
    anchored, mergeable = False, False
    stages: list[list[str]] = []
    for place in range(number):
        quoted = draw(st.sampled_from(["", "", "'", '"']))
        pairs = [
            (
                key("kind", quoted),
                draw(st.sampled_from(["a", "'b'", '"c # d"', "&kind" + str(place) + " e"])),
            )
        ]
        if mergeable and draw(st.booleans()):
            pairs.append(("<<", "*s0"))
        if draw(st.booleans()):
            pairs.append((key(draw(st.sampled_from(["k", "top_k"])), quoted), size(place)))
            anchored = anchored or (place == 0 and "&n0" in pairs[-1][1])
        if draw(st.booleans()):
            pairs.append((key("prefetch", quoted), draw(st.sampled_from(["", "~", "7"]))))
        if draw(st.booleans()):
            pairs.append((key("tail", quoted), draw(st.sampled_from(["keep", '"keep"']))))
        if draw(st.booleans()):
            pairs.append(("weights", "{dense: 1, bm25: [1, 2]}"))
        if not is_flow and draw(st.booleans()):
            pairs.append(("text", f"|\n{indent}     # no comment\n{indent}     k: 3"))
        pairs = draw(st.permutations(pairs))
        head = ""
        if place == 0 and draw(st.booleans()):
            head, mergeable = "&s0", True
        one_line = is_flow or (draw(st.booleans()) and all(name != "text" for name, _ in pairs))
        if one_line:
            inner = ", ".join(f"{name}: {value}" for name, value in pairs)
            if is_flow and draw(st.booleans()):
                inner = inner.replace(", ", f",{comment()}\n{indent}    ", 1)
            stages.append([f"{head} {{{inner}}}".strip()])
        else:
            block = [f"{head}{comment()}"] if head else []
            for name, value in pairs:
                said = comment() if "\n" not in value else ""
                block += [f"{name}: {value}{said}", *lines("  ")]
            stages.append(block)
    text = [*lines(""), f'collection: "x"{comment()}', *lines("")]
    if is_flow:
        text.append(f"stages: [{comment()}")
        trailing = draw(st.booleans())
        for place, stage in enumerate(stages):
            comma = "," if trailing or place + 1 < number else ""
            text += [*lines("  "), f"  {stage[0]}{comma}{comment()}"]
        text += [*lines(""), f"  ]{comment()}"]
    else:
        text += [f"stages:{comment()}", *lines("  ")]
        for stage in stages:
            first, *rest = stage
            text += [f"{indent}- {first}{comment() if first.endswith('}') else ''}"]
            text += [f"{indent}  {line}" if line else "" for line in rest] + lines(indent)
    if anchored and draw(st.booleans()):
        text.append("cache: {candidates: *n0}")
    if mergeable and draw(st.booleans()):
        text.append("other: *s0")
    text += lines("")
    whole = "\n".join(text) + draw(st.sampled_from(["", "\n"]))
    whole = draw(st.sampled_from(["", "\ufeff"])) + whole
    changes = [draw(CHANGES.filter(lambda c: c is not None)), *(draw(CHANGES) for _ in stages[1:])]
    return whole.replace("\n", draw(st.sampled_from(["\n", "\r\n"]))), changes


def intended(data: dict[str, Any], changes: Changes) -> dict[str, Any]:
    kept = []
    for stage, change in zip(data["stages"], changes, strict=True):
        if change is not None:
            size = "top_k" if "top_k" in stage and "k" not in stage else "k"
            kept.append({**stage, **{size if k == "k" else k: v for k, v in change.items()}})
    return {**data, "stages": kept}


@settings(max_examples=60)
@given(files())
def test_any_file_gets_the_settings_meant_and_keeps_its_comments(
    case: tuple[str, Changes],
) -> None:
    """Whatever its style, quoting, anchors and line ends."""
    text, changes = case
    new = edit_stages(text, changes, "c.yaml")
    assert parse_yaml(new, "new").data == intended(parse_yaml(text, "old").data, changes)
    said = [line.split("# note ", 1)[1] for line in text.splitlines() if "# note " in line]
    assert [line.split("# note ", 1)[1] for line in new.splitlines() if "# note " in line] == said
    assert ("\r\n" in new) == ("\r\n" in text)
    assert new.startswith(text[: text.index("stages:")])
