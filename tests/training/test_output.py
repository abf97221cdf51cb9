"""Outputs appear whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from funnel.errors import ConfigError, ModelError
from funnel.training.output import atomic_directory, atomic_text, check_output, failed_write


def test_a_directory_appears_with_all_its_files(tmp_path: Path) -> None:
    """And nothing else is left beside it."""
    with atomic_directory(tmp_path / "m") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "m").exists()
    assert (tmp_path / "m" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """The old directory stays whole, the new one leaves no trace."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_text("old")
    with pytest.raises(RuntimeError, match="boom"), atomic_directory(tmp_path / "m") as folder:
        (folder / "a").write_text("new")
        raise RuntimeError("boom")
    assert (tmp_path / "m" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_replacing_swaps_the_whole_directory(tmp_path: Path) -> None:
    """Files of the old output do not survive in the new one."""
    for name in ("old", "new"):
        with atomic_directory(tmp_path / "m") as folder:
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["new"]


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (RuntimeError("Error while serializing: I/O error: … (os error 28)"), "the disk is full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/1"), "the disk is full"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
    ],
)
def test_a_full_disk_is_told_in_one_sentence(problem: Exception, said: str) -> None:
    """However the library underneath words it."""
    assert said in str(failed_write(problem, Path("m")))


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


def test_too_little_space_is_told_before_training(tmp_path: Path) -> None:
    """With what there is and what is needed."""
    with pytest.raises(ModelError, match="MB are needed"):
        check_output(tmp_path / "m", overwrite=False, needed_bytes=10**18)


def test_an_output_under_a_file_is_refused(tmp_path: Path) -> None:
    """The parent must be a directory that can be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        check_output(tmp_path / "file" / "m", overwrite=False, needed_bytes=1)
