"""What every training command does around its run: checks before, a report and a card after."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from funnel.training.checkpoints import (
    begin_run,
    check_same_run,
    data_fingerprint,
    only_run,
    open_run,
)
from funnel.training.devices import Hardware, resolve_hardware
from funnel.training.loop import Job, Outcome, discard_checkpoints, run_job
from funnel.training.origin import base_revision, check_apart
from funnel.training.output import check_output
from funnel.training.report import TrainReport
from funnel.training.room import check_room
from funnel.training.settings import RunOptions, TrainSettings


@dataclass(frozen=True, slots=True)
class Session:
    """A run that may start: the device it uses and the checkpoint it goes on from, if any."""

    title: str
    base: str
    settings: TrainSettings
    options: RunOptions
    hardware: Hardware
    resume_from: Path | None
    rows: Mapping[str, int]
    choices: Mapping[str, object]
    identity: Mapping[str, object]

    def train(self, job: Job) -> Outcome:
        """Run ``job`` from the start or from the checkpoint; see :func:`run_job`."""
        if self.resume_from is None:
            begin_run(self.options.output, self.identity)
        return run_job(job, self.settings, self.hardware, self.options.output, self.resume_from)

    def close(self) -> None:
        """Remove the checkpoints of a finished run, unless they are to be kept."""
        if not self.options.keep_checkpoints:
            discard_checkpoints(self.options.output)


def check_place(base: str, settings: TrainSettings, options: RunOptions) -> None:
    """Refuse what :func:`open_session` would, before data are prepared at some cost.

    Raises:
        ConfigError: no CUDA where it was asked for, an output that exists, touches its base or is
            being trained by another run, an unfinished run, or nothing to resume.
        ModelError: too little space on the disk, or no such base.
    """
    resolve_hardware(settings.device, settings.precision)
    check_output(options.output, overwrite=options.overwrite)
    with only_run(options.output):
        open_run(options.output, resume=options.resume, overwrite=options.overwrite)
    check_apart(base, options.output)
    base_revision(base)
    check_room(base, settings, options.output)


@contextmanager
def open_session(
    title: str,
    base: str,
    settings: TrainSettings,
    options: RunOptions,
    *,
    parts: Mapping[str, Sequence[object]],
    choices: Mapping[str, object],
) -> Iterator[Session]:
    """Refuse what cannot work before any model is loaded, and other runs until the block ends.

    ``parts`` are the rows by name (train, dev); ``choices`` is what besides settings and data
    decides the result (loss, scale, …).

    Raises:
        ConfigError: no CUDA where it was asked for, an output that exists, touches its base or is
            being trained by another run, an unfinished run, nothing to resume, or what to resume
            has changed.
        ModelError: too little space on the disk, or no such base.
    """
    hardware = resolve_hardware(settings.device, settings.precision)
    check_output(options.output, overwrite=options.overwrite)
    with only_run(options.output):
        resume_from = open_run(options.output, resume=options.resume, overwrite=options.overwrite)
        check_apart(base, options.output)
        data = {f"rows of {name}": data_fingerprint(rows)[:16] for name, rows in parts.items()}
        start = {"task": title, "base": base, "base revision": base_revision(base)}
        identity = {**settings.identity(), **choices, **data, **start}
        if resume_from is not None:
            check_same_run(options.output, identity)
        check_room(base, settings, options.output)
        rows = {name: len(part) for name, part in parts.items()}
        yield Session(
            title, base, settings, options, hardware, resume_from, rows, dict(choices), identity
        )


def fall(outcome: Outcome, primary: str) -> list[str]:
    """A note if training made the model worse on the held-out part, else nothing."""
    before, after = outcome.before.get(primary, 0.0), outcome.after.get(primary, 0.0)
    if after >= before:
        return []
    return [
        f"held-out {primary} fell from {before:.4f} to {after:.4f}: do not serve this model; "
        "use more data, a lower learning rate, fewer epochs, LoRA, or a residual"
    ]


def report(session: Session, outcome: Outcome, *, form: str, notes: Sequence[str]) -> TrainReport:
    """Join what was asked for and what came out."""
    return TrainReport(
        output=session.options.output,
        task=session.title,
        base=session.base,
        form=form,
        data=session.options.data_name,
        fingerprint=data_fingerprint(sorted(session.identity.items()))[:16],
        rows=session.rows,
        steps=outcome.steps,
        kept_step=outcome.kept_step,
        seconds=round(outcome.seconds, 2),
        hardware=session.hardware.label,
        before=outcome.before,
        after=outcome.after,
        losses=outcome.losses,
        evaluations=outcome.evaluations,
        settings={**session.choices, **session.settings.identity()},
        notes=tuple(notes),
    )
