"""Backends: the same ranking, the fastest by measurement, and a way on when one is missing."""

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from structlog.testing import capture_logs

from funnel.errors import ConfigError, MissingExtra
from funnel.models import CrossEncoderScorer, calibration, sealed
from funnel.models.backends import likely_backends
from funnel.models.calibration import Measured, agreement, choose, score_error
from funnel.models.cross_networks import (
    CrossBert,
    CrossNetwork,
    TorchCross,
    pair_tokenizer,
    read_cross_bert,
)
from funnel.models.source import locate
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
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without OpenVINO and ONNX Runtime."""
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> object:
        return None if name in ("openvino", "onnxruntime") else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)


@pytest.fixture(scope="module")
def model(folder: Path) -> CrossBert:
    read = read_cross_bert(locate(str(folder)))
    assert read is not None
    return read


def _pairs(tokenizer: TextTokenizer) -> list[Tokens]:
    """``PAIRS`` tokenised: words that the tiny model knows, of one to thirty tokens."""
    texts = [tokenizer.ids(pair) for pair in PAIRS]
    return [tokenizer.pair(first, second) for first, second in texts]


@pytest.mark.parametrize(("precision", "limit"), [("f32", 1e-3), ("bf16", 0.1), ("int8", 0.2)])
def test_openvino_gives_torchs_scores(
    model: CrossBert, tokenizer: TextTokenizer, precision: str, limit: float
) -> None:
    """In float32 to rounding, else to a share of the spread; tiny random models amplify errors."""
    pytest.importorskip("openvino")
    from funnel.models.openvino_cross import OpenVinoCross

    pairs = _pairs(tokenizer)
    expected = TorchCross(model, "fp32").logits(pairs)
    scores = OpenVinoCross(model, precision, "tiny").logits(pairs)
    assert score_error(expected, scores, 1) < limit


def test_int8_replaces_every_large_matrix(model: CrossBert) -> None:
    """The four of each layer, not the head's single row; codes times scales are the weights."""
    pytest.importorskip("openvino")
    from funnel.models.int8 import rounded, with_int8_weights
    from funnel.models.openvino_cross import _converted

    graph = _converted(model, "f32")
    widths = [96, 32, 64, 32]  # query-key-value, out, up, down
    assert with_int8_weights(graph) == 2 * sum(width >= 64 for width in widths)
    for columns in (32, 256):
        weights = np.random.default_rng(1).normal(size=(70, columns)).astype(np.float32)
        weights[3] = 0
        codes, scales = rounded(weights)
        found = (codes * scales).reshape(weights.shape)
        assert np.abs(found - weights).max() <= scales.max() / 2 + 1e-6


