"""The JetStream API of the server: JSON requests on $JS.API. (NATS ADR-31)"""

from __future__ import annotations

from typing import Any

import msgspec

from tidings.connection import Connection
from tidings.errors import JetStreamError, JetStreamUnavailableError, WrongSequenceError
from tidings.headers import Headers
from tidings.subject import has_wildcard

PREFIX = "$JS.API"
NO_RESPONDERS = 503

# JetStream's own numbers for errors, where tidings acts on them.
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
STREAM_NAME_IN_USE = 10058
STREAM_NOT_FOUND = 10059
MAX_ACK_PENDING_EXCEEDED = 10121
CONSUMER_EXISTS = 10148
WRONG_LAST = (10070, 10071, 10164)  # message id, sequence
UNAVAILABLE = (10008, 10039, 10076)  # no leader; not on for the account, or at all


class JetStreamApi:
    """Calls of the API.

    Args:
        connection: where they go.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self.connection = connection
        self.timeout = timeout

    async def call(
        self, operation: str, payload: dict[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Call an operation, as "STREAM.INFO.ORDERS"; returns its answer.

        Raises:
            JetStreamError: it was refused.
            JetStreamUnavailableError: no JetStream answers.
            RequestTimeoutError: no answer in time.
            DisconnectedError: there is no connection now.
        """
        body = b"" if payload is None else msgspec.json.encode(payload)
        subject = f"{PREFIX}.{operation}"
        if has_wildcard(subject):  # a filter's, at the end of CONSUMER.CREATE
            self.connection.outbox.take_pattern(subject)
        answer = await self.request(subject, body, b"", timeout or self.timeout)
        raise_refusal(answer, operation)
        return answer

    async def request(
        self, subject: str, body: bytes, block: bytes, timeout: float
    ) -> dict[str, Any]:
        """Send a request that JetStream answers in JSON, an acknowledged publish for one.

        Raises:
            JetStreamUnavailableError: nobody listens on the subject.
            RequestTimeoutError, DisconnectedError: as `call`.
        """
        token, future = self.connection.start_request(subject, body, block, timeout)
        try:
            frame = await future
        finally:
            self.connection.end_request(token)
        if frame[3] and Headers.from_block(frame[3]).status == NO_RESPONDERS:
            raise JetStreamUnavailableError(subject)
        try:
            answer: dict[str, Any] = msgspec.json.decode(frame[4], type=dict)
        except msgspec.MsgspecError:
            raise JetStreamError(500, 0, f"{subject} was not answered in JSON") from None
        return answer


def raise_refusal(answer: dict[str, Any], call: str) -> None:
    """Raise the error in an answer, where there is one.

    Raises:
        JetStreamError: what it says; WrongSequenceError where an expected sequence was not met.
        JetStreamUnavailableError: it says that there is no JetStream to answer.
    """
    error = answer.get("error")
    if not error:
        return
    if not isinstance(error, dict):
        raise JetStreamError(500, 0, f"{call} was answered by somebody else")
    err_code = int(error.get("err_code", 0))
    description = str(error.get("description", ""))
    if err_code in UNAVAILABLE:
        raise JetStreamUnavailableError(call, f"{description}, error {err_code}", err_code)
    kind = WrongSequenceError if err_code in WRONG_LAST else JetStreamError
    raise kind(int(error.get("code", 500)), err_code, description)


def nanoseconds(seconds: float) -> int:
    """Seconds as JetStream counts them."""
    return round(seconds * 1_000_000_000)
