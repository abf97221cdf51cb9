"""What an operator lets callers of the HTTP service do."""

import ipaddress
from dataclasses import dataclass

from pydantic import SecretStr

from funnel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Limits and permissions of a service.

    Args:
        token: what every call but ``/healthz`` and ``/readyz`` must bring as
            ``Authorization: Bearer …``; None asks for nothing.
        writes: whether documents may be written and deleted, and kept answers dropped.
        overrides: whether a call may change stages; without it, ``k`` is at most ``max_k``.
        max_k: the most hits of a call, because asking for more widens every stage.
        max_in_flight: queries at once; more are refused with 429 at once instead of waiting.
        max_body_bytes: the longest body of a query; of documents, 64 times as much.
        max_writes: writes at once, each of which may hold such a body; more are refused with 429.
        local_only: answer only what was sent to this machine's own name. ``funnel serve`` sets it
            where there is no token on a loopback address: a web page seen here could else reach
            the service under a name that its owner lets point here (DNS rebinding).

    Raises:
        ConfigError: a limit below 1, or a token that no header can carry.
    """

    token: SecretStr | None = None
    writes: bool = False
    overrides: bool = False
    max_k: int = 100
    max_in_flight: int = 256
    max_body_bytes: int = 1 << 20
    max_writes: int = 4
    local_only: bool = False

    def __post_init__(self) -> None:
        for name in ("max_k", "max_in_flight", "max_body_bytes", "max_writes"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name}: got {value}, expected at least 1")
        if self.token is not None and not _fits_a_header(self.token.get_secret_value()):
            raise ConfigError(
                "FUNNEL_SERVICE_TOKEN: expected printable ASCII without spaces; "
                "make one with: openssl rand -hex 32"
            )


def check_reach(host: str, options: ServiceOptions) -> None:
    """Refuse to let strangers write.

    Raises:
        ConfigError: writes are on, the address is not this machine's own, and there is no token.
    """
    if options.writes and options.token is None and not is_loopback(host):
        raise ConfigError(
            f"--host: got {host!r} with --allow-writes, so anybody who reaches it could change "
            "the corpus; set FUNNEL_SERVICE_TOKEN, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def names_this_machine(host: str) -> bool:
    """Whether a Host header, which may bring a port, names the machine itself."""
    name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name.lower())


def _fits_a_header(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token
