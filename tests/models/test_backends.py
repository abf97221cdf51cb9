"""Backends: the same ranking, the fastest by measurement, and a way on when one is missing."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from funnel.errors import ConfigError, MissingExtra
from funnel.models import CrossEncoderScorer, calibration, sealed
from funnel.models.calibration import Measured, agreement, choose
from funnel.models.cross_networks import pair_tokenizer
from funnel.models.tokens import TextTokenizer, Tokens
from tests.models.tiny import WORDS, save_cross_encoder

pytestmark = pytest.mark.slow
PAIRS = [(WORDS[i % 7], " ".join(WORDS[i % 5 : i % 5 + i % 17])) for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def tokenizer(folder: Path) -> TextTokenizer:
    return pair_tokenizer(folder, None)


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> object:
        return None if name == "openvino" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)


@pytest.mark.parametrize(("backend", "atol"), [("openvino-f32", 1e-4), ("openvino-bf16", 0.2)])
def test_openvino_gives_torchs_scores(folder: Path, backend: str, atol: float) -> None:
    """In float32 to rounding, in bfloat16 to a few per cent of the spread."""
    pytest.importorskip("openvino")
    expected = CrossEncoderScorer(str(folder), backend="torch-fp32").score(PAIRS)
    scores = CrossEncoderScorer(str(folder), backend=backend).score(PAIRS)
    np.testing.assert_allclose(scores, expected, atol=atol * float(np.ptp(expected)))


def test_a_damaged_compiled_model_is_made_anew(folder: Path, cache_dir: Path) -> None:
    """With a warning, and the right scores."""
    pytest.importorskip("openvino")
    expected = CrossEncoderScorer(str(folder), backend="openvino-f32").score(PAIRS)
    blob = next(cache_dir.glob("openvino/*.blob"))
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with capture_logs() as logs:
        scores = CrossEncoderScorer(str(folder), backend="openvino-f32").score(PAIRS)
    assert "cached_file_damaged" in [entry["event"] for entry in logs]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert blob.read_bytes() != bytes(data)


def test_a_compiled_model_is_read_again(folder: Path, cache_dir: Path) -> None:
    """The second load takes it from disk and does not write it again."""
    pytest.importorskip("openvino")
    first = CrossEncoderScorer(str(folder), backend="openvino-f32").score(PAIRS)
    blob = next(cache_dir.glob("openvino/*.blob"))
    before = blob.stat().st_mtime_ns
    second = CrossEncoderScorer(str(folder), backend="openvino-f32").score(PAIRS)
    assert blob.stat().st_mtime_ns == before
    np.testing.assert_array_equal(first, second)


def test_auto_chooses_and_remembers(folder: Path, cache_dir: Path) -> None:
    """The measurement is made once per machine and model."""
    first = CrossEncoderScorer(str(folder))
    first.load()
    kept = list(cache_dir.glob("calibration/*.json"))
    assert len(kept) == 1
    second = CrossEncoderScorer(str(folder))
    second.load()
    assert first.backend == second.backend != "auto"
    assert list(cache_dir.glob("calibration/*.json")) == kept


def test_auto_without_openvino_takes_torch(
    folder: Path, cache_dir: Path, no_openvino: None
) -> None:
    """And says what is missing."""
    with capture_logs() as logs:
        scorer = CrossEncoderScorer(str(folder))
        scorer.load()
    assert scorer.backend.startswith("torch-")
    absent = [entry for entry in logs if entry["event"] == "backend_absent"]
    assert "retrieval-funnel[openvino]" in absent[0]["mend"]


def test_openvino_asked_for_by_name_must_be_there(folder: Path, no_openvino: None) -> None:
    """The error names the extra."""
    with pytest.raises(MissingExtra, match=r"retrieval-funnel\[openvino\]"):
        CrossEncoderScorer(str(folder), backend="openvino-bf16").load()


def test_openvino_refuses_other_architectures(tmp_path: Path) -> None:
    """It names what would work."""
    pytest.importorskip("openvino")
    folder = save_cross_encoder(tmp_path, kind="distilbert")
    with pytest.raises(ConfigError, match="take a torch backend or auto"):
        CrossEncoderScorer(str(folder), backend="openvino-f32").load()


class _Network:
    """Scores by token ids, perhaps wrongly."""

    def __init__(self, sign: float = 1.0, error: Exception | None = None) -> None:
        self._sign = sign
        self._error = error

    def logits(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        if self._error is not None:
            raise self._error
        return np.array([self._sign * (sum(each.ids) % 97) for each in batch], np.float32)


def test_a_backend_that_ranks_otherwise_is_not_chosen(
    tokenizer: TextTokenizer, cache_dir: Path
) -> None:
    """However fast; nor is one that fails."""
    openers = {
        "exact": lambda: _Network(),
        "reversed": lambda: _Network(-1.0),
        "broken": lambda: _Network(error=RuntimeError("no such instruction")),
    }
    chosen, rows = choose("key", "exact", openers, tokenizer)
    by_name = {row.backend: row for row in rows}
    assert chosen == "exact"
    assert not by_name["reversed"].agrees
    assert "no such instruction" in by_name["broken"].failed
    assert choose("key", "exact", {}, tokenizer) == (chosen, rows)


def test_the_fastest_that_agrees_is_chosen() -> None:
    """A simpler one wins unless another is clearly faster."""
    rows = [
        Measured("exact", 1.0, 1.0, 1.0),
        Measured("half", 0.5, 0.999, 0.98),
        Measured("compiled", 0.49, 1.0, 1.0),
        Measured("wrong", 0.1, 0.9, 0.7),
        Measured("broken", 0.0, 0.0, 0.0, failed="RuntimeError"),
    ]
    assert calibration._best(rows, "exact") == "half"


def test_agreement_of_equal_and_shifted_orders() -> None:
    """Equal orders agree fully; changing the ten best for others does not at all."""
    scores = np.arange(40, dtype=np.float32)
    assert agreement(scores, scores * 2 + 1, 2) == pytest.approx((1.0, 1.0))
    swapped = np.concatenate([np.roll(scores[:20], 10), np.roll(scores[20:], 10)])
    assert agreement(scores, swapped, 2) == (0.0, 0.0)


def test_sealed_files_notice_damage(cache_dir: Path) -> None:
    """What was written comes back; what was changed does not."""
    assert sealed.read("a/b.json") is None
    sealed.write("a/b.json", b"content")
    assert sealed.read("a/b.json") == b"content"
    (cache_dir / "a/b.json").write_bytes(b"x" * 40)
    assert sealed.read("a/b.json") is None


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept, and that is said."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path / "file"))
    with capture_logs() as logs:
        sealed.write("name", b"content")
    assert logs[0]["event"] == "cached_file_not_written"
