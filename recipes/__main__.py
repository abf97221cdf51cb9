"""``python -m recipes --data FOLDER --teacher FOLDER``: make both shipped models again.

Steps, in order: ``prepare`` gathers what teachers and students are made from, ``students`` teaches
them (minutes on an accelerator, days on CPUs), ``duplicate`` cuts them down to a small adapter,
measures it and writes it over the shipped one (or under ``--out``), ``calibrator`` certifies
thresholds, ``relevance`` makes the other adapter; ``weights`` only fits the weights of the
installed duplicate adapter's parts anew. Without ``--only`` all but the last are done, and what
lies in ``--scratch`` already is not made again. Progress goes to the log.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
import torch
from safetensors.torch import load_file
from torch import Tensor

from funnel.cache.calibrator import SHIPPED
from funnel.cache.settings import GuardSettings
from funnel.models.adapters import (
    ENCODER,
    MAXSIM_WEIGHTS,
    Adapter,
    BaseModel,
    read_adapter,
    save_adapter,
)
from funnel.models.hardware import available_cores
from funnel.models.low_rank import quantised_difference
from funnel.models.pair_models import CombinedPairs, open_pair_model
from funnel.models.source import EMBEDDED, EMBEDDED_ENCODER, sha256
from recipes import measures, relevance
from recipes.calibrator import duplicate_calibrator
from recipes.cards import duplicate_card, relevance_card
from recipes.distil import prepared
from recipes.distil.run import CROSS_FILE, ENCODER_FILE, teach
from recipes.distil.training import Plan, device_named
from recipes.distil.weights import about_difference, load_difference
from recipes.gather import check_teacher, gather
from recipes.opened import Opened, long_names, open_base
from recipes.questions import HeldOut, read_held_out

_log = structlog.get_logger(__name__)
_SHIPPED = Path(__file__).parents[1] / "funnel" / "models" / "shipped"
_CACHE = Path(__file__).parents[1] / "cache"
_MAX_TOKENS = 256
ENCODER_SHARE: Final = 1.0
"""Of what the encoder learnt; less would be an interpolation with the base."""


def main() -> None:
    """Read the command line and make what it names."""
    options = _options()
    torch.set_num_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    for name in options.only or _missing(options.scratch):
        _MAKERS[name](options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--teacher", type=Path, help="folder of all-mpnet-base-v2, to prepare")
    parser.add_argument("--out", type=Path, default=_SHIPPED, help="where adapters are written")
    parser.add_argument("--scratch", type=Path, default=Path(".funnel/recipes"),
                        help="where what is made on the way is left")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=list(_MAKERS))
    parser.add_argument("--device", help="that teaches the students; cuda if not given")
    parser.add_argument("--share", type=float, default=1.0,
                        help="of the steps, and of the pairs that teachers read")  # fmt: skip
    parser.add_argument("--threads", type=int, default=available_cores())
    return parser.parse_args()


def _missing(scratch: Path) -> list[str]:
    """Everything, but for what has left its files."""
    if all((scratch / name).exists() for name in (CROSS_FILE, ENCODER_FILE)):
        first = []
    elif (_prepared(scratch) / prepared.FILE).exists():
        first = ["students"]
    else:
        first = ["prepare", "students"]
    return [*first, "duplicate", "calibrator", "relevance"]


def _prepared(scratch: Path) -> Path:
    return scratch / "prepared"


def make_prepared(options: argparse.Namespace) -> None:
    """Gather what teachers and students are made from, for this machine or another."""
    teacher = check_teacher(options.teacher)
    gather(open_base(), options.data, teacher, _prepared(options.scratch))


def make_students(options: argparse.Namespace) -> None:
    """Teach both and leave what they learnt in the scratch folder."""
    device, plan = device_named(options.device), Plan().scaled(options.share)
    teach(_prepared(options.scratch), options.scratch, device, plan, _log.info)


def make_duplicate(options: argparse.Namespace) -> None:
    """Cut the students down, calibrate, measure and write ``embedded:duplicate``."""
    opened = open_base()
    cross, encoder = (options.scratch / name for name in (CROSS_FILE, ENCODER_FILE))
    adapter = _cut(opened, learnt(opened, cross), learnt(opened, encoder, ENCODER_SHARE))
    questions = read_held_out(options.data, opened.base)
    _weigh(adapter, questions, about_difference(cross), options)


def learnt(opened: Opened, path: Path, share: float = 1.0) -> dict[str, Tensor]:
    """The base's weights with a share of a student's difference; what it lacks is the student's.

    Raises:
        SystemExit: there is no such student.
    """
    if not path.exists():
        raise SystemExit(f"{path} is missing; python -m recipes --only students … makes it")
    weights = {name: weight.float() for name, weight in long_names(_base(opened)).items()}
    for name, change in load_difference(path).items():
        weights[name] = weights[name] + share * change if name in weights else change
    return weights


def reweigh_duplicate(options: argparse.Namespace) -> None:
    """Fit the weights of the installed ``embedded:duplicate``'s parts anew, and measure it."""
    opened = open_base()
    adapter = read_adapter(_SHIPPED / "duplicate")
    questions = read_held_out(options.data, opened.base)
    made_from = {name: value for name, value in adapter.training.items() if name != "figures"}
    _weigh(adapter, questions, made_from, options)


