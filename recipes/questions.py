"""The pairs that ``embedded:duplicate`` learns from: real, derived from real, mined and edited.

Quora's own labels are noisy and easy: most negatives share few words. So to the labelled pairs
come those that follow by transitivity, questions of different clusters that differ in one word,
and edits that break or keep the meaning (:mod:`funnel.training.augment`). Questions linked by any
pair, through any chain, fall into the same part, so that the held-out parts share no question
with the training part. The pairs of ``qqp/dev`` are all held out, too; those whose questions occur
in training pairs make a part of their own. Questions of another origin (SQuAD's) are edited as
well, and two of them about one sentence are a hard negative; requests to an assistant come with
their intents (:mod:`recipes.intents`), and groups written for this project with their near misses
(:mod:`recipes.written`); so not all is Quora.
"""

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from funnel.training import augment
from funnel.training.word_order import WordOrder
from recipes.intents import intent_pairs
from recipes.network import Base
from recipes.pairs import Clusters, Pair, fold, overlap
from recipes.written import FOLDER, held_out_pairs, read_groups, trained_pairs

SEED = 7
_TEST_SHARE, _DEV_SHARE = 45, 20  # per thousand clusters of linked questions
_CAPS = {
    "extra": 26_000, "transitive": 9_000, "transitive negative": 16_000, "one word apart": 18_000,
}  # fmt: skip
_EDITS = {
    "swap": 26_000, "number": 7_000, "negation": 5_000, "antonym": 11_000, "name": 14_000,
    "direction": 1_500, "restate": 1_500, "conjunct": 6_000, "clause": 9_000, "surface": 7_000,
}  # fmt: skip
_TEST_EDITS = {
    "swap": 400, "number": 200, "negation": 150, "antonym": 200, "name": 250, "direction": 60,
    "restate": 60, "conjunct": 200, "clause": 200, "surface": 200,
}  # fmt: skip
_KEEPING = frozenset({"restate", "conjunct", "clause", "surface"})
_SAME_SENTENCE = 8_000


@dataclass(frozen=True)
class HeldOut:
    """The parts that nothing is trained on. ``adversaries`` are edits of questions of ``test``.

    ``shared`` are the pairs of ``qqp/dev`` of which a question, though never the pair, is in the
    training part. ``alone`` are the pairs of ``test`` whose questions are in no other pair at all.
    ``written`` are pairs of the written groups whose topics are held out.
    """

    dev: list[Pair]
    test: list[Pair]
    adversaries: list[Pair]
    shared: list[Pair]
    alone: list[Pair]
    written: list[Pair]


@dataclass(frozen=True)
class Questions(HeldOut):
    """All parts."""

    train: list[Pair]


class _Asked:
    """The distinct questions of the training pairs, and what edits need to know of them."""

    def __init__(self, pairs: Sequence[Pair], base: Base) -> None:
        texts = [text for pair in pairs for text in (pair.first, pair.second)]
        self.questions = list({fold(text): text for text in reversed(texts)}.values())
        self.alike = _names_alike(self.questions, base)
        self.order = WordOrder(self.questions)

    def edited(
        self, questions: Sequence[str], caps: Mapping[str, int],
        paraphrases: Mapping[str, str], rng: random.Random,
    ) -> list[Pair]:  # fmt: skip
        """Edits of any questions, by what these tell of names and of the order of words."""
        return _edited(questions, caps, self.order, self.alike, paraphrases, rng)


def read_held_out(data: Path, base: Base, written: Path = FOLDER) -> HeldOut:
    """What is measured on, from the folder of data sets and that of the written groups."""
    parts = held_apart(data)
    return _held_out(parts, _Asked(parts["train"], base), written)


def read_questions(data: Path, base: Base, written: Path = FOLDER) -> Questions:
    """All parts, from the folder of data sets and that of the written groups."""
    parts = held_apart(data)
    rng = random.Random(SEED)  # noqa: S311  # sampling
    train, paraphrases = _derived(parts["train"], rng)
    asked = _Asked(parts["train"], base)
    apart = _one_word_apart(asked.questions, parts["train"], base, rng)
    elsewhere, same_sentence = _other_questions(data / "qa/squad_nqg", rng)
    edited = asked.edited([*asked.questions, *elsewhere], _EDITS, paraphrases, rng)
    general = _sentences(data / "paraphrase")
    intents = intent_pairs(data, base, random.Random(SEED))  # noqa: S311  # sampling
    by_hand = trained_pairs(read_groups(written), random.Random(SEED))  # noqa: S311  # sampling
    everything = [*train, *apart, *edited, *same_sentence, *general, *intents, *by_hand]
    held = {_key(pair) for name in ("dev", "test", "shared") for pair in parts[name]}
    everything = [pair for pair in everything if _key(pair) not in held]
    rng.shuffle(everything)
    return Questions(**vars(_held_out(parts, asked, written)), train=everything)


