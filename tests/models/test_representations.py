"""Kept vectors: computed once, bounded, the same whether kept or not; and adapters over them."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from funnel.deadline import Deadline
from funnel.errors import ConfigError, ModelError
from funnel.models import CrossEncoderScorer, Embedder, backends, calibration, pair_models
from funnel.models.adapters import MAXSIM_WEIGHTS, Combination
from funnel.models.encoder_networks import open_network
from funnel.models.maxsim import maxsim
from funnel.models.pair_models import CombinedPairs, PairItem, open_pair_model
from funnel.models.representations import Representation, RepresentationCache
from funnel.models.source import EMBEDDED_ENCODER, ModelSource
from tests.models.tiny import save_tokenizer
from tests.training.tiny import tiny_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from funnel.models.encoder import Precision


def _made(texts: list[str]) -> list[Representation]:
    random = np.random.default_rng(len(texts))
    return [
        Representation(np.ones(4, np.float32), random.random((3, 4), np.float32)) for _ in texts
    ]


def test_each_text_is_computed_once() -> None:
    """Repeats within and between calls come from memory, with the same numbers."""
    cache, asked = RepresentationCache(), list[str]()

    def compute(texts: list[str]) -> list[Representation]:
        asked.extend(texts)
        return _made(texts)

    first = cache.fetch("m", ["a", "b", "a"], compute)
    second = cache.fetch("m", ["b", "a"], compute)
    assert asked == ["a", "b"]
    np.testing.assert_array_equal(first[0].tokens, second[1].tokens)
    np.testing.assert_array_equal(first[0].tokens, first[2].tokens)


def test_models_do_not_share_vectors() -> None:
    """The same text under another model is another entry."""
    cache = RepresentationCache()
    cache.fetch("m", ["a"], _made)
    assert cache.known("m", ["a"]) == [True]
    assert cache.known("n", ["a"]) == [False]


def test_memory_is_bounded_and_the_oldest_go_first() -> None:
    """An entry here takes 40 bytes."""
    cache = RepresentationCache(max_bytes=120)
    for text in "abc":
        cache.fetch("m", [text], _made)
    cache.fetch("m", ["a"], _made)
    cache.fetch("m", ["d"], _made)
    assert cache.nbytes == 120
    assert cache.known("m", list("abcd")) == [True, False, True, True]


def test_an_entry_larger_than_the_bound_is_still_answered() -> None:
    """It is just not kept."""
    cache = RepresentationCache(max_bytes=10)
    assert len(cache.fetch("m", ["a", "b"], _made)) == 2
    assert cache.nbytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embedded:relevance", "embedded:duplicate"])
def test_shipped_scorers_do_not_depend_on_company(name: str) -> None:
    """Alone, together, and a second time from memory, up to bfloat16's rounding."""
    pairs = [
        ("how do I reset my password", "Choose 'Forgot password' on the sign-in page."),
        ("how do I reset my password", "Green tea is brewed below boiling point."),
        ("flights from Oslo to Rome", "flights from Rome to Oslo"),
        ("x", ""),
    ]
    scorer = CrossEncoderScorer(name, backend="torch-fp32")
    together = scorer.score(pairs)
    alone = np.concatenate([scorer.score([pair]) for pair in pairs])
    np.testing.assert_allclose(alone, together, atol=0.1)
    assert together[0] > together[1]


def _save(
    folder: Path,
    combine: Combination,
    tensors: dict[str, torch.Tensor] | None = None,
    base: Path | None = None,
) -> None:
    """An adapter that changes nothing of its base and combines its similarities.

    The base is the shipped encoder by default.
    """
    from funnel.models.adapters import Adapter, BaseModel, save_adapter
    from funnel.models.source import locate, sha256

    weights = sha256((base or locate(EMBEDDED_ENCODER).folder) / "model.safetensors")
    adapter = Adapter(
        name=folder.name,
        base=BaseModel(str(base or "all-MiniLM-L6-v2"), weights),
        rank=1,
        alpha=1.0,
        max_tokens=64 if base else 128,
        tensors=tensors or {},
        combine=combine,
    )
    save_adapter(folder, adapter, card=folder.name)


