"""Redis servers for tests that break them."""

from collections.abc import Iterator

import pytest

from tests.redis_servers import RedisFarm


@pytest.fixture
def farm() -> Iterator[RedisFarm]:
    """Starts Redis servers; all are ended with the test."""
    farm = RedisFarm()
    yield farm
    farm.close()
