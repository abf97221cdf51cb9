"""The client of OpenRouter's chat completions: one request at a time, nothing retried."""

import asyncio
import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from funnel.errors import AuthError, BackendUnavailable, MalformedOutput, StageTimeout
from funnel.stages.openrouter_answer import Response, json_object, retry_after_s

if TYPE_CHECKING:
    import httpx

BASE_URL = "https://openrouter.ai/api/v1"
MAX_ANSWER_BYTES = 1_000_000
_CONNECT_S = 5.0
_CONNECTIONS = 100
_GZIP = zlib.MAX_WBITS | 16
"""What makes zlib expect gzip's head."""
_KEY = re.compile(r"[\x21-\x7e]+")


def check_base_url(url: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ValueError: it is not https; plain http would send the key in the clear and is accepted
            for loopback addresses only.
    """
    if not _is_secure(url):
        raise ValueError(
            f"got {url!r}, expected an https URL such as {BASE_URL!r} (http for loopback only)"
        )
    return url.rstrip("/")


def _is_secure(url: str) -> bool:
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, half of an IPv6 address
        return False
    return known and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url)))


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_key(key: SecretStr | None) -> str:
    """The key's value.

    Raises:
        AuthError: there is none, or it cannot stand in a header. The message never holds it.
    """
    value = key.get_secret_value().strip() if key else ""
    if not value:
        raise AuthError(
            "no OpenRouter key; set OPENROUTER_API_KEY in the environment, or leave this stage out"
        )
    if not _KEY.fullmatch(value):
        raise AuthError(
            "OPENROUTER_API_KEY holds blanks or characters outside of ASCII; copy the key again"
        )
    return value


class OpenRouter:
    """A client of the chat completions endpoint; use it on one event loop."""

    def __init__(self, base_url: str, key: str, headers: Mapping[str, str]) -> None:
        self._url = f"{base_url}/chat/completions"
        self._key = key
        self._headers = headers
        self._http: httpx.AsyncClient | None = None
        # In httpx every call looks through all that wait, and the loop stands still for seconds.
        self._places = asyncio.Semaphore(_CONNECTIONS)

    async def post(self, payload: Mapping[str, Any], timeout_s: float) -> Response:
        """Send one request; whatever status comes back is a response. Cancelling closes it.

        Raises:
            StageTimeout: no full answer came within ``timeout_s`` seconds.
            BackendUnavailable: no connection, or it broke.
        """
        import httpx

        try:
            async with asyncio.timeout(timeout_s), self._places:
                return await self._send(payload, timeout_s)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise StageTimeout(
                f"{self._url} gave no full answer within {timeout_s * 1000:.0f} ms", cause=error
            ) from error
        except httpx.HTTPError as error:
            raise BackendUnavailable(
                f"{self._url} could not be reached: {type(error).__name__}; check the network "
                "and 'base_url'",
                cause=error,
            ) from error

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _send(self, payload: Mapping[str, Any], timeout_s: float) -> Response:
        import httpx

        timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s))
        client = self._client()
        async with client.stream("POST", self._url, json=payload, timeout=timeout) as answer:
            sent = bytearray()
            async for chunk in answer.aiter_raw():
                sent += chunk
                _check_length(sent)
        wait = retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC))
        body = _unpacked(bytes(sent), answer.headers.get("content-encoding", ""))
        echoed = body.replace(self._key.encode(), b"***")  # errors are logged, keys never are
        return Response(answer.status_code, json_object(echoed), wait)

    def _client(self) -> "httpx.AsyncClient":
        import httpx

        if self._http is None:
            self._http = httpx.AsyncClient(
                headers={
                    **self._headers,
                    "Accept-Encoding": "gzip",
                    "Authorization": f"Bearer {self._key}",
                },
                limits=httpx.Limits(max_connections=_CONNECTIONS),
                trust_env=not is_loopback(self._url),  # a proxy is no way to this machine
            )
        return self._http


def _unpacked(body: bytes, encoding: str) -> bytes:
    """The body as it was before it was packed; httpx would unpack gigabytes from a few kilobytes.

    Raises:
        MalformedOutput: it is packed by other means than were asked for, damaged, or too long.
    """
    if encoding.strip().lower() in ("", "identity"):
        return body
    if encoding.strip().lower() != "gzip":
        raise MalformedOutput(f"an answer in the encoding {encoding!r:.80}, expected gzip or none")
    try:
        plain = zlib.decompressobj(_GZIP).decompress(body, MAX_ANSWER_BYTES + 1)
    except zlib.error as error:
        raise MalformedOutput(f"an answer in damaged gzip: {error}", cause=error) from error
    _check_length(plain)
    return plain


def _check_length(body: bytes | bytearray) -> None:
    if len(body) > MAX_ANSWER_BYTES:
        raise MalformedOutput(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
