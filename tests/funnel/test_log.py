"""Events go where the service's own configuration sends them, and never among its results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from funnel import log as funnel_log
from funnel.log import Seldom, get_logger

ROOT = Path(__file__).parents[2]
DAMAGED = """
from funnel.models import sealed
sealed.write("kept", b"content")
(sealed.directory() / "kept").write_bytes(b"x" * 64)
assert sealed.read("kept") is None
print("result")
"""


def test_a_program_without_log_settings_keeps_its_standard_output(tmp_path: Path) -> None:
    """A warning of the model room goes to standard error, by the standard library's loggers."""
    done = subprocess.run(
        [sys.executable, "-c", DAMAGED],
        env={**os.environ, "PYTHONPATH": str(ROOT), "FUNNEL_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "result\n"
    assert "cached_file_damaged" in done.stderr


def test_no_room_goes_round_the_logger() -> None:
    """Loggers of structlog itself print to standard output where nobody configured them."""
    folders = ("funnel", "stages", "cache")
    files = {file for folder in folders for file in (ROOT / folder).rglob("*.py")}
    users = {f for f in files if "structlog.get_logger(" in f.read_text(encoding="utf-8")}
    assert users == {ROOT / "funnel" / "log.py"}


def test_what_every_query_may_bring_is_logged_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind the first at once, and later one that counts those between."""
    moment = 100.0
    monkeypatch.setattr("funnel.log.time.monotonic", lambda: moment)
    seldom = Seldom(get_logger("funnel.test"))
    with capture_logs() as logs:
        for _ in range(5):
            seldom.warning("down", about="one", stage="one")
            seldom.warning("down", about="other", stage="other")
        moment += funnel_log.SAY_EVERY_S
        seldom.warning("down", about="one", stage="one")
        seldom.error("down", about="one", stage="one")
    assert [(each["stage"], each["not_logged"]) for each in logs] == [
        ("one", 0),
        ("other", 0),
        ("one", 4),
    ]
    assert logs[2] == {"event": "down", "log_level": "warning", "stage": "one", "not_logged": 4}