def _held_out(parts: Mapping[str, list[Pair]], asked: _Asked, written: Path) -> HeldOut:
    texts = sorted({text for pair in parts["test"] for text in (pair.first, pair.second)})
    rng = random.Random(3)  # noqa: S311  # sampling
    return HeldOut(
        dev=parts["dev"],
        test=parts["test"],
        adversaries=asked.edited(texts, _TEST_EDITS, _paraphrases(parts["test"]), rng),
        shared=parts["shared"],
        alone=parts["alone"],
        written=held_out_pairs(read_groups(written)),
    )


def held_apart(data: Path) -> dict[str, list[Pair]]:
    """Quora's distinct pairs as published, by part: train, dev, test, shared, extra and alone.

    ``extra`` are the extra positives whose questions are linked to those of ``dev`` or ``test``;
    ``alone`` repeats the pairs of ``test`` that are linked to no other question.
    """
    held_out = _read(data / "qqp/dev.jsonl", "held out")
    labelled = _read(data / "qqp/train.jsonl", "real")
    extra = _read(data / "qqp/extra_positives.jsonl", "extra")
    return _parted([*held_out, *labelled], extra)


def extra_duplicates(data: Path) -> list[Pair]:
    """All of the extra positives that may be trained on."""
    return [pair for pair in held_apart(data)["train"] if pair.kind == "extra"]


def _read(path: Path, kind: str) -> list[Pair]:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Pair(row["question1"].strip(), row["question2"].strip(), float(row["is_duplicate"]), kind)
        for row in rows
    ]


