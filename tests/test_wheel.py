"""A wheel built from the sdist works in another folder, beside a service's own modules."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

SERVICE = """
import cache, stages
from funnel import Funnel
from funnel.cache.base import QueryCache
from funnel.registry import known_kinds, stage_class
from importlib.resources import files
assert cache.OWNER == stages.OWNER == "service"
assert "checkout" not in QueryCache.__module__
for kind in known_kinds():
    stage_class(kind)
assert files("funnel").joinpath("configs/embedded.yaml").is_file()
assert files("funnel").joinpath("demo/data/corpus.jsonl").is_file()
assert files("funnel").joinpath("models/shipped/relevance/adapter.safetensors").is_file()
assert files("funnel").joinpath("models/shipped/duplicate/adapter.safetensors").is_file()
import funnel
print(funnel.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from the sdist made from the files that git knows."""
    work = tmp_path_factory.mktemp("build")
    source = work / "checkout"
    _copy_tracked(source)
    out = work / "dist"
    # build's default: the wheel is built from the sdist; without isolation, as there may be no net
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), cwd=source)
    return next(out.glob("*.whl"))


def test_the_wheel_serves_a_service_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Everything that ships is in it, and names do not clash."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    service = tmp_path / "service"
    service.mkdir()
    for name in ("cache", "stages"):
        (service / f"{name}.py").write_text("OWNER = 'service'\n")
    (service / "main.py").write_text(SERVICE)
    out = _run(sys.executable, "main.py", cwd=service, path=site)
    assert out.strip().startswith(str(site))


def test_the_wheel_names_its_pythons_and_licence(wheel: Path) -> None:
    """Metadata: Python 3.11 and up, Apache-2.0, typed."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "funnel/py.typed" in names
    assert "funnel/stages/base.py" in names
    assert "funnel/cache/base.py" in names
    assert not any(name.startswith(("stages/", "cache/", "tests/")) for name in names)


def _copy_tracked(target: Path) -> None:
    """Copy what git tracks, links as links, so that stray files of the checkout play no part."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60
    ).stdout.decode()
    for name in filter(None, listing.split("\0")):
        origin, copy = ROOT / name, target / name
        if origin.exists() or origin.is_symlink():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(origin, copy, follow_symlinks=False)


def _run(*command: str, cwd: Path, path: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
