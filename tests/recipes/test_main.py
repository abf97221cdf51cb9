"""The command line of the recipes: what is done, what is left out, what is refused."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from recipes import __main__ as command  # noqa: E402
from recipes.distil.prepared import FILE  # noqa: E402
from recipes.distil.run import CROSS_FILE, ENCODER_FILE  # noqa: E402
from recipes.distil.weights import save_difference  # noqa: E402
from recipes.opened import Opened, long_names  # noqa: E402
from tests.training.tiny import tiny_bert  # noqa: E402

if TYPE_CHECKING:
    from recipes.network import Base

ALL = ["prepare", "students", "duplicate", "calibrator", "relevance"]


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """The command gives torch more threads, which tests after it must not inherit."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> None:
    arguments = ["--data", str(folder), "--scratch", str(folder / "scratch"), *more]
    monkeypatch.setattr(sys, "argv", ["recipes", *arguments])
    command.main()


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / "scratch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("there", "done"),
    [
        ([], ALL),
        ([f"prepared/{FILE}"], ALL[1:]),
        ([f"prepared/{FILE}", CROSS_FILE], ALL[1:]),
        ([CROSS_FILE, ENCODER_FILE], ALL[2:]),
    ],
)
def test_what_lies_in_scratch_is_not_made_again(
    there: list[str], done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is named."""
    made: list[str] = []
    makers = {name: lambda _, name=name: made.append(name) for name in ALL}
    monkeypatch.setattr(command, "_MAKERS", makers)
    _touch(tmp_path, *there)
    _run(monkeypatch, tmp_path)
    assert made == done
    _run(monkeypatch, tmp_path, "--only", "students")
    assert made == [*done, "students"]


def test_students_need_an_accelerator_or_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says how long it takes and how to use another machine's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"days on CPUs .*python -m recipes\.distil --input"):
        _run(monkeypatch, tmp_path, "--only", "students")


def test_what_was_never_taught_cannot_be_cut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything read before that is known."""
    monkeypatch.setattr(command, "open_base", lambda: None)
    with pytest.raises(SystemExit, match="--only students"):
        _run(monkeypatch, tmp_path, "--only", "duplicate")


def test_a_student_is_its_base_and_what_it_learnt(tmp_path: Path) -> None:
    """Wholly or in part; a head that the base lacks is the student's own."""
    folder = tiny_bert(tmp_path / "bert")
    base = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.bias"
    tuned = {f"bert.{name}": base[name] + 0.5, "classifier.bias": torch.ones(1)}
    save_difference(tuned, base, tmp_path / CROSS_FILE)
    opened = Opened(folder, None, cast("Base", None))
    whole = command.learnt(opened, tmp_path / CROSS_FILE)
    half = command.learnt(opened, tmp_path / CROSS_FILE, 0.5)
    assert whole.keys() == {*long_names(base), "classifier.bias"}
    torch.testing.assert_close(whole[f"bert.{name}"], base[name] + 0.5)
    torch.testing.assert_close(half[f"bert.{name}"], base[name] + 0.25)
    assert half["classifier.bias"].item() == 1
