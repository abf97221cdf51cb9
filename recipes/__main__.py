"""``python -m recipes --data FOLDER``: train both shipped models again, and certify thresholds.

Each is trained, cut down to a small adapter, measured and written over the shipped one (or under
``--out``). Progress goes to the log; what runs leave in ``--scratch`` is not trained again.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import structlog
import torch
from safetensors.torch import load_file

from funnel.models.adapters import (
    ENCODER,
    MAXSIM_WEIGHTS,
    Adapter,
    BaseModel,
    read_adapter,
    save_adapter,
)
from funnel.models.hardware import available_cores
from funnel.models.low_rank import merged_encoder, merged_state_dict, quantised_difference
from funnel.models.source import EMBEDDED, EMBEDDED_ENCODER, sha256
from recipes import measures, relevance
from recipes.bert import CrossEncoder, TwinEncoder, long_names
from recipes.calibrator import duplicate_calibrator
from recipes.cards import duplicate_card, relevance_card
from recipes.opened import Opened, open_base
from recipes.questions import HeldOut, read_held_out
from recipes.stages import SHIPPED, Chain

_log = structlog.get_logger(__name__)
_SHIPPED = Path(__file__).parents[1] / "funnel" / "models" / "shipped"
_CALIBRATOR = Path(__file__).parents[1] / "cache" / "calibrator-duplicate.json"
_MAX_TOKENS = 256


def main() -> None:
    """Read the command line and make what it names."""
    options = _options()
    torch.set_num_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        _MAKERS[name](options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=_SHIPPED, help="where adapters are written")
    parser.add_argument("--scratch", type=Path, default=Path(".funnel/recipes"),
                        help="where runs leave their weights")  # fmt: skip
    parser.add_argument("--only", nargs="+", default=_ALL, choices=list(_MAKERS))
    parser.add_argument("--share", type=float, default=1.0,
                        help="of every run's training time (recipes/stages.py)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=None, help="of every run, instead of a time")
    parser.add_argument("--threads", type=int, default=available_cores())
    return parser.parse_args()


def make_duplicate(options: argparse.Namespace) -> None:
    """Train what is missing, calibrate, measure and write ``embedded:duplicate``."""
    opened = open_base()
    chain = Chain(opened, options.data, options.scratch, share=options.share, steps=options.steps)
    chain.run()
    cross = opened.cross(chain.mean("cross-encoder", SHIPPED["cross-encoder"]))
    encoder = opened.encoder(chain.mean("encoder", SHIPPED["encoder"]))
    adapter, model = _cut(opened, cross, encoder)
    _weigh(adapter, model, chain.questions, len(chain.questions.train), options)


def reweigh_duplicate(options: argparse.Namespace) -> None:
    """Fit the weights of the installed ``embedded:duplicate``'s parts anew, and measure it."""
    opened = open_base()
    adapter = read_adapter(_SHIPPED / "duplicate")
    model = _merged(opened, adapter)
    questions = read_held_out(options.data, opened.base)
    _weigh(adapter, model, questions, adapter.training["pairs"], options)


def _weigh(
    adapter: Adapter,
    model: measures.Model,
    questions: HeldOut,
    pairs: int,
    options: argparse.Namespace,
) -> None:
    combine = measures.calibrated(model, questions.dev)
    figures = measures.duplicate_figures(model, combine, questions, options.data)
    training = {"pairs": pairs, "figures": figures}
    adapter = replace(adapter, combine=combine, training=training)
    save_adapter(options.out / "duplicate", adapter, card=duplicate_card(adapter))


def make_relevance(options: argparse.Namespace) -> None:
    """Weigh tokens, calibrate, measure and write ``embedded:relevance``."""
    opened = open_base()
    development = relevance.development_sets(options.data)
    vocabulary = len(opened.words.tokenizer)
    weights = relevance.rarity_weights(development.values(), opened.base, vocabulary)
    stored = torch.from_numpy(weights).half()
    similarities = relevance.Similarities(opened.base, stored.float().numpy())
    combine = relevance.fitted(development, similarities)
    sets = relevance.test_sets(options.data)
    figures = relevance.relevance_figures(sets, similarities, combine)
    adapter = Adapter(
        "relevance", _base_model(opened), 1, 1.0, _MAX_TOKENS, {MAXSIM_WEIGHTS: stored}, combine,
        training={"figures": figures},
    )  # fmt: skip
    save_adapter(options.out / "relevance", adapter, card=relevance_card(adapter))


def _cut(
    opened: Opened, cross: CrossEncoder, encoder: TwinEncoder
) -> tuple[Adapter, measures.Model]:
    """The adapter, and the networks as it gives them back: those are what is measured."""
    weights = load_file(opened.weights)
    tensors = dict(quantised_difference(weights, cross.weights()))
    second = quantised_difference(weights, encoder.weights())
    tensors |= {ENCODER + name: tensor for name, tensor in second.items()}
    adapter = Adapter("duplicate", _base_model(opened), 1, 1.0, _MAX_TOKENS, tensors)
    return adapter, _merged(opened, adapter)


def _merged(opened: Opened, adapter: Adapter) -> measures.Model:
    weights = load_file(opened.weights)
    twins = opened.encoder(long_names(merged_encoder(adapter, weights))).eval()
    whole = opened.cross(merged_state_dict(adapter, weights)).eval()
    return measures.Model(whole, twins, opened.words, opened.base)


def _base_model(opened: Opened) -> BaseModel:
    return BaseModel(EMBEDDED_ENCODER.removeprefix(EMBEDDED), sha256(opened.weights))


def make_calibrator(options: argparse.Namespace) -> None:
    """Certify thresholds of the installed ``embedded:duplicate`` for the cache."""
    calibrator = duplicate_calibrator(options.data)
    calibrator.save(_CALIBRATOR if options.out == _SHIPPED else options.out / _CALIBRATOR.name)


_MAKERS = {
    "duplicate": make_duplicate,
    "weights": reweigh_duplicate,
    "calibrator": make_calibrator,
    "relevance": make_relevance,
}


_ALL = ["duplicate", "calibrator", "relevance"]  # the weights are a part of the first


if __name__ == "__main__":
    main()
