"""All phases in order: teachers, pairs that they label, students."""

from pathlib import Path
from typing import Final

import torch

from recipes.distil.mining import Mined, mine
from recipes.distil.networks import Twin
from recipes.distil.opinions import Spaces, Taught, ask_teachers, weighed_in
from recipes.distil.reading import both_orders, vectors
from recipes.distil.report import Report
from recipes.distil.setting import SEED, Setting
from recipes.distil.students import taught_encoder, taught_student
from recipes.distil.teachers import teach_encoder, untaught_encoder
from recipes.distil.training import Device, Log, Plan
from recipes.distil.weights import save_difference

CROSS_FILE: Final = "cross.safetensors"
ENCODER_FILE: Final = "encoder.safetensors"


def teach(folder: Path, out: Path, device: Device, plan: Plan, log: Log) -> None:
    """Leave both students' differences from their base in ``out``."""
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    out.mkdir(parents=True, exist_ok=True)
    setting = Setting.read(folder, device, plan, log)
    report = Report(setting.data.held_out, out, log)
    log("read", texts=len(setting.texts), pairs=len(setting.data.train))
    spaces = _spaces(setting, report)
    mined = _mined(setting, spaces)
    opinions = ask_teachers(setting, mined, report)
    taught = weighed_in(setting, mined, opinions, spaces, report)
    about = _about(setting, mined)
    _leave_student(setting, taught, report, out / CROSS_FILE, about)
    _leave_encoder(setting, taught, spaces, report, out / ENCODER_FILE, about)


def _spaces(setting: Setting, report: Report) -> Spaces:
    student = Twin(setting.student(0.0)).eval().to(setting.device.name)
    base = vectors(student, setting.texts, setting.device)
    teacher = untaught_encoder(setting)
    large = vectors(teacher, setting.texts, setting.device)
    report.show_space("base cosine", base)
    report.show_space("large cosine", large)
    teach_encoder(setting, teacher, large)
    tuned = vectors(teacher, setting.texts, setting.device)
    report.show_space("tuned large cosine", tuned)
    return Spaces(tuned, large, base)


def _mined(setting: Setting, spaces: Spaces) -> Mined:
    """As many as the plan wants teachers to read."""
    mined = mine(setting.data, spaces.tuned, spaces.base, setting.rng)
    first, second = (side[: setting.plan.mined] for side in mined)
    setting.log("mined", found=len(mined.first), read=len(first))
    return Mined(first, second)


def _about(setting: Setting, mined: Mined) -> dict[str, int]:
    """For the model card."""
    return {
        "labelled pairs": len(setting.data.train),
        "mined pairs": len(mined.first),
        "steps of the large encoder": setting.plan.bi_encoder,
        "steps of each large cross-encoder": setting.plan.cross_encoder,
        "steps of the cross-encoder": setting.plan.student,
        "steps of the encoder": setting.plan.encoder,
    }


def _leave_student(
    setting: Setting, taught: Taught, report: Report, path: Path, about: dict[str, int]
) -> None:
    student = taught_student(setting, taught)
    save_difference(student.weights(), setting.base, path, about)
    texts, device = setting.texts, setting.device
    report.show("student", lambda _, part: both_orders(student, texts, part, device))


def _leave_encoder(
    setting: Setting,
    taught: Taught,
    spaces: Spaces,
    report: Report,
    path: Path,
    about: dict[str, int],
) -> None:
    encoder = taught_encoder(setting, taught, spaces.tuned)
    save_difference(encoder.weights(), setting.base, path, about)
    report.show_space("encoder", vectors(encoder, setting.texts, setting.device))
