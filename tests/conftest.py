"""What holds for every test: no model hub, one thread a pool, no logging set-up left behind."""

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# In a new clone hypothesis makes its tables of characters first: slow, not wrong.
settings.register_profile("suite", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _fresh_logging() -> Iterator[None]:
    """Capturing logs configures structlog; later tests must not inherit that."""
    yield
    structlog.reset_defaults()
