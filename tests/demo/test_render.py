"""The demo's tables."""

import io

from rich.console import Console, RenderableType

from funnel.demo.grading import grade_stages
from funnel.demo.loader import StreamQuestion, load_stream
from funnel.demo.playback import play
from funnel.demo.render import lost_answers, stage_table, stream_table, summary, trace_table
from funnel.demo.runner import Shown
from tests.demo.traces import hit, miss, ranked, trace

GRADES = {"q": {"answer": 3, "near": 1}}


def _text(renderable: RenderableType, width: int = 160) -> str:
    page = io.StringIO()
    Console(file=page, width=width, color_system=None).print(renderable)
    return page.getvalue()


def test_stage_table_shows_grades_and_times() -> None:
    """A stage that kept an answer, a neighbour and two others is half noise."""
    rows = grade_stages({"q": [trace("find", "x", "answer", "near", "y", ms=12.34)]}, GRADES)
    text = _text(stage_table(rows))
    line = next(line for line in text.splitlines() if "find" in line)
    assert line.split() == ["find", "4", "1", "1", "2", "50%", "50%", "0/1", "12.3"]


def test_stream_table_names_the_matched_question_and_marks_wrong_hits() -> None:
    """Right hits, wrong hits and missed repeats can be told apart."""
    stream = [StreamQuestion(q, g) for q, g in (("a?", "a"), ("a!", "a"), ("b?", "b"), ("b!", "b"))]
    answers = iter([miss("a?"), hit("a!", "a?"), hit("b?", "a?"), miss("b!")])
    lines = _text(stream_table(play(stream, lambda _: next(answers)))).splitlines()
    rows = [line for line in lines if "?" in line or "!" in line]
    assert "nothing near" in rows[0]
    assert "hit semantic" in rows[1] and "a?" in rows[1] and "0.980" in rows[1]
    assert "wrong hit" in rows[2]
    assert "missed" in rows[3]


def test_trace_shows_what_every_stage_said_of_every_hit() -> None:
    """Grade, and rank and score at each stage, in one line per hit."""
    result = ranked("q [x]?", trace("find", "b", "a"), trace("rank", "a", "b"))
    text = _text(trace_table(Shown("q1", {"a": 3}, 1, result)))
    line = next(line for line in text.splitlines() if "How to a" in line)
    assert line.split() == ["1", "How", "to", "a", "3", "#2", "0.25", "#1", "0.25"]
    assert "q [x]?" in text and "climbed 1" in text


def test_lost_answers_say_where_they_died() -> None:
    """Relevant articles that are not among the hits are explained, others are not."""
    result = ranked("q", trace("find", "b", "a"), trace("rank", "b"))
    grades = {"a": 3, "b": 3, "c": 3, "d": 1}
    a, c = lost_answers(Shown("q1", grades, 0, result))
    assert a.startswith("a: cut") and "rank" in a
    assert c.startswith("c: never retrieved")


def test_tables_fit_a_narrow_terminal() -> None:
    """At 80 columns every question is one line and no number is cut."""
    kept = [f"d{i}" for i in range(50)]
    rows = grade_stages({"q": [trace("late_interaction", *kept, ms=1234.5)]}, GRADES)
    assert "1234.5" in _text(stage_table(rows), width=80)
    playback = play(load_stream(), lambda query: hit(query, query, ms=1234.5))
    text = _text(stream_table(playback), width=80)
    assert sum("1234.5" in line and "0.980" in line for line in text.splitlines()) == 50


def test_questions_are_printed_as_they_are() -> None:
    """Square brackets in a question are text, not markup."""
    question = StreamQuestion("what is [bold]?", "a")
    assert "[bold]" in _text(stream_table(play([question], miss)))


def test_summary_counts_what_was_saved() -> None:
    """Hits, share, wrong hits, medians and the seconds saved are all there."""
    stream = [StreamQuestion("a?", "a"), StreamQuestion("a!", "a")]
    answers = iter([miss("a?", 500), hit("a!", "a?", 10)])
    text = _text(summary(play(stream, lambda _: next(answers))))
    assert "1 of 2 questions" in text and "50%" in text
    assert "wrong hits: 0" in text
    assert "0.49 s" in text
