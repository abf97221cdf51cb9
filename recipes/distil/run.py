"""Teachers, pairs that they label, students: ten minutes on an accelerator.

``python -m recipes.distil.run --input FOLDER --out FOLDER``
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from recipes.distil.batches import Ints, Texts, rounded
from recipes.distil.networks import BERT, MPNET, Cross, Trunk, Twin
from recipes.distil.prepared import (
    EDITS,
    FOLDS,
    PIECES,
    Part,
    Prepared,
    load_bytes,
    save_difference,
)
from recipes.distil.training import (
    Clock,
    Device,
    Floats,
    cross_logits,
    optimise,
    pair_sizes,
    rounds,
    vectors,
)


WINDOW = 48
BERT_BETWEEN, MPNET_BETWEEN = 1, 2
SEED = 5
SECONDS = {"bi": 55.0, "cross": 42.0, "label": 75.0, "student": 120.0, "encoder": 85.0}
TEACHER_CAPS = {
    "extra": 22_000, "transitive": 8_000, "one word apart": 6_000, "swap": 10_000, "name": 6_000,
    "antonym": 5_000, "number": 3_500, "negation": 2_500, "clause": 4_000, "conjunct": 4_000,
    "surface": 4_000, "same sentence": 3_000, "stsb": 4_000, "mrpc": 2_500,
}  # fmt: skip
NOISY = frozenset({
    "real", "extra", "transitive", "transitive negative", "overlap", "mrpc", "stsb", "intent",
    "intents", "one word apart",
})  # fmt: skip
HELD_OUT = ("dev", "test", "alone", "shared", "adversaries", "written", "contrasts")
MORE_HELD_OUT = (*HELD_OUT, "MRPC_test", "STS-B_dev")
_SMOOTHING = (0.97, 0.015)


class Run:
    """Everything that the phases share."""

    def __init__(self, folder: Path, out: Path, device: Device, share: float) -> None:
        self.out, self.device, self.share = out, device, share
        self.data = Prepared.load(folder / "prepared.npz")
        self.texts = Texts.of(self.data.flat, self.data.sizes, WINDOW, device.name)
        self.rng = np.random.default_rng(SEED)
        self.base = load_file(folder / "minilm.safetensors")
        self.large = load_bytes([folder / f"mpnet.{number}" for number in range(PIECES)])
        self.started = time.monotonic()
        self.predictions: dict[str, Floats] = {}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:.0f}s] {text}", flush=True)

    def clock(self, phase: str, rate: float, warmup: int) -> Clock:
        return Clock(
            SECONDS[phase] * self.share, rate, warmup, most_steps=6 if self.device.tiny else None
        )

    def part(self, name: str) -> Part:
        return self.data.parts[name]

    def teacher(self, drop: float) -> Trunk:
        trunk = Trunk(self.large, MPNET, 12, drop)
        if self.device.tiny:
            trunk._layers = trunk._layers[:2]
        return trunk.to(self.device.name)

    def student(self, drop: float) -> Trunk:
        return Trunk(self.base, BERT, 12, drop).to(self.device.name)

    def keep(self, name: str, scores: Floats) -> None:
        self.predictions[name] = scores
        np.savez_compressed(self.out / "predictions.npz", **self.predictions)


def auc(scores: Floats, labels: NDArray[np.float32]) -> str:
    """AUC, and recall at 1% false positives, to read along."""
    same = labels >= 0.5
    order = np.argsort(-scores, kind="stable")
    hits, misses = np.cumsum(same[order]), np.cumsum(~same[order])
    area = 1 - float((np.cumsum(~same[order]) * same[order]).sum()) / max(1, same.sum() * (~same).sum())
    allowed = misses <= 0.01 * (~same).sum()
    recall = float(hits[allowed].max() / same.sum()) if allowed.any() else 0.0
    return f"{area:.3f}/{recall:.3f}"


def capped(run: Run, chosen: Ints, caps: dict[str, int]) -> Ints:
    """Positions of training pairs, of each kind no more than its cap."""
    train = run.data.parts["train"]
    kept = []
    for number, kind in enumerate(run.data.kinds):
        found = chosen[train.kinds[chosen] == number]
        kept.append(run.rng.permutation(found)[: caps.get(kind, len(found))])
    return np.concatenate(kept)


def contrast(
    vectors_: Tensor, sure: Tensor, numbers: Tensor, reference: Tensor, scale: float = 20.0
) -> Tensor:
    """InfoNCE of the batch's sure duplicates against its other texts.

    ``reference`` are vectors that say which of these are nearer than the duplicate: no negatives.
    """
    count = len(vectors_) // 2
    alike = vectors_.float() @ vectors_.float().T
    known = reference.float() @ reference.float().T
    partner = (torch.arange(2 * count, device=alike.device) + count) % (2 * count)
    positive = alike.gather(1, partner[:, None])
    bound = known.gather(1, partner[:, None])
    same = numbers[:, None] == numbers[None]
    choices = alike.masked_fill(same | (known >= bound - 0.02), -1e4)
    losses = F.cross_entropy(
        scale * torch.cat([positive, choices], 1),
        torch.zeros(2 * count, dtype=torch.long, device=alike.device),
        reduction="none",
    )
    wanted = torch.cat([sure, sure]).float()
    return (losses * wanted).sum() / wanted.sum().clamp(min=1)


def on_device(part: Part, device: Device) -> tuple[Tensor, Tensor]:
    """Numbers of both sides (2, n) and labels (n,)."""
    sides = torch.from_numpy(np.stack([part.first, part.second])).to(device.name)
    return sides, torch.from_numpy(part.labels).to(device.name)


def turned_at_random(sides: Tensor) -> tuple[Tensor, Tensor]:
    """First and second sides of pairs (2, n), every other pair turned."""
    turned = torch.rand(sides.shape[1], device=sides.device) < 0.5
    return torch.where(turned, sides[1], sides[0]), torch.where(turned, sides[0], sides[1])


def train_bi_encoder(run: Run, network: Twin, reference: Tensor) -> None:
    """The large model's cosine, taught to tell questions apart."""
    train, texts, device = run.data.parts["train"], run.texts, run.device
    contrasted = {"real", "extra", "transitive", "overlap", "intent", "written"}
    kinds = np.isin(train.kinds, [i for i, k in enumerate(run.data.kinds) if k in contrasted])
    everything = np.arange(len(train))

    def longest(items: Ints) -> Ints:
        return np.maximum(texts.sizes[train.first[items]], texts.sizes[train.second[items]]) + 2

    sides, labels = on_device(train, device)
    kinds_there = torch.from_numpy(kinds).to(device.name)

    def losses():  # type: ignore[no-untyped-def]
        draw = lambda: capped(run, everything, TEACHER_CAPS)  # noqa: E731
        for chosen, length in rounds(draw, longest, device.batch(192), device, run.rng):
            numbers = sides[:, chosen].reshape(-1)
            sure = kinds_there[chosen] & (labels[chosen] >= 0.8)
            with device.autocast():
                made = network(*texts.singles(numbers, rounded(length)))
            count = len(chosen)
            cosines = (made[:count] * made[count:]).sum(1)
            scale, floor = _SMOOTHING
            loss = F.binary_cross_entropy_with_logits(
                network.weight * cosines + network.bias, labels[chosen] * scale + floor
            )
            yield loss + 0.3 * contrast(made, sure, numbers, reference[numbers])

    optimise(network, losses(), run.clock("bi", 3e-5, 200), device, "bi-encoder")


