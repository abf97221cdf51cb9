"""What a test does to a Redis behind a store's back."""

import redis

from tests.redis_servers import RedisServer


class Behind:
    """The keys of one namespace, as the server has them."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self.client = client
        self.prefix = prefix

    def names(self) -> set[str]:
        """Names without the prefix."""
        found = self.client.scan_iter(match=f"{self.prefix}*", count=1000)
        return {key.decode().removeprefix(self.prefix) for key in found}

    def name(self, key: str) -> str:
        return self.prefix + key


def cut_connections(server: RedisServer) -> None:
    """As a network or a proxy does: all but the one that asks for it."""
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
