"""Service errors: encodes the error of a handler as an answer, and raises it for the requester
(NATS ADR-32)."""

from __future__ import annotations

import re
from typing import Any, TypeGuard

from tidings import codec
from tidings.errors import DecodeError, EncodeError, NoRespondersError, ServiceError
from tidings.headers import Headers

ERROR_HEADER = "Nats-Service-Error"
ERROR_CODE_HEADER = "Nats-Service-Error-Code"
NO_RESPONDERS = 503
BAD_REQUEST, FAILED, BAD_GATEWAY = 400, 500, 502
# The largest number of characters of a description. A header and the body both contain it.
MAX_DESCRIPTION = 4096
# The line of this service's code at which a class of the user raised. Requesters do not see it.
_PLACE = r" raised at .+?:\d+"


def is_own(error: BaseException) -> TypeGuard[ServiceError]:
    """Return whether a handler raised this ServiceError itself, as an answer to its caller."""
    return isinstance(error, ServiceError) and not error.is_received


def is_bad_answer(error: BaseException) -> TypeGuard[EncodeError]:
    """Return whether a handler's return value cannot be encoded. The error names the handler."""
    return isinstance(error, EncodeError) and error.handler != ""


def failed_request(error: BaseException) -> dict[str, str]:
    """Return log fields for the request that an error answers: its subject, and the error id that
    the other service logged. Empty if the error is not the answer to a request."""
    if isinstance(error, ServiceError) and error.is_received:
        return {"request_subject": error.subject, "request_error_id": error.error_id}
    if isinstance(error, DecodeError) and error.subject:
        return {"request_subject": error.subject}
    return {}


def failure_text(error: BaseException, is_bad_body: bool) -> object:
    """Return the description of a failure for a log line. It contains no value of the body.

    Some errors are returned unchanged: their `__str__` may raise, and the logging handles that.

    Args:
        error: the error that was raised.
        is_bad_body: whether the message's own body could not be decoded.
    """
    if is_bad_body or is_own(error):
        return error
    if is_bad_answer(error):
        return f"EncodeError: {error}"
    if isinstance(error, DecodeError) and error.subject:
        return f"its request failed: {error}"
    if request := failed_request(error):
        return f"its request to {request['request_subject']!r} failed: {error}"
    return type(error).__name__


def error_reply(
    error: BaseException, error_id: str, service: str, *, is_bad_body: bool = False
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the body and the headers of the answer to a failed request.

    If the handler raised a ServiceError, the caller gets its text. If the request's body cannot be
    decoded, the caller gets the reason, which contains no value of the body. For any other error it
    gets only the name of the class, because the text may contain what the caller must not see. The
    same holds for the error of another service that the handler called.

    Args:
        error: the error that was raised.
        error_id: the id under which the error is logged.
        service: the name of this service.
        is_bad_body: whether the request's own body could not be decoded.
    """
    if is_own(error):
        code = error.code if isinstance(error.code, int) else 500
        description = _sendable(error.description)
    else:
        code = BAD_REQUEST if is_bad_body else BAD_GATEWAY if failed_request(error) else FAILED
        description = type(error).__name__
        if is_bad_body and isinstance(error, DecodeError):
            description = _sendable(f"{description}: {re.sub(_PLACE, '', error.reason)}")
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
    """Return the text of a ServiceError in a form that can be sent, even if it is not a str.
    Otherwise the requester would wait in vain for an answer."""
    return str(description)[:MAX_DESCRIPTION].encode("utf-8", "replace").decode()


def raise_remote_error(subject: str, block: bytes, body: bytes) -> None:
    """Raise an error if an answer is one.

    Args:
        subject: the request's subject.
        block: the answer's header block.
        body: the answer's body.

    Raises:
        NoRespondersError: if the server reports that nobody listens on the subject.
        ServiceError: if the service answered with an error.
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
    """Return the JSON body of an error, or {} if it is not JSON. Other frameworks may send another
    body."""
    try:
        detail: dict[str, Any] = codec.decoder(dict)(body)
    except ValueError:
        return {}
    return detail
