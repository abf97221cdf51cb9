"""Edits that make near-copies of a question: some change its meaning, some only its wording.

A detector of paraphrases that has seen only real pairs takes shared words for shared meaning.
These edits give it the contrast: *breaking* edits (another number, a negation, an antonym, another
name, the direction of "from … to …") give hard negatives, and *keeping* edits (turned conjuncts,
moved clauses, another spelling) give positives that look just as different. Every edit takes a
text and returns the edited text, or ``None`` where it has nothing to act on.

After the idea of PAWS (Zhang, Baldridge and He, 2019) with rules in place of back-translation.
"""

import random
import re
from collections.abc import Mapping, Sequence

from funnel.training.antonyms import ANTONYMS

_PIECE = re.compile(r"\s+|\w+(?:[-'\u2019.]\w+)*|[^\w\s]")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])")
_NEGATABLE = re.compile(
    r"^(?P<head>(?:why|what|which|who|how|when|where)\b.*?)"
    r"\b(?P<verb>do|does|did|is|are|was|were|should|can|could|would|will|has|have)\b"
    r"(?P<tail> (?!not\b|n't)\w+.*)$",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(do|does|did|is|are|was|were|should|could|would|has|have)(?:n['\u2019]t| not)\b",
    re.IGNORECASE,
)
_HOW_TO = re.compile(r"^(how (?:to|do i|can i|do you|do we|should i)) (?!not\b)", re.IGNORECASE)
_CONJUNCTS = re.compile(
    r"(?P<left>\b[\w'\u2019-]+)(?P<link> and | or | vs\.? | versus | & )(?P<right>[\w'\u2019-]+\b)",
    re.IGNORECASE,
)
_BETWEEN = re.compile(
    r"\b(?P<head>between )(?P<left>[^,?]{2,40}?) and (?P<right>[^,?]{2,40}?)(?P<tail>[?.!]*)$",
    re.IGNORECASE,
)
_DIRECTION = re.compile(
    r"\bfrom (?P<left>(?:an? |the )?[\w'\u2019-]+(?: [A-Z][\w'\u2019-]+)*)"
    r" to (?P<right>(?:an? |the )?[\w'\u2019-]+(?: [A-Z][\w'\u2019-]+)*)"
)
_LEADING_CLAUSE = re.compile(
    r"^(?P<clause>(?:if|when|while|since|because|although|after|before|in|for|as|on|at|with)"
    r" [^,?]{3,60}), (?P<main>[^,?]{8,120})\?$",
    re.IGNORECASE,
)
_TRAILING_CLAUSE = re.compile(
    r"^(?P<main>[^,?]{8,120}?),? (?P<clause>(?:if|when|while|because|although) [^,?]{6,60})\?$",
    re.IGNORECASE,
)
_TRAILING_PLACE = re.compile(
    r"^(?P<main>(?:how|what|why|where|which|who|is|are|can|do|does)\b[^,?]{12,120})"
    r" (?P<clause>in [A-Z][\w'\u2019-]+(?: [A-Z][\w'\u2019-]+)?)\?$",
    re.IGNORECASE,
)
_FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "i",
        "you",
        "he",
        "she",
        "it",
        "we",
        "they",
        "me",
        "him",
        "her",
        "us",
        "them",
        "my",
        "your",
        "like",
        "most",
        "more",
        "some",
        "any",
        "his",
        "its",
        "our",
        "their",
        "this",
        "that",
        "these",
        "those",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "am",
        "do",
        "does",
        "did",
        "have",
        "has",
        "had",
        "can",
        "could",
        "will",
        "would",
        "shall",
        "should",
        "may",
        "might",
        "must",
        "not",
        "no",
        "so",
        "than",
        "too",
        "very",
        "just",
        "of",
        "to",
        "in",
        "on",
        "at",
        "by",
        "for",
        "with",
        "from",
        "about",
        "into",
        "as",
        "if",
        "then",
        "there",
        "here",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "and",
        "or",
        "but",
    ]
)
_OPENINGS = (
    ("what is ", "what's "),
    ("how do i ", "how can i "),
    ("how can i ", "how do i "),
    ("how do you ", "how does one "),
    ("what are some ", "what are "),
    ("what are the ", "which are the "),
    ("how can i ", "what is a way to "),
    ("how do i ", "how to "),
    ("is it possible to ", "can one "),
    ("why do ", "what is the reason that "),
    ("what is the best way to ", "how do i best "),
    ("where can i ", "where do i "),
    ("should i ", "would it be good to "),
)
_CONTRACTIONS = (
    ("do not", "don't"), ("does not", "doesn't"), ("did not", "didn't"), ("is not", "isn't"),
    ("are not", "aren't"), ("can not", "can't"), ("cannot", "can't"), ("would not", "wouldn't"),
    ("i am", "i'm"), ("i have", "i've"), ("it is", "it's"), ("what is", "what's"),
)  # fmt: skip


