"""Save what was trained: a plain model directory, or a small adapter over a named base."""

from typing import Any, Literal

from funnel.training.card import model_card
from funnel.training.output import atomic_directory
from funnel.training.report import TrainReport
from funnel.training.students import CrossStudent, quiet_loading

Form = Literal["auto", "model", "adapter"]


def chosen_form(wish: Form, student: CrossStudent) -> Literal["model", "adapter"]:
    """Settle the form before training starts."""
    return "model"


def export_cross_encoder(
    student: CrossStudent, form: Literal["model", "adapter"], report: TrainReport
) -> None:
    """Write the directory with its card, whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    usage = f"stages:\n  - kind: cross_encoder\n    model: {report.output}\n    k: 10"
    _save_model(student.model, report, usage)


def export_bi_encoder(model: Any, report: TrainReport) -> None:
    """Write a sentence-transformers directory with its card, whole or not at all.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    _save_model(model, report, f"models:\n  embedder: {report.output}")


def _save_model(model: Any, report: TrainReport, usage: str) -> None:
    with atomic_directory(report.output) as folder, quiet_loading():
        model.save_pretrained(str(folder), create_model_card=False)
        (folder / "README.md").write_text(model_card(report, usage=usage), encoding="utf-8")
