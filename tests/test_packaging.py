"""The three folders, the package list, and what an import costs."""

import importlib
import os
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import funnel
from funnel.models import Embedder
from funnel.models.source import EMBEDDED_ENCODER

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "sentence_transformers", "transformers", "qdrant_client", "redis", "openvino"}


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_the_package_list_matches_the_folders() -> None:
    """A new subpackage that is not listed would be missing from the wheel."""
    setuptools = project()["tool"]["setuptools"]  # type: ignore[index]
    listed = set(setuptools["packages"])
    folders = {
        ROOT / "funnel": "funnel",
        ROOT / "stages": "funnel.stages",
        ROOT / "cache": "funnel.cache",
    }
    found = {"funnel.configs"}
    for top, name in folders.items():
        for init in top.rglob("__init__.py"):
            parts = init.parent.relative_to(top).parts
            found.add(".".join((name, *parts)))
    assert listed == found


def test_stages_and_cache_are_flat() -> None:
    """Linked folders hold files only."""
    for name in ("stages", "cache"):
        inner = [p for p in (ROOT / name).iterdir() if p.is_dir() and p.name != "__pycache__"]
        assert inner == []


@pytest.mark.parametrize("name", ["stages", "cache"])
def test_the_bare_folder_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`import stages` would load a second copy of every class."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=f"funnel.{name}"):
        importlib.import_module(name)


def test_a_service_with_its_own_cache_module_sees_its_own(tmp_path: Path) -> None:
    """A consumer's cache.py and stages.py are not shadowed, nor do they shadow ours."""
    (tmp_path / "cache.py").write_text("OWNER = 'service'\n")
    (tmp_path / "stages.py").write_text("OWNER = 'service'\n")
    (tmp_path / "main.py").write_text(
        "import cache, stages\n"
        "import funnel.cache.base, funnel.stages.base\n"
        "print(cache.OWNER, stages.OWNER, funnel.cache.base.QueryCache.__module__)\n"
    )
    out = _python(str(tmp_path / "main.py"), cwd=tmp_path)
    assert out.split() == ["service", "service", "funnel.cache.base"]


def test_importing_funnel_imports_nothing_heavy() -> None:
    """Torch and friends load at first use."""
    out = _python("-c", "import sys, funnel, funnel.cli.app; print(*sys.modules)")
    assert HEAVY.isdisjoint(out.split())


def test_loading_a_model_does_not_import_a_compiler() -> None:
    """Torch's takes a second or two, and is imported when weights are drawn on its meta device."""
    code = (
        "import sys; from funnel.models import Embedder; "
        "Embedder('embedded:all-MiniLM-L6-v2').encode(['x']); print(*sys.modules)"
    )
    Embedder(EMBEDDED_ENCODER).encode(["x"])  # the first time on a machine OpenVINO compiles it
    loaded = _python("-c", code).split()
    assert "torch" in loaded
    assert {"torch._dynamo", "transformers", "sympy"}.isdisjoint(loaded)


@pytest.mark.alone
@pytest.mark.parametrize("code", ["import funnel", "import funnel.cli.app"])
def test_an_import_is_quick(code: str) -> None:
    """In processor time, at most three quarters more than what any command line of ours needs."""
    needed = "import asyncio, dataclasses, json, pathlib, structlog, typer, rich.console"
    assert _import_seconds(code) < 1.75 * _import_seconds(needed)


@cache
def _import_seconds(code: str) -> float:
    """Processor time of the best of three."""
    source = f"import time; t = time.process_time(); {code}; print(time.process_time() - t)"
    return min(float(_python("-c", source)) for _ in range(3))


def test_the_public_names_are_guarded() -> None:
    """Removing a public name is a decision, not an accident."""
    assert sorted(funnel.__all__) == [
        "CacheInfo",
        "Candidate",
        "Document",
        "Funnel",
        "FunnelError",
        "FunnelResult",
        "FunnelSettings",
        "Hit",
        "StageTrace",
        "__version__",
    ]
    for name in funnel.__all__:
        assert getattr(funnel, name) is not None


def test_the_versions_agree() -> None:
    """pyproject.toml and the package say the same version."""
    assert project()["project"]["version"] == funnel.__version__  # type: ignore[index]


def _python(*arguments: str, cwd: Path = ROOT) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
