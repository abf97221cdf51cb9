"""``python -m recipes --data FOLDER``: train both shipped models again, and certify thresholds.

Each is trained, cut down to a low-rank adapter, measured and written over the shipped one (or under
``--out``). Progress goes to the log; a killed run leaves its last weights in ``--scratch``.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog
import torch
from safetensors.torch import load_file

from funnel.models.adapters import MAXSIM_WEIGHTS, Adapter, BaseModel, save_adapter
from funnel.models.bert import bert_shape, read_config
from funnel.models.low_rank import merged_state_dict, quantised_difference
from funnel.models.source import EMBEDDED, EMBEDDED_ENCODER, locate, sha256
from funnel.models.worker import available_cores
from recipes import duplicate, measures, relevance
from recipes.calibrator import duplicate_calibrator
from recipes.cards import duplicate_card, relevance_card
from recipes.cross import CrossEncoder, fresh_weights, mean_weights
from recipes.network import Base, Words
from recipes.questions import read_questions
from recipes.schedule import Schedule

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
    parser.add_argument("--scratch", type=Path, default=Path(".funnel/recipes"))
    parser.add_argument("--only", nargs="+", default=list(_MAKERS), choices=list(_MAKERS))
    parser.add_argument("--minutes", type=float, default=78, help="training time of each model")
    parser.add_argument("--steps", type=int, default=None, help="instead of --minutes")
    parser.add_argument("--trained", type=Path, nargs="+", default=[],
                        help="weights that earlier runs left in --scratch; averaged")  # fmt: skip
    parser.add_argument("--longer", action="store_true",
                        help="train --trained further, from a later round on")  # fmt: skip
    parser.add_argument("--threads", type=int, default=available_cores())
    return parser.parse_args()


def make_duplicate(options: argparse.Namespace) -> None:
    """Train, calibrate, measure and write ``embedded:duplicate``."""
    path, words, base = _opened()
    questions = read_questions(options.data, base)
    _log.info("read", pairs=len(questions.train), held_out=len(questions.test))
    torch.manual_seed(duplicate.SEED)
    files = options.trained or [path / "model.safetensors"]
    start = mean_weights([load_file(file) for file in files])
    network, steps = _network(start, path, duplicate.DROPOUT), options.steps
    if options.longer or not options.trained:
        schedule = Schedule(options.minutes, duplicate.RATE, duplicate.WARMUP, steps=options.steps)
        trainer = duplicate.Trainer(network, questions, words, base)
        checkpoint = options.scratch / "duplicate.safetensors"
        steps = trainer.run(schedule, checkpoint, later=options.longer)
    adapter, network = _cut("duplicate", path, network)
    combine = measures.calibrated(network, words, base, questions.dev)
    figures = measures.duplicate_figures(network, words, base, combine, questions, options.data)
    training = {"steps": steps, "pairs": len(questions.train), "figures": figures}
    adapter = replace(adapter, combine=combine, training=training)
    save_adapter(options.out / "duplicate", adapter, card=duplicate_card(adapter))


def make_relevance(options: argparse.Namespace) -> None:
    """Weigh tokens, calibrate, measure and write ``embedded:relevance``."""
    path, words, base = _opened()
    development = relevance.development_sets(options.data)
    weights = relevance.rarity_weights(development.values(), base, len(words.tokenizer))
    stored = torch.from_numpy(weights).half()
    similarities = relevance.Similarities(base, stored.float().numpy())
    combine = relevance.fitted(development, similarities)
    sets = relevance.test_sets(options.data)
    figures = relevance.relevance_figures(sets, similarities, combine)
    adapter = Adapter(
        "relevance", _base_model(path), 1, 1.0, _MAX_TOKENS, {MAXSIM_WEIGHTS: stored}, combine,
        training={"figures": figures},
    )  # fmt: skip
    save_adapter(options.out / "relevance", adapter, card=relevance_card(adapter))


def _opened() -> tuple[Path, Words, Base]:
    from transformers import AutoTokenizer

    source = locate(EMBEDDED_ENCODER)
    words = Words(AutoTokenizer.from_pretrained(source.folder))
    return source.folder, words, Base(source)


def _network(weights: Mapping[str, torch.Tensor], path: Path, dropout: float = 0.0) -> CrossEncoder:
    """A cross-encoder with these weights, and a new head if they have none."""
    shape = bert_shape(read_config(path))
    if shape is None:
        raise SystemExit(f"{path} is no plain BERT")
    whole = weights if "classifier.weight" in weights else fresh_weights(weights)
    return CrossEncoder(whole, layers=shape.layers, heads=shape.heads, dropout=dropout)


def _cut(name: str, path: Path, network: CrossEncoder) -> tuple[Adapter, CrossEncoder]:
    """The adapter, and the network as the adapter gives it back: that is what is measured."""
    weights = load_file(path / "model.safetensors")
    tensors = quantised_difference(weights, network.weights())
    adapter = Adapter(name, _base_model(path), 1, 1.0, _MAX_TOKENS, tensors)
    return adapter, _network(merged_state_dict(adapter, weights), path)


def _base_model(path: Path) -> BaseModel:
    return BaseModel(EMBEDDED_ENCODER.removeprefix(EMBEDDED), sha256(path / "model.safetensors"))


def make_calibrator(options: argparse.Namespace) -> None:
    """Certify thresholds of the installed ``embedded:duplicate`` for the cache."""
    calibrator = duplicate_calibrator(options.data)
    calibrator.save(_CALIBRATOR if options.out == _SHIPPED else options.out / _CALIBRATOR.name)


_MAKERS = {
    "duplicate": make_duplicate,
    "calibrator": make_calibrator,
    "relevance": make_relevance,
}


if __name__ == "__main__":
    main()