@pytest.mark.slow
def test_an_adapters_parts_are_the_bases_similarities(tmp_path: Path) -> None:
    """With cosine and MaxSim alone the score is what the encoder's own vectors give."""
    _save(tmp_path / "parts", Combination(cross=0.0, cosine=2.0, maxsim=3.0, bias=-1.0))
    assert isinstance(open_pair_model(str(tmp_path / "parts"), "auto", None), CombinedPairs)
    pair = ("new password", "You can reset your password on the login page.")
    (score,) = CrossEncoderScorer(str(tmp_path / "parts")).score([pair])
    one, other = Embedder(EMBEDDED_ENCODER).represent(pair)
    expected = 2 * one.pooled @ other.pooled + 3 * maxsim(one.tokens, [other.tokens])[0] - 1
    assert score == pytest.approx(float(expected), abs=0.02)


@pytest.mark.slow
def test_tokens_count_by_their_weights_in_maxsim(tmp_path: Path) -> None:
    """A token of weight zero is as if it were not in the query; without any weight all count."""
    vocabulary = torch.zeros(30_522)
    pair = ("new password", "You can reset your password on the login page.")
    encoder = Embedder(EMBEDDED_ENCODER)
    one, other = encoder.represent(pair)
    combine = Combination(cross=0.0, maxsim=1.0)
    _save(tmp_path / "none", combine, {MAXSIM_WEIGHTS: vocabulary.half()})
    plain = float(maxsim(one.tokens, [other.tokens])[0])
    assert CrossEncoderScorer(str(tmp_path / "none")).score([pair]) == pytest.approx(
        [plain], abs=0.02
    )
    vocabulary[_id_of("password")] = 3.0
    _save(tmp_path / "some", combine, {MAXSIM_WEIGHTS: vocabulary.half()})
    (score,) = CrossEncoderScorer(str(tmp_path / "some")).score([pair])
    assert score == pytest.approx(float((one.tokens[2] @ other.tokens.T).max()), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights", [torch.ones(7), torch.full((30_522,), -1.0), torch.full((30_522,), torch.nan)]
)
def test_token_weights_that_cannot_be_used_are_told(tmp_path: Path, weights: torch.Tensor) -> None:
    """Of another vocabulary, negative or no numbers."""
    _save(tmp_path / "wrong", Combination(cross=0.0, maxsim=1.0), {MAXSIM_WEIGHTS: weights})
    with pytest.raises(ModelError, match=r"maxsim.token_weights: got shape"):
        CrossEncoderScorer(str(tmp_path / "wrong")).score([("a", "b")])


def _id_of(word: str) -> int:
    from funnel.models.source import locate
    from funnel.models.tokens import TextTokenizer

    ((found,),) = TextTokenizer(locate(EMBEDDED_ENCODER).folder, 256).ids([word])
    return found