def _parted(labelled: Sequence[Pair], extra: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Distinct pairs by part; pairs of the kind ``held out`` are never used for training."""
    linked = Clusters()
    for pair in [*labelled, *extra]:
        linked.join(fold(pair.first), fold(pair.second))
    names = ("train", "dev", "test", "shared", "extra")
    parts: dict[str, list[Pair]] = {name: [] for name in names}
    seen: set[frozenset[str]] = set()
    for pair in [*labelled, *extra]:
        key = _key(pair)
        part = _part(linked.find(fold(pair.first)))
        if part == "train" and pair.kind == "held out":
            part = "shared"
        if part != "train" and pair.kind == "extra":
            part = "extra"
        if key in seen or len(key) == 1:
            continue
        seen.add(key)
        parts[part].append(pair)
    members = Counter(linked.find(text) for key in seen for text in key)
    parts["alone"] = [p for p in parts["test"] if members[linked.find(fold(p.first))] == 2]
    return parts


def _key(pair: Pair) -> frozenset[str]:
    return frozenset((fold(pair.first), fold(pair.second)))


def _part(cluster: str) -> str:
    place = int(hashlib.sha1(f"h{cluster}".encode()).hexdigest(), 16) % 1000  # noqa: S324
    if place < _TEST_SHARE:
        return "test"
    return "dev" if place < _TEST_SHARE + _DEV_SHARE else "train"


def _derived(pairs: Sequence[Pair], rng: random.Random) -> tuple[list[Pair], dict[str, str]]:
    """Real pairs without contradictions, with what follows from them by transitivity."""
    clusters = _duplicates(pairs)
    members: dict[str, list[str]] = defaultdict(list)
    for text in dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)):
        members[clusters.find(fold(text))].append(text)
    kept = [pair for pair in pairs if pair.label or not _same(clusters, pair)]
    real = [pair for pair in kept if pair.kind == "real"]
    extra = [pair for pair in kept if pair.kind == "extra"]
    parts = [
        real,
        _sample(extra, "extra", rng),
        _sample(_transitive(members.values(), rng), "transitive", rng),
        _sample(_across(real, clusters, members, rng), "transitive negative", rng),
        [pair._replace(kind="overlap") for pair in kept if overlap(*pair[:2]) >= 0.85],
    ]
    return [pair for part in parts for pair in part], _paraphrases(kept)


def _duplicates(pairs: Iterable[Pair]) -> Clusters:
    clusters = Clusters()
    for pair in pairs:
        if pair.label:
            clusters.join(fold(pair.first), fold(pair.second))
    return clusters


def _same(clusters: Clusters, pair: Pair) -> bool:
    return clusters.find(fold(pair.first)) == clusters.find(fold(pair.second))


def _sample(pairs: Sequence[Pair], kind: str, rng: random.Random) -> list[Pair]:
    return rng.sample(list(pairs), min(len(pairs), _CAPS[kind]))


def _transitive(clusters: Iterable[list[str]], rng: random.Random) -> list[Pair]:
    """Two questions that are duplicates of others in common."""
    return [
        Pair(first, second, 1.0, "transitive")
        for cluster in clusters
        if 3 <= len(cluster) <= 30
        for _ in range(min(2 * len(cluster), 25))
        for first, second in [rng.sample(cluster, 2)]
    ]


def _across(
    pairs: Iterable[Pair],
    clusters: Clusters,
    members: Mapping[str, Sequence[str]],
    rng: random.Random,
) -> list[Pair]:
    """Duplicates of the two sides of a negative are a negative too."""
    found = []
    for pair in pairs:
        left = members[clusters.find(fold(pair.first))]
        right = members[clusters.find(fold(pair.second))]
        if not pair.label and (len(left) > 1 or len(right) > 1):
            found.append(Pair(rng.choice(left), rng.choice(right), 0.0, "transitive negative"))
    return found


def _paraphrases(pairs: Iterable[Pair]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        if pair.label:
            found |= {fold(pair.first): pair.second, fold(pair.second): pair.first}
    return found


def _names_alike(questions: Iterable[str], base: Base) -> dict[str, list[str]]:
    """For each name the names of its kind: near in the base's space, but not the same."""
    counts = Counter(text[a:b] for text in questions for a, b in augment.find_names(text))
    names = [name for name, count in counts.items() if count >= 3]
    vectors = base.vectors(names)
    return {
        name: found
        for name, near in zip(names, vectors @ vectors.T, strict=True)
        if (found := _of_its_kind(name, names, near))
    }


def _of_its_kind(name: str, names: Sequence[str], near: Any) -> list[str]:
    nearest = [(names[i], float(near[i])) for i in np.argsort(-near)[:40]]
    folded = name.lower()
    return [
        other
        for other, cosine in nearest
        if 0.3 < cosine < 0.72 and other.lower() not in folded and folded not in other.lower()
    ][:12]


def _one_word_apart(
    questions: Iterable[str], pairs: Iterable[Pair], base: Base, rng: random.Random
) -> list[Pair]:
    """Questions of different clusters that are equal but for one word, which is no synonym."""
    clusters = _duplicates(pairs)
    found = [
        (left, right, first, second)
        for alternatives in _templates(questions).values()
        for _ in range(min(len(alternatives) // 2 + 1, 4))
        for (left, first), (right, second) in [rng.sample(alternatives, 2)]
        if left[:4] != right[:4] and clusters.find(fold(first)) != clusters.find(fold(second))
    ]
    words = sorted({word for each in found for word in each[:2]})
    vectors = dict(zip(words, base.vectors(words), strict=True))
    differing = [
        Pair(first, second, 0.0, "one word apart")
        for left, right, first, second in found
        if float(vectors[left] @ vectors[right]) < 0.62
    ]
    return _sample(differing, "one word apart", rng)


def _templates(questions: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Questions with one content word left out, to (that word, question); at least two each."""
    templates: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for text in questions:
        words = fold(text).split()
        if not 4 <= len(words) <= 20:
            continue
        for place, word in enumerate(words):
            if augment.is_content(word) and len(word) > 1:
                rest = " ".join([*words[:place], "*", *words[place + 1 :]])
                templates[rest].append((word, text))
    return {rest: found for rest, found in templates.items() if len(found) > 1}


def _edited(
    questions: Sequence[str],
    caps: Mapping[str, int],
    order: WordOrder,
    alike: Mapping[str, Sequence[str]],
    paraphrases: Mapping[str, str],
    rng: random.Random,
) -> list[Pair]:
    """(question or a paraphrase of it, its edit) for every kind of edit, up to its cap."""
    edits: dict[str, Callable[[str], str | None]] = {
        "swap": lambda text: order.swap(text, rng),
        "number": lambda text: augment.change_number(text, rng),
        "negation": augment.negate,
        "antonym": lambda text: augment.swap_antonym(text, rng),
        "name": lambda text: augment.swap_name(text, alike, rng),
        "direction": augment.turn_direction,
        "restate": augment.restate_direction,
        "conjunct": augment.turn_conjuncts,
        "clause": augment.move_clause,
        "surface": lambda text: augment.vary_surface(text, rng),
    }
    fitting = [text for text in questions if 4 <= len(text.split()) <= 24]
    found: list[Pair] = []
    for kind, edit in edits.items():
        rng.shuffle(fitting)
        made = (_edit(text, kind, edit, paraphrases, rng) for text in fitting)
        found += [pair for pair, _ in zip(filter(None, made), range(caps[kind]), strict=False)]
    return found


def _edit(
    text: str,
    kind: str,
    edit: Callable[[str], str | None],
    paraphrases: Mapping[str, str],
    rng: random.Random,
) -> Pair | None:
    edited = edit(text)
    if not edited or (fold(edited) == fold(text) and kind != "surface"):
        return None
    partner = text
    if fold(text) in paraphrases and kind != "restate" and rng.random() < 0.25:
        partner = paraphrases[fold(text)]
    if kind != "surface" and rng.random() < 0.15:
        partner = augment.vary_surface(partner, rng)
    sides = (partner, edited) if rng.random() < 0.5 else (edited, partner)
    return Pair(*sides, float(kind in _KEEPING), kind)


def _other_questions(folder: Path, rng: random.Random) -> tuple[list[str], list[Pair]]:
    """SQuAD's questions, mended, and pairs of different ones about the same sentence."""
    about: dict[str, list[str]] = defaultdict(list)
    for split in ("dev", "test"):
        sentences = (folder / f"src-{split}.txt").read_text(encoding="utf-8").split("\n")
        asked = (folder / f"tgt-{split}.txt").read_text(encoding="utf-8").split("\n")
        for text, question in zip(sentences, asked, strict=True):
            if question.strip():
                about[text].append(augment.sentence(re.sub(r"\s+([?.,!'])", r"\1", question)))
    pairs = [
        Pair(first, second, 0.0, "same sentence")
        for questions in about.values()
        if len(questions) > 1
        for first, second in [rng.sample(questions, 2)]
    ]
    different = [pair for pair in pairs if overlap(*pair[:2]) < 0.8]
    kept = rng.sample(different, min(len(different), _SAME_SENTENCE))
    return [question for questions in about.values() for question in questions], kept


def _sentences(folder: Path) -> list[Pair]:
    """Paraphrases of another kind: MRPC's labels softened, STS's grades as probabilities."""
    rows = _rows(folder / "mrpc/msr-para-train.tsv")
    pairs = [Pair(row[3], row[4], 0.85 if row[0] == "1" else 0.05, "mrpc") for row in rows]
    rows = _rows(folder / "stsb/sts-train.csv")
    return pairs + [Pair(row[2], row[3], _grade(float(row[4])), "stsb") for row in rows]


def paraphrase_tests(folder: Path) -> dict[str, list[Pair]]:
    """Held-out sentence pairs; of STS those that are clearly the same or clearly not.

    The two sets have pairs in common: what either trains on is no test of the other.
    """
    rows = _rows(folder / "mrpc/msr-para-test.tsv")
    mrpc = [Pair(row[3], row[4], float(row[0]), "mrpc") for row in rows]
    graded = [(row[2], row[3], float(row[4])) for row in _rows(folder / "stsb/sts-dev.csv")]
    clear = [each for each in graded if each[2] >= 4.4 or each[2] <= 3.4]
    stsb = [Pair(first, second, float(grade >= 4.4), "stsb") for first, second, grade in clear]
    trained = {_key(pair) for pair in _sentences(folder)}
    tests = {"MRPC test": mrpc, "STS-B dev": stsb}
    return {
        name: [pair for pair in pairs if _key(pair) not in trained] for name, pairs in tests.items()
    }


def _rows(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")[1:]
    return [line.rstrip("\r").split("\t") for line in lines if line.strip()]


def _grade(similarity: float) -> float:
    for least, probability in ((4.75, 1.0), (4.0, 0.75), (3.2, 0.3), (2.001, 0.05)):
        if similarity >= least:
            return probability
    return 0.0
