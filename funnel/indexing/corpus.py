"""From files and mappings to checked documents, each with the place where it was found."""

import csv
import gzip
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

from funnel.errors import ConfigError, InputError
from funnel.types import Document

MAX_TEXT_CHARS = 2_000_000
MAX_ID_CHARS = 512
MAX_DEPTH = 32
"""Levels of lists and objects in metadata."""
MAX_LINE_BYTES = 64 * 1024 * 1024
_OWN_KEYS = frozenset({"id", "_id", "text", "title", "metadata"})
_CORPUS = "corpus"
_ALONE = (str, bytes, Path, Mapping, Document)
_PARTS = re.compile(r"\d+(\.\d+){2,}")
_EXPECTED = "expected a mapping with 'id' and 'text'"
_INTEGERS = range(-(2**63), 2**64)
"""What stores, caches and filters carry; a server rounds larger ones without a word."""


@dataclass(frozen=True, slots=True)
class Row:
    """One item of a corpus: a mapping or a document, or the reason why it is neither.

    ``blank`` names the columns of a CSV line that hold nothing: no metadata, so not in ``content``.
    """

    place: str
    content: Mapping[str, Any] | Document | None
    problem: str = ""
    blank: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Corpus:
    """An iterable of rows with a name for messages."""

    source: str
    rows: Iterable[Row] = field(repr=False)


class BadRow(ValueError):
    """Why one row is no document. Stays inside the readers; callers see ``CorpusError``."""


def read_corpus(path: str | Path, *, texts: bool = False, what: str = _CORPUS) -> Corpus:
    """Rows of a BEIR folder, or of a ``.jsonl``, ``.ndjson``, ``.csv`` or ``.tsv`` file.

    ``.gz`` is unpacked on the way, ``-`` reads JSON lines from standard input. A table's cell that
    is a plain number (``12``, ``9.50``) becomes one unless all are to stay ``texts``. A column with
    a code among its cells (``007``, ``1.2.0``, more digits than can be stored) holds codes: there
    ``12`` and ``1.10`` stay texts, too. Nothing is read before the rows are asked for, and never
    more than a line at a time, of a table twice; a file that cannot be read to its end is an
    ``InputError`` then. ``what`` other than a corpus it is to messages has no folders.

    Raises:
        ConfigError: there is no such file, or its kind is not known.
    """
    if str(path) == "-":
        return _corpus("standard input", _json_rows(lambda: sys.stdin.buffer))
    file = _corpus_file(Path(path), what)
    kind = Path(file.stem).suffix.lower() if file.suffix.lower() == ".gz" else file.suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        return _corpus(str(file), _json_rows(lambda: opened(file)))
    if kind in (".csv", ".tsv"):
        delimiter = "," if kind == ".csv" else "\t"
        rows = _csv_rows(lambda: opened(file), str(file), delimiter, texts=texts)
        return _corpus(str(file), rows)
    raise ConfigError(
        f"{what} {file}: got the suffix {kind!r}, expected .jsonl, .ndjson, .csv or .tsv "
        f"(also with .gz){', or a folder with corpus.jsonl' if what == _CORPUS else ''}"
    )


def given_corpus(documents: Iterable[Document | Mapping[str, Any]]) -> Corpus:
    """Rows of an iterable in the program; their places count from 1.

    Raises:
        InputError: one document, the path of a file, or what else is no iterable of documents.
    """
    if isinstance(documents, _ALONE) or not isinstance(documents, Iterable):
        raise InputError(
            f"documents: got {documents!r:.80}, expected a list or another iterable of documents; "
            "a file is read by funnel.indexing.corpus.read_corpus(path)"
        )
    nothing = f"got None, {_EXPECTED}"
    numbered = zip(count(1), documents, strict=False)
    return Corpus("documents", (Row(f"item {n}", content, nothing) for n, content in numbered))


def _corpus_file(path: Path, what: str) -> Path:
    if what != _CORPUS and path.is_dir():
        raise ConfigError(f"{what} {path}: got a folder, expected a file")
    file = packed_or_not(path / "corpus.jsonl" if path.is_dir() else path)
    if file is None:
        or_folder = ", nor a folder with corpus.jsonl" if what == _CORPUS else ""
        raise ConfigError(f"{what} {path}: no such file{or_folder}")
    return file


def packed_or_not(file: Path) -> Path | None:
    """The file, or the same with ``.gz`` after its name, or None if there is neither."""
    return next((each for each in (file, Path(f"{file}.gz")) if each.is_file()), None)


def opened(file: Path) -> IO[bytes]:
    """The file's bytes, of ``.gz`` the unpacked ones; see :func:`unreadable`."""
    if file.suffix.lower() == ".gz":
        return cast("IO[bytes]", gzip.open(file, "rb"))
    return file.open("rb")


def _corpus(source: str, rows: Iterator[Row]) -> Corpus:
    return Corpus(source, _readable(source, rows))