def _weigh(
    adapter: Adapter,
    questions: HeldOut,
    made_from: Mapping[str, object],
    options: argparse.Namespace,
) -> None:
    model = _as_served(adapter, options.scratch)
    dev = [pair.label for pair in questions.dev]
    combine = measures.calibrated(model.parts(questions.dev), dev)
    figures = measures.duplicate_figures(model, combine, questions, options.data)
    adapter = replace(adapter, combine=combine, training={**made_from, "figures": figures})
    save_adapter(options.out / "duplicate", adapter, card=duplicate_card(adapter))


def _as_served(adapter: Adapter, scratch: Path) -> measures.Model:
    """The networks as the adapter gives them back: those are what is measured."""
    folder = scratch / "unweighed"
    save_adapter(folder, replace(adapter, combine=measures.ALL_PARTS), card="")
    model = open_pair_model(str(folder), "torch-fp32", None)
    assert isinstance(model, CombinedPairs)  # noqa: S101 - for the type checker
    return measures.Model(model)


def make_relevance(options: argparse.Namespace) -> None:
    """Weigh tokens, calibrate, measure and write ``embedded:relevance``."""
    opened = open_base()
    development = relevance.development_sets(options.data)
    vocabulary = len(opened.tokenizer)
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


def _cut(opened: Opened, cross: Mapping[str, Tensor], encoder: Mapping[str, Tensor]) -> Adapter:
    """Both differences from the base in four bits."""
    tensors = dict(quantised_difference(_base(opened), cross))
    second = quantised_difference(_base(opened), encoder)
    tensors |= {ENCODER + name: tensor for name, tensor in second.items()}
    return Adapter("duplicate", _base_model(opened), 1, 1.0, _MAX_TOKENS, tensors)


def _base(opened: Opened) -> dict[str, Tensor]:
    return load_file(opened.weights)


def _base_model(opened: Opened) -> BaseModel:
    return BaseModel(EMBEDDED_ENCODER.removeprefix(EMBEDDED), sha256(opened.weights))


def make_calibrator(options: argparse.Namespace) -> None:
    """Certify thresholds of the installed ``embedded:duplicate`` for the cache."""
    folder = _CACHE if options.out == _SHIPPED else options.out
    for whole_answer, name in SHIPPED.items():
        guards = GuardSettings(whole_answer=whole_answer)
        duplicate_calibrator(options.data, guards).save(folder / name)


_MAKERS = {
    "prepare": make_prepared,
    "students": make_students,
    "duplicate": make_duplicate,
    "weights": reweigh_duplicate,
    "calibrator": make_calibrator,
    "relevance": make_relevance,
}


if __name__ == "__main__":
    main()
