"""What a model is trained from: never lost to the output, recognised, and named for good."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import yaml

from funnel.errors import ConfigError, ModelError, TrainingStopped
from funnel.models.adapters import read_adapter
from funnel.training import LabelledPair, RunOptions, TrainSettings, train_cross_encoder
from funnel.training.card import model_card
from funnel.training.exports import Form, Use, usage
from funnel.training.origin import base_revision, check_apart, trained_from
from funnel.training.report import TrainReport
from tests.training.tiny import tiny_bert

Pairs = list[LabelledPair]
ODD_NAMES = ["2024", "x: y #z", "a---b", "my model, v2", "null", "{a}", "don't", "é"]


def report(output: Path, base: str) -> TrainReport:
    return TrainReport(
        output=output, task="cross-encoder", base=base, form="model", data="d", fingerprint="f",
        rows={}, steps=1, kept_step=1, seconds=1.0, hardware="cpu", before={}, after={}, losses=(),
        evaluations=(), settings={},
    )  # fmt: skip


@pytest.mark.parametrize("form", ["auto", "model", "adapter"])
def test_the_output_may_not_be_the_base(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings, form: Form
) -> None:
    """An adapter in the place of its own base could never be loaded again."""
    base = tmp_path / "self"
    copytree(tiny_base, base)
    (tmp_path / "link").symlink_to(base)
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    options = RunOptions(output=tmp_path / "link", overwrite=True)
    with pytest.raises(ConfigError, match="is the base it is trained from; name another output"):
        train_cross_encoder(pairs, options, base=str(base), form=form, settings=quick)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    assert not (tmp_path / "link.checkpoints").exists()


def test_the_output_may_not_be_what_an_adapter_belongs_to(
    tmp_path: Path, tiny_base: str, pairs: Pairs, quick: TrainSettings
) -> None:
    """Tuning the adapter further would replace the encoder under it."""
    encoder, adapter = tmp_path / "encoder", tmp_path / "adapter"
    copytree(tiny_base, encoder)
    train_cross_encoder(
        pairs, RunOptions(output=adapter), base=str(encoder), form="adapter",
        settings=replace(quick, epochs=1, evaluations=1),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="the output is the base"):
        check_apart(str(adapter), encoder)
    check_apart(str(adapter), tmp_path / "other")
    assert base_revision(str(adapter)) == read_adapter(adapter).revision


def test_neither_may_lie_in_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacing the outer one would lose the inner one; relative names are no way around."""
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer")
    with pytest.raises(ConfigError, match="the output holds the base"):
        check_apart("inner", tmp_path / "outer")
    with pytest.raises(ConfigError, match="the output lies in the base"):
        check_apart(".", Path("inner"))
    check_apart("inner", Path("inner2"))


def test_a_name_that_is_not_known_is_left_to_the_loaders() -> None:
    """They say which names they know."""
    assert base_revision("embedded:no-such-model") == ""
    check_apart("embedded:no-such-model", Path("m"))


def test_a_run_is_not_resumed_over_another_base(
    tmp_path: Path, pairs: Pairs, quick: TrainSettings
) -> None:
    """The name stayed the same, but the weights behind it are others."""
    base = tiny_bert(tmp_path / "base")
    output = tmp_path / "m"
    with pytest.raises(TrainingStopped):
        train_cross_encoder(
            pairs, RunOptions(output=output), base=str(base), settings=replace(quick, max_steps=2)
        )
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match="base revision: was"):
        train_cross_encoder(
            pairs, RunOptions(output=output, resume=True), base=str(base), settings=quick
        )


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_card_gives_back_the_folder_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Named from where it lay, it is found from another working directory."""
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").touch()
    (tmp_path / "README.md").write_text(model_card(report(Path("m"), name), usage=""), "utf-8")
    monkeypatch.chdir("/")
    assert trained_from(str(tmp_path)) == str(tmp_path / name)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_is_no_folder_stays_as_it_is(tmp_path: Path, name: str) -> None:
    """A hub id may be a number, too."""
    (tmp_path / "config.json").touch()
    (tmp_path / "README.md").write_text(model_card(report(Path("m"), name), usage=""), "utf-8")
    assert trained_from(str(tmp_path)) == name


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("TYPO", r"TYPO: got no such folder.* hub .*--base MODEL"),
        ("empty", r"empty: got a folder without a model \(adapter.json"),
        ("embedded:relevnce", "did you mean 'embedded:relevance'"),
        ("embedded:relevance", "--base MODEL"),
        ("embedded:all-MiniLM-L6-v2", "--base MODEL"),
    ],
)
def test_what_is_no_trained_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, says: str
) -> None:
    """A slip of the hand is not taken for a model without a card."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, ModelError), match=says):
        trained_from(model)


@pytest.mark.parametrize("card", ["", "# m", "---\nbase_model: b\n", "--- \nbase_model: b\n---\n"])
def test_a_card_without_a_front_matter_is_told(tmp_path: Path, card: str) -> None:
    """Nothing is guessed from what only looks like one."""
    (tmp_path / "config.json").touch()
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(ConfigError, match="--base MODEL"):
        trained_from(str(tmp_path))


@pytest.mark.parametrize("name", [*ODD_NAMES, "a: b #c"])
@pytest.mark.parametrize("use", ["stage", "verifier"])
def test_what_is_shown_for_the_yaml_reads_back(name: str, use: Use) -> None:
    """Whatever the folder is called."""
    found = yaml.safe_load(usage(Path(name), use))
    model = found["stages"][0] if use == "stage" else found["cache"]["verifier"]
    assert model["model"] == name
