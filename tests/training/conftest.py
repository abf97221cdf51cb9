"""Tiny models and learnable data for the training tests."""

import logging
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog

from funnel.training import LabelledPair, TrainSettings
from tests.training.tiny import NAMES, tiny_bert, tiny_encoder

GOOD, BAD = NAMES[:5], NAMES[5:]
QUICK = TrainSettings(epochs=2, learning_rate=3e-3, precision="fp32", evaluations=2)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder without a head for pairs."""
    return str(tiny_bert(tmp_path_factory.mktemp("tiny") / "bert"))


@pytest.fixture(scope="session")
def tiny_bi(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sentence-transformers encoder with mean pooling."""
    return str(tiny_encoder(tmp_path_factory.mktemp("tiny") / "encoder"))


@pytest.fixture(scope="session")
def pairs() -> list[LabelledPair]:
    """128 pairs whose label hangs on the document alone: the first names are the good ones."""
    chance = random.Random(0)
    made = []
    for number in range(128):
        good = bool(number % 2)
        name = chance.choice(GOOD if good else BAD)
        query = f"find {chance.choice(NAMES)} {chance.randrange(1000)}"
        made.append(LabelledPair(query, f"about {name}", float(good)))
    return made


@pytest.fixture(scope="session")
def matching() -> list[LabelledPair]:
    """128 pairs that fit exactly if both sides name the same thing."""
    chance = random.Random(0)
    made = []
    for number in range(128):
        name = chance.choice(NAMES)
        other = name if number % 2 else chance.choice([each for each in NAMES if each != name])
        query = f"find {name} {chance.randrange(1000)}"
        made.append(LabelledPair(query, f"about {other}", float(number % 2)))
    return made


@pytest.fixture
def quick() -> TrainSettings:
    """Settings that train the tiny model in about a second."""
    return QUICK


@pytest.fixture
def exact(quick: TrainSettings) -> TrainSettings:
    """The same where a run gives the same bits each time."""
    return replace(quick, device="cpu")


@pytest.fixture(autouse=True)
def calm_log() -> Iterator[None]:
    """Keep training's debug events out of the test output."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.reset_defaults()