def pieces(text: str) -> list[str]:
    """Cut into words, spaces and marks; joining them gives the text back."""
    return _PIECE.findall(text)


def is_content(word: str) -> bool:
    """Whether a piece is a word that carries meaning."""
    return word[0].isalnum() and word.lower() not in _FUNCTION_WORDS


def sentence(text: str) -> str:
    """One space between words, a capital at the start."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def change_number(text: str, rng: random.Random) -> str | None:
    """Breaks: one number becomes another of the same size."""
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    match = rng.choice(found)
    other = _other_number(match.group(), rng)
    return text[: match.start()] + other + text[match.end() :]


def _other_number(number: str, rng: random.Random) -> str:
    digits = [index for index, char in enumerate(number) if char.isdigit()]
    place = digits[-1] if len(digits) > 2 else rng.choice(digits)
    choices = [digit for digit in "123456789" if digit != number[place]]
    return number[:place] + rng.choice(choices) + number[place + 1 :]


def negate(text: str) -> str | None:
    """Breaks: an open question is negated, or loses its negation.

    Yes/no questions are left alone: "Is it …?" and "Isn't it …?" ask the same.
    """
    if _NEGATED.search(text):
        return _NEGATED.sub(r"\1", text, count=1)
    if how := _HOW_TO.match(text):
        return f"{how.group(1)} not {text[how.end() :]}"
    if match := _NEGATABLE.match(text):
        subject, _, rest = match["tail"].strip().partition(" ")
        plain = match["verb"].lower() in {"is", "are", "was", "were"} or not rest
        tail = f"not {subject} {rest}" if plain else f"{subject} not {rest}"
        return f"{match['head']}{match['verb']} {tail}".strip()
    return None


def swap_antonym(text: str, rng: random.Random) -> str | None:
    """Breaks: one word gives way to its opposite."""
    parts = pieces(text)
    places = [index for index, part in enumerate(parts) if part.lower() in ANTONYMS]
    if not places:
        return None
    place = rng.choice(places)
    parts[place] = _like(parts[place], rng.choice(ANTONYMS[parts[place].lower()]))
    return "".join(parts)


def _like(old: str, new: str) -> str:
    return new.capitalize() if old[:1].isupper() else new


def find_names(text: str) -> list[tuple[int, int]]:
    """Spans (start, end) of runs of capitalised words that do not open the text."""
    spans = re.finditer(r"(?<=[\w,] )[A-Z][\w'\u2019+#.-]*\w(?: [A-Z][\w'\u2019+#-]*\w)*", text)
    return [match.span() for match in spans if match.group() not in {"I'm", "I've", "I'd"}]


def swap_name(text: str, alike: Mapping[str, Sequence[str]], rng: random.Random) -> str | None:
    """Breaks: one name gives way to another of its kind, ``alike[name]``."""
    spans = [span for span in find_names(text) if alike.get(text[span[0] : span[1]])]
    if not spans:
        return None
    start, end = rng.choice(spans)
    return text[:start] + rng.choice(alike[text[start:end]]) + text[end:]


def turn_direction(text: str) -> str | None:
    """Breaks: "from A to B" becomes "from B to A"."""
    match = _direction(text)
    if not match:
        return None
    turned = f"from {match['right']} to {match['left']}"
    return text[: match.start()] + turned + text[match.end() :]


def _direction(text: str) -> re.Match[str] | None:
    match = _DIRECTION.search(text)
    if not match or match["left"].lower() == match["right"].lower():
        return None
    return match if is_content(match["left"]) and is_content(match["right"]) else None


def restate_direction(text: str) -> str | None:
    """Keeps: "from A to B" becomes "to B from A"."""
    match = _direction(text)
    if not match:
        return None
    turned = f"to {match['right']} from {match['left']}"
    return text[: match.start()] + turned + text[match.end() :]


def turn_conjuncts(text: str) -> str | None:
    """Keeps: "A and B" becomes "B and A"."""
    if match := _BETWEEN.search(text):
        turned = f"{match['head']}{match['right']} and {match['left']}{match['tail']}"
        return text[: match.start()] + turned
    for match in _CONJUNCTS.finditer(text):
        if _are_conjuncts(text, match):
            turned = match["right"] + match["link"] + match["left"]
            return sentence(text[: match.start()] + turned + text[match.end() :])
    return None


def _are_conjuncts(text: str, match: re.Match[str]) -> bool:
    """Single words of one shape, with nothing that could belong to only one of them."""
    left, right = match["left"], match["right"]
    if not (is_content(left) and is_content(right)) or left.lower() == right.lower():
        return False
    before = pieces(text[: match.start()].strip())
    after = pieces(text[match.end() :].strip())
    closed_left = not before or not is_content(before[-1])
    closed_right = not after or not (is_content(after[0]) or after[0] in {"to", "of"})
    return closed_left and closed_right and left[0].isupper() == right[0].isupper()


def move_clause(text: str) -> str | None:
    """Keeps: a leading clause or place goes to the end, a trailing one to the front."""
    if match := _LEADING_CLAUSE.match(text):
        return sentence(f"{_lower_start(match['main'])} {_lower_start(match['clause'])}?")
    match = _TRAILING_CLAUSE.match(text) or _TRAILING_PLACE.match(text)
    if match:
        return sentence(f"{match['clause']}, {_lower_start(match['main'])}?")
    return None


def _lower_start(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text if first == "I" or not first.istitle() else text[:1].lower() + text[1:]


def vary_surface(text: str, rng: random.Random) -> str:
    """Keeps: another case, punctuation, contraction, opening phrase, or a typing error."""
    changes = [_reword_opening, _contract, _plain, _mistype, _no_mark]
    varied = rng.choice(changes)(text, rng)
    return varied if varied != text else _plain(text, rng)


def _reword_opening(text: str, rng: random.Random) -> str:
    fitting = [pair for pair in _OPENINGS if text.lower().startswith(pair[0])]
    if not fitting:
        return text
    old, new = rng.choice(fitting)
    return sentence(new + text[len(old) :])


def _contract(text: str, rng: random.Random) -> str:
    pairs = [(old, new) for old, new in _CONTRACTIONS if f" {old} " in f" {text.lower()} "]
    if not pairs:
        return text
    old, new = rng.choice(pairs)
    return sentence(re.sub(rf"\b{old}\b", new, text, count=1, flags=re.IGNORECASE))


def _plain(text: str, _: random.Random) -> str:
    return " ".join(re.sub(r"[^\w\s'+#.-]", " ", text).split()).lower()


def _no_mark(text: str, _: random.Random) -> str:
    return text.rstrip(" ?.!")


def _mistype(text: str, rng: random.Random) -> str:
    parts = pieces(text)
    long = [index for index, part in enumerate(parts) if len(part) > 4 and part.isalpha()]
    if not long:
        return text
    place = rng.choice(long)
    word = parts[place]
    cut = rng.randrange(1, len(word) - 2)
    swapped = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    dropped = word[:cut] + word[cut + 1 :]
    parts[place] = rng.choice([swapped, dropped])
    return "".join(parts)