def train_cross_teacher(run: Run, fold: int) -> Cross:
    """A large cross-encoder that has seen no question of one fold."""
    torch.manual_seed(SEED + fold)
    network = Cross(run.teacher(0.1)).to(run.device.name)
    train, texts, device = run.data.parts["train"], run.texts, run.device
    allowed = np.flatnonzero((run.data.folds != fold).all(1))

    def sizes(items: Ints) -> Ints:
        return pair_sizes(texts, train.first[items], train.second[items], MPNET_BETWEEN)

    sides, labels = on_device(train, device)

    def losses():  # type: ignore[no-untyped-def]
        draw = lambda: capped(run, allowed, TEACHER_CAPS)  # noqa: E731
        for chosen, length in rounds(draw, sizes, device.batch(192), device, run.rng):
            first, second = turned_at_random(sides[:, chosen])
            with device.autocast():
                logits = network(*texts.pairs(first, second, rounded(length), MPNET_BETWEEN))
            scale, floor = _SMOOTHING
            yield F.binary_cross_entropy_with_logits(logits, labels[chosen] * scale + floor)

    optimise(network, losses(), run.clock("cross", 5e-5, 200), device, f"cross-encoder {fold}")
    return network


def neighbours(pool: Tensor, near: int, further: int, last: int, rng: np.random.Generator) -> Ints:
    """For each vector the positions of its nearest ``near``, and some of those up to ``last``."""
    found = []
    for start in range(0, len(pool), 4096):
        alike = pool[start : start + 4096] @ pool.T
        rows = torch.arange(len(alike), device=pool.device)
        alike[rows, rows + start] = -2
        found.append(alike.topk(min(last, len(pool) - 1), dim=1).indices.cpu().numpy())
    ranked = np.concatenate(found)
    beyond = ranked[:, near:]
    columns = rng.permuted(np.tile(np.arange(beyond.shape[1]), (len(ranked), 1)), axis=1)[:, :further]
    return np.concatenate([ranked[:, :near], np.take_along_axis(beyond, columns, 1)], axis=1)


