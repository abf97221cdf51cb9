"""Rankings to put in a better order, from the folders that a recipe reads."""

from pathlib import Path

import pytest

from funnel.errors import InputError
from recipes.passages import read_reranking
from tests.evaluation.folders import CORPUS, beir_folder, packed


def test_a_packed_folder_gives_the_same_rankings(tmp_path: Path) -> None:
    """As BEIR publishes some; a document without words is read as nothing."""
    folder = beir_folder(tmp_path / "a", [*CORPUS, {"_id": "d6", "title": "", "text": ""}])
    run = "q1 Q0 d2 1 3 x\nq1 Q0 d6 2 2 x\nq1 Q0 d1 3 1 x\n"
    (folder / "bm25-top100.run").write_text(run)
    (plain,) = read_reranking(folder)
    assert plain.ids == ["d2", "d6", "d1"]
    assert plain.passages == [
        "Pears green pears grow on trees",
        "",
        "Apples red apples grow on trees",
    ]
    assert plain.judged == {"d1": 2, "d2": 1}
    packed(folder, "corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    assert read_reranking(folder) == [plain]


def test_a_broken_line_of_the_corpus_is_named(tmp_path: Path) -> None:
    """With its file and number."""
    folder = beir_folder(tmp_path / "a")
    (folder / "bm25-top100.run").write_text("q1 Q0 d2 1 3 x\n")
    with (folder / "corpus.jsonl").open("a") as stream:
        stream.write("{\n")
    with pytest.raises(InputError, match="line 6: broken JSON"):
        read_reranking(folder)
