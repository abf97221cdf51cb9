"""The address of a Redis: checked before anything connects, and told without its password."""

import re
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from funnel.errors import ConfigError

_SCHEMES = ("redis", "rediss", "unix")
_EXAMPLE = "as in redis://localhost:6379/0"
_DATABASE = re.compile(r"/?\d*/?")
_OPTIONS = (
    "client_name",
    "db",
    "health_check_interval",
    "max_connections",
    "password",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_timeout",
    "username",
)
_TLS_OPTIONS = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_password",
)


def checked_url(url: str) -> str:
    """The URL itself, if redis-py can use it.

    Messages quote nothing but the scheme and the options' names: a password with a character that
    should have been escaped may end up in any other part.

    Raises:
        ConfigError: the scheme, host, port, database or an option cannot be used.
    """
    parts = _split(url)
    if parts.scheme not in _SCHEMES:
        raise ConfigError(
            f"cache.url: got scheme {parts.scheme!r}, expected one of {', '.join(_SCHEMES)} "
            f"{_EXAMPLE}"
        )
    if parts.scheme != "unix" and not _DATABASE.fullmatch(parts.path):
        raise ConfigError(
            f"cache.url: got a path that is no database's number, expected one {_EXAMPLE}"
        )
    _check_options(url, parts)
    return url


def place(url: str) -> str:
    """Where it leads: host and port, or a socket's path."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its own message may hold a part of the password
        parts = None
    if parts is None or re.search(r"\s", parts.hostname or ""):
        raise ConfigError(
            "cache.url: got a host or port that is none, expected a name or address and 1 to 65535 "
            f"{_EXAMPLE}; write / : @ ? # of a password as %2F %3A %40 %3F %23, and an IPv6 "
            "address in brackets"
        )
    return parts


def _check_options(url: str, parts: SplitResult) -> None:
    names = parse_qs(parts.query)
    known = _OPTIONS + (_TLS_OPTIONS if parts.scheme == "rediss" else ())
    for name in names:
        if name not in known:
            raise ConfigError(
                f"cache.url: got option {name!r}, expected one of {', '.join(known)}"
                + ("; write rediss:// for TLS" if name in _TLS_OPTIONS else "")
            )
    if names:
        _try_out(url)


def _try_out(url: str) -> None:
    """Make a connection without connecting: that shows whether the options' values will do."""
    from redis.asyncio import ConnectionPool
    from redis.exceptions import RedisError

    try:
        pool: Any = ConnectionPool.from_url(url)
        pool.make_connection()
    except (RedisError, TypeError, ValueError) as error:
        raise ConfigError(
            f"cache.url: got an option's value that redis-py refuses ({error}), expected one as in "
            "redis://localhost:6379/0?socket_timeout=0.5"
        ) from None
