"""The JetStream API of the server: JSON requests on $JS.API. (NATS ADR-31)"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec

from tidings.concurrency.home import Home
from tidings.error_codes import UNAVAILABLE, WRONG_LAST, ErrorCode
from tidings.errors import (
    DisconnectedError,
    DuplicateMessageError,
    JetStreamApiError,
    JetStreamUnavailableError,
    SubjectPermissionError,
    WrongSequenceError,
)
from tidings.headers import Headers
from tidings.jetstream.shapes import check_shape
from tidings.jetstream.status import Status
from tidings.log import logger
from tidings.subject import has_wildcard, matches
from tidings.transport.connection import Connection
from tidings.transport.options import JS_API

PREFIX = JS_API
# An answer takes at least so many round trips to the server.
LEAST_TRIPS = 3

# Seconds between two checks that a stream is gone: a leader that was elected a moment ago may not
# know every stream yet.
SECOND_LOOK = 0.25


# Characters of a refusal that are kept. Anybody who may listen on the API can answer.
LONGEST = 2000
_Code = Annotated[int, msgspec.Meta(ge=0, le=100_000)]


class _Refusal(msgspec.Struct):
    code: _Code = 500
    err_code: _Code = 0
    description: str = ""


class JetStreamApi:
    """Calls of the API, in the event loop in which this object was created.

    Args:
        connection: the connection that the calls use.
        timeout: seconds to wait for an answer.
        prefix: the prefix of the API's subjects; another domain or account has its own.

    Attributes:
        declared: the configuration of each stream that the app declares, by name.
    """

    def __init__(self, connection: Connection, timeout: float, prefix: str = PREFIX) -> None:
        self.connection = connection
        self.timeout = timeout
        self.prefix = prefix
        self.declared: dict[str, dict[str, Any]] = {}
        # The streams that can deliver messages later, by subject: when they were looked at, their
        # name and their configuration.
        self.schedule_streams: dict[str, tuple[float, str, dict[str, Any]]] = {}
        self._restoring: dict[str, asyncio.Task[bool]] = {}
        self.home = Home()

    async def call(
        self, operation: str, payload: dict[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Call an operation and return its answer.

        Args:
            operation: the operation, such as "STREAM.INFO.ORDERS".
            payload: its arguments.
            timeout: seconds to wait for the answer; None for the API's timeout.

        Raises:
            JetStreamApiError: the server refused the call, or something else answered it.
            JetStreamUnavailableError: no JetStream answers.
            RequestTimeoutError: no answer came in time.
            DisconnectedError: there is no connection now.
        """
        body = b"" if payload is None else msgspec.json.encode(payload)
        subject = f"{self.prefix}.{operation}"
        if has_wildcard(subject):  # a filter's, at the end of CONSUMER.CREATE
            self.connection.outbox.take_pattern(subject)
        answer = await self._ask(subject, body, timeout or self.timeout)
        raise_refusal(answer, operation)
        check_shape(operation, answer)
        return answer

    async def call_if_allowed(
        self, operation: str, payload: dict[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any] | None:
        """Call an operation that the user need not have the permission for.

        Returns:
            The answer; None if the server denies the call, which is not logged.

        Raises:
            TidingsError: as `call`.
        """
        with self.connection.denials.expecting(f"{self.prefix}.{operation}"):
            try:
                return await self.call(operation, payload, timeout)
            except SubjectPermissionError:
                return None

    async def _ask(self, subject: str, body: bytes, timeout: float) -> dict[str, Any]:
        """Send a request. If the app waits for a server at its start, send it again on the next
        connection."""
        connection = self.connection
        while True:
            try:
                # Even a short timeout leaves an answer the time to come.
                patience = max(timeout, LEAST_TRIPS * connection.round_trip)
                return await self.request(subject, body, b"", patience)
            except DisconnectedError:
                if not connection.waits:
                    raise
            await connection.connected()

    async def request(
        self, subject: str, body: bytes, block: bytes, timeout: float
    ) -> dict[str, Any]:
        """Send a request that JetStream answers in JSON, such as a publish to a stream.

        Raises:
            JetStreamApiError: the answer is not a JSON object.
            JetStreamUnavailableError: nobody listens on the subject.
            RequestTimeoutError, DisconnectedError: as `call`.
            WrongLoopError: the caller runs in another event loop.
        """
        self.home.check("app.js")
        frame = await self.connection.request(subject, body, block, timeout)
        return read_answer(subject, frame[3], frame[4])

    async def streams_taking(self, subject: str, timeout: float | None = None) -> list[str]:
        """Return the names of the streams that store a subject.

        Raises:
            TidingsError: as `call`.
        """
        answer = await self.call("STREAM.NAMES", {"subject": subject}, timeout)
        names = answer.get("streams") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise JetStreamApiError(500, 0, "STREAM.NAMES was answered without names")
        return names

    # Declared streams that the server has lost.

    def declared_for(self, subject: str) -> list[str]:
        """Return the names of the declared streams that store a subject."""
        return [
            name
            for name, config in self.declared.items()
            if any(matches(pattern, subject) for pattern in config.get("subjects") or ())
        ]

    async def restore_stream(self, name: str) -> bool:
        """Create a declared stream again if the server has lost it, and log a warning.

        A memory stream is lost when its server restarts, for example. During an election, nobody
        can say whether a stream is lost, so this raises an error. Several callers and several
        instances may call it at the same time: the stream is created once.

        Args:
            name: the stream's name.

        Returns:
            Whether the stream is there now. False if it is gone and the app does not declare it.

        Raises:
            JetStreamApiError: the server refuses to create it.
            JetStreamUnavailableError, RequestTimeoutError, DisconnectedError: no answer.
        """
        task = self._restoring.get(name)
        if task is None:
            task = asyncio.create_task(self._restore(name), name=f"tidings restore {name}")
            self._restoring[name] = task
            task.add_done_callback(lambda done: self._restored(name, done))
        return await asyncio.shield(task)

    def _restored(self, name: str, task: asyncio.Task[bool]) -> None:
        del self._restoring[name]
        if not task.cancelled():
            task.exception()  # the callers that still wait get it; there may be none

    async def _restore(self, name: str) -> bool:
        if await self._has_stream(name):
            return True
        if name not in self.declared:
            return False
        await asyncio.sleep(SECOND_LOOK)
        if await self._has_stream(name):
            return True
        try:
            await self.call(f"STREAM.CREATE.{name}", self.declared[name])
        except JetStreamApiError as error:
            if error.err_code != ErrorCode.STREAM_NAME_IN_USE:
                raise
            return True  # another instance created it, perhaps of another version of this app
        logger.warning(
            "the stream %s was gone, with every message that it held; it is created again", name
        )
        return True

    async def _has_stream(self, name: str) -> bool:
        try:
            await self.call(f"STREAM.INFO.{name}")
        except JetStreamApiError as error:
            if error.err_code != ErrorCode.STREAM_NOT_FOUND:
                raise
            return False
        return True


def read_answer(subject: str, block: bytes, body: bytes) -> dict[str, Any]:
    """Read the answer to a request. Something else than JetStream may have sent it.

    Raises:
        JetStreamApiError: the answer is not a JSON object.
        JetStreamUnavailableError: nobody listens on the subject.
    """
    if block and Headers.from_block(block).status == Status.NO_RESPONDERS:
        raise JetStreamUnavailableError(subject)
    try:
        answer: dict[str, Any] = msgspec.json.decode(body, type=dict)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise JetStreamApiError(500, 0, f"{subject} was not answered in JSON") from None
    return answer


def raise_refusal(answer: dict[str, Any], call: str) -> None:
    """Raise the error in an answer, if there is one.

    Raises:
        JetStreamApiError: the server refused the call; WrongSequenceError if an expected sequence
            was not met, DuplicateMessageError if it knows a message of a batch already.
        JetStreamUnavailableError: JetStream is off, or has no leader.
    """
    error = answer.get("error")
    if not error:
        return
    try:
        refusal = msgspec.convert(error, _Refusal)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise JetStreamApiError(500, 0, f"{call} was answered by somebody else") from None
    err_code, description = refusal.err_code, refusal.description[:LONGEST]
    if err_code in UNAVAILABLE:
        raise JetStreamUnavailableError(call, f"{description}, error {err_code}", err_code)
    kind = JetStreamApiError
    if err_code in WRONG_LAST:
        kind = WrongSequenceError
    elif err_code == ErrorCode.BATCH_DUPLICATE:
        kind = DuplicateMessageError
    raise kind(refusal.code, err_code, description, call)


def nanoseconds(seconds: float) -> int:
    """Seconds as JetStream counts them."""
    return round(seconds * 1_000_000_000)
