"""Errors across the wire: what a service answers with, what its requester raises (ADR-32)."""

from __future__ import annotations

from typing import Any

from tidings import codec
from tidings.errors import DecodeError, NoRespondersError, ServiceError
from tidings.headers import Headers

ERROR_HEADER = "Nats-Service-Error"
ERROR_CODE_HEADER = "Nats-Service-Error-Code"
NO_RESPONDERS = 503
# Characters of a description that are sent; it goes into a header and into the body.
MAX_DESCRIPTION = 4096


def error_reply(
    error: BaseException, error_id: str, service: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers of the answer to a request whose handler raised.

    Never the error's own text or traceback, which may hold what the caller must not see; only a
    ServiceError says to the caller what it says.
    """
    if isinstance(error, ServiceError):
        code = error.code if isinstance(error.code, int) else 500
        description = _sendable(error.description)
    else:
        code = 400 if isinstance(error, DecodeError) else 500
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
    raise ServiceError(
        int(code) if code.isascii() and code.isdigit() and len(code) < 10 else 500,
        str(detail.get("error") or description),
        error_id=str(detail.get("id", "")),
        service=str(detail.get("service", "")),
        subject=subject,
        body=body,
    )


def _detail(body: bytes) -> dict[str, Any]:
    """The JSON body of an error, where it is one: other frameworks answer otherwise."""
    try:
        detail: dict[str, Any] = codec.decoder(dict)(body)
    except ValueError:
        return {}
    return detail
