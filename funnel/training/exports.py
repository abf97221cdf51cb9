"""Save what was trained: a plain model directory, or a small adapter over a named base."""

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

from funnel.errors import ConfigError
from funnel.models.adapters import Adapter, BaseModel, Combination, save_adapter
from funnel.models.quiet import quiet_loading
from funnel.models.source import locate, sha256
from funnel.training.card import model_card, yaml_text
from funnel.training.origin import lasting_name
from funnel.training.output import atomic_directory
from funnel.training.report import TrainReport
from funnel.training.students import CrossStudent

if TYPE_CHECKING:
    from funnel.models.adapters import Weights

Form = Literal["auto", "model", "adapter"]
Settled = Literal["model", "adapter"]
Use = Literal["stage", "verifier"]
"""Where a model that scores pairs serves: as a stage of the funnel, or in its cache."""

DEFAULT_RANK = 32


def settled_form(wish: Form, student: CrossStudent) -> Settled:
    """Settle the form before training: an adapter for a residual or an adapted base.

    Raises:
        ConfigError: a plain directory was asked for, which cannot hold a residual's fixed part; or
            an adapter over a base that adapters cannot belong to.
    """
    if student.dense is None:
        if not (wish == "adapter" or (wish == "auto" and student.rank)):
            return "model"
    elif wish == "model":
        raise ConfigError(
            "form 'model' was asked for, but the score adds the base's own similarities, which a "
            "plain directory cannot hold; use --form adapter, or a base without them"
        )
    _check_adaptable(student.encoder)
    return "adapter"


def _check_adaptable(encoder: str) -> None:
    from funnel.models.bert import read_config

    folder = locate(encoder).folder
    kind = read_config(folder).get("model_type")
    if kind != "bert":
        raise ConfigError(
            f"{encoder} is of type {kind!r}; an adapter, or a residual, can only be made over a "
            "plain BERT: use --form model without --residual, or another base"
        )
    if not (folder / "model.safetensors").is_file():
        raise ConfigError(
            f"{encoder} has no model.safetensors in one piece, to which an adapter could belong: "
            "save it again with safe_serialization, or use --form model"
        )


def make_adapter(student: CrossStudent, name: str, *, rank: int) -> Adapter:
    """Cut the trained difference out of ``student`` and load it back, rounding included.

    What the student's own base kept in four bits stays as it is, and what training changed lies on
    top: a full difference is not of low rank, so cutting down both together would lose most of it.
    After this the student scores as the saved adapter will.
    """
    from funnel.models.bert import read_weights
    from funnel.models.low_rank import load_merged, low_rank_difference, merged_state_dict

    source = locate(student.encoder)
    base = read_weights(source.folder)
    kept = Adapter(
        name=name,
        base=BaseModel(lasting_name(student.encoder), sha256(source.folder / "model.safetensors")),
        rank=rank,
        alpha=float(rank),
        max_tokens=int(student.model.max_seq_length),
        tensors=student.kept,
        combine=student.dense.combine if student.dense else Combination(),
    )
    tuned = {key: value.detach().cpu() for key, value in student.network.state_dict().items()}
    learnt = low_rank_difference(merged_state_dict(kept, base), tuned, rank)
    adapter = replace(kept, tensors={**student.kept, **learnt, **_fixed(student)})
    load_merged(student.network, merged_state_dict(adapter, base))
    return adapter


def _fixed(student: CrossStudent) -> "Weights":
    return student.dense.fixed if student.dense else {}


def export_adapter(adapter: Adapter, report: TrainReport, use: Use) -> None:
    """Write ``adapter`` with its card, whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    save_adapter(report.output, adapter, card=cross_card(report, use))


def export_cross_encoder(student: CrossStudent, report: TrainReport, use: Use) -> None:
    """Write a sentence-transformers directory with its card, whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    _save_model(student.model, report, cross_card(report, use))


def export_bi_encoder(model: Any, report: TrainReport) -> None:
    """Write a sentence-transformers directory with its card, whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    _save_model(model, report, model_card(report, usage=embedder_usage(report.output.absolute())))


def cross_card(report: TrainReport, use: Use) -> str:
    """The card of a model that scores pairs."""
    return model_card(report, usage=usage(report.output.absolute(), use))


def usage(output: Path, use: Use) -> str:
    """What goes into the YAML; a verifier serves nothing before its threshold is certified.

    Paths there count from where the funnel runs, so ``output`` is best an absolute one.
    """
    model = yaml_text(output)
    if use == "stage":
        return f"stages:\n  - kind: cross_encoder\n    model: {model}\n    k: 10"
    calibrator = f"{output}.calibrator.json"
    return (
        f"cache:\n  verifier: {{ model: {model} }}\n"
        "  # Only exact hits are served until a threshold is certified:\n"
        f"  # funnel cache calibrate PAIRS --config THIS.yaml --out {quote(calibrator)}\n"
        f"  # calibrator: {yaml_text(calibrator)}"
    )


def embedder_usage(output: Path) -> str:
    """What goes into the YAML for an encoder."""
    return f"models:\n  embedder: {yaml_text(output)}"


def _save_model(model: Any, report: TrainReport, card: str) -> None:
    with atomic_directory(report.output) as folder, quiet_loading():
        model.save_pretrained(str(folder), create_model_card=False)
        (folder / "README.md").write_text(card, encoding="utf-8")
