"""Errors as statuses: a caller's mistake is 4xx, ours and our backends' 5xx, each with its name."""

from http import HTTPStatus
from typing import Any

from funnel import errors
from funnel.service.bodies import BodyTooLarge, BodyTooSlow, NotJson

_SHOWN_PROBLEMS = 100
_RETRY_S = 1


class Unauthorised(errors.FunnelError):
    """The token is missing or another one."""


class Forbidden(errors.FunnelError):
    """This service was started without what the call needs."""


# The first that fits counts, so subclasses stand before their base.
_STATUSES: tuple[tuple[type[BaseException], HTTPStatus], ...] = (
    (BodyTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (BodyTooSlow, HTTPStatus.REQUEST_TIMEOUT),
    (NotJson, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (Unauthorised, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (errors.InputError, HTTPStatus.BAD_REQUEST),
    (errors.CorpusError, HTTPStatus.BAD_REQUEST),
    (errors.Overloaded, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.StageTimeout, HTTPStatus.GATEWAY_TIMEOUT),
    (errors.RateLimited, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.BackendUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.CacheError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.Closed, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.StageError, HTTPStatus.BAD_GATEWAY),
)


def status_of(error: BaseException) -> HTTPStatus:
    """Return the status of an error; 500 for what nobody foresaw."""
    fitting = (status for kind, status in _STATUSES if isinstance(error, kind))
    return next(fitting, HTTPStatus.INTERNAL_SERVER_ERROR)


def body_of(error: errors.FunnelError) -> dict[str, Any]:
    """Return what is told of an error: its name and message, and what a machine can act on."""
    told: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, errors.StageError):
        told |= {"stage": error.stage, "reason": error.reason}
    if isinstance(error, errors.CorpusError):
        told |= {"problems": error.problems[:_SHOWN_PROBLEMS], "bad": error.bad}
    return {"error": told}


def headers_of(error: errors.FunnelError) -> dict[str, str]:
    """Return when to come again, how to be let in, or that this is the end of the connection."""
    if isinstance(error, Unauthorised):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, BodyTooSlow):
        return {"connection": "close"}
    if isinstance(error, errors.RateLimited):
        return {"retry-after": str(max(1, round(error.retry_after or _RETRY_S)))}
    waits = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    return {"retry-after": str(_RETRY_S)} if status_of(error) in waits else {}
