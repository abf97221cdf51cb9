"""Playing a stream of questions at a cache."""

from funnel.demo.loader import StreamQuestion, load_stream
from funnel.demo.playback import Playback, play
from funnel.result import FunnelResult
from tests.demo.traces import hit, miss

STREAM = (
    StreamQuestion("Turn on 2FA", "on"),
    StreamQuestion("Turn off 2FA", "off"),
    StreamQuestion("Enable 2FA", "on"),
    StreamQuestion("Disable 2FA", "off"),
)


def _played(*answers: FunnelResult) -> Playback:
    waiting = iter(answers)
    return play(STREAM, lambda _: next(waiting))


def test_a_perfect_cache_hits_all_that_was_asked_before() -> None:
    """Two of four questions repeat: both are hits, none wrong, none missed."""
    playback = _played(
        miss("Turn on 2FA"),
        miss("Turn off 2FA"),
        hit("Enable 2FA", "Turn on 2FA"),
        hit("Disable 2FA", "Turn off 2FA"),
    )
    assert (playback.hits, playback.expected_hits) == (2, 2)
    assert (playback.wrong_hits, playback.missed, playback.saved_share) == (0, 0, 0.5)


def test_an_answer_to_the_opposite_question_is_a_wrong_hit() -> None:
    """The matched question's group decides, also when a hit was expected."""
    playback = _played(
        miss("Turn on 2FA"),
        hit("Turn off 2FA", "Turn on 2FA"),
        hit("Enable 2FA", "Turn on 2FA"),
        hit("Disable 2FA", "Turn on 2FA"),
    )
    assert [played.is_wrong for played in playback.questions] == [False, True, False, True]
    assert playback.wrong_hits == 2


def test_a_hit_that_names_no_known_question_is_wrong() -> None:
    """What cannot be traced to a question of the stream is not given the benefit of the doubt."""
    playback = _played(hit("Turn on 2FA", "from another stream"), *map(miss, "abc"))
    assert playback.wrong_hits == 1


def test_unrecognised_repeats_are_counted_as_missed() -> None:
    """A cache that never hits misses every repeat and saves nothing."""
    playback = _played(*map(miss, "abcd"))
    assert (playback.missed, playback.saved_share, playback.saved_ms) == (2, 0.0, 0.0)
    assert playback.hit_ms is None


def test_savings_are_against_the_median_miss() -> None:
    """Two hits of 2 ms against misses of 100 ms save 196 ms."""
    playback = _played(
        miss("Turn on 2FA", 90),
        miss("Turn off 2FA", 110),
        hit("Enable 2FA", "Turn on 2FA"),
        hit("Disable 2FA", "Turn off 2FA"),
    )
    assert playback.saved_ms == 196


def test_matched_queries_are_compared_as_the_engine_normalises_them() -> None:
    """A match that comes back with other spacing is still the question of the stream."""
    spaced = (StreamQuestion("Turn  on\t2FA", "on"), StreamQuestion("Enable 2FA", "on"))
    answers = iter([miss("Turn on 2FA"), hit("Enable 2FA", "Turn on 2FA")])
    assert play(spaced, lambda _: next(answers)).wrong_hits == 0


def test_every_question_advances_the_bar_and_is_reported() -> None:
    """The shipped stream is played to its end, and the report lists each question."""
    steps: list[int] = []
    playback = play(load_stream(), miss, steps.append)
    report = playback.to_dict()
    assert sum(steps) == len(playback.questions) == 50
    assert report["missed"] == playback.expected_hits == 38