def mined(run: Run, *spaces: Tensor) -> tuple[Ints, Ints]:
    """Distinct pairs of near texts of the pool, by any of the spaces, in a random order."""
    pool = run.data.pool
    sides = []
    for space, (near, further) in zip(spaces, ((6, 3), (6, 2)), strict=True):
        chosen = space[torch.from_numpy(pool).to(space.device)]
        others = neighbours(chosen, near, further, 24, run.rng)
        sides.append(np.stack([np.repeat(pool, others.shape[1]), pool[others].ravel()], 1))
    keys = np.unique(_keys(np.sort(np.concatenate(sides), axis=1)))
    keys = run.rng.permutation(keys[~np.isin(keys, _held_out_keys(run))])
    pairs = np.stack([keys >> 32, keys & (2**32 - 1)], 1)
    turned = run.rng.random(len(pairs)) < 0.5
    return (
        np.where(turned, pairs[:, 1], pairs[:, 0]),
        np.where(turned, pairs[:, 0], pairs[:, 1]),
    )


def _keys(pairs: Ints) -> Ints:
    """One number for each pair of numbers in rising order, (n, 2)."""
    return pairs[:, 0] * 2**32 + pairs[:, 1]


def _held_out_keys(run: Run) -> Ints:
    parts = [run.data.parts[name] for name in MORE_HELD_OUT]
    sides = np.concatenate([np.stack([part.first, part.second], 1) for part in parts])
    return _keys(np.sort(sides, axis=1))


def cosines(space: Tensor, first: Ints, second: Ints) -> Floats:
    """Of texts by their numbers, shape (n,)."""
    parts = []
    for start in range(0, len(first), 200_000):
        one, two = (
            torch.from_numpy(side[start : start + 200_000]).to(space.device)
            for side in (first, second)
        )
        parts.append((space[one].float() * space[two].float()).sum(1).cpu().numpy())
    return np.concatenate(parts).astype(np.float32)


