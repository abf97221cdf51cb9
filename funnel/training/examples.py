"""Three worked examples with data written for this project, each from start to a table.

``legal``: binary cross-entropy on labelled pairs. ``bicycle``: mean squared error on graded
scores. ``security``: a cross-encoder learns from labels and then teaches its margins to a
bi-encoder. All on a pair of CPU cores in minutes.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from funnel.errors import ConfigError
from funnel.models.adapters import CARD_FILE
from funnel.models.source import EMBEDDED_ENCODER
from funnel.training.bi_encoder import from_triples, train_bi_encoder
from funnel.training.checkpoints import checkpoint_folder, unfinished
from funnel.training.cross_encoder import train_cross_encoder
from funnel.training.judges import pair_scores
from funnel.training.protocol import Comparison, GroupFigures, compare, judge
from funnel.training.reading import read_rows
from funnel.training.records import Case, LabelledPair, Triple, case, labelled_pair
from funnel.training.report import TrainReport
from funnel.training.settings import RunOptions, TrainSettings
from funnel.training.teacher import Teacher, scored_triples

PREFIX = "example:"
SWAPS = "example:swaps"
RELEVANCE = "embedded:relevance"
BASE = "embedded:duplicate"
"""The shipped model that reads pairs: a better start for a cross-encoder than a random head."""


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """What an example measured. ``rivals`` are other models on the same cases.

    ``reports`` are those of the models that were trained this time.
    """

    name: str
    base: str
    tuned: Path
    reports: Mapping[str, TrainReport]
    comparison: Comparison
    rivals: Mapping[str, Mapping[str, GroupFigures]]

    def as_json(self) -> dict[str, object]:
        """Plain values for ``--json``."""
        return {
            "name": self.name,
            "base": self.base,
            "tuned": str(self.tuned),
            "reports": {name: report.as_json() for name, report in self.reports.items()},
            "comparison": self.comparison.as_json(),
            "rivals": {
                name: {group: asdict(found) for group, found in figures.items()}
                for name, figures in self.rivals.items()
            },
        }


def example_file(name: str, file: str) -> Path:
    """Path of a shipped file: ``train.jsonl`` or ``cases.jsonl`` of an example.

    Raises:
        ConfigError: there is no such example.
    """
    if name not in EXAMPLES:
        raise ConfigError(f"unknown example {name!r}; known: {', '.join(EXAMPLES)}")
    return Path(str(files("funnel.training").joinpath("data", name, file)))


def data_file(given: str, file: str) -> Path:
    """Turn ``example:NAME`` into the shipped file; anything else is a path already.

    ``example:swaps`` is the labelled question pairs that the demo's cache is measured on.
    """
    if given == SWAPS:
        return Path(str(files("funnel.demo").joinpath("data", "swap_pairs.jsonl")))
    if given.startswith(PREFIX):
        return example_file(given.removeprefix(PREFIX), file)
    return Path(given)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an example's models go. ``resume`` goes on with what an interruption left there."""

    folder: Path
    overwrite: bool = False
    resume: bool = False

    def options(self, model: str) -> RunOptions:
        """Of the run that makes one model."""
        output = self.folder / model
        data = f"{PREFIX}{model.partition('-')[0]}, written for this project, Apache-2.0"
        return RunOptions(
            output=output,
            resume=self.resume and unfinished(output),
            # What ``has`` did not take is older than the example that goes on.
            overwrite=self.overwrite or self.resume,
            data_name=data,
        )

    def check(self, model: str) -> None:
        """Refuse a model that is there, maybe of an interrupted example, unless told what to do.

        Raises:
            ConfigError: names both ways.
        """
        output = self.folder / model
        if output.exists() and not (self.overwrite or self.resume):
            raise ConfigError(
                f"{output} exists already; if the example was interrupted, go on with --resume, "
                "else name another output or start over with --overwrite"
            )

    def has(self, model: str, *, teacher: str | None = None) -> bool:
        """Whether a model is there that an interrupted example had finished.

        One whose own run is unfinished, or older than its ``teacher``, is what was to be replaced.
        """
        output = self.folder / model
        if self.overwrite or not self.resume or not output.is_dir() or _begun(output):
            return False
        return teacher is None or _saved_at(self.folder / teacher) <= _saved_at(output)


def _begun(output: Path) -> bool:
    """Whether a run of it was interrupted, be it before the first checkpoint was whole."""
    folder = checkpoint_folder(output)
    return folder.is_dir() and any(folder.iterdir())


def _saved_at(output: Path) -> float:
    """When a model was written: the card's time, as others may add files to the folder later."""
    card = output / CARD_FILE
    return card.stat().st_mtime if card.is_file() else 0.0


