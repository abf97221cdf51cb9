"""Outputs appear whole or not at all."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from funnel.errors import ConfigError, ModelError
from funnel.training.checkpoints import begin_run, open_run
from funnel.training.output import atomic_directory, atomic_text, check_output, failed_write


def model(folder: Path, name: str, content: str) -> None:
    """What is recognised as a model, with one more file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / name).write_text(content)


def _write(path: Path) -> None:
    with atomic_directory(path) as folder:
        (folder / "config.json").write_text("{}")


def _replace(path: Path) -> None:
    """What a command with --overwrite asks before its work."""
    check_output(path, overwrite=True)


def test_a_directory_appears_with_all_its_files(tmp_path: Path) -> None:
    """And nothing else is left beside it."""
    with atomic_directory(tmp_path / "m") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "m").exists()
    assert (tmp_path / "m" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """The old directory stays whole, the new one leaves no trace."""
    model(tmp_path / "m", "a", "old")
    with pytest.raises(RuntimeError, match="boom"), atomic_directory(tmp_path / "m") as folder:
        (folder / "a").write_text("new")
        raise RuntimeError("boom")
    assert (tmp_path / "m" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("mark", ["adapter.json", "config.json", "modules.json"])
def test_replacing_swaps_the_whole_directory(tmp_path: Path, mark: str) -> None:
    """Files of the old model do not survive in the new one; an empty folder is replaced, too."""
    (tmp_path / "m").mkdir()
    for names in ((mark, "old"), ("new",)):
        with atomic_directory(tmp_path / "m") as folder:
            for name in names:
                (folder / name).touch()
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_is_no_model_is_never_replaced(tmp_path: Path) -> None:
    """Not by --overwrite, and not by what writes: it may hold ten other models."""
    model(tmp_path / "models" / "first", "a", "kept")
    for refuse in (_replace, _write):
        with pytest.raises(ConfigError, match=r"no adapter\.json or config\.json or modules\.json"):
            refuse(tmp_path / "models")
    assert (tmp_path / "models" / "first" / "a").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_a_file_is_never_replaced_by_a_model(tmp_path: Path) -> None:
    """A slip of the hand costs nothing."""
    (tmp_path / "thesis.txt").write_text("kept")
    for refuse in (_replace, _write):
        with pytest.raises(
            ConfigError, match=r"thesis\.txt is a file, expected a model's directory"
        ):
            refuse(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "kept"


def test_what_came_while_a_model_was_written_is_not_replaced(tmp_path: Path) -> None:
    """The check before the work is not the last one."""
    with pytest.raises(ConfigError, match="holds files"), atomic_directory(tmp_path / "m"):
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "notes").write_text("kept")
    assert (tmp_path / "m" / "notes").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_old_model_comes_back_if_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    """Between the two renames nothing is lost, and nothing hidden stays behind."""
    model(tmp_path / "m", "a", "old")
    with (
        pytest.raises(ModelError, match="could not save"),
        atomic_directory(tmp_path / "m") as folder,
    ):
        folder.rename(tmp_path / "elsewhere")
    assert (tmp_path / "m" / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "m"]


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_an_output_without_a_name_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the model nor its checkpoints could be written beside it."""
    monkeypatch.chdir(tmp_path)
    for refuse in (_replace, _write):
        with pytest.raises(ConfigError, match="has no name of its own"):
            refuse(Path(name))


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (RuntimeError("Error while serializing: I/O error: … (os error 28)"), "the disk is full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/1"), "the disk is full"),
        (
            RuntimeError(
                "[enforce fail at inline_container.cc:672] . unexpected pos 46906560 vs 46906448"
            ),
            "the disk is full",
        ),
        (RuntimeError("basic_ios::clear: iostream error"), "the disk is full"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
    ],
)
def test_a_full_disk_is_told_in_one_sentence(problem: Exception, said: str) -> None:
    """However the library underneath words it."""
    assert said in str(failed_write(problem, Path("m")))


def test_what_is_written_can_be_read_by_whoever_serves_it(tmp_path: Path) -> None:
    """Trained by one user, served by another: as the umask says, not as a library left it."""
    before = os.umask(0o022)
    try:
        with atomic_directory(tmp_path / "model") as folder:
            (folder / "1_Pooling").mkdir(mode=0o700)
            for name in ("model.safetensors", "1_Pooling/config.json"):
                (folder / name).write_text("{}")
                (folder / name).chmod(0o600)
    finally:
        os.umask(before)
    written = {path.stat().st_mode & 0o777 for path in (tmp_path / "model").rglob("*")}
    assert written == {0o644, 0o755}


def test_other_problems_are_not_blamed_on_the_disk() -> None:
    """A bug stays a bug."""
    assert failed_write(ValueError("bad shape"), Path("m")) is None


_WRITE = """
import resource, sys
from pathlib import Path
from funnel.errors import ModelError
from funnel.training.output import atomic_directory
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
import numpy, safetensors.numpy
try:
    with atomic_directory(Path(sys.argv[1])) as folder:
        (folder / "small").write_text("x")
        safetensors.numpy.save_file({"w": numpy.zeros(5000)}, folder / "model.safetensors")
except ModelError as problem:
    print(problem)
    sys.exit(3)
"""


def test_a_write_that_the_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    """A real limit on file size stands in for a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(tmp_path / "m")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "nothing was written there" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    """No temporary file stays behind."""
    atomic_text(tmp_path / "deep" / "a.jsonl", "1\n")
    atomic_text(tmp_path / "deep" / "a.jsonl", "2\n")
    assert (tmp_path / "deep" / "a.jsonl").read_text() == "2\n"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("write", [_write, lambda path: atomic_text(path, "1\n")])
def test_a_place_that_cannot_be_written_is_told_in_one_sentence(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    """Already when the temporary sibling cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="could not save to .*file/m: "):
        write(tmp_path / "file" / "m")
    with pytest.raises(ModelError, match="could not save to .*: File name too long"):
        write(tmp_path / ("m" * 250))


def test_checkpoints_of_an_earlier_run_make_room(tmp_path: Path) -> None:
    """Nothing of it is left for the new run, which leaves its mark."""
    begin_run(tmp_path / "m", {"seed": 1})
    (tmp_path / "m.checkpoints" / "checkpoint-5").mkdir()
    (tmp_path / "m.checkpoints" / "checkpoint-5" / "complete").touch()
    assert open_run(tmp_path / "m", resume=False, overwrite=True) is None
    begin_run(tmp_path / "m", {"seed": 2})
    assert [path.name for path in (tmp_path / "m.checkpoints").iterdir()] == ["run.json"]
    assert "2" in (tmp_path / "m.checkpoints" / "run.json").read_text()


def test_checkpoints_may_lie_behind_a_link(tmp_path: Path) -> None:
    """On a bigger disk, say: the link stays, and the old run behind it goes."""
    (tmp_path / "big").mkdir()
    (tmp_path / "m.checkpoints").symlink_to(tmp_path / "big")
    for seed in (1, 2):
        begin_run(tmp_path / "m", {"seed": seed})
        (tmp_path / "big" / f"checkpoint-{seed}").mkdir()
    assert (tmp_path / "m.checkpoints").is_symlink()
    assert sorted(path.name for path in (tmp_path / "big").iterdir()) == [
        "checkpoint-2",
        "run.json",
    ]


def test_a_folder_that_only_has_the_name_of_checkpoints_is_kept(tmp_path: Path) -> None:
    """Nothing that no run has begun is removed, whether asked for early or late."""
    folder = tmp_path / "m.checkpoints"
    folder.mkdir()
    assert open_run(tmp_path / "m", resume=False, overwrite=True) is None
    (folder / "weights.bin").write_text("kept")
    with pytest.raises(ConfigError, match=r"no run\.json, so it is not the checkpoints of a run"):
        open_run(tmp_path / "m", resume=False, overwrite=True)
    with pytest.raises(ConfigError, match=r"no run\.json"):
        begin_run(tmp_path / "m", {})
    assert (folder / "weights.bin").read_text() == "kept"


def test_an_output_under_a_file_is_refused(tmp_path: Path) -> None:
    """The parent must be a directory that can be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        check_output(tmp_path / "file" / "m", overwrite=False)
