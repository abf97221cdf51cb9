"""Addresses of a Redis: checked when the store is made, before anything connects."""

from traceback import format_exception

import pytest

from funnel.cache.store_redis import RedisStore
from funnel.errors import ConfigError


@pytest.mark.parametrize("url", ["localhost:6379", "http://x", "", "sqlite:///x"])
def test_an_address_that_is_none(url: str) -> None:
    """Another scheme is a configuration error that shows a right one."""
    with pytest.raises(ConfigError, match="redis://"):
        RedisStore(url)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://u:hunter2@h:abc", "host or port"),
        ("redis://u:hunter2@h:99999", "host or port"),
        ("redis://u:hunter2@[::1", "host or port"),
        ("redis://u:hunter2@ho st:1", "host or port"),
        ("redis://u:hunter2/1@h", "host or port"),
        ("redis://u:hunter2#1@h", "host or port"),
        ("redis://u:hunter2@h/main", "database"),
        ("redis://u:hunter2@h?socket_timeout=abc", "'socket_timeout'"),
        ("redis://u:hunter2@h?foo=bar", "'foo'"),
        ("redis://u:hunter2@h?decode_responses=true", "'decode_responses'"),
        ("redis://u:hunter2@h?ssl_cert_reqs=none", "rediss://"),
        ("rediss://u:hunter2@h?ssl_cert_reqs=CERT_NONE", "CERT_NONE"),
    ],
)
def test_an_address_with_a_part_that_cannot_be_used(url: str, named: str) -> None:
    """It is a configuration error that names the part and never shows the password."""
    with pytest.raises(ConfigError, match=r"cache\.url: got") as caught:
        RedisStore(url)
    assert named in str(caught.value)
    assert "hunter2" not in "".join(format_exception(caught.value.with_traceback(None)))


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://[::1]:6380/0",
        "redis://u:p%2F%40@h:6379/15?socket_timeout=0.5&client_name=a",
        "rediss://h?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_an_address_that_is_one(url: str) -> None:
    """Every kind of address that redis-py knows is taken."""
    RedisStore(url)
