"""Teachers and students in small: who reads what, what is mined, that students learn."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from recipes.distil import opinions, students, teachers  # noqa: E402
from recipes.distil.losses import contrast, relations  # noqa: E402
from recipes.distil.mining import mine  # noqa: E402
from recipes.distil.opinions import Opinions, Spaces, Taught, ask_teachers, weighed_in  # noqa: E402
from recipes.distil.reading import cross_logits  # noqa: E402
from recipes.distil.report import Report, area_and_recall  # noqa: E402
from recipes.distil.run import CROSS_FILE, ENCODER_FILE, teach  # noqa: E402
from recipes.distil.setting import Setting  # noqa: E402
from recipes.distil.students import taught_student  # noqa: E402
from recipes.distil.training import Device, Plan, Schedule  # noqa: E402
from recipes.distil.weights import about_difference, load_difference  # noqa: E402
from tests.recipes.classroom import prepared, write_prepared  # noqa: E402

CPU = Device("cpu")
FEW = Plan(bi_encoder=4, cross_encoder=3, mined=300, student=5, encoder=3)


def _silent(event: str, /, **values: object) -> None:
    """Tests read files, not the log."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("classroom") / "prepared")


def _setting(folder: Path, plan: Plan = FEW) -> Setting:
    return Setting.read(folder, CPU, plan, _silent)


def _space(width: int = 8) -> Any:
    made = torch.randn(len(prepared().sizes), width, generator=torch.Generator().manual_seed(4))
    return torch.nn.functional.normalize(made, dim=1)