def _readable(source: str, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows; what the system or gzip cannot read is told with the place that was reached."""
    reached = "at its start"
    try:
        for row in rows:
            yield row
            reached = f"after {row.place}"
    except READ_ERRORS as error:
        raise unreadable(source, error, reached) from None


READ_ERRORS = (EOFError, OSError, zlib.error)
"""What reading a file that was ``opened`` may raise."""


def unreadable(source: str, error: Exception, reached: str) -> InputError:
    """One sentence for one of ``READ_ERRORS``; ``reached`` is the place, as ``at its start``."""
    if isinstance(error, EOFError):
        return InputError(
            f"{source}: the gzip data end too early, {reached}; the file is cut off, "
            "copy it or pack it again"
        )
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return InputError(
            f"{source}: cannot be unpacked {reached} ({error}), expected gzip data as the name "
            "says; pack it again, or rename it if it is not packed"
        )
    why = getattr(error, "strerror", None) or str(error)
    return InputError(f"{source}: cannot be read {reached}: {why}; mend or replace it")


def _json_rows(opened: Callable[[], IO[bytes]]) -> Iterator[Row]:
    with opened() as stream:
        for number in count(1):
            line = stream.readline(MAX_LINE_BYTES)
            if not line:
                return
            if line.strip() not in (b"", b"\xef\xbb\xbf"):
                yield _json_row(f"line {number}", line)


def _json_row(place: str, line: bytes) -> Row:
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")  # or a line cut off ends in the next one
        content = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return Row(place, None, f"not UTF-8 (byte {error.start + 1} of the line)")
    except json.JSONDecodeError as error:
        return Row(place, None, f"broken JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        return Row(place, None, f"broken JSON: {str(error) or 'nested too deep'}")
    if not isinstance(content, dict):
        return Row(place, None, f"got a JSON {type(content).__name__}, expected an object")
    return Row(place, content)


def _refuse_constant(name: str) -> None:
    raise BadRow(f"{name} is no JSON number")


def _csv_rows(
    opened: Callable[[], IO[bytes]],
    source: str,
    delimiter: str,
    *,
    texts: bool,
) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)
    codes = frozenset[str]() if texts else _code_columns(opened, delimiter)
    with opened() as stream:
        reader = csv.DictReader(_lines(stream), delimiter=delimiter, strict=True)
        while True:
            first = reader.reader.line_num + 1  # the other's own stays behind after a bad record
            try:
                if not reader.line_num:
                    _check_header(source, reader.fieldnames or ())
                    first = reader.reader.line_num + 1
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _broken(first, reader.reader.line_num, error)
                continue
            as_texts = record.keys() if texts else codes
            yield _csv_row(f"line {reader.line_num}", record, as_texts)


def _lines(stream: IO[bytes]) -> Iterator[str]:
    return (line.decode("utf-8-sig", errors="surrogateescape") for line in stream)


def _code_columns(opened: Callable[[], IO[bytes]], delimiter: str) -> frozenset[str]:
    """The columns in which a cell is a code that looks like a number.

    What cannot be read is left for those who read the rows to tell.
    """
    found: set[str] = set()
    with suppress(OSError, EOFError, zlib.error), opened() as stream:
        reader = csv.reader(_lines(stream), delimiter=delimiter, strict=True)
        names: list[str] = []
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error:
                continue
            found.update(name for name, cell in zip(names, cells, strict=False) if _is_code(cell))
            names = names or cells
    return frozenset(found)


def _is_code(text: str) -> bool:
    """Digits that a number would not keep, as of a zip code, or more parts than a number has."""
    if text.isdecimal():
        return isinstance(_cell(text), str)
    return _PARTS.fullmatch(text) is not None


def _broken(first: int, last: int, error: csv.Error) -> Row:
    """A record that cannot be read; a quote that nobody closed may have taken in many lines."""
    if last <= first:
        return Row(f"line {first}", None, f"broken CSV: {error}")
    problem = f"broken CSV: {error}; one record for want of a closing quote, all left out"
    return Row(f"lines {first} to {last}", None, problem)


def _check_header(source: str, names: Sequence[str]) -> None:
    """A row keeps one value of a name: the other column would be lost without a word."""
    if any(_is_not_utf8(name) for name in names):
        raise InputError(f"{source}: the header is not UTF-8; save the file as CSV in UTF-8")
    twice = [name for name, times in Counter(names).items() if name and times > 1]
    if twice:
        raise InputError(
            f"{source}: the header names {twice[0]!r:.80} more than once, expected each column to "
            "have a name of its own; rename or remove one"
        )


def _csv_row(place: str, record: Mapping[Any, Any], as_texts: Container[Any]) -> Row:
    if None in record:
        return Row(place, None, "more fields than the header has")
    if any(text is None for text in record.values()):
        return Row(place, None, "fewer fields than the header has")
    if any(_is_not_utf8(text) for text in record.values()):
        return Row(place, None, "not UTF-8")
    texts = {key: text for key, text in record.items() if key in _OWN_KEYS}
    rest = {
        key: text if key in as_texts else _cell(text)
        for key, text in record.items()
        if key not in _OWN_KEYS
    }
    filled = {key: cell for key, cell in rest.items() if cell != ""}
    return Row(place, {**texts, **filled}, blank=tuple(key for key in rest if key not in filled))


def _is_not_utf8(text: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in text)


def _cell(text: str) -> str | int | float:
    """A number if the cell is written as that number and can be stored, else the text."""
    for kind in (int, float):
        try:
            value: int | float = kind(text)
        except ValueError:
            continue
        is_plain = _is_written_so(text, str(value)) and text.lstrip("-")[0].isdigit()
        if is_plain and (kind is float or value in _INTEGERS):
            return value
    return text


def _is_written_so(text: str, number: str) -> bool:
    """Zeros after the last decimal do not count: a range of prices must not miss ``9.50``."""
    return text == number or ("." in text and text.rstrip("0") == number.rstrip("0"))


def document_from(content: Mapping[str, Any] | Document) -> Document:
    """A checked document. Keys that are not a document's own join the metadata.

    Raises:
        BadRow: what is wrong, in a few words.
    """
    if isinstance(content, Document):
        content = {
            "id": content.id,
            "title": content.title,
            "text": content.text,
            "metadata": content.metadata,
        }
    if not isinstance(content, Mapping):
        raise BadRow(f"got {type(content).__name__}, {_EXPECTED}")
    title = _text(content, "title")
    text = _text(content, "text")
    if "text" not in content:
        raise _without("'text'", content)
    if not (text.strip() or title.strip()):
        raise BadRow("no 'text'")
    return Document(_id(content), text, title, _metadata(content))


def _without(key: str, content: Mapping[str, Any]) -> BadRow:
    """Names what there is: the key in other letters, or a table with other separators."""
    return BadRow(f"no {key}; got {', '.join(map(repr, content)) or 'nothing':.120}")


def _id(content: Mapping[str, Any]) -> str:
    given = [content[key] for key in ("id", "_id") if content.get(key) not in (None, "")]
    if not given:
        raise _without("'id' (or '_id')", content)
    if len(given) == 2 and given[0] != given[1]:
        raise BadRow(f"'id' is {given[0]!r:.40} but '_id' is {given[1]!r:.40}")
    if isinstance(given[0], bool) or not isinstance(given[0], str | int):
        raise BadRow(f"'id' is a {type(given[0]).__name__}, expected a text or a whole number")
    name = str(given[0])
    if not name.strip() or len(name) > MAX_ID_CHARS or not name.isprintable():
        raise BadRow(f"'id' is {name!r:.40}, expected 1 to {MAX_ID_CHARS} printable characters")
    return name


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if value is None:
        if key == "text" and key in content:
            raise BadRow("'text' is null")
        return ""
    if not isinstance(value, str):
        raise BadRow(f"'{key}' is a {type(value).__name__}, expected a text")
    if len(value) > MAX_TEXT_CHARS:
        raise BadRow(
            f"'{key}' has {len(value):,} characters, at most {MAX_TEXT_CHARS:,} are stored; "
            "split it into passages"
        )
    return _storable(value)


def _storable(text: str) -> str:
    """The text without what UTF-8 and JSON cannot carry: lone surrogates and NUL."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def _metadata(content: Mapping[str, Any]) -> dict[str, Any]:
    given = content.get("metadata")
    if isinstance(given, str) and not given.strip():
        given = None
    if given is not None and not isinstance(given, Mapping):
        raise BadRow(f"'metadata' is a {type(given).__name__}, expected an object")
    extra = {key: value for key, value in content.items() if key not in _OWN_KEYS}
    if given and (twice := sorted(set(extra) & set(given))):
        raise BadRow(f"{twice[0]!r} stands both beside and inside 'metadata'")
    return _plain({**(given or {}), **extra})


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        written = json.dumps(metadata, allow_nan=False, default=_iso, ensure_ascii=False)
        plain: dict[str, Any] = json.loads(_storable(written))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow(f"'metadata' is not JSON: {error}") from None
    if _is_deeper(plain, MAX_DEPTH):  # stores and clients copy it by recursion
        raise BadRow(f"'metadata' is nested more than {MAX_DEPTH} levels deep")
    if (huge := _huge(plain)) is not None:
        raise BadRow(f"'metadata' holds {huge!r:.40}, a number beyond 64 bits; make it a text")
    return plain


def _huge(value: object) -> int | None:
    """An integer in it that cannot be stored as it is."""
    if isinstance(value, int):
        return None if value in _INTEGERS else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((huge for each in inner if (huge := _huge(each)) is not None), None)


def _is_deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels <= 1 or _is_deeper(each, levels - 1) for each in inner if _holds(each))


def _holds(value: object) -> bool:
    return isinstance(value, dict | list)


def _iso(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} cannot be stored")
