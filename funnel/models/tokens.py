"""Tokenising once: texts to ids, and pairs of ids to what the model reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from funnel.errors import InputError, ModelError
from funnel.models.batching import pair_lengths

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = list[int]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One input of a model. ``split`` is where the second text's part begins, 0 if there is none.

    ``truncated`` says that the text was longer than the window; ``text`` and what stands before it,
    the ``prompt``, are kept only for models that tokenise by themselves.
    """

    ids: Ids
    split: int
    truncated: bool
    text: str = ""
    prompt: str | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class _Template:
    """The special tokens that a model puts around and between texts."""

    start: Ids
    end: Ids
    middle: Ids
    pair_end: Ids


class TextTokenizer:
    """A thread-safe tokenizer without state: nothing is set on it after construction.

    Args:
        folder: a folder with ``tokenizer.json`` (or what transformers can make one from).
        max_tokens: the model's window, special tokens included.
        typed: whether the model is told which of a pair's texts a token belongs to.
    """

    def __init__(self, folder: Path, max_tokens: int, *, typed: bool = True) -> None:
        self._tokenizer = _load(folder)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_tokens = max_tokens
        self._typed = typed
        self._template = _read_template(self._tokenizer)
        # Past this many characters hardly a token reaches the window any more; texts are cut there
        # before tokenising, so that a megabyte costs no more than a page.
        self._max_chars = 64 * max_tokens

    def ids(self, texts: Sequence[str], *, whole: bool = False) -> list[Ids]:
        """The tokens of each text, without special tokens.

        Very long texts are cut far behind the window first, unless ``whole``; what is left is
        longer than the window still, so that it is seen to be cut.
        """
        clean = [_text(text) for text in texts]
        if whole:
            return self._encoded(clean)
        ids = self._encoded([text[: self._max_chars] for text in clean])
        for place, text in enumerate(clean):
            if len(text) > self._max_chars and len(ids[place]) <= self.max_tokens:
                (ids[place],) = self._encoded([text])  # few tokens: blanks, or one endless word
        return ids

    def _encoded(self, texts: list[str]) -> list[Ids]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def singles(self, texts: Sequence[str], *, keep_text: bool = False) -> list[Tokens]:
        """Each text as the model reads it, cut to the window; with ``keep_text`` the text, too.

        That is without what no tokenizer can take, and no longer than matters.
        """
        tokens = [self.single(ids) for ids in self.ids(texts)]
        if not keep_text:
            return tokens
        kept = [self._readable(_text(text)) for text in texts]
        return [replace(each, text=text) for each, text in zip(tokens, kept, strict=True)]

    def _readable(self, text: str) -> str:
        start = text[: self._max_chars]
        if start == text:
            return text
        (ids,) = self._encoded([start])
        return start if len(ids) > self.max_tokens else text

    def single(self, ids: Ids) -> Tokens:
        """One text's tokens with the special ones, cut to the window."""
        room = self.max_tokens - self.single_overhead
        kept = [*self._template.start, *ids[:room], *self._template.end]
        return Tokens(kept, 0, len(ids) > room)

    def pair(self, first: Ids, second: Ids) -> Tokens:
        """Two texts' tokens as the model reads a pair, the longer one cut first."""
        template = self._template
        overhead = len(template.start) + len(template.middle) + len(template.pair_end)
        a, b = pair_lengths(len(first), len(second), self.max_tokens - overhead)
        head = [*template.start, *first[:a], *template.middle]
        ids = [*head, *second[:b], *template.pair_end]
        split = len(head) if self._typed else 0
        return Tokens(ids, split, a < len(first) or b < len(second))

    def check_fits(self, name: str, rows: int) -> None:
        """Compare it with the table of a model's embeddings.

        Raises:
            ModelError: it gives ids that are no row of the table.
        """
        highest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if highest >= rows:
            raise ModelError(
                f"model {name!r}: got a tokenizer with ids up to {highest}, expected at most "
                f"{rows - 1}, as the model has {rows} embeddings; save the tokenizer that it was "
                "trained with beside it"
            )

    @property
    def single_overhead(self) -> int:
        """Special tokens around one text."""
        return len(self._template.start) + len(self._template.end)


def prompted(texts: Sequence[str], prompt: str | None) -> Sequence[str]:
    """The texts behind the prompt, if there is one."""
    return [prompt + text for text in texts] if prompt else texts


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise InputError(f"text: got {type(text).__name__}, expected a string")
    # A lone surrogate cannot be handed to the tokenizer; it carries no meaning.
    return text if text.isascii() else text.encode("utf-8", "ignore").decode("utf-8")


def _load(folder: Path) -> "Tokenizer":
    file = folder / "tokenizer.json"
    if file.is_file():
        return _read(file)
    from transformers import AutoTokenizer

    try:
        slow = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, use_fast=True)
        tokenizer: Tokenizer = slow.backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise _unusable(folder) from error
    if tokenizer.get_vocab_size() <= len(slow.all_special_tokens):  # made of no file at all
        raise _unusable(folder)
    return tokenizer


def _unusable(folder: Path) -> ModelError:
    return ModelError(
        f"model {str(folder)!r}: got no usable tokenizer, expected a tokenizer.json; save the "
        "tokenizer beside the model"
    )


def _read(file: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"model {str(file.parent)!r}: tokenizer.json is damaged") from error


def _read_template(tokenizer: "Tokenizer") -> _Template:
    single = tokenizer.encode("a")
    pair = tokenizer.encode("a", "b")
    start, end = _around(single.special_tokens_mask)
    inner = [i for i, special in enumerate(pair.special_tokens_mask) if not special]
    second = next((i for i in inner if i > inner[0] and pair.sequence_ids[i] == 1), inner[-1])
    last_first = max(i for i in inner if i < second)
    return _Template(
        start=single.ids[:start],
        end=single.ids[end:],
        middle=pair.ids[last_first + 1 : second],
        pair_end=pair.ids[inner[-1] + 1 :],
    )


def _around(special: Sequence[int]) -> tuple[int, int]:
    inner = [i for i, flag in enumerate(special) if not flag]
    return inner[0], inner[-1] + 1


def reads_types(folder: Path) -> bool:
    """Whether a model's own tokenizer tells it which text of a pair a token belongs to."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if names := config.get("model_input_names"):
        return "token_type_ids" in names
    if str(config.get("tokenizer_class", "")).startswith("Bert"):
        return True
    from transformers import AutoTokenizer

    try:
        known = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {str(folder)!r}: its tokenizer cannot be loaded") from error
    return "token_type_ids" in known.model_input_names
