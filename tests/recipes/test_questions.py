"""The duplicate recipe's pairs: held-out parts are disjoint, labels mean what they say."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from recipes.measures import read_contrasts
from recipes.pairs import Pair, fold
from recipes.questions import Questions, paraphrase_tests, read_held_out, read_questions
from tests.recipes.assistant import SmallBase
from tests.recipes.hotels import write_data, write_groups

if TYPE_CHECKING:
    from recipes.network import Base


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    write_groups(folder / "written")
    return folder


@pytest.fixture(scope="module")
def questions(data: Path) -> Questions:
    return read_questions(data, cast("Base", SmallBase()), data / "written")


def _texts(pairs: list[Pair]) -> set[str]:
    return {fold(text) for pair in pairs for text in (pair.first, pair.second)}


def test_parts_share_no_question(questions: Questions) -> None:
    """No question of a held-out part was seen in training, edited or not."""
    assert questions.test
    assert not _texts(questions.train) & _texts(questions.test)
    assert not _texts(questions.dev) & _texts(questions.test)
    assert not _texts(questions.train) & _texts(questions.dev)


def test_what_is_measured_on_does_not_depend_on_training_pairs(
    data: Path, questions: Questions
) -> None:
    """Weighing an installed model's parts anew meets the pairs that it was measured on."""
    held = read_held_out(data, cast("Base", SmallBase()), data / "written")
    assert held.adversaries
    assert vars(held).items() <= vars(questions).items()


def test_pairs_that_are_alone(questions: Questions) -> None:
    """Held-out pairs whose questions occur in no other pair of any file, and only those."""
    assert questions.alone
    assert set(questions.alone) < set(questions.test)
    counts = Counter(fold(text) for pair in questions.test for text in pair[:2])
    assert {counts[text] for text in _texts(questions.alone)} == {1}


def test_no_pair_of_the_dev_file_is_trained_on(questions: Questions) -> None:
    """Its questions may occur in training, its pairs never, not even where train repeats one."""
    assert questions.shared
    trained = {frozenset((fold(pair.first), fold(pair.second))) for pair in questions.train}
    held = [*questions.shared, *questions.dev, *questions.test]
    assert not trained & {frozenset((fold(pair.first), fold(pair.second))) for pair in held}
    assert _texts(questions.shared) & _texts(questions.train)


def test_questions_about_one_sentence_are_hard_negatives(questions: Questions) -> None:
    """Mended SQuAD questions of the same sentence."""
    found = [pair for pair in questions.train if pair.kind == "same sentence"]
    assert {pair.label for pair in found} == {0.0}
    assert _texts(found) == {"what is blue", "which colour has the sky"}


def test_edits_are_labelled_by_what_they_do(questions: Questions) -> None:
    """Antonyms and turned directions break, moved clauses and spellings keep."""
    labels = {pair.kind: pair.label for pair in questions.train}
    assert labels["antonym"] == labels["direction"] == 0.0
    assert labels["clause"] == labels["surface"] == 1.0


def test_written_groups_are_held_apart_by_topic(questions: Questions) -> None:
    """Most train, a few only measure; no question is in both parts."""
    trained = [pair for pair in questions.train if pair.kind.startswith("written")]
    assert len(trained) > len(questions.written) > 0
    assert not _texts(trained) & _texts(questions.written)
    assert {pair.label for pair in questions.written} == {0.0, 1.0}


def test_other_sentences_carry_soft_labels(questions: Questions) -> None:
    """MRPC's loose paraphrases are not taken for certain."""
    found = {pair.label for pair in questions.train if pair.kind == "mrpc"}
    assert found == {0.85}


def test_same_data_gives_the_same_pairs(questions: Questions) -> None:
    """Adversaries of the held-out part come from its own questions."""
    kinds = {pair.kind for pair in questions.adversaries}
    assert {"antonym", "surface"} <= kinds


def test_contrasts_cover_every_kind_of_trap() -> None:
    """The hand-written set has both labels, no doubles, and the traps a cache must not fall in."""
    contrasts = read_contrasts()
    assert {pair.kind for pair in contrasts if not pair.label} >= {
        "order",
        "number",
        "negation",
        "antonym",
        "name",
    }
    assert len({(pair.first, pair.second) for pair in contrasts}) == len(contrasts)
    assert 30 <= sum(pair.label for pair in contrasts) <= len(contrasts) - 30


def test_paraphrase_tests_leave_out_what_the_other_set_trains_on(tmp_path: Path) -> None:
    """STS took pairs from MRPC, whichever part they were in there."""
    for name, text in {
        "mrpc/msr-para-train.tsv": "h\n",
        "stsb/sts-train.csv": "h\n0\tx\tThe dog ran.\tA dog ran\t4.0\n",
        "mrpc/msr-para-test.tsv": "h\n1\t1\t2\ta dog ran\tThe dog ran\n1\t1\t2\ta cat\tThe cat\n",
        "stsb/sts-dev.csv": "h\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert [pair.first for pair in paraphrase_tests(tmp_path)["MRPC test"]] == ["a cat"]


def test_paraphrase_tests_leave_out_doubtful_grades(tmp_path: Path) -> None:
    """An STS grade between 'same' and 'not the same' is no test."""
    for name, text in {
        "mrpc/msr-para-train.tsv": "h\n",
        "stsb/sts-train.csv": "h\n",
        "mrpc/msr-para-test.tsv": "h\n0\t1\t2\ta\tb\n",
        "stsb/sts-dev.csv": "h\n0\tx\ta\tb\t4.0\n1\tx\ta\tb\t4.6\n2\tx\ta\tb\t1.0\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = paraphrase_tests(tmp_path)["STS-B dev"]
    assert [pair.label for pair in found] == [1.0, 0.0]
