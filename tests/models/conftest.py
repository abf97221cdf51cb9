"""Measured choices and compiled models of tests stay out of the user's folder."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUNNEL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