def run_example(
    name: str, folder: Path, *, overwrite: bool = False, resume: bool = False
) -> ExampleResult:
    """Train and judge one example; the models go into ``folder``.

    Raises:
        ConfigError: there is no such example, or the output exists already.
        TrainingStopped: interrupted; ``resume`` goes on.
    """
    pairs = read_rows(example_file(name, "train.jsonl"), labelled_pair)
    cases = read_rows(example_file(name, "cases.jsonl"), case)
    return EXAMPLES[name](pairs, cases, Place(folder, overwrite=overwrite, resume=resume))


def _legal(pairs: list[LabelledPair], cases: list[Case], place: Place) -> ExampleResult:
    def train(options: RunOptions) -> TrainReport:
        return train_cross_encoder(pairs, options, base=BASE, settings=_CROSS)

    return _judged("legal", BASE, {"cross-encoder": _made(place, "legal", train)}, cases)


def _bicycle(pairs: list[LabelledPair], cases: list[Case], place: Place) -> ExampleResult:
    def train(options: RunOptions) -> TrainReport:
        return train_cross_encoder(pairs, options, base=BASE, loss="mse", settings=_CROSS)

    return _judged("bicycle", BASE, {"cross-encoder": _made(place, "bicycle", train)}, cases)


def _security(pairs: list[LabelledPair], cases: list[Case], place: Place) -> ExampleResult:
    def train_teacher(options: RunOptions) -> TrainReport:
        return train_cross_encoder(pairs, options, base=BASE, settings=_CROSS)

    teacher = _made(place, "security-teacher", train_teacher)

    def train_student(options: RunOptions) -> TrainReport:
        scores = Teacher(str(teacher.output), options.output).logits
        triples = scored_triples(unscored_triples(pairs), scores)
        data = from_triples(triples, scale="probability")
        return train_bi_encoder(data, options, settings=_STUDENT)

    student = _made(place, "security", train_student, teacher="security-teacher")
    made = {"teacher": teacher, "bi-encoder": student}
    return _judged("security", EMBEDDED_ENCODER, made, cases)


@dataclass(frozen=True, slots=True)
class _Made:
    """A model; without a report if an earlier run had made it."""

    output: Path
    report: TrainReport | None


def _made(
    place: Place,
    model: str,
    train: Callable[[RunOptions], TrainReport],
    *,
    teacher: str | None = None,
) -> _Made:
    if place.has(model, teacher=teacher):
        return _Made(place.folder / model, None)
    place.check(model)
    report = train(place.options(model))
    return _Made(report.output, report)


def unscored_triples(pairs: Sequence[LabelledPair]) -> list[Triple]:
    """Each query's answer against its other documents and against some of other queries.

    The labels say only which document is the answer; by how much is the teacher's to tell.
    """
    chance = random.Random(_STUDENT.seed)
    documents = sorted({pair.document for pair in pairs})
    graded: defaultdict[str, list[LabelledPair]] = defaultdict(list)
    for pair in pairs:
        graded[pair.query].append(pair)
    triples = []
    for query, found in graded.items():
        right = [pair.document for pair in found if pair.score >= _ANSWER]
        wrong = [pair.document for pair in found if pair.score < _ANSWER]
        wrong += [text for text in chance.sample(documents, _UNLABELLED) if text not in right]
        triples += [Triple(query, good, bad) for good in right for bad in dict.fromkeys(wrong)]
    return triples


def _judged(name: str, base: str, made: Mapping[str, _Made], cases: list[Case]) -> ExampleResult:
    *others, (_, final) = made.items()
    before = judge(cases, pair_scores(base))
    comparison = compare(before, judge(cases, pair_scores(str(final.output))))
    names = {role: str(model.output) for role, model in others}
    names |= {model: model for model in (EMBEDDED_ENCODER, RELEVANCE) if model != base}
    rivals = {
        role: compare(before, judge(cases, pair_scores(model))).tuned
        for role, model in names.items()
    }
    reports = {role: model.report for role, model in made.items() if model.report}
    return ExampleResult(name, base, final.output, reports, comparison, rivals)


_CROSS = TrainSettings(epochs=4, learning_rate=1e-4, max_tokens=128, keep_best=False)
_STUDENT = TrainSettings(epochs=4, learning_rate=5e-5, max_tokens=128, keep_best=False)
_ANSWER = 0.9
_UNLABELLED = 2

Run = Callable[[list[LabelledPair], list[Case], Place], ExampleResult]
EXAMPLES: Mapping[str, Run] = MappingProxyType(
    {"legal": _legal, "bicycle": _bicycle, "security": _security}
)
