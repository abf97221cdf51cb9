"""Models are loaded once per process, as long as they are the same."""

from pathlib import Path

import pytest

from funnel.models.pool import ModelPool
from funnel.models.source import EMBEDDED_ENCODER
from tests.models.tiny import save_cross_encoder, save_headless


@pytest.mark.parametrize("kind", ["encoder", "scorer"])
def test_a_model_written_anew_is_another_one(tmp_path: Path, kind: str) -> None:
    """Trained again in a notebook; who asked before keeps the old one."""
    pool, folder = ModelPool(), tmp_path / "model"
    asked = getattr(pool, kind)
    save_headless(folder)
    first = asked(str(folder))
    assert asked(str(folder)) is first
    save_cross_encoder(folder)
    second = asked(str(folder))
    assert second is not first and asked(str(folder)) is second
    (folder / "README.md").write_text("a note beside the weights", encoding="utf-8")
    assert asked(str(folder)) is second


def test_what_is_no_folder_is_one_model() -> None:
    """Embedded models and hub ids do not change while a process runs."""
    pool = ModelPool()
    for name in (EMBEDDED_ENCODER, "org/name"):
        assert pool.encoder(name) is pool.encoder(name)