def logistic(features: list[Floats], labels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Weights and, last, the bias of a logistic regression, by Newton's method."""
    design = np.column_stack([*features, np.ones(len(labels))]).astype(np.float64)
    solution = np.zeros(design.shape[1])
    for _ in range(25):
        chance = 1 / (1 + np.exp(-np.clip(design @ solution, -30, 30)))
        curvature = design.T @ (design * (chance * (1 - chance))[:, None])
        curvature += 1e-4 * np.eye(len(solution))
        solution += np.linalg.solve(curvature, design.T @ (labels - chance) - 1e-4 * solution)
    return solution


def weighed(features: list[Floats], solution: NDArray[np.float64]) -> Floats:
    design = np.column_stack([*features, np.ones(len(features[0]))])
    return np.asarray(design @ solution, dtype=np.float32)


@dataclass
class Taught:
    """Pairs and the probabilities that a student is to give them."""

    first: Ints
    second: Ints
    targets: Floats
    sure: NDArray[np.bool_]
    mined: NDArray[np.bool_]

    def round(self, rng: np.random.Generator) -> Ints:
        """All labelled pairs, and a part of those that only the teacher labelled."""
        labelled = np.flatnonzero(~self.mined)
        others = np.flatnonzero(self.mined)
        plain = self.targets[others] < 0.02
        others = others[~plain | (rng.random(len(others)) < 0.4)]
        return np.concatenate([labelled, rng.permutation(others)[: int(1.3 * len(labelled))]])


def train_student(run: Run, taught: Taught) -> Cross:
    """The small cross-encoder, towards the teachers' probabilities."""
    torch.manual_seed(SEED)
    pooler = (run.base["pooler.dense.weight"], run.base["pooler.dense.bias"])
    network = Cross(run.student(0.05), pooler).to(run.device.name)
    texts, device = run.texts, run.device
    targets = torch.from_numpy(taught.targets).to(device.name)
    sides = torch.from_numpy(np.stack([taught.first, taught.second])).to(device.name)

    def sizes(items: Ints) -> Ints:
        return pair_sizes(texts, taught.first[items], taught.second[items], BERT_BETWEEN)

    def losses():  # type: ignore[no-untyped-def]
        draw = lambda: taught.round(run.rng)  # noqa: E731
        for chosen, length in rounds(draw, sizes, device.batch(512), device, run.rng):
            first, second = turned_at_random(sides[:, chosen])
            with device.autocast():
                logits = network(*texts.pairs(first, second, rounded(length), BERT_BETWEEN))
            yield F.binary_cross_entropy_with_logits(logits, targets[chosen])

    optimise(network, losses(), run.clock("student", 3e-4, 400), device, "student")
    return network


def train_encoder(run: Run, taught: Taught, space: Tensor) -> Twin:
    """The small encoder, towards the teachers' probabilities and the large one's similarities."""
    torch.manual_seed(SEED)
    network = Twin(run.student(0.05)).to(run.device.name)
    texts, device = run.texts, run.device
    targets = torch.from_numpy(taught.targets).to(device.name)
    sure = torch.from_numpy(taught.sure).to(device.name)
    sides = torch.from_numpy(np.stack([taught.first, taught.second])).to(device.name)
    others = run.data.others

    def longest(items: Ints) -> Ints:
        return np.maximum(texts.sizes[taught.first[items]], texts.sizes[taught.second[items]]) + 2

    def losses():  # type: ignore[no-untyped-def]
        draw = lambda: taught.round(run.rng)  # noqa: E731
        for chosen, length in rounds(draw, longest, device.batch(640), device, run.rng):
            first, second = sides[:, chosen]
            about = torch.from_numpy(run.rng.choice(others, device.batch(256))).to(device.name)
            numbers = torch.cat([first, second])
            with device.autocast():
                made = network(*texts.singles(numbers, rounded(length)))
                more = network(*texts.singles(about, 40))
            count = len(first)
            near = (made[:count] * made[count:]).sum(1)
            loss = F.binary_cross_entropy_with_logits(
                network.weight * near + network.bias, targets[chosen]
            )
            loss = loss + 0.2 * contrast(made, sure[chosen], numbers, space[numbers])
            yield loss + relations(torch.cat([made, more]), space[torch.cat([numbers, about])])

    optimise(network, losses(), run.clock("encoder", 2e-4, 400), device, "encoder")
    return network


def relations(made: Tensor, wanted: Tensor, temperature: float = 0.05) -> Tensor:
    """Cross-entropy of the batch's similarities against those of the large model."""
    rows = torch.arange(len(made), device=made.device)
    hidden = rows[:, None] == rows[None]
    with torch.no_grad():
        goal = (wanted.float() @ wanted.float().T / temperature).masked_fill(hidden, -1e4).softmax(1)
    seen = (made.float() @ made.float().T / temperature).masked_fill(hidden, -1e4).log_softmax(1)
    return -(goal * seen).sum(1).mean() * 0.3


def main() -> None:
    """Run all phases."""
    parser = argparse.ArgumentParser(prog="python -m recipes.distil.run", description=__doc__)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--share", type=float, default=1.0, help="of every phase's seconds")
    parser.add_argument("--tiny", action="store_true", help="a trial of everything in a minute")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    run = Run(options.input, options.out, Device(options.device, options.tiny), options.share)
    teach(run)


def teach(run: Run) -> None:
    device, texts, data = run.device, run.texts, run.data
    everything = np.arange(len(data.sizes))
    run.say(f"texts {len(data.sizes)}, pairs {len(data.parts['train'])}")
    base_space = vectors(Twin(run.student(0.0)).eval().to(device.name), texts, everything, device)
    raw = Twin(run.teacher(0.1)).to(device.name).eval()
    raw_space = vectors(raw, texts, everything, device)
    show(run, "base cosine", base_space)
    show(run, "large cosine", raw_space)
    train_bi_encoder(run, raw, raw_space)
    space = vectors(raw, texts, everything, device)
    del raw
    show(run, "tuned large cosine", space)
    run.say("mining")
    first, second = mined(run, space, base_space)
    run.say(f"{len(first)} mined pairs")
    train = data.parts["train"]
    held_logits: dict[str, list[Floats]] = {name: [] for name in MORE_HELD_OUT}
    labelled = np.zeros(len(train), dtype=np.float32)
    mined_logits = []
    for fold in range(FOLDS):
        network = train_cross_teacher(run, fold)
        for name in MORE_HELD_OUT:
            part = run.part(name)
            both = [
                cross_logits(network, texts, one, two, MPNET_BETWEEN, device)
                for one, two in ((part.first, part.second), (part.second, part.first))
            ]
            held_logits[name].append((both[0] + both[1]) / 2)
        run.say(f"teacher {fold}: " + ", ".join(
            f"{name} {auc(held_logits[name][-1], run.part(name).labels)}" for name in HELD_OUT))
        own = np.flatnonzero((data.folds == fold).any(1) & ((data.folds[:, 0] == fold) | (labelled == 0)))
        labelled[own] = cross_logits(
            network, texts, train.first[own], train.second[own], MPNET_BETWEEN, device)
        # Each mined pair is read by two of the three, so a third of them is left out each time.
        mine = np.flatnonzero(np.arange(len(first)) % FOLDS != fold)
        logits = np.full(len(first), np.nan, dtype=np.float32)
        logits[mine] = cross_logits(
            network, texts, first[mine], second[mine], MPNET_BETWEEN, device,
            seconds=SECONDS["label"] * run.share / FOLDS)
        mined_logits.append(logits)
        run.say(f"labelled {np.isfinite(logits).sum()} mined pairs")
        del network
    dev = run.part("dev")
    dev_spaces = [cosines(s, dev.first, dev.second) for s in (space, raw_space, base_space)]
    whole = logistic([np.mean(held_logits["dev"], 0), *dev_spaces], dev.labels)
    single = logistic([held_logits["dev"][0], *dev_spaces[1:]], dev.labels)
    run.say(f"weights {np.round(whole, 2)}, of one alone {np.round(single, 2)}")
    for name in MORE_HELD_OUT:
        part = run.part(name)
        features = [np.mean(held_logits[name], 0)]
        features += [cosines(s, part.first, part.second) for s in (space, raw_space, base_space)]
        scores = weighed(features, whole)
        run.keep(f"teacher.{name}", np.stack([*held_logits[name], *features[1:], scores]))
        run.say(f"all teachers, {name}: {auc(scores, part.labels)}")
    with np.errstate(invalid="ignore"):
        read = np.sum(np.isfinite(mined_logits), 0) >= 1
        mean = np.nanmean(np.stack(mined_logits)[:, read], axis=0).astype(np.float32)
    first, second = first[read], second[read]
    features = [mean, *(cosines(s, first, second) for s in (space, raw_space, base_space))]
    mined_targets = 1 / (1 + np.exp(-weighed(features, whole)))
    features = [labelled, *(cosines(s, train.first, train.second) for s in (raw_space, base_space))]
    opinion = 1 / (1 + np.exp(-weighed(features, single)))
    noisy = np.isin(train.kinds, [i for i, kind in enumerate(data.kinds) if kind in NOISY])
    share = np.where(noisy, 0.5, 0.15)
    scale, floor = _SMOOTHING
    targets = (1 - share) * (train.labels * scale + floor) + share * opinion
    run.say(f"mined targets: mean {mined_targets.mean():.3f}, "
            f"sure {np.mean(mined_targets > 0.8):.3f}, surely not {np.mean(mined_targets < 0.02):.3f}")
    taught = Taught(
        np.concatenate([train.first, first]),
        np.concatenate([train.second, second]),
        np.concatenate([targets, mined_targets]).astype(np.float32),
        np.concatenate([(train.labels >= 0.8) & (opinion > 0.3), mined_targets > 0.8]),
        np.concatenate([np.zeros(len(train), bool), np.ones(len(first), bool)]),
    )
    student = train_student(run, taught)
    save_difference(student.weights(), run.base, run.out / "cross.safetensors")
    for name in MORE_HELD_OUT:
        part = run.part(name)
        both = [
            cross_logits(student, texts, one, two, BERT_BETWEEN, device)
            for one, two in ((part.first, part.second), (part.second, part.first))
        ]
        run.keep(f"student.{name}", np.stack(both))
        run.say(f"student, {name}: {auc(both[0] + both[1], part.labels)}")
    del student
    encoder = train_encoder(run, taught, space)
    save_difference(encoder.weights(), run.base, run.out / "encoder.safetensors")
    show(run, "encoder", vectors(encoder, texts, everything, device))
    run.say("done")


def show(run: Run, name: str, space: Tensor) -> None:
    """Figures of a space's cosines on what is held out."""
    said = []
    for each in MORE_HELD_OUT:
        part = run.part(each)
        scores = cosines(space, part.first, part.second)
        run.keep(f"{name.replace(' ', '_')}.{each}", scores)
        said.append(f"{each} {auc(scores, part.labels)}")
    run.say(f"{name}: " + ", ".join(said))


if __name__ == "__main__":
    main()
