"""The embedder: the published vectors, in any batch, from threads and tasks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from funnel.errors import InputError, ModelError
from funnel.models import Embedder
from funnel.models.encoder_networks import PlainEncoder, open_network
from funnel.models.source import EMBEDDED_ENCODER, locate
from funnel.models.worker import ModelWorker
from tests.models.leaving import Held, leaves_no_work
from tests.models.tiny import save_cross_encoder

if TYPE_CHECKING:
    from funnel.models.encoder import EncoderNetwork

pytestmark = pytest.mark.slow
TEXTS = [
    "How do I reset my password?",
    "",
    "Opening hours on public holidays " * 40,
    "naïve café: 東京",
    "lone \ud800 surrogate\x00",
]


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    yield Embedder(EMBEDDED_ENCODER)


def test_vectors_equal_those_of_sentence_transformers(embedder: Embedder) -> None:
    """The own forward pass gives the vectors of the published library."""
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(locate(EMBEDDED_ENCODER).folder), device="cpu")
    expected = library.encode(TEXTS[:4], show_progress_bar=False)
    np.testing.assert_allclose(embedder.encode(TEXTS[:4]), expected, atol=2e-6)


def test_a_folder_saved_anew_goes_through_the_own_forward_pass(
    embedder: Embedder, tmp_path: Path
) -> None:
    """Of today's file format, too: the same vectors and the same window, which moved."""
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(locate(EMBEDDED_ENCODER).folder), device="cpu")
    library.max_seq_length = 100
    library.save(str(tmp_path))
    network = open_network(locate(str(tmp_path)), "fp32")
    assert isinstance(network, PlainEncoder)
    assert network.max_tokens == 100
    vectors = np.concatenate([network.pooled(network.tokenize([text])) for text in TEXTS[:4]])
    expected = library.encode(TEXTS[:4], show_progress_bar=False)
    np.testing.assert_allclose(vectors, expected, atol=2e-6)


def test_vectors_are_float32_and_of_unit_length(embedder: Embedder) -> None:
    """Shape, type and length are as promised, for odd texts too."""
    vectors = embedder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.dim) == (5, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_text_has_the_same_vector_in_any_company(embedder: Embedder) -> None:
    """Batch composition does not change a vector beyond rounding."""
    alone = np.concatenate([embedder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(embedder.encode(TEXTS * 7)[10:15], alone, atol=2e-6)


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    """An empty list is fine."""
    assert embedder.encode([]).shape == (0, 384)
    assert embedder.token_vectors([]) == []


def test_tokens_are_counted_uncut_and_vectors_cut(embedder: Embedder) -> None:
    """Counting shows what the window hides."""
    texts = ["hello world", "a " * 1000]
    assert embedder.count_tokens(texts) == [4, 1002]
    assert [len(each) for each in embedder.token_vectors(texts)] == [4, embedder.max_tokens]


async def test_coroutines_do_not_block_the_event_loop(embedder: Embedder) -> None:
    """A tick keeps coming while texts are embedded."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    vectors = await embedder.aencode(["a rather long text " * 60] * 24)
    ticking.cancel()
    assert ticks > 5
    np.testing.assert_allclose(
        vectors[0], embedder.encode(["a rather long text " * 60])[0], atol=2e-6
    )


async def test_a_caller_that_leaves_while_texts_are_tokenised_leaves_no_work() -> None:
    """What it would have submitted afterwards is not submitted."""
    worker = ModelWorker(streams=1)
    embedder = Embedder(EMBEDDED_ENCODER, worker=worker)
    embedder.load()
    held = Held(embedder._model(), "tokenize")
    embedder._loaded = cast("EncoderNetwork", held)
    await leaves_no_work(embedder.aencode(["a rather long text " * 200]), held, worker)


async def test_texts_may_come_from_any_iterable(embedder: Embedder) -> None:
    """A generator is read once."""
    texts = ["a cat", "another cat"]
    expected = embedder.encode(texts)
    np.testing.assert_array_equal(embedder.encode(text for text in texts), expected)
    np.testing.assert_array_equal(await embedder.aencode(iter(texts)), expected)
    assert embedder.count_tokens(iter(texts)) == embedder.count_tokens(texts)
    assert len(embedder.represent(iter(texts))) == 2


@pytest.mark.parametrize("texts", ["one string", [b"bytes"], [None], None, 5])
def test_what_is_no_text_is_refused(embedder: Embedder, texts: object) -> None:
    """The message says which one."""
    with pytest.raises(InputError, match="expected a"):
        embedder.encode(texts)  # type: ignore[arg-type]


def test_a_cross_encoder_is_no_embedder(tmp_path: Path) -> None:
    """The library would pool its states into vectors that mean nothing."""
    with pytest.raises(ModelError, match="is a cross-encoder, which gives no vectors"):
        Embedder(str(save_cross_encoder(tmp_path))).encode(["a text"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embedded:all-MiniLM-L6", "did you mean 'embedded:all-MiniLM-L6-v2'"),
        ("./no/such/folder", f"no such folder in {Path.cwd()}"),
        ("not a name at all", "no such folder"),
    ],
)
def test_an_unknown_model_is_a_clear_error(name: str, message: str) -> None:
    """Names are checked before anything is fetched."""
    with pytest.raises(ModelError, match=message):
        Embedder(name).load()
