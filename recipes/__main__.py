"""``python -m recipes --data FOLDER``: train both shipped models again.

Each is trained, cut down to a low-rank adapter, measured and written over the shipped one (or under
``--out``). Progress goes to the log; a killed run leaves its last weights in ``--scratch``.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors.torch import load_file

from funnel.models.adapters import Adapter, BaseModel, Combination, save_adapter
from funnel.models.low_rank import load_merged, low_rank_difference, merged_state_dict
from funnel.models.source import EMBEDDED, EMBEDDED_ENCODER, locate, sha256
from recipes import duplicate, measures, relevance
from recipes.cards import duplicate_card, relevance_card
from recipes.network import Base, Windows, Words
from recipes.passages import read_passages
from recipes.questions import read_questions
from recipes.schedule import Schedule

_log = structlog.get_logger(__name__)
_SHIPPED = Path(__file__).parents[1] / "funnel" / "models" / "shipped"
_MAX_TOKENS, _RANK = 256, 64


def main() -> None:
    """Read the command line and make what it names."""
    options = _options()
    torch.set_num_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        {"duplicate": make_duplicate, "relevance": make_relevance}[name](options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=_SHIPPED, help="where adapters are written")
    parser.add_argument("--scratch", type=Path, default=Path(".funnel/recipes"))
    parser.add_argument("--only", nargs="+", default=["duplicate", "relevance"],
                        choices=["duplicate", "relevance"])  # fmt: skip
    parser.add_argument("--minutes", type=float, default=75, help="training time of each model")
    parser.add_argument("--steps", type=int, default=None, help="instead of --minutes")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def make_duplicate(options: argparse.Namespace) -> None:
    """Train, calibrate, measure and write ``embedded:duplicate``."""
    path, words, base = _opened()
    questions = read_questions(options.data, base)
    _log.info("read", pairs=len(questions.train), held_out=len(questions.test))
    schedule = _schedule(options, duplicate.RATE, duplicate.WARMUP, 600)
    network, _, steps = duplicate.train_duplicate(
        questions, path, words, base, schedule, options.scratch / "duplicate.pt"
    )
    adapter, network = _cut("duplicate", path, network)
    combine = measures.calibrated(network, words, base, questions.dev)
    figures = measures.duplicate_figures(network, words, base, combine, questions, options.data)
    training = {"steps": steps, "pairs": len(questions.train), "figures": figures}
    adapter = replace(adapter, combine=combine, training=training)
    save_adapter(options.out / "duplicate", adapter, card=duplicate_card(adapter))


def make_relevance(options: argparse.Namespace) -> None:
    """Train, measure and write ``embedded:relevance``."""
    path, words, base = _opened()
    passages = read_passages(options.data)
    _log.info("read", groups=len(passages.train))
    schedule = _schedule(options, relevance.RATE, relevance.WARMUP, 400)
    network, steps = relevance.train_relevance(
        passages, path, words, base, schedule, options.scratch / "relevance.pt"
    )
    adapter, network = _cut("relevance", path, network)
    figures = measures.relevance_figures(network, words, base, passages, options.data)
    training = {"steps": steps, "groups": len(passages.train), "figures": figures}
    combine = Combination(cosine=relevance.COSINE, maxsim=relevance.MAXSIM, bias=relevance.BIAS)
    adapter = replace(adapter, combine=combine, training=training)
    save_adapter(options.out / "relevance", adapter, card=relevance_card(adapter))


def _opened() -> tuple[Path, Words, Base]:
    from transformers import AutoTokenizer

    path = locate(EMBEDDED_ENCODER).folder
    words = Words(AutoTokenizer.from_pretrained(path))
    return path, words, Base(path, words, Windows(first=64, second=200))


def _schedule(options: argparse.Namespace, rate: float, warmup: int, check: int) -> Schedule:
    return Schedule(options.minutes, rate, warmup, steps=options.steps, check_every=check)


def _cut(name: str, path: Path, network: Any) -> tuple[Adapter, Any]:
    """The adapter, and the network as the adapter gives it back: that is what is measured."""
    weights = load_file(path / "model.safetensors")
    tensors = low_rank_difference(weights, network.state_dict(), _RANK)
    base = BaseModel(EMBEDDED_ENCODER.removeprefix(EMBEDDED), sha256(path / "model.safetensors"))
    adapter = Adapter(name, base, _RANK, float(_RANK), _MAX_TOKENS, tensors)
    load_merged(network, merged_state_dict(adapter, weights))
    return adapter, network


if __name__ == "__main__":
    main()
