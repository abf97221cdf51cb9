"""Prompts that a model's folder declares: which they are, and that texts are read behind them."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from funnel.deadline import Deadline
from funnel.models import Embedder
from funnel.models.pool import ModelPool
from funnel.models.prompts import FILE, Prompts, declared_prompts
from tests.training.tiny import tiny_bert, tiny_encoder

if TYPE_CHECKING:
    from funnel.models.base import Side

E5 = {"prompts": {"query": "find: ", "passage": "about: "}}
TEXTS = ["how about alpha", "", "the beta " * 100]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Prompts()),
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, Prompts()),
        (E5, Prompts("find: ", "about: ")),
        ({"prompts": {"query": "q: ", "document": "", "passage": "p: "}}, Prompts("q: ", "p: ")),
        ({"prompts": {"corpus": "c: ", "document": "d: "}}, Prompts("", "d: ")),
        (
            {"prompts": {"query": "q: ", "document": "", "a": "a: "}, "default_prompt_name": "a"},
            Prompts("q: ", "a: ", "a: "),
        ),
        ({"prompts": ["query: "]}, Prompts()),
        ([], Prompts()),
    ],
)
def test_prompts_are_those_of_their_side_or_the_default(
    tmp_path: Path, settings: Any, expected: Prompts
) -> None:
    """By the library's names; the empty ones it writes by itself stand in no other's way."""
    (tmp_path / FILE).write_text(json.dumps(settings))
    assert declared_prompts(tmp_path) == expected


def test_a_folder_without_settings_or_with_damaged_ones_has_no_prompts(tmp_path: Path) -> None:
    """A plain encoder's folder has none."""
    assert declared_prompts(tmp_path) == Prompts()
    (tmp_path / FILE).write_text("{")
    assert declared_prompts(tmp_path) == Prompts()


@pytest.fixture(scope="module", params=["own pass", "library", "prompt left out"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder of each kind, without prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = tmp_path_factory.mktemp("encoder")
    if request.param == "own pass":
        return tiny_encoder(folder / "model")
    network = Transformer(str(tiny_bert(folder / "network")))
    mode, whole = ("cls", True) if request.param == "library" else ("mean", False)
    pooling = Pooling(network.get_embedding_dimension(), pooling_mode=mode, include_prompt=whole)
    model = SentenceTransformer(modules=[network, pooling], device="cpu")
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def _with(plain: Path, folder: Path, settings: dict[str, Any]) -> Path:
    shutil.copytree(plain, folder)
    (folder / FILE).write_text(json.dumps(settings))
    return folder


@pytest.mark.slow
def test_queries_and_documents_are_read_behind_their_prompts(plain: Path, tmp_path: Path) -> None:
    """The library's vectors with the same prompts, also of both sides in one batch."""
    from sentence_transformers import SentenceTransformer

    folder = _with(plain, tmp_path / "m", E5)
    embedder, library = Embedder(str(folder)), SentenceTransformer(str(folder), device="cpu")
    prompts: dict[Side | None, str] = {"query": "find: ", "document": "about: ", None: ""}
    for side, prompt in prompts.items():
        vectors = embedder.encode(TEXTS, side=side)
        expected = library.encode(TEXTS, prompt=prompt, normalize_embeddings=True)
        np.testing.assert_allclose(vectors, expected, atol=2e-6)
        counted = embedder.count_tokens(["alpha"], side=side)
        assert counted == embedder.count_tokens([f"{prompt}alpha"])
    network = embedder._model()
    mixed = [network.tokenize(TEXTS[:1], prompt)[0] for prompt in prompts.values()]
    alone = [embedder.encode(TEXTS[:1], side=side)[0] for side in prompts]
    np.testing.assert_allclose(network.pooled(mixed), alone, atol=2e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.01


@pytest.mark.slow
def test_the_default_prompt_stands_before_every_text(plain: Path, tmp_path: Path) -> None:
    """Of either side or none, and once."""
    settings = {"prompts": {"all": "find: "}, "default_prompt_name": "all"}
    embedder = Embedder(str(_with(plain, tmp_path / "m", settings)))
    asked = Embedder(str(_with(plain, tmp_path / "e5", E5))).encode(TEXTS, side="query")
    np.testing.assert_allclose(embedder.encode(TEXTS), asked, atol=2e-6)
    np.testing.assert_allclose(embedder.encode(TEXTS, side="query"), asked, atol=2e-6)
    np.testing.assert_allclose(embedder.encode(TEXTS, side="document"), asked, atol=2e-6)


@pytest.mark.slow
def test_what_is_kept_of_a_text_is_kept_for_its_side(plain: Path, tmp_path: Path) -> None:
    """A query's token vectors are not handed out for a document of the same words."""
    embedder = Embedder(str(_with(plain, tmp_path / "m", E5)))

    async def both() -> tuple[Any, Any]:
        (query,) = await embedder.arepresent(["how alpha"], Deadline(), side="query")
        (document,) = await embedder.arepresent(["how alpha"], Deadline(), side="document")
        return query, document

    query, document = asyncio.run(both())
    (tokens,) = embedder.token_vectors(["how alpha"], side="document")
    np.testing.assert_allclose(document.tokens, tokens, atol=1e-3)
    assert np.abs(query.pooled - document.pooled).max() > 0.001


def test_the_revision_is_of_the_prompts_too(tmp_path: Path) -> None:
    """Vectors made with other prompts, or without, must not be mixed with these."""
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "model.safetensors").write_bytes(b"weights")
    declared = [E5, {"prompts": {"query": "find: "}}, {"prompts": {"query": ""}}]
    names = [str(_with(plain, tmp_path / f"m{i}", each)) for i, each in enumerate(declared)]
    revisions = [Embedder(name).revision for name in (str(plain), *names)]
    assert revisions[0] == revisions[3]
    assert len(set(revisions)) == 3


def test_a_folder_with_new_prompts_is_another_model(tmp_path: Path) -> None:
    """Who asks the pool after they changed gets an encoder that reads them."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    pool = ModelPool()
    before = pool.encoder(str(tmp_path)).revision
    (tmp_path / FILE).write_text(json.dumps(E5))
    assert pool.encoder(str(tmp_path)).revision != before
