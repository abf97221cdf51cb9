"""What teachers and students are made from: whole, in folds, without what is held out."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from recipes.distil.prepared import FILE, Prepared, read_models  # noqa: E402
from recipes.gather import (  # noqa: E402
    EDITS,
    all_parts,
    check_teacher,
    folds_of,
    gather,
    mining_pool,
    number_everything,
    rows_there,
)
from recipes.opened import Opened  # noqa: E402
from recipes.pairs import Pair, fold  # noqa: E402
from recipes.questions import read_questions  # noqa: E402
from tests.recipes.assistant import UnlikeBase  # noqa: E402
from tests.recipes.hotels import write_data, write_groups  # noqa: E402
from tests.training.tiny import tiny_bert  # noqa: E402

if TYPE_CHECKING:
    from recipes.network import Base

SENTENCE = "The old harbour lies below the hill of the town."


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hotels, with a few sentences about everything else."""
    folder = tmp_path_factory.mktemp("gather")
    write_data(folder)
    write_groups(folder / "written")
    for name in ("movies-large", "trec-dl21", "scifact", "qa/climate_fever"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        row = {"_id": "1", "title": f"About {name}", "text": SENTENCE, "claim": "It gets warm."}
        for file in ("corpus.jsonl", "climate-fever.jsonl"):
            (folder / name / file).write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def opened(data: Path) -> Opened:
    folder = tiny_bert(data / "bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return Opened(folder, tokenizer, cast("Base", UnlikeBase()))


@pytest.fixture(scope="module")
def parts(data: Path, opened: Opened) -> dict[str, list[Pair]]:
    return all_parts(read_questions(data, opened.base, data / "written"), data)


@pytest.fixture(scope="module")
def prepared(data: Path, opened: Opened) -> Prepared:
    gather(opened, data, opened.folder, data / "prepared", data / "written")
    return Prepared.load(data / "prepared")


def test_it_reads_back_what_was_gathered(
    data: Path, opened: Opened, parts: dict[str, list[Pair]], prepared: Prepared
) -> None:
    """The tokenizer's word pieces under compact numbers, and both models' rows for these."""
    assert list(prepared.parts) == list(parts)
    small, large = read_models(data / "prepared")
    table = load_file(opened.weights)["embeddings.word_embeddings.weight"]
    starts = np.cumsum(prepared.sizes) - prepared.sizes
    for name in ("train", "test"):
        part, pairs = prepared.parts[name], parts[name]
        assert [prepared.kinds[kind] for kind in part.kinds] == [pair.kind for pair in pairs]
        np.testing.assert_allclose(part.labels, [pair.label for pair in pairs], atol=1e-3)
        start, size = starts[part.second[0]], prepared.sizes[part.second[0]]
        pieces = opened.tokenizer(pairs[0].second, add_special_tokens=False)["input_ids"]
        rows = prepared.flat[start : start + size].astype(int)
        found = small["embeddings.word_embeddings.weight"][rows].float()
        np.testing.assert_allclose(found.numpy(), table[pieces].numpy(), atol=1e-3)
    assert len(large["embeddings.word_embeddings.weight"]) < len(table)
    assert not list((data / "prepared").glob("unfinished*"))
    assert len(prepared.others) == 6  # a text, its three titles, a claim, SQuAD's sentence


def test_a_question_is_of_one_fold_and_so_are_its_duplicates(parts: dict[str, list[Pair]]) -> None:
    """Edits go with the question that was edited, written near misses with theirs."""
    train = parts["train"]
    folds = folds_of(train)
    found = defaultdict(set)
    for pair, sides in zip(train, folds.tolist(), strict=True):
        for text, number in zip(pair[:2], sides, strict=True):
            found[fold(text)].add(number)
        if pair.label == 1 or pair.kind in EDITS or pair.kind.startswith("written"):
            assert len(set(sides)) == 1
    assert {len(numbers) for numbers in found.values()} == {1}
    assert set().union(*found.values()) == {0, 1, 2}


def test_the_pool_has_neither_edits_nor_what_is_held_out(parts: dict[str, list[Pair]]) -> None:
    """Each question once, however it is spelt."""
    pool = mining_pool(parts)
    assert pool
    assert all(fold(text) == folded for folded, text in pool.items())
    for name in ("dev", "test", "adversaries", "written"):
        assert not {fold(text) for pair in parts[name] for text in pair[:2]} & pool.keys()
    edited = [pair for pair in parts["train"] if pair.kind in EDITS]
    others = [pair for pair in parts["train"] if pair.kind not in EDITS]
    only_edited = {fold(text) for pair in edited for text in pair[:2]}
    only_edited -= {fold(text) for pair in others for text in pair[:2]}
    assert only_edited
    assert not only_edited & pool.keys()


def test_held_out_pairs_are_barred_however_they_are_spelt(
    parts: dict[str, list[Pair]], opened: Opened
) -> None:
    """Questions of ``shared`` are trained on, so that mining may meet its pairs again."""
    train, pool = parts["train"], mining_pool(parts)
    met = next(p for p in train if p.kind == "real" and {fold(t) for t in p[:2]} <= pool.keys())
    shouted = met._replace(first=met.first.upper(), second=f"{met.second}?!")
    few = {**{name: [] for name in parts}, "train": train, "shared": [shouted]}
    numbered, _ = number_everything({**few, "test": parts["test"]}, ["x"], opened.tokenizer)
    numbers: dict[str, int] = {}
    for pair, *sides in zip(train, numbered.train.first, numbered.train.second, strict=True):
        numbers |= dict(zip(pair[:2], sides, strict=True))
    expected = {numbers[pool[fold(text)]] for text in met[:2]}
    assert [set(pair) for pair in numbered.barred.tolist()] == [expected]


def test_extra_duplicates_come_once(data: Path, opened: Opened) -> None:
    """Those that were sampled among the questions are not added again."""
    questions = read_questions(data, opened.base, data / "written")
    kinds = ("real", "extra", "transitive", "overlap")
    without = [pair for pair in questions.train if pair.kind != "extra"]
    for train in (questions.train, without):
        found = all_parts(replace(questions, train=train), data)["train"]
        assert len({_key(p) for p in found if p.kind in kinds} & _extra(data)) == len(_extra(data))
        assert sum(pair.kind == "extra" for pair in found) == len(_extra(data))


def _key(pair: Pair) -> frozenset[str]:
    return frozenset((fold(pair.first), fold(pair.second)))


def _extra(data: Path) -> set[frozenset[str]]:
    from recipes.questions import extra_duplicates

    return {_key(pair) for pair in extra_duplicates(data)}


class _Vocabulary:
    """A tokenizer with other numbers for its pieces."""

    pad_token_id, cls_token_id, sep_token_id, unk_token_id = 1, 0, 2, 9

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Pieces of our own."""
        return [f"piece{number}" for number in ids]

    def get_vocab(self) -> dict[str, int]:
        """Theirs, which lacks one."""
        return {f"piece{number}": number + 100 for number in range(7)}


def test_pieces_keep_their_meaning_in_another_vocabulary() -> None:
    """Special ones by what they do; unknown is what it lacks."""
    own: Any = _Vocabulary()
    assert rows_there([0, 5, 6, 3, 4, 8], own, own) == [1, 0, 2, 103, 104, 9]


def test_a_wrong_teacher_is_refused(tmp_path: Path) -> None:
    """None, none there, or other weights."""
    with pytest.raises(SystemExit, match="--teacher FOLDER is missing: all-mpnet-base-v2"):
        check_teacher(None)
    with pytest.raises(SystemExit, match="no such file"):
        check_teacher(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(SystemExit, match="expected 78c0197b6159"):
        check_teacher(tmp_path)


def test_the_data_lies_where_the_run_looks_for_it(data: Path, prepared: Prepared) -> None:
    """In one file beside the weights, last to be written."""
    assert prepared.train.first.dtype == np.int64
    newest = max((data / "prepared").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == FILE
