"""Keeps what transformers prints while it loads, bars and reports, off a program's terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from threading import Lock
from typing import Any

_LOCK = Lock()
_inside = 0
_before: tuple[int, int, bool] = (0, 0, False)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Only errors are said inside; models may load in several threads."""
    with _LOCK:
        _enter()
    try:
        yield
    finally:
        with _LOCK:
            _leave()


def _enter() -> None:
    global _inside, _before  # as are the libraries' own settings
    _inside += 1
    if _inside > 1:
        return
    logging, sentences = _libraries()
    _before = sentences.level, logging.get_verbosity(), logging.is_progress_bar_enabled()
    sentences.setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _leave() -> None:
    global _inside
    _inside -= 1
    if _inside:
        return
    logging, sentences = _libraries()
    level, verbosity, bars = _before
    sentences.setLevel(level)
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()


def _libraries() -> tuple[Any, Any]:
    from transformers.utils import logging

    return logging, getLogger("sentence_transformers")
