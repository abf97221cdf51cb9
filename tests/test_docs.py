"""What the README shows runs: its Python; of all pages the YAML, the commands and the links."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer.main

from funnel.cli.app import app
from funnel.settings import FunnelSettings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
ENVIRONMENT = {"REDIS_URL": "redis://localhost:6379/0", "OPENROUTER_API_KEY": "none"}


def blocks(language: str, *pages: Path) -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Each distinct ``funnel …`` line of the shell blocks, comments stripped."""
    lines = "\n".join(blocks("sh", *PAGES)).replace("\\\n", " ").splitlines()
    found = [line.split("  #")[0].strip() for line in lines if line.startswith("funnel ")]
    return list(dict.fromkeys(found))


def links() -> list[tuple[str, str]]:
    """Each relative link with the page that it is on."""
    pattern = re.compile(r"\]\((?!http)([^)#]+)\)")
    return sorted(
        {
            (str(page.relative_to(ROOT)), target)
            for page in PAGES
            for target in pattern.findall(page.read_text(encoding="utf-8"))
        }
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_python_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python blocks in one program, in a folder of its own; the cache shows what it is for."""
    (tmp_path / "readme.py").write_text("\n".join(blocks("python", README)))
    monkeypatch.chdir(tmp_path)
    again = runpy.run_path("readme.py")["again"]
    assert again.hits
    assert (again.cache.status, again.cache.tier) == ("hit", "semantic")


@pytest.mark.parametrize("text", [b for b in blocks("yaml", *PAGES) if "stages:" in b])
def test_the_yaml_loads(text: str, tmp_path: Path) -> None:
    """Every settings block is valid as it stands."""
    path = tmp_path / "readme.yaml"
    path.write_text(text)
    assert FunnelSettings.from_yaml(path, environment=ENVIRONMENT).stages


@pytest.mark.parametrize("line", commands())
def test_the_commands_exist(line: str) -> None:
    """Each command and each of its options is known to the command line."""
    command = typer.main.get_command(app)
    words = [word for word in shlex.split(line)[1:] if word not in ("|", ">")]
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands") or not words, f"no command {words[:1]} in {line!r}"
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    used = {word.split("=")[0] for word in words if word.startswith("-")}
    assert used <= known, f"{used - known} in {line!r}"


@pytest.mark.parametrize(("page", "target"), links())
def test_the_links_lead_somewhere(page: str, target: str) -> None:
    """Relative links name files of the repository."""
    assert ((ROOT / page).parent / target).exists()
