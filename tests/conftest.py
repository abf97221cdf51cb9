"""What holds for every test: no model hub, one thread a pool, a cache folder of its own, no logging
set-up left behind.
"""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import certifi
import pytest
import structlog
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A new clone makes hypothesis's tables of characters first, a busy host pauses: slow, not wrong.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep garbage collections, of which each training makes one, off what was imported to stay.

    They would take a second or more to go through all of that.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _own_cache_folder(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Measured choices and compiled models: not the user's, and one for all of xdist's workers."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUNNEL_CACHE_DIR", str(folder / "funnel-cache"))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each HTTP client reads the certificates of some 150 authorities; no test needs one of them.

    Unless a server is named, which may be reached by TLS.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not {"QDRANT_URL", "REDIS_URL", "SSL_CERT_FILE"} & os.environ.keys():
            end = "-----END CERTIFICATE-----\n"
            first = Path(certifi.where()).read_text(encoding="utf-8").split(end)[0] + end
            file = tmp_path_factory.mktemp("tls") / "one.pem"
            file.write_text(first, encoding="utf-8")
            patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(autouse=True)
def _fresh_logging() -> Iterator[None]:
    """Capturing logs configures structlog; later tests must not inherit that."""
    yield
    structlog.reset_defaults()
