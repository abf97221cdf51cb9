"""Save what was trained: a plain model directory, or a small adapter over a named base."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from funnel.errors import ConfigError
from funnel.models.adapters import Adapter, BaseModel, Combination, save_adapter
from funnel.models.source import locate, sha256
from funnel.training.card import model_card
from funnel.training.output import atomic_directory
from funnel.training.report import TrainReport
from funnel.training.students import CrossStudent, quiet_loading

if TYPE_CHECKING:
    from funnel.models.adapters import Weights

Form = Literal["auto", "model", "adapter"]
Settled = Literal["model", "adapter"]
DEFAULT_RANK = 32


def settled_form(wish: Form, student: CrossStudent) -> Settled:
    """Settle the form before training: an adapter for a residual or an adapted base.

    Raises:
        ConfigError: a plain directory was asked for, which cannot hold a residual's fixed part.
    """
    if student.dense is None:
        return "adapter" if wish == "adapter" or (wish == "auto" and student.rank) else "model"
    if wish == "model":
        raise ConfigError(
            "form 'model' was asked for, but the score adds the base's own similarities, which a "
            "plain directory cannot hold; use --form adapter, or a base without them"
        )
    return "adapter"


def make_adapter(student: CrossStudent, name: str, *, rank: int) -> Adapter:
    """Cut the trained difference out of ``student`` and load it back, rounding included.

    After this the student scores as the saved adapter will.
    """
    from funnel.models.bert import read_weights
    from funnel.models.low_rank import load_merged, low_rank_difference, merged_state_dict

    source = locate(student.encoder)
    before = read_weights(source.folder)
    tuned = {key: value.detach().cpu() for key, value in student.network.state_dict().items()}
    adapter = Adapter(
        name=name,
        base=BaseModel(_lasting_name(student.encoder), sha256(source.folder / "model.safetensors")),
        rank=rank,
        alpha=float(rank),
        max_tokens=int(student.model.max_seq_length),
        tensors={**low_rank_difference(before, tuned, rank), **_fixed(student)},
        combine=student.dense.combine if student.dense else Combination(),
    )
    load_merged(student.network, merged_state_dict(adapter, before))
    return adapter


def _fixed(student: CrossStudent) -> "Weights":
    return student.dense.fixed if student.dense else {}


def export_adapter(adapter: Adapter, report: TrainReport) -> None:
    """Write ``adapter`` with its card, whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    save_adapter(report.output, adapter, card=cross_card(report))


def export_cross_encoder(student: CrossStudent, report: TrainReport) -> None:
    """Write a sentence-transformers directory with its card, whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    _save_model(student.model, report, cross_card(report))


def export_bi_encoder(model: Any, report: TrainReport) -> None:
    """Write a sentence-transformers directory with its card, whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    _save_model(model, report, model_card(report, usage=f"models:\n  embedder: {report.output}"))


def cross_card(report: TrainReport) -> str:
    """The card of a model that scores pairs."""
    usage = f"stages:\n  - kind: cross_encoder\n    model: {report.output}\n    k: 10"
    return model_card(report, usage=usage)


def _save_model(model: Any, report: TrainReport, card: str) -> None:
    with atomic_directory(report.output) as folder, quiet_loading():
        model.save_pretrained(str(folder), create_model_card=False)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _lasting_name(encoder: str) -> str:
    """A path that still holds from another working directory; other names as they are."""
    path = Path(encoder).expanduser()
    return str(path.resolve()) if path.is_dir() else encoder
