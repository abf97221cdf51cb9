"""Where models come from: verified, safe, with errors that say what to do."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from funnel.errors import ConfigError, ModelError
from funnel.models import CrossEncoderScorer, Embedder, encoder_networks, source
from funnel.models.cross_networks import pair_tokenizer
from funnel.models.pool import ModelPool
from funnel.models.scorer import revision_of
from funnel.models.source import EMBEDDED_ENCODER, locate
from funnel.models.tokens import TextTokenizer
from funnel.training import RunOptions, train_cross_encoder
from tests.models.tiny import save_cross_encoder, save_headless, save_tokenizer
from tests.training.tiny import tiny_encoder

pytestmark = pytest.mark.slow


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The embedded model's package, copied to where it may be damaged."""
    real = locate(EMBEDDED_ENCODER).folder
    copy = tmp_path / "some_package" / "model"
    shutil.copytree(real, copy)
    (copy.parent / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(source, "_PACKAGE", "some_package")
    source._verified_package.cache_clear()
    yield copy
    source._verified_package.cache_clear()


def test_the_package_is_read_and_never_run(package: Path) -> None:
    """Its own code does not execute."""
    assert locate(EMBEDDED_ENCODER).folder == package


@pytest.mark.parametrize("file", source._HASHES)
def test_a_changed_file_of_the_package_is_refused(package: Path, file: str) -> None:
    """One changed byte is enough, and both hashes are in the message."""
    data = bytearray((package / file).read_bytes())
    data[-2] ^= 1
    (package / file).write_bytes(data)
    with pytest.raises(ModelError, match=r"got sha256 \w{64}, expected \w{64}; reinstall"):
        locate(EMBEDDED_ENCODER)


def test_a_missing_file_of_the_package_is_named(package: Path) -> None:
    """With the command that brings it back."""
    (package / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model.safetensors is missing; .*pip install"):
        locate(EMBEDDED_ENCODER)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is an extra of its own."""
    monkeypatch.setattr(source, "_PACKAGE", "no_such_package_anywhere")
    source._verified_package.cache_clear()
    with pytest.raises(ModelError, match=r"retrieval-funnel\[embedded\]"):
        locate(EMBEDDED_ENCODER)
    source._verified_package.cache_clear()


def test_a_hub_model_that_cannot_be_fetched_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, an id that is not in the hub's cache is an error at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="the hub gave"):
        locate("nobody/no-such-model-at-all")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    """The mend is to save them safely."""
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        locate(str(tmp_path))


def test_a_pool_hands_out_one_instance_per_name_and_options(tmp_path: Path) -> None:
    """Other options are another instance; a closed pool forgets."""
    folder = str(save_cross_encoder(tmp_path))
    pool = ModelPool()
    assert pool.scorer(folder) is pool.scorer(folder)
    assert pool.scorer(folder, max_tokens=16) is not pool.scorer(folder)
    encoder = pool.encoder(EMBEDDED_ENCODER)
    assert pool.encoder(EMBEDDED_ENCODER) is encoder
    pool.close()
    assert pool.encoder(EMBEDDED_ENCODER) is not encoder


@pytest.mark.parametrize("given", [None, 5, "", "  ", b"folder"])
def test_what_is_no_name_is_refused_at_once(given: Any, tmp_path: Path) -> None:
    """An empty one would be the folder where the program runs."""
    options = RunOptions(output=tmp_path / "m")
    for make in (
        Embedder,
        CrossEncoderScorer,
        ModelPool().encoder,
        ModelPool().scorer,
        locate,
        revision_of,
        lambda base: train_cross_encoder([], options, base=base),
    ):
        with pytest.raises(ConfigError, match="model: got .*expected a name such as"):
            make(given)


@pytest.mark.parametrize("given", [None, 5, ""])
def test_what_is_no_output_is_refused_at_once(given: Any) -> None:
    """It says what is expected."""
    with pytest.raises(ConfigError, match="output is .*expected the path of a directory"):
        RunOptions(output=given)


def test_a_folder_may_be_a_path(tmp_path: Path) -> None:
    """It is the same model."""
    folder = save_cross_encoder(tmp_path / "m")
    name = str(folder)
    by_path = CrossEncoderScorer(folder)
    assert (by_path.name, by_path.revision) == (name, CrossEncoderScorer(name).revision)
    assert ModelPool().scorer(folder).name == Embedder(folder).name == name
    assert RunOptions(output=cast("Path", name)).output == folder


def test_a_damaged_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    """The library's own exception does not come through."""
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged"):
        TextTokenizer(tmp_path, 32)


def test_a_tokenizer_without_words_is_refused(tmp_path: Path) -> None:
    """Transformers makes one of its configuration alone, to which all texts are the same."""
    config = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"no usable tokenizer, expected a tokenizer\.json"):
        TextTokenizer(tmp_path, 32)


def _widen(folder: Path) -> None:
    """Give the tokenizer words that the model never had, as that of another model has."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"other{number}" for number in range(200)])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_scorer_with_another_models_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    """When it is loaded, not by the first text with such a word."""
    folder = save_cross_encoder(tmp_path, kind=kind)
    CrossEncoderScorer(str(folder), backend="torch-fp32").load()
    _widen(folder)
    for backend in ("torch-fp32", "openvino-f32", "auto") if kind == "bert" else ("auto",):
        with pytest.raises(ModelError, match=r"got a tokenizer with ids up to \d+, expected at"):
            CrossEncoderScorer(str(folder), backend=backend).load()


@pytest.mark.parametrize("kind", ["own pass", "library", "colbert"])
def test_an_encoder_with_another_models_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    """However its network is run."""
    folder = tiny_encoder(tmp_path / "m")
    if kind == "library":
        (folder / "1_Pooling" / "config.json").write_text(
            '{"pooling_mode": "cls", "embedding_dimension": 32}'
        )
    if kind == "colbert":
        folder = save_headless(tmp_path / "colbert")
        tensors = {**load_file(folder / "model.safetensors"), "linear.weight": torch.ones(8, 32)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    Embedder(str(folder)).load()
    encoder_networks._opened.cache_clear()
    _widen(folder)
    with pytest.raises(ModelError, match=r"got a tokenizer with ids up to \d+, expected at most"):
        Embedder(str(folder)).load()


def test_pairs_are_put_together_as_the_library_does(tmp_path: Path) -> None:
    """Ids, types and truncation equal those of the tokenizers library on whole pairs."""
    from tokenizers import Tokenizer

    save_tokenizer(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.enable_truncation(20)
    ours = TextTokenizer(tmp_path, 20)
    texts = ["reset", "", "how do i open a new account " * 3, "card " * 9, "delete all " * 5]
    ids = dict(zip(texts, ours.ids(texts), strict=True))
    for first in texts:
        for second in texts:
            expected = library.encode(first, second)
            pair = ours.pair(ids[first], ids[second])
            assert pair.ids == expected.ids
            assert [int(i >= pair.split) for i in range(len(pair))] == expected.type_ids
            assert pair.truncated == bool(expected.overflowing)


def test_all_that_is_read_of_the_package_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever loading an encoder opens there has a published hash."""
    from funnel.models.encoder_networks import PlainEncoder, _is_plain

    folder, opened = locate(EMBEDDED_ENCODER).folder, set[Path]()
    read = Path.read_text

    def noted(path: Path, *args: Any, **options: Any) -> str:
        opened.add(path)
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", noted)
    assert _is_plain(folder)
    PlainEncoder(locate(EMBEDDED_ENCODER), "fp32")
    pair_tokenizer(folder, None)
    assert opened
    assert {str(path.relative_to(folder)) for path in opened} <= set(source._HASHES)
