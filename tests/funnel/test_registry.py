"""Stage kinds by name: ours, a third party's, and names that are wrong."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

from funnel.errors import ConfigError
from funnel.registry import known_kinds, stage_class
from funnel.settings import FunnelSettings
from funnel.stages.base import Stage

ROOT = Path(__file__).parents[2]
OURS = {
    "bm25",
    "callable",
    "cross_encoder",
    "dense",
    "hybrid",
    "late_interaction",
    "llm_listwise",
}

THIRD_PARTY_STAGE = """
from funnel.stages.base import Ranked, Stage, StageOutput

class NewestFirst(Stage):
    kind = "newest_first"
    role = "rerank"

    @property
    def score_kind(self):
        return "logit"

    async def run(self, request, candidates):
        return StageOutput([
            Ranked(c.document, float(c.document.metadata["year"])) for c in candidates
        ])
"""
USE = """
from funnel.registry import known_kinds, stage_class
print("newest_first" in known_kinds(), stage_class("newest_first").__name__)
from funnel.settings import FunnelSettings
made = FunnelSettings.from_mapping(
    {"stages": [{"kind": "bm25", "k": 9}, {"kind": "newest_first", "k": 3}]}
)
print(made.stages[1].name)
"""


def test_all_our_kinds_are_known() -> None:
    """The kinds that the design names."""
    assert set(known_kinds()) >= OURS


@pytest.mark.parametrize("kind", sorted(OURS))
def test_each_kind_is_a_stage_of_its_name(kind: str) -> None:
    """The registry's string leads to a class that says the same kind."""
    found = stage_class(kind)
    assert issubclass(found, Stage)
    assert found.kind == kind


def test_an_unknown_kind_gets_a_suggestion() -> None:
    """The nearest name and all names."""
    with pytest.raises(ConfigError, match="did you mean 'bm25'"):
        stage_class("bm52")


def test_naming_kinds_imports_no_stage() -> None:
    """Listing is free; using imports."""
    code = "import sys, funnel.registry as r; r.known_kinds(); print(*sys.modules)"
    modules = _python("-c", code).split()
    assert not [name for name in modules if name.startswith("funnel.stages.")]


def test_a_third_party_registers_by_entry_point(tmp_path: Path) -> None:
    """An installed distribution with an entry point in funnel.stages is found by name."""
    (tmp_path / "their_stage.py").write_text(THIRD_PARTY_STAGE)
    info = tmp_path / "their_stage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-stage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[funnel.stages]\nnewest_first = their_stage:NewestFirst\n"
    )
    (tmp_path / "use.py").write_text(USE)
    out = _python(str(tmp_path / "use.py"), path=f"{ROOT}{os.pathsep}{tmp_path}")
    assert out.split() == ["True", "NewestFirst", "newest_first"]


def test_a_third_party_that_cannot_be_imported_is_a_config_error(tmp_path: Path) -> None:
    """The message names the kind, the package and what it failed with."""
    (tmp_path / "their_stage.py").write_text("import not_installed_anywhere\n")
    info = tmp_path / "their_stage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-stage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[funnel.stages]\nbroken = their_stage:Broken\n")
    (tmp_path / "use.py").write_text(
        "from funnel.errors import ConfigError\n"
        "from funnel.registry import stage_class\n"
        "try:\n    stage_class('broken')\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    out = _python(str(tmp_path / "use.py"), path=f"{ROOT}{os.pathsep}{tmp_path}")
    for part in ("'broken'", "their_stage:Broken of their-stage", "not_installed_anywhere"):
        assert part in out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("    role =", "    part ="), "role: got None, expected 'retrieve' or 'rerank'"),
        (('"rerank"', '"score"'), "role: got 'score', expected 'retrieve' or 'rerank'"),
        (("async def run", "async def rank"), "got an abstract class, expected one that implemen"),
        (
            ("    role =", "    Settings = dict\n    role ="),
            "Settings: got <class 'dict'>, expected",
        ),
        (("(Stage)", ""), "expected a subclass of funnel.stages.base.Stage"),
    ],
)
def test_a_third_party_class_that_cannot_be_used_is_a_config_error(
    change: tuple[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At load, with the entry point and what was expected, not a bare error at first use."""
    module = ModuleType("their_stage")
    exec(THIRD_PARTY_STAGE.replace(*change), module.__dict__)  # noqa: S102 - our own text
    monkeypatch.setitem(sys.modules, "their_stage", module)
    point = EntryPoint("newest_first", "their_stage:NewestFirst", "funnel.stages")
    monkeypatch.setattr("funnel.registry._third_party", lambda: {"newest_first": point})
    stages = [{"kind": "bm25", "k": 9}, {"kind": "newest_first", "k": 3}]
    with pytest.raises(ConfigError) as caught:
        FunnelSettings.from_mapping({"stages": stages})
    for part in ("'newest_first'", "entry point their_stage:NewestFirst", expected):
        assert part in str(caught.value)


def _python(*arguments: str, path: str = str(ROOT)) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
