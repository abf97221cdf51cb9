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

from funnel.models.adapters import ENCODER, MAXSIM_WEIGHTS, Adapter, BaseModel, save_adapter
from funnel.models.bert import bert_shape, read_config
from funnel.models.hardware import available_cores
from funnel.models.low_rank import merged_encoder, merged_state_dict, quantised_difference
from funnel.models.source import EMBEDDED, EMBEDDED_ENCODER, locate, sha256
from recipes import duplicate, measures, relevance, twin
from recipes.bert import (
    CrossEncoder,
    TwinEncoder,
    fresh_weights,
    long_names,
    mean_weights,
    trunk_weights,
)
from recipes.calibrator import duplicate_calibrator
from recipes.cards import duplicate_card, relevance_card
from recipes.network import Base, Words
from recipes.questions import Questions, extra_duplicates, read_questions
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
                        help="cross-encoder weights of earlier runs; averaged")  # fmt: skip
    parser.add_argument("--encoder", type=Path, nargs="+", default=[],
                        help="encoder weights of earlier runs; averaged")  # fmt: skip
    parser.add_argument("--longer", action="store_true",
                        help="train --trained further, from a later round on")  # fmt: skip
    parser.add_argument("--threads", type=int, default=available_cores())
    return parser.parse_args()


def make_duplicate(options: argparse.Namespace) -> None:
    """Train both networks, calibrate, measure and write ``embedded:duplicate``."""
    path, words, base = _opened()
    questions = read_questions(options.data, base)
    _log.info("read", pairs=len(questions.train), held_out=len(questions.test))
    encoder, encoder_steps = _trained_encoder(options, path, questions, words, base)
    cross, steps = _trained_cross(options, path, questions, words, base)
    adapter, model = _cut(path, cross, encoder, words, base)
    combine = measures.calibrated(model, questions.dev)
    figures = measures.duplicate_figures(model, combine, questions, options.data)
    counts = {"steps of the cross-encoder": steps, "steps of the encoder": encoder_steps}
    training = {name: count for name, count in counts.items() if count is not None}
    training |= {"pairs": len(questions.train), "figures": figures}
    adapter = replace(adapter, combine=combine, training=training)
    save_adapter(options.out / "duplicate", adapter, card=duplicate_card(adapter))


def _trained_encoder(
    options: argparse.Namespace, path: Path, questions: Questions, words: Words, base: Base
) -> tuple[TwinEncoder, int | None]:
    """From ``--encoder``, or trained now; and the steps."""
    torch.manual_seed(twin.SEED)
    files = options.encoder or [path / "model.safetensors"]
    weights = mean_weights([trunk_weights(load_file(file)) for file in files])
    network = TwinEncoder(weights, **_sizes(path), dropout=twin.DROPOUT)
    if options.encoder:
        return network.eval(), None
    schedule = Schedule(options.minutes, twin.RATE, twin.WARMUP, steps=options.steps)
    trainer = twin.TwinTrainer(network, questions, extra_duplicates(options.data), words, base)
    return network, trainer.run(schedule, options.scratch / "encoder.safetensors")


def _trained_cross(
    options: argparse.Namespace, path: Path, questions: Questions, words: Words, base: Base
) -> tuple[CrossEncoder, int | None]:
    """From ``--trained``, or trained now (further, with ``--longer``); and the steps."""
    torch.manual_seed(duplicate.SEED)
    files = options.trained or [path / "model.safetensors"]
    start = mean_weights([load_file(file) for file in files])
    network = _cross(start, path, duplicate.DROPOUT)
    if options.trained and not options.longer:
        return network.eval(), None
    schedule = Schedule(options.minutes, duplicate.RATE, duplicate.WARMUP, steps=options.steps)
    trainer = duplicate.Trainer(network, questions, words, base)
    checkpoint = options.scratch / "duplicate.safetensors"
    return network, trainer.run(schedule, checkpoint, later=options.longer)


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


def _sizes(path: Path) -> dict[str, int]:
    shape = bert_shape(read_config(path))
    if shape is None:
        raise SystemExit(f"{path} is no plain BERT")
    return {"layers": shape.layers, "heads": shape.heads}


def _cross(weights: Mapping[str, torch.Tensor], path: Path, dropout: float = 0.0) -> CrossEncoder:
    """A cross-encoder with these weights, and a new head if they have none."""
    whole = weights if "classifier.weight" in weights else fresh_weights(weights)
    return CrossEncoder(whole, **_sizes(path), dropout=dropout)


def _cut(
    path: Path, cross: CrossEncoder, encoder: TwinEncoder, words: Words, base: Base
) -> tuple[Adapter, measures.Model]:
    """The adapter, and the networks as it gives them back: those are what is measured."""
    weights = load_file(path / "model.safetensors")
    tensors = dict(quantised_difference(weights, cross.weights()))
    second = quantised_difference(weights, encoder.weights())
    tensors |= {ENCODER + name: tensor for name, tensor in second.items()}
    adapter = Adapter("duplicate", _base_model(path), 1, 1.0, _MAX_TOKENS, tensors)
    merged = long_names(merged_encoder(adapter, weights))
    twins = TwinEncoder(merged, **_sizes(path)).eval()
    whole = _cross(merged_state_dict(adapter, weights), path).eval()
    return adapter, measures.Model(whole, twins, words, base)


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