@pytest.mark.slow
def test_both_students_are_left_and_a_run_can_be_repeated(folder: Path, tmp_path: Path) -> None:
    """The same bits from the same folder; with what the card says of them."""
    for name in ("one", "two"):
        teach(folder, tmp_path / name, CPU, FEW, _silent)
    for name in (CROSS_FILE, ENCODER_FILE):
        one, two = (load_file(tmp_path / each / name) for each in ("one", "two"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    cross = load_difference(tmp_path / "one" / CROSS_FILE)
    encoder = load_difference(tmp_path / "one" / ENCODER_FILE)
    assert cross.keys() - encoder.keys() == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight",
        "classifier.bias",
    }  # fmt: skip
    about = about_difference(tmp_path / "one" / CROSS_FILE)
    assert (about["labelled pairs"], about["mined pairs"]) == (120, FEW.mined)


def test_the_student_comes_nearer_to_its_targets(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross-entropy falls, here within a few steps at a high rate."""
    monkeypatch.setattr(students, "Schedule", lambda steps, *_: Schedule(steps, 1e-2, 4))
    train = prepared().train
    none = np.zeros(len(train), dtype=bool)
    targets = np.where(train.labels == 1, 0.9, 0.2).astype(np.float32)
    taught = Taught(train.first, train.second, targets, train.labels == 1, none)

    def distance(steps: int) -> float:
        setting = _setting(folder, Plan(student=steps))
        student = taught_student(setting, taught)
        logits = cross_logits(student, setting.texts, train.first, train.second, CPU)
        return float(
            torch.nn.functional.binary_cross_entropy_with_logits(
                torch.from_numpy(logits), torch.from_numpy(targets)
            )
        )

    assert distance(30) < distance(1) - 0.05


def test_no_teacher_sees_a_question_of_its_fold(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each training pair is read by the one that did not see it, each mined one by two."""
    setting = _setting(folder)
    trained: list[Any] = []
    one_by_one = teachers.taught_cross

    def spy(setting: Setting, fold: int) -> Any:
        allowed = teachers.without_fold(setting.data.folds, fold)
        seen = teachers.capped(setting, allowed)
        trained.append(set(setting.data.folds[seen].ravel().tolist()))
        return one_by_one(setting, fold)

    def read(network: object, texts: object, first: Any, second: Any, device: object) -> Any:
        return np.full(len(first), len(trained), dtype=np.float32)

    monkeypatch.setattr(opinions, "taught_cross", spy)
    monkeypatch.setattr(opinions, "cross_logits", read)
    mined = mine(setting.data, _space(), _space(5), setting.rng)
    report = Report(setting.data.held_out, tmp_path, _silent)
    said = ask_teachers(setting, mined, report)
    assert trained == [{1, 2}, {0, 2}, {0, 1}]
    np.testing.assert_array_equal(said.train, setting.data.folds[:, 0] + 1)
    assert set(np.unique(said.mined)) == {(2 + 3) / 2, (1 + 3) / 2, (1 + 2) / 2}
    assert said.held_out["dev"].shape == (3, len(setting.data.parts["dev"]))


def test_mined_pairs_are_distinct_and_none_is_held_out() -> None:
    """Of the pool alone, whichever side comes first."""
    data = prepared()
    first, second = mine(data, _space(), _space(5), np.random.default_rng(0))
    found = {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    assert len(found) == len(first) > 500
    assert set().union(*found) <= set(data.pool.tolist())
    assert all(len(pair) == 2 for pair in found)
    bars = np.concatenate([data.barred, np.stack([first, second], 1)[::2]])
    kept = mine(replace(data, barred=bars), _space(), _space(5), np.random.default_rng(0))
    left = {frozenset(pair) for pair in zip(*(side.tolist() for side in kept), strict=True)}
    assert left == found - {frozenset(pair) for pair in bars.tolist()}


def test_opinions_move_noisy_labels_further(folder: Path, tmp_path: Path) -> None:
    """Half the way for pairs from the web, less for edits; mined pairs have nothing but them."""
    setting = _setting(folder)
    train = setting.data.train
    mined = mine(setting.data, _space(), _space(5), setting.rng)
    against = np.where(train.labels == 1, -4, 4).astype(np.float32)
    held_out = {
        name: np.stack([8 * part.labels - 4] * 3) for name, part in setting.data.held_out.items()
    }
    said = Opinions(against, np.full(len(mined.first), 9, dtype=np.float32), held_out)
    report = Report(setting.data.held_out, tmp_path, _silent)
    taught = weighed_in(setting, mined, said, Spaces(_space(), _space(6), _space(5)), report)
    labelled = taught.targets[~taught.mined]
    moved = np.abs(labelled - train.labels)
    noisy = setting.data.of_kinds({"real"})
    assert moved[noisy].mean() > 0.35 > 0.25 > moved[~noisy].mean()
    assert taught.targets[taught.mined].min() > 0.8
    assert taught.sure[taught.mined].all()
    assert not taught.sure[~taught.mined].any()


def test_texts_of_one_number_and_nearer_ones_are_no_negatives() -> None:
    """With nothing but these there is nothing to tell apart."""
    made = _space()[:6]
    sure = torch.ones(3, dtype=torch.bool)
    alike = torch.ones(6, 2)
    assert contrast(made, sure, torch.arange(6), alike).item() == pytest.approx(0, abs=1e-5)
    assert contrast(made, sure, torch.zeros(6), torch.eye(6)).item() == pytest.approx(0, abs=1e-5)
    apart = torch.cat([torch.eye(3), torch.eye(3)])
    assert contrast(made, sure, torch.arange(6), apart).item() > 0.1
    assert contrast(made, ~sure, torch.arange(6), apart).item() == 0


def test_relations_are_best_where_they_are_equal() -> None:
    """Whatever the widths."""
    wanted = _space()[:9]
    assert relations(wanted, wanted) < relations(_space(5)[:9], wanted)


def test_learning_rates_and_shares_are_counted() -> None:
    """Up over the warm-up, down to almost none; a share is of steps and of pairs."""
    schedule = Schedule(100, 1.0, 10)
    rates = [schedule.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.02)
    assert Plan().scaled(0.5).mined == Plan().mined / 2
    assert min(vars(Plan().scaled(0)).values()) == 1


def test_figures_are_those_of_the_package() -> None:
    """AUC and recall at 1% false positives."""
    from funnel.training.figures import classification_figures

    rng = np.random.default_rng(0)
    labels = (rng.random(600) < 0.4).astype(np.float32)
    scores = (labels + rng.normal(size=600)).astype(np.float32)
    expected = classification_figures(scores, labels.tolist())
    area, recall = area_and_recall(scores, labels)
    assert area == pytest.approx(expected["auc"], abs=1e-6)
    assert recall == pytest.approx(expected["recall@fpr1%"], abs=1e-6)


def test_the_run_needs_torch_numpy_and_safetensors_alone() -> None:
    """So its folder and this one's code can be carried to an accelerator."""
    code = (
        "import sys, recipes.distil.__main__\n"
        "heavy = {'funnel', 'structlog', 'transformers', 'pydantic', 'sentence_transformers'}\n"
        "own = {n for n in sys.modules if n.startswith('recipes.')}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
        "assert all(n.startswith('recipes.distil') for n in own), own\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
