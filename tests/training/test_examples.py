"""The shipped data of the worked examples: complete, distinct, and honest about seen and unseen."""

import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from funnel.errors import ConfigError, TrainingStopped
from funnel.training import Case, LabelledPair, TrainSettings, examples, read_pool, read_rows
from funnel.training.checks import check_classes, check_probabilities, check_size
from funnel.training.examples import (
    EXAMPLES,
    Place,
    data_file,
    example_file,
    run_example,
    unscored_triples,
)
from funnel.training.records import case, labelled_pair

NAMES = tuple(EXAMPLES)


def pairs_of(name: str) -> list[LabelledPair]:
    return read_rows(example_file(name, "train.jsonl"), labelled_pair)


def cases_of(name: str) -> list[Case]:
    return read_rows(example_file(name, "cases.jsonl"), case)


@pytest.mark.parametrize("name", NAMES)
def test_training_data_pass_the_projects_own_checks(name: str) -> None:
    """Enough rows, both classes, scores within [0, 1], no pair twice."""
    pairs = pairs_of(name)
    check_size(pairs, "pairs")
    check_probabilities(pairs, what="scores", mend="")
    check_classes(pairs)
    assert max(Counter((pair.query, pair.document) for pair in pairs).values()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_at_least_twelve_topics(name: str) -> None:
    """Each with several queries."""
    queries: defaultdict[str, set[str]] = defaultdict(set)
    for pair in pairs_of(name):
        queries[pair.topic].add(pair.query)
    assert len(queries) >= 12
    assert min(len(found) for found in queries.values()) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_seen_means_that_the_topic_is_in_training(name: str) -> None:
    """And no text of a test case is in training at all."""
    pairs = pairs_of(name)
    topics = {pair.topic for pair in pairs}
    texts = {text for pair in pairs for text in (pair.query, pair.document)}
    for row in cases_of(name):
        assert row.seen == (row.topic in topics), row.topic
        assert not {row.query, row.relevant, row.distractor} & texts


@pytest.mark.parametrize("name", NAMES)
def test_no_test_case_is_paraphrased_in_training(name: str) -> None:
    """No text of a case shares a third of its longer words with any text of training."""
    train = [content(text) for pair in pairs_of(name) for text in (pair.query, pair.document)]
    for row in cases_of(name):
        for text in (row.query, row.relevant, row.distractor):
            words = content(text)
            nearest = max(len(words & other) / max(1, len(words | other)) for other in train)
            assert nearest < 1 / 3, text


@pytest.mark.parametrize("name", NAMES)
def test_most_answers_do_not_win_by_shared_words(name: str) -> None:
    """At least every third question of training has a wrong text that shares more with it."""
    shares: defaultdict[str, dict[bool, int]] = defaultdict(lambda: {True: 0, False: 0})
    for pair in pairs_of(name):
        best, right = shares[pair.query], pair.score >= 0.5
        best[right] = max(best[right], overlap(pair.query, pair.document))
    harder = sum(best[False] > best[True] for best in shares.values())
    assert harder > len(shares) / 3


def test_the_student_sees_each_answer_against_its_own_distractors_and_others() -> None:
    """The teacher's margins are asked for the hard contrasts and for some easy ones."""
    pairs = [
        LabelledPair("q", "right", 1.0),
        LabelledPair("q", "near", 0.3),
        LabelledPair("r", "other", 1.0),
        LabelledPair("r", "right", 0.0),
    ]
    found = {(row.query, row.positive, row.negative) for row in unscored_triples(pairs)}
    assert {("q", "right", "near"), ("r", "other", "right")} <= found
    assert all(positive != negative for _, positive, negative in found)
    assert {positive for _, positive, _ in found} == {"right", "other"}


@pytest.mark.parametrize("name", NAMES)
def test_distractors_share_words_with_their_query(name: str) -> None:
    """More of them than the relevant text does: that is what makes a case hard."""
    cases = cases_of(name)
    shared = [
        (overlap(row.query, row.relevant), overlap(row.query, row.distractor)) for row in cases
    ]
    assert min(distractor for _, distractor in shared) > 0
    assert sum(distractor > relevant for relevant, distractor in shared) > 0.7 * len(cases)


@pytest.mark.parametrize("name", NAMES)
def test_documents_of_training_are_right_for_some_query_and_wrong_for_another(name: str) -> None:
    """So that shunning a text, or shunning shared words, is no way to learn the answers."""
    labels: defaultdict[str, set[bool]] = defaultdict(set)
    for pair in pairs_of(name):
        labels[pair.document].add(pair.score >= 0.5)
    assert all(found == {True, False} for found in labels.values())


def test_security_has_thirty_cases_half_of_them_unseen() -> None:
    """As the issue of this example asks."""
    assert Counter(row.seen for row in cases_of("security")) == {True: 15, False: 15}


def test_every_training_command_has_shipped_data() -> None:
    """Question pairs for ``duplicate``; the labelled pairs are a pool to mine from, too."""
    swaps = read_rows(data_file("example:swaps", "train.jsonl"), labelled_pair)
    check_size(swaps, "pairs")
    check_classes(swaps)
    pool = read_pool(data_file("example:legal", "train.jsonl"))
    assert len(pool.documents) > 2 * max(map(len, pool.positives))
    assert set(map(len, pool.positives)) == {1}


def test_an_unknown_example_names_the_known_ones() -> None:
    """And a path is left alone."""
    with pytest.raises(ConfigError, match="known: legal, bicycle, security"):
        data_file("example:medical", "train.jsonl")
    assert str(data_file("my/pairs.csv", "train.jsonl")) == "my/pairs.csv"


def content(text: str) -> frozenset[str]:
    """Its words of four letters and more."""
    return frozenset(word for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 3)


def overlap(query: str, text: str) -> int:
    """Words of four letters and more that both hold."""
    long = [{word for word in each.lower().split() if len(word) > 3} for each in (query, text)]
    return len(long[0] & long[1])


def test_an_interrupted_example_goes_on_with_what_is_there(tmp_path: Path) -> None:
    """Finished models are kept, a begun run is resumed, the rest starts; only with ``resume``."""
    (tmp_path / "security-teacher").mkdir()
    checkpoint = tmp_path / "security.checkpoints" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete").touch()
    again, anew = Place(tmp_path, resume=True), Place(tmp_path)
    assert again.has("security-teacher") and not again.has("security")
    assert again.options("security").resume and not again.options("legal").resume
    assert not anew.has("security-teacher") and not anew.options("security").resume


def test_resuming_does_not_take_the_model_that_was_to_be_replaced(tmp_path: Path) -> None:
    """An overwrite that was interrupted goes on, with ``resume`` alone, to replace it."""
    (tmp_path / "bicycle").mkdir()
    assert Place(tmp_path, resume=True).has("bicycle")
    assert not Place(tmp_path, resume=True, overwrite=True).has("bicycle")
    run = tmp_path / "bicycle.checkpoints"
    run.mkdir()
    (run / "run.json").touch()
    again = Place(tmp_path, resume=True)
    assert not again.has("bicycle")
    assert (again.options("bicycle").resume, again.options("bicycle").overwrite) == (False, True)
    (run / "checkpoint-3").mkdir()
    (run / "checkpoint-3" / "complete").touch()
    assert not again.has("bicycle")
    assert (again.options("bicycle").resume, again.options("bicycle").overwrite) == (True, True)


def test_a_student_of_an_earlier_teacher_is_not_taken(tmp_path: Path) -> None:
    """A kill between the two models of an overwrite leaves the old student without a mark."""
    for number, model in enumerate(("security", "security-teacher")):
        (tmp_path / model).mkdir()
        (tmp_path / model / "README.md").touch()
        os.utime(tmp_path / model / "README.md", (number, number))
    again = Place(tmp_path, resume=True)
    assert again.has("security-teacher")
    assert not again.has("security", teacher="security-teacher")
    os.utime(tmp_path / "security" / "README.md", (2, 2))
    assert again.has("security", teacher="security-teacher")


def test_a_second_run_of_an_example_names_the_ways_to_go_on(tmp_path: Path) -> None:
    """Starting over would lose what an interrupted example has finished."""
    (tmp_path / "security-teacher").mkdir()
    (tmp_path / "security-teacher" / "adapter.json").touch()
    with pytest.raises(ConfigError, match="interrupted, go on with --resume.*--overwrite"):
        run_example("security", tmp_path)


def test_an_interrupted_overwrite_of_an_example_ends_with_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: str
) -> None:
    """The old model stands until then; afterwards there is a report, and no run is left over."""
    quick = TrainSettings(epochs=1, max_tokens=32, evaluations=1, keep_best=False)
    monkeypatch.setattr(examples, "BASE", tiny_base)
    monkeypatch.setattr(examples, "pair_scores", lambda _: lambda texts: np.zeros(len(texts)))
    monkeypatch.setattr(examples, "_CROSS", replace(quick, epochs=0.5))
    run_example("bicycle", tmp_path)
    old = (tmp_path / "bicycle" / "model.safetensors").read_bytes()
    monkeypatch.setattr(examples, "_CROSS", replace(quick, max_steps=2))
    with pytest.raises(TrainingStopped):
        run_example("bicycle", tmp_path, overwrite=True)
    assert (tmp_path / "bicycle" / "model.safetensors").read_bytes() == old
    monkeypatch.setattr(examples, "_CROSS", quick)
    assert run_example("bicycle", tmp_path, resume=True).reports
    assert (tmp_path / "bicycle" / "model.safetensors").read_bytes() != old
    assert not (tmp_path / "bicycle.checkpoints").exists()
    assert not run_example("bicycle", tmp_path, resume=True).reports