def test_onnxruntime_gives_torchs_scores(
    model: CrossBert, tokenizer: TextTokenizer, cache_dir: Path
) -> None:
    """To rounding; read again from disk, and exported anew when that is damaged."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from funnel.models.onnx_cross import OnnxCross

    pairs = _pairs(tokenizer)
    expected = TorchCross(model, "fp32").logits(pairs)
    for content in (None, b"", b"no graph"):
        if content is not None:
            sealed.write(f"onnx/{next(cache_dir.glob('onnx/*')).name}", content)
        scores = OnnxCross(model, "tiny").logits(pairs)
        np.testing.assert_allclose(scores, expected, atol=1e-4 * float(np.ptp(expected)))


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


def test_auto_with_nothing_installed_takes_torch(folder: Path, cache_dir: Path, bare: None) -> None:
    """And says what is missing."""
    with capture_logs() as logs:
        scorer = CrossEncoderScorer(str(folder))
        scorer.load()
    assert scorer.backend.startswith(("torch-", "cuda-"))
    absent = {
        entry["backend"]: entry["mend"] for entry in logs if entry["event"] == "backend_absent"
    }
    assert "retrieval-funnel[openvino]" in absent["openvino"]
    assert "retrieval-funnel[onnx]" in absent["onnxruntime"]


@pytest.mark.parametrize(
    ("backend", "extra"), [("openvino-bf16", "openvino"), ("onnxruntime-f32", "onnx")]
)
def test_a_backend_asked_for_by_name_must_be_there(
    folder: Path, bare: None, backend: str, extra: str
) -> None:
    """The error names the extra."""
    with pytest.raises(MissingExtra, match=rf"retrieval-funnel\[{extra}\]"):
        CrossEncoderScorer(str(folder), backend=backend).load()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_cuda_asked_for_by_name_must_be_there(folder: Path) -> None:
    """The error says what torch sees; auto never tries it."""
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        CrossEncoderScorer(str(folder), backend="cuda-fp16").load()
    assert not [name for name in likely_backends() if name.startswith("cuda")]


def test_a_damaged_measurement_is_made_anew(folder: Path, cache_dir: Path) -> None:
    """Whether its bytes are damaged or its content is of another version."""
    CrossEncoderScorer(str(folder)).load()
    kept = next(cache_dir.glob("calibration/*.json"))
    for content in (b"[]", b'[{"backend": "torch-fp32", "speed": 1}]', b"{"):
        sealed.write(f"calibration/{kept.name}", content)
        with capture_logs() as logs:
            CrossEncoderScorer(str(folder)).load()
        assert "calibration_refused" in [entry["event"] for entry in logs]
        assert b"seconds" in kept.read_bytes()
    kept.write_bytes(b"x")
    CrossEncoderScorer(str(folder)).load()
    assert b"seconds" in kept.read_bytes()


def test_a_named_backend_that_ranks_otherwise_gives_way(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To float32, with the reason; its scores are then exactly float32's."""
    monkeypatch.setattr(calibration, "MAX_ERROR", 1e-9)
    with capture_logs() as logs:
        scorer = CrossEncoderScorer(str(folder), backend="torch-bf16")
        scores = scorer.score(PAIRS)
    refused = next(entry for entry in logs if entry["event"] == "backend_refused")
    assert "score error" in refused["reason"]
    assert scorer.backend == "torch-fp32"
    assert [row.backend for row in scorer.choice.measured] == ["torch-fp32", "torch-bf16"]
    expected = CrossEncoderScorer(str(folder), backend="torch-fp32").score(PAIRS)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_an_ungated_backend_is_taken_as_it_is(
    folder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For measuring it: nothing is compared before."""
    monkeypatch.setattr(calibration, "MAX_ERROR", 1e-9)
    scorer = CrossEncoderScorer(str(folder), backend="torch-bf16", gated=False)
    scorer.load()
    assert (scorer.backend, scorer.choice.measured) == ("torch-bf16", ())


def test_openvino_refuses_other_architectures(tmp_path: Path) -> None:
    """It names what would work."""
    pytest.importorskip("openvino")
    folder = save_cross_encoder(tmp_path, kind="distilbert")
    with pytest.raises(ConfigError, match="take a torch backend or auto"):
        CrossEncoderScorer(str(folder), backend="openvino-f32").load()


class _Network:
    """Scores by token ids, perhaps wrongly."""

    budget = 512

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
    kept = [row for row in rows if not row.failed]
    assert choose("key", "exact", {}, tokenizer) == (chosen, kept)


def test_a_backend_that_failed_once_is_tried_again(
    tokenizer: TextTokenizer, cache_dir: Path
) -> None:
    """It may have been for want of memory; what was measured is not measured again."""

    class Slow(_Network):
        def logits(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
            time.sleep(0.002)
            return super().logits(batch)

    openers = {"exact": lambda: Slow(), "turned": lambda: _Network(-1.0)}
    failing = {**openers, "half": lambda: _Network(error=MemoryError())}
    chosen, before = choose("again", "exact", failing, tokenizer)
    assert chosen == "exact"
    able = {**openers, "half": lambda: _Network()}
    chosen, after = choose("again", "exact", able, tokenizer)
    assert chosen == "half"
    assert after[:2] == [row for row in before if not row.failed]
    assert choose("again", "exact", {}, tokenizer) == (chosen, after)


def test_what_another_process_measures_meanwhile_is_taken(
    cache_dir: Path, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many processes that start together one measures, undisturbed by the others."""
    able: dict[str, Callable[[], CrossNetwork]] = {"exact": _Network, "other": _Network}

    @contextmanager
    def after_another() -> Iterator[None]:
        monkeypatch.setattr(calibration, "measuring", nullcontext)
        choose("together", "exact", able, tokenizer)
        yield

    monkeypatch.setattr(calibration, "measuring", after_another)
    unopened = dict.fromkeys(able, Mock(side_effect=AssertionError("measured twice")))
    _, rows = choose("together", "exact", unopened, tokenizer)
    assert {row.backend for row in rows} == {"exact", "other"}


@pytest.mark.parametrize("rough", [False, True])
def test_what_cannot_win_is_not_measured(
    tokenizer: TextTokenizer, cache_dir: Path, rough: bool
) -> None:
    """A slow exact backend, unless none that rounds may serve."""

    class Slow(_Network):
        def logits(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
            time.sleep(0.002)
            return super().logits(batch)

    openers = {
        "exact": lambda: Slow(),
        "compiled": lambda: Slow(),
        "half": lambda: _Network(-1.0 if rough else 1.0),
    }
    chosen, rows = choose(f"k{rough}", "exact", openers, tokenizer, exact={"exact", "compiled"})
    assert [row.backend for row in rows] == ["exact", "half", *(["compiled"] if rough else [])]
    assert (chosen == "half") is not rough


@pytest.mark.parametrize(
    ("half_s", "compiled_s", "chosen"),
    [(0.5, 0.49, "compiled"), (0.49, 0.5, "compiled"), (0.4, 0.5, "half"), (0.95, 0.99, "exact")],
)
def test_the_fastest_that_agrees_is_chosen(half_s: float, compiled_s: float, chosen: str) -> None:
    """Of those about as fast, the one whose scores are nearest to the reference's."""
    rows = [
        Measured("exact", 1.0, 1.0, 1.0),
        Measured("half", half_s, 0.999, 0.98, error=0.011),
        Measured("compiled", compiled_s, 1.0, 1.0, error=0.008),
        Measured("wrong", 0.1, 0.9, 0.7),
        Measured("rough", 0.1, 1.0, 1.0, error=0.1),
        Measured("broken", 0.0, 0.0, 0.0, failed="RuntimeError"),
    ]
    assert calibration._best(rows, "exact") == chosen


def test_agreement_of_equal_and_shifted_orders() -> None:
    """Equal orders agree fully; changing the ten best for others does not at all."""
    scores = np.arange(40, dtype=np.float32)
    assert agreement(scores, scores * 2 + 1, 2) == pytest.approx((1.0, 1.0))
    swapped = np.concatenate([np.roll(scores[:20], 10), np.roll(scores[20:], 10)])
    assert agreement(scores, swapped, 2) == (0.0, 0.0)


def test_score_error_is_a_share_of_the_spread() -> None:
    """A shift of a query's scores counts for nothing, noise for its size."""
    random = np.random.default_rng(3)
    scores = random.normal(0, 5, 400).astype(np.float32)
    shifted = scores + np.repeat([1.0, 2.0], 200).astype(np.float32)
    assert score_error(scores, shifted, 2) < 1e-6
    noisy = scores + random.normal(0, 0.5, 400).astype(np.float32)
    assert score_error(scores, noisy, 2) == pytest.approx(0.1, rel=0.1)
    assert "score error" in Measured("rough", 1.0, 1.0, 1.0, error=float("nan")).reason


def test_sealed_files_notice_damage(cache_dir: Path) -> None:
    """What was written comes back; what was changed does not."""
    assert sealed.read("a/b.json") is None
    sealed.write("a/b.json", b"content")
    assert sealed.read("a/b.json") == b"content"
    (cache_dir / "a/b.json").write_bytes(b"x" * 40)
    assert sealed.read("a/b.json") is None


def test_compiled_models_unused_for_longest_make_room(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By use, not by age; what this process uses, small files and foreign ones stay."""
    monkeypatch.setattr(sealed, "KEPT_BYTES", 300)
    names = [f"openvino/{letter}.blob" for letter in "abcd"] + ["onnx/e.onnx"]
    others = ["calibration/f.json", "openvino/foreign.bin"]
    for age, name in enumerate([*names, *others]):
        sealed.write(name, b"x" * 68)
        day = time.time() - 86_400 * (50 - age)
        os.utime(cache_dir / name, (day, day))
    assert all((cache_dir / name).exists() for name in names)  # this process made them
    monkeypatch.setattr(sealed, "_used", set())
    assert sealed.read(names[0]) is not None
    os.utime(cache_dir / names[2])  # another process
    sealed.write("openvino/new.blob", b"x" * 68)
    left = {str(path.relative_to(cache_dir)) for path in cache_dir.glob("*/*")}
    assert left == {names[0], names[2], "openvino/new.blob", *others}


def test_what_a_killed_process_left_half_written_is_deleted(cache_dir: Path) -> None:
    """An hour later; what another one is writing now stays."""
    sealed.write("openvino/a.blob", b"x")
    old, young = (cache_dir / f"openvino/{sealed._TEMPORARY}{each}" for each in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * sealed.IN_USE_S
    os.utime(old, (long_ago, long_ago))
    sealed.write("openvino/b.blob", b"x")
    assert not old.exists()
    assert young.exists()


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept, and that is said."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path / "file"))
    with capture_logs() as logs:
        sealed.write("name", b"content")
    assert logs[0]["event"] == "cached_file_not_written"


def test_a_file_that_cannot_be_put_in_place_leaves_nothing(cache_dir: Path) -> None:
    """Not even the temporary file that was to take its place."""
    (cache_dir / "name").mkdir(parents=True)
    with capture_logs() as logs:
        sealed.write("name", b"content")
    assert logs[0]["event"] == "cached_file_not_written"
    assert [each.name for each in cache_dir.iterdir()] == ["name"]
