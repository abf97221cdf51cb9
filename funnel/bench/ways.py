"""The ways to score pairs that are compared, all with the same weights."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.errors import ConfigError
from funnel.models.base import TextPair
from funnel.models.quiet import quiet_loading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

Score = Callable[[Sequence[TextPair]], "FloatArray"]
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Way:
    """A name for a table's row, and how it scores one query's pairs.

    ``note``: what a reader of the table must know.
    """

    name: str
    score: Score
    note: str = ""


def model_note(name: str) -> str:
    """What a table with this model does not say: the duplicate model is no relevance model."""
    if name != "embedded:duplicate":
        return ""
    return (
        "embedded:duplicate tells paraphrases and was never trained for relevance: its times are "
        "those of any model of its size, its nDCG@10 says only whether the ways agree. "
        "--model takes another: a directory, a hub id"
    )


def default_model() -> str:
    """``embedded:relevance``, or ``embedded:duplicate`` if that weighs in no cross-encoder."""
    from funnel.models.adapters import read_adapter
    from funnel.models.source import SHIPPED

    relevance = read_adapter(SHIPPED / "relevance")
    return "embedded:relevance" if relevance.combine.orders else "embedded:duplicate"


def plain_folder(name: str, scratch: Path) -> Path:
    """A model as a plain directory that every library can load.

    An adapter's cross-encoder is merged and written to ``scratch``; cosine and MaxSim, which its
    combination may weigh in, are not part of it.

    Raises:
        ConfigError: the adapter has no cross-encoder.
        ModelError: there is no such model.
    """
    from funnel.models.adapters import read_adapter
    from funnel.models.bert import read_config, read_weights
    from funnel.models.low_rank import export
    from funnel.models.pair_models import adapter_base, adapter_folder
    from funnel.models.source import locate

    folder = adapter_folder(name)
    if folder is None:
        return locate(name).folder
    adapter = read_adapter(folder)
    if not adapter.combine.orders:
        raise ConfigError(
            f"model {name!r} weighs in no cross-encoder, so there is nothing to compare with "
            "other libraries; name another with --model"
        )
    base = adapter_base(adapter).folder
    target = scratch / "model"
    export(adapter, read_weights(base), read_config(base), target)
    _copy_tokenizer(base, target, adapter.max_tokens)
    return target


def _copy_tokenizer(base: Path, target: Path, max_tokens: int) -> None:
    for file in _TOKENIZER_FILES:
        if (base / file).is_file():
            shutil.copy(base / file, target / file)
    config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["model_max_length"] = max_tokens
    (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def funnel_way(folder: Path, backend: str) -> Way:
    """Our scorer on one backend, however it ranks; ``auto`` is called just ``funnel``."""
    from funnel.models import CrossEncoderScorer

    scorer = CrossEncoderScorer(str(folder), backend=backend, gated=False)
    scorer.load()
    name = "funnel" if backend == "auto" else f"funnel-{backend}"
    return Way(name, scorer.score)


def library_way(folder: Path, precision: str = "fp32", batch_size: int | None = None) -> Way:
    """``sentence_transformers.CrossEncoder.predict``; its defaults are batch 32 and float32."""
    import torch
    from sentence_transformers import CrossEncoder

    arguments: dict[str, Any] = {"dtype": torch.bfloat16} if precision == "bf16" else {}
    with quiet_loading():
        model = CrossEncoder(str(folder), device="cpu", model_kwargs=arguments)
    options = {} if batch_size is None else {"batch_size": batch_size}

    def score(pairs: Sequence[TextPair]) -> "FloatArray":
        values = model.predict(list(pairs), show_progress_bar=False, **options)
        return np.asarray(values, np.float32)

    name = "sentence-transformers" + ("-bf16" if precision == "bf16" else "")
    return Way(name if batch_size is None else f"{name}-batch{batch_size}", score)


def rerankers_way(folder: Path) -> Way | None:
    """The ``rerankers`` library, if it is installed."""
    if importlib.util.find_spec("rerankers") is None:
        return None
    with quiet_loading():
        ranker = import_module("rerankers").Reranker(
            str(folder), model_type="cross-encoder", device="cpu", verbose=0
        )

    def score(pairs: Sequence[TextPair]) -> "FloatArray":
        ids = list(range(len(pairs)))
        ranked = ranker.rank(query=pairs[0][0], docs=[text for _, text in pairs], doc_ids=ids)
        values = np.empty(len(pairs), np.float32)
        for result in ranked.results:
            values[int(result.doc_id)] = result.score
        return values

    return Way("rerankers", score)


def flashrank_way() -> Way | None:
    """The ``flashrank`` library with its own model, if both are here; nothing is downloaded."""
    if importlib.util.find_spec("flashrank") is None:
        return None
    settings, library = import_module("flashrank.Config"), import_module("flashrank.Ranker")
    if not (Path(settings.default_cache_dir) / settings.default_model).is_dir():
        return None
    ranker = library.Ranker(log_level="WARNING")

    def score(pairs: Sequence[TextPair]) -> "FloatArray":
        passages = [{"id": number, "text": text} for number, (_, text) in enumerate(pairs)]
        values = np.empty(len(pairs), np.float32)
        for passage in ranker.rerank(library.RerankRequest(pairs[0][0], passages)):
            values[passage["id"]] = passage["score"]
        return values

    return Way("flashrank", score, f"flashrank reads with its own {settings.default_model}")
