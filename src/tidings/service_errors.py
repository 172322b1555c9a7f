"""Errors across the wire: what a service answers with, what its requester raises (ADR-32)."""

from __future__ import annotations

from typing import Any, TypeGuard

from tidings import codec
from tidings.errors import DecodeError, NoRespondersError, ServiceError
from tidings.headers import Headers

ERROR_HEADER = "Nats-Service-Error"
ERROR_CODE_HEADER = "Nats-Service-Error-Code"
NO_RESPONDERS = 503
BAD_REQUEST, FAILED, BAD_GATEWAY = 400, 500, 502
# Characters of a description that are sent; it goes into a header and into the body.
MAX_DESCRIPTION = 4096


def is_own(error: BaseException) -> TypeGuard[ServiceError]:
    """Whether it is a ServiceError that a handler raised to say something to its caller."""
    return isinstance(error, ServiceError) and not error.is_received


def failed_request(error: BaseException) -> dict[str, str]:
    """The request whose answer an error is, as fields of a log record: its subject, and the error
    id that the service there logged. Empty where the error is no answer."""
    if isinstance(error, ServiceError) and error.is_received:
        return {"request_subject": error.subject, "request_error_id": error.error_id}
    if isinstance(error, DecodeError) and error.subject:
        return {"request_subject": error.subject}
    return {}


def failure_text(error: BaseException, is_bad_body: bool) -> object:
    """What a log line says of a failure: never a value of the body.

    A user's own error is returned as it is: its `__str__` may raise, which logging survives.

    Args:
        error: what was raised.
        is_bad_body: whether the message's own body did not decode.
    """
    if is_bad_body or is_own(error):
        return error
    if request := failed_request(error):
        return f"its request to {request['request_subject']!r} failed: {error}"
    return type(error).__name__


def error_reply(
    error: BaseException, error_id: str, service: str, *, is_bad_body: bool = False
) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers of the answer to a request that failed.

    The caller gets the text of a ServiceError that the handler raised. Of every other error it
    gets the class's name only: text and traceback may hold what the caller must not see, and so
    may the error of another service that the handler asked.

    Args:
        error: what was raised.
        error_id: the id under which it is logged.
        service: the name of this service.
        is_bad_body: whether the request's own body did not decode.
    """
    if is_own(error):
        code = error.code if isinstance(error.code, int) else 500
        description = _sendable(error.description)
    else:
        code = BAD_REQUEST if is_bad_body else BAD_GATEWAY if failed_request(error) else FAILED
        description = type(error).__name__
    body = {
        "success": False,
        "error": description,
        "code": code,
        "id": error_id,
        "service": service,
    }
    line = " ".join(description.replace("\0", " ").split()) or "error"
    return body, {ERROR_HEADER: line, ERROR_CODE_HEADER: str(code)}


def _sendable(description: object) -> str:
    """The text of a ServiceError, whatever a handler gave it: an answer that cannot be sent would
    leave the requester waiting."""
    return str(description)[:MAX_DESCRIPTION].encode("utf-8", "replace").decode()


def raise_remote_error(subject: str, block: bytes, body: bytes) -> None:
    """Raise what an answer's headers say, if they say an error.

    Raises:
        NoRespondersError: the server says that nobody listens.
        ServiceError: the service says that it failed.
    """
    headers = Headers.from_block(block)
    if headers.status == NO_RESPONDERS:
        raise NoRespondersError(subject)
    description = headers.get(ERROR_HEADER)
    if description is None:
        return
    code = headers.get(ERROR_CODE_HEADER, "")
    detail = _detail(body)
    error = ServiceError(
        int(code) if code.isascii() and code.isdigit() and len(code) < 10 else 500,
        str(detail.get("error") or description),
        error_id=str(detail.get("id", "")),
        service=str(detail.get("service", "")),
        subject=subject,
        body=body,
    )
    error.is_received = True
    raise error


def _detail(body: bytes) -> dict[str, Any]:
    """The JSON body of an error, where it is one: other frameworks answer otherwise."""
    try:
        detail: dict[str, Any] = codec.decoder(dict)(body)
    except ValueError:
        return {}
    return detail