@pytest.mark.slow
async def test_cosines_at_hand_are_used(tmp_path: Path) -> None:
    """A scorer says whose cosines it can use, and then reads no text for them."""
    folder = tmp_path / "cosine"
    _save(folder, Combination(cross=0.0, cosine=2.0, bias=-1.0))
    scorer, pair = CrossEncoderScorer(str(folder)), ("new password", "reset a password")
    assert scorer.cosine_of == Embedder(EMBEDDED_ENCODER).revision
    told = await scorer.ascore([pair, pair], deadline=Deadline(), cosines=[0.25, 1.0])
    assert told.values == pytest.approx([-0.5, 1.0])
    one, other = Embedder(EMBEDDED_ENCODER).encode(list(pair))
    assert scorer.score([pair]) == pytest.approx([2 * float(one @ other) - 1], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
async def test_what_the_encoders_rule_out_is_not_read_by_the_cross_encoder(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The score of a pair that may still have what it needs is the same as without a need."""
    asked, read = "How do I reset my password?", list[int]()
    others = ["When does the museum open on Sundays?", "how can i reset my password", "Delete it"]
    pairs = [(asked, other) for other in others][:count]
    scorer = CrossEncoderScorer("embedded:duplicate")
    plain = scorer.score(pairs)

    def counted(model: CombinedPairs, items: "Sequence[PairItem]") -> object:
        read.append(len(items))
        return cross(model, items)

    cross = CombinedPairs._cross
    monkeypatch.setattr(CombinedPairs, "_cross", counted)
    found = await scorer.ascore(pairs, deadline=Deadline(), needed=[0.0] * count)
    assert [value >= 0 for value in plain] == [False, True, False][:count]
    assert read == [[0], [0], [1]][count - 1]
    for value, alone in zip(found.values, plain, strict=True):
        assert value == (pytest.approx(alone, abs=1e-3) if alone >= 0 else -np.inf)
    read.clear()
    low = await scorer.ascore(pairs, deadline=Deadline(), needed=[-100.0] * count)
    assert low.values == pytest.approx(plain, abs=1e-3)
    kept = CrossEncoderScorer("embedded:duplicate", score_cache_mb=1)
    whole = await kept.ascore(pairs, deadline=Deadline(), needed=[0.0] * count)
    assert whole.values == pytest.approx(plain, abs=1e-3)


def test_a_tuned_encoder_scores_as_it_would_alone(tmp_path: Path) -> None:
    """Its cosine is that of the same weights in a folder of their own, and comes from memory."""
    from safetensors.torch import load_file, save_file

    from funnel.models.adapters import ENCODER, Adapter, BaseModel, save_adapter
    from funnel.models.low_rank import quantised_difference
    from funnel.models.source import sha256

    tiny_bi = str(tiny_encoder(tmp_path / "encoder"))
    alone, weights = tmp_path / "alone", load_file(f"{tiny_bi}/model.safetensors")
    shutil.copytree(tiny_bi, alone)
    torch.manual_seed(3)
    moved = {
        name: (w + torch.randn_like(w)).half().float() if ".bias" in name else w
        for name, w in weights.items()
    }
    save_file(moved, alone / "model.safetensors")
    difference = quantised_difference(weights, {f"bert.{n}": w for n, w in moved.items()})
    adapter = Adapter(
        "twin", BaseModel(tiny_bi, sha256(Path(tiny_bi) / "model.safetensors")), 1, 1.0, 64,
        {ENCODER + name: tensor for name, tensor in difference.items()},
        Combination(cross=0.0, tuned=2.0, bias=-1.0),
    )  # fmt: skip
    save_adapter(tmp_path / "twin", adapter, card="")
    pair = ("find alpha", "about kappa")
    scorer = CrossEncoderScorer(str(tmp_path / "twin"))
    one, other = Embedder(str(alone)).encode(list(pair))
    base_one, base_other = Embedder(tiny_bi).encode(list(pair))
    expected = 2 * float(one @ other) - 1
    assert abs(expected - (2 * float(base_one @ base_other) - 1)) > 0.05
    assert scorer.score([pair, pair[::-1]]) == pytest.approx([expected] * 2, abs=0.03)
    assert scorer.symmetric
    items = open_pair_model(str(tmp_path / "twin"), "auto", None).prepare([pair, ("new", "text")])
    assert items[0].cost < items[1].cost  # what was read before costs nothing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "limit", "precision"),
    [("auto", 1.0, "bf16"), ("auto", 1e-9, "fp32"), ("torch-bf16", 1e-9, "fp32"),
     ("torch-fp32", 1.0, "fp32")],
)  # fmt: skip
def test_encoders_round_only_where_the_score_ranks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, limit: float, precision: str
) -> None:
    """The gate of any other cross-encoder holds for one that is made of vectors."""
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(calibration, "MAX_ERROR", limit)
    monkeypatch.setattr(backends, "cpu_has_fast_bf16", lambda: True)
    _save(tmp_path / "parts", Combination(cross=0.0, cosine=2.0, maxsim=3.0))
    scorer = CrossEncoderScorer(str(tmp_path / "parts"), backend=backend)
    assert scorer.backend == f"torch-{precision}"
    again = CrossEncoderScorer(str(tmp_path / "parts"), backend=backend)
    assert again.choice == scorer.choice  # remembered
    pair = ("new password", "You can reset your password on the login page.")
    exact = CrossEncoderScorer(str(tmp_path / "parts"), backend="torch-fp32").score([pair])
    assert (scorer.score([pair]) == exact).all() == (precision == "fp32")


@pytest.mark.slow
def test_what_was_measured_in_one_window_says_nothing_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoders read their own window by default, and the pair's if it is asked for."""
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(backends, "cpu_has_fast_bf16", lambda: True)
    base = tiny_encoder(tmp_path / "encoder")
    _save(tmp_path / "parts", Combination(cross=0.0, cosine=2.0), base=base)
    for max_tokens in (None, 32, 32):
        open_pair_model(str(tmp_path / "parts"), "auto", max_tokens)
    assert len(list((tmp_path / "kept" / "calibration").iterdir())) == 2


@pytest.mark.slow
def test_rounding_that_fails_is_no_failure_of_the_scorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` goes on in float32 and says why."""
    monkeypatch.setenv("FUNNEL_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(backends, "cpu_has_fast_bf16", lambda: True)
    monkeypatch.setattr(pair_models, "open_network", _without_bf16)
    _save(tmp_path / "parts", Combination(cross=0.0, cosine=2.5))
    for _ in range(2):
        scorer = CrossEncoderScorer(str(tmp_path / "parts"))
        assert scorer.backend == "torch-fp32"
        assert "no such primitive" in scorer.choice.measured[1].reason


def _without_bf16(source: ModelSource, precision: "Precision", max_tokens: int | None) -> object:
    if precision == "bf16":
        raise RuntimeError("no such primitive")
    return open_network(source, precision, max_tokens)


def test_a_backend_that_runs_nothing_of_a_scorer_is_refused() -> None:
    """With those that can."""
    with pytest.raises(ConfigError, match="expected one of auto, torch-fp32, torch-bf16"):
        CrossEncoderScorer("embedded:relevance", backend="onnxruntime-f32").load()


@pytest.mark.slow
@pytest.mark.parametrize(
    "combine", [Combination(cross=0.0, cosine=2.0), Combination(cross=0.0, maxsim=3.0)]
)
async def test_encoders_keep_to_the_window_and_what_they_cut_is_counted(
    tmp_path: Path, combine: Combination
) -> None:
    """What lies behind ``max_tokens`` moves no score; an index's cosines are of another window."""
    _save(tmp_path / "parts", combine)
    scorer = CrossEncoderScorer(str(tmp_path / "parts"), max_tokens=16, backend="torch-fp32")
    start = "you can reset your password on the login page of this web site "
    pairs = [("new password", start + end) for end in ("go home", "buy milk " * 9_000, "")]
    scored = await scorer.ascore([*pairs, ("a", "b")], deadline=Deadline())
    assert scored.truncated == 2
    assert scored.values[0] == pytest.approx(scored.values[1], abs=1e-5)
    assert scorer.cosine_of == ""
    whole = CrossEncoderScorer(str(tmp_path / "parts"), backend="torch-fp32")
    told = await whole.ascore(pairs, deadline=Deadline())
    assert told.truncated == 1
    assert abs(told.values[0] - told.values[1]) > 0.01


@pytest.mark.parametrize("text", ["a" * 90_000, " " * 90_000 + "end", "a " * 90_000])
def test_what_is_cut_before_tokenising_is_seen(tmp_path: Path, text: str) -> None:
    """A text is either read whole or counted as cut, however few tokens its beginning has."""
    from funnel.models.tokens import TextTokenizer

    save_tokenizer(tmp_path)
    tokenizer = TextTokenizer(tmp_path, 32)
    (whole,) = tokenizer.ids([text], whole=True)
    (tokens,) = tokenizer.singles([text])
    assert tokens.truncated == (len(whole) > 30)
    assert tokens.ids[1:-1] == whole[:30]
