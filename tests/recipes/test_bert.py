"""The networks that measure are those that serve."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from recipes.bert import CrossEncoder, TwinEncoder, long_names  # noqa: E402
from recipes.network import Words, predict, twin_cosines  # noqa: E402
from tests.training.tiny import tiny_encoder  # noqa: E402

TEXTS = ["find alpha", "about kappa and alpha and beta", "gamma", "how about the delta"]
PAIRS = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[0]), (TEXTS[1], TEXTS[3])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_encoder(tmp_path_factory.mktemp("bert") / "encoder"))


def _words(folder: Path) -> Words:
    return Words(transformers.AutoTokenizer.from_pretrained(folder))


def test_logits_are_those_of_transformers(folder: Path) -> None:
    """Same weights, same pairs, padding included: equal to within bfloat16."""
    torch.manual_seed(0)
    library: Any = transformers.BertForSequenceClassification.from_pretrained(folder, num_labels=1)
    words = _words(folder)
    with torch.no_grad():
        library.classifier.weight.mul_(60)
        expected = library.eval()(**words.tokenizer(PAIRS, padding=True, return_tensors="pt"))
    network = CrossEncoder(library.state_dict(), layers=2, heads=2)
    ours = predict(network, words, PAIRS, 48)
    np.testing.assert_allclose(ours, expected.logits[:, 0].numpy(), atol=0.1)
    assert ours.std() > 0.1


def test_cosines_are_those_of_the_library(folder: Path) -> None:
    """Mean pooling over a text's own tokens, whatever shares its batch."""
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(folder), device="cpu")
    first, second = (
        library.encode(side, normalize_embeddings=True) for side in zip(*PAIRS, strict=True)
    )
    network = TwinEncoder(long_names(load_file(folder / "model.safetensors")), layers=2, heads=2)
    ours = twin_cosines(network, _words(folder), PAIRS, 64)
    np.testing.assert_allclose(ours, (first * second).sum(1), atol=0.02)
