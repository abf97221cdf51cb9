"""The tuned encoder of the duplicate recipe: the network that serves, and what it learns."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from recipes.bert import TwinEncoder, long_names  # noqa: E402
from recipes.network import Words  # noqa: E402
from recipes.pairs import Pair  # noqa: E402
from recipes.questions import Questions  # noqa: E402
from recipes.schedule import Schedule  # noqa: E402
from recipes.twin import TwinTrainer, twin_cosines, twin_vectors  # noqa: E402
from tests.recipes.assistant import UnlikeBase  # noqa: E402
from tests.training.tiny import NAMES, tiny_encoder  # noqa: E402

if TYPE_CHECKING:
    from recipes.network import Base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_encoder(tmp_path_factory.mktemp("twin") / "encoder"))


def _network(folder: Path) -> TwinEncoder:
    from safetensors.torch import load_file

    config = transformers.BertConfig.from_pretrained(folder)
    sizes = {"layers": config.num_hidden_layers, "heads": config.num_attention_heads}
    return TwinEncoder(long_names(load_file(folder / "model.safetensors")), **sizes)


def _words(folder: Path) -> Words:
    return Words(transformers.AutoTokenizer.from_pretrained(folder))


def test_vectors_are_those_of_the_library(folder: Path) -> None:
    """Mean pooling over a text's own tokens, whatever shares its batch."""
    from sentence_transformers import SentenceTransformer

    texts = ["find alpha", "about kappa and alpha and beta", "gamma"]
    library = SentenceTransformer(str(folder), device="cpu").encode(
        texts, normalize_embeddings=True
    )
    with torch.no_grad():
        ours = twin_vectors(_network(folder), _words(folder), texts)
    np.testing.assert_allclose(ours.numpy(), library, atol=0.02)


def test_it_learns_what_asks_the_same(folder: Path, tmp_path: Path) -> None:
    """Duplicates come to be nearer than pairs that are none."""
    same = [(f"find {name}", f"about {name}") for name in NAMES]
    other = [(f"find {a}", f"about {b}") for a, b in itertools.pairwise(NAMES)]
    pairs = [Pair(*texts, 1.0, "real") for texts in same] * 6
    pairs += [Pair(*texts, 0.0, "real") for texts in other] * 6
    questions = Questions(pairs[:4] + pairs[-4:], [], [], [], [], [], train=pairs)
    network, words = _network(folder), _words(folder)

    def gap() -> float:
        near = twin_cosines(network, words, same).mean()
        return float(near - twin_cosines(network, words, other).mean())

    before = gap()
    trainer = TwinTrainer(network, questions, [], words, cast("Base", UnlikeBase()))
    trainer.run(Schedule(1, 2e-3, 2, steps=25), tmp_path / "weights.safetensors")
    assert gap() > before + 0.1
    assert (tmp_path / "weights.safetensors").exists()


def test_texts_of_one_cluster_are_no_negatives(folder: Path) -> None:
    """With nothing but wordings of one question there is nothing to tell apart."""
    texts = [f"about {name}" for name in NAMES]
    pairs = [Pair(a, b, 1.0, "real") for a, b in itertools.pairwise(texts)]
    pairs += [Pair("find alpha", "find beta", 0.0, "real")]
    questions = Questions([], [], [], [], [], [], train=pairs)
    trainer = TwinTrainer(
        _network(folder), questions, [], _words(folder), cast("Base", UnlikeBase())
    )
    assert trainer.contrast(pairs[:-1]).item() == pytest.approx(0.0, abs=1e-6)
    assert trainer.contrast(pairs).item() > 0.0
