"""Acks: what becomes of a stream's message, sent to the server once, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tidings.concurrency.backoff import Backoff
from tidings.concurrency.failure_log import FailureLog
from tidings.concurrency.work_queue import rest_of
from tidings.errors import (
    DecodeError,
    DisconnectedError,
    JetStreamApiError,
    Reject,
    RequestTimeoutError,
    Retry,
    TidingsError,
)
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.remote import RemoteConsumer
from tidings.jetstream.dead_letter import dead_letter
from tidings.jetstream.message import (
    ACK,
    IN_PROGRESS,
    NAK,
    TERM,
    Settlement,
    StreamMessage,
    nak_words,
)
from tidings.jetstream.status import Status
from tidings.log import safe_text
from tidings.service_errors import failed_request, failure_text
from tidings.text import printable

# Seconds before each redelivery if neither the app nor the server's consumer has a backoff.
BACKOFF = (1.0,)
# Seconds until a message whose dead letter could not be stored is tried again.
DEAD_LETTER_DELAY = 5.0
# Seconds to wait for the confirmation of an acknowledgement.
CONFIRM_TRY = 2.0
# Seconds between two tries to get it: the first wait, and the longest.
CONFIRM_FIRST, CONFIRM_MOST = 0.1, 0.5
# Messages given up whose dead letters cannot be stored: for so many the reason is remembered.
MOST_VERDICTS = 1024

# What the tracing adds to the log record of a failure; nothing without tracing.
Fields = Mapping[str, str]
NO_FIELDS: Fields = {}


class Acks:
    """Settles the messages of one consumer, each once.

    Args:
        remote: the consumer on the server.
        api: the JetStream API.
        log: where failures are logged.

    Attributes:
        acked, nacked, termed, dead, dropped: as in `ConsumerStats`.
    """

    def __init__(self, remote: RemoteConsumer, api: JetStreamApi, log: FailureLog) -> None:
        self.spec = remote.spec
        self.acked = self.nacked = self.termed = self.dead = self.dropped = 0
        self._remote = remote
        self._log = log
        self._api = api
        self._connection = api.connection
        self._outbox = api.connection.outbox
        # Error, reason and error id, by sequence and time: a stream that is created again counts
        # from 1 again.
        self._verdicts: dict[tuple[int, datetime], tuple[str, str, str]] = {}

    # By what the handler did.

    async def succeeded(self, message: StreamMessage[Any]) -> None:
        """Acknowledge a message whose handler returned."""
        if self.spec.manual_ack or message.settlement is not Settlement.OPEN:
            return
        try:
            await self.settle(message, Settlement.ACKED, ACK)
        except TidingsError as error:
            self._log_unsettled(message, "done, but its acknowledgement was not sent", error)

    def done(self, message: StreamMessage[Any]) -> None:
        """Acknowledge a message whose handler returned, without waiting for the server."""
        if message.settlement is not Settlement.OPEN:
            return
        try:
            self._outbox.ack(message.reply, ACK)
        except TidingsError as error:
            self._log_unsettled(message, "done, but its acknowledgement was not sent", error)
        else:
            message.settlement = Settlement.ACKED
            self.acked += 1

    async def raised(
        self, message: StreamMessage[Any], error: BaseException, traced: Fields = NO_FIELDS
    ) -> None:
        """Give back a message whose handler raised, or give it up.

        Args:
            message: the message.
            error: the error.
            traced: the fields that the tracing adds to the log record.
        """
        delivered = message.delivered
        asked = isinstance(error, (Reject, Retry))
        error_id = traced.get("error_id") or secrets.token_hex(6)
        if not asked:
            self._log_failure(message, error, error_id, traced)
        if message.settlement is not Settlement.OPEN:
            return
        limit = self._remote.limit
        if isinstance(error, Reject):
            await self.bury(message, "Reject", safe_text(error.reason), error_id, traced)
        elif self.spec.once and not asked:
            await self._end(message, error)
        elif limit is None or delivered < limit:
            delay = error.delay if isinstance(error, Retry) else self._backoff(delivered)
            await self._give_back(message, delay)
        elif self.spec.dead_letter is None:
            await self._leave_to_server(message, error, error_id, traced)
        else:
            await self.bury(message, type(error).__name__, "deliveries used up", error_id, traced)

    async def _end(self, message: StreamMessage[Any], error: BaseException) -> None:
        """End the deliveries of a message that is handled once, however that ends."""
        try:
            await self.settle(
                message, Settlement.TERMED, TERM + b" " + type(error).__name__.encode()
            )
        except TidingsError as failure:
            self._log_unsettled(message, "failed, but its deliveries go on", failure)

    def abandoned(self, message: StreamMessage[Any]) -> None:
        """Give back a message whose handler was cancelled at the end.

        Another instance gets it at once.
        """
        if message.settlement is Settlement.OPEN:
            self.return_unhandled(message.reply)

    def return_unhandled(self, reply: str) -> None:
        """Give back a message that no handler has handled."""
        with contextlib.suppress(
            TidingsError
        ):  # closed: the server delivers it again after ack_wait
            self._outbox.ack(reply, NAK)

    def _backoff(self, delivered: int) -> float:
        """Return the seconds before the next delivery: the declared ones, or the server's."""
        delays = self.spec.backoff or self._remote.terms.backoff or BACKOFF
        return delays[min(delivered, len(delays)) - 1]

    async def _give_back(self, message: StreamMessage[Any], delay: float) -> None:
        try:
            try:
                words = nak_words(delay)
            except TidingsError as error:
                self._log.error("%s: Retry with %s", self.spec.name, error)
                words = nak_words(self._backoff(1))
            await self.settle(message, Settlement.NACKED, words)
        except TidingsError as error:
            self._log_unsettled(message, "not given back", error)

    # Sent to the server.

    async def settle(self, message: StreamMessage[Any], how: Settlement, words: bytes) -> None:
        """Settle a message, once.

        Raises:
            TidingsError: it cannot be sent, or with `double_ack` the server does not confirm it.
        """
        if message.settlement is not Settlement.OPEN:
            return
        if how is Settlement.ACKED and self.spec.double_ack:
            await self._ack_confirmed(message)
        else:
            self._outbox.ack(message.reply, words)
        message.settlement = how
        if how is Settlement.ACKED:
            self.acked += 1
        elif how is Settlement.NACKED:
            self.nacked += 1
        else:
            self.termed += 1

    async def _ack_confirmed(self, message: StreamMessage[Any]) -> None:
        """Acknowledge with a request: the server's answer says that it has the acknowledgement.

        If no answer comes, because of a lost connection or an election, the request is repeated for
        as long as the consumer's ack_wait. Until then the server delivers the message to nobody.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._remote.terms.ack_wait
        backoff = Backoff(CONFIRM_FIRST, CONFIRM_MOST)
        while True:
            left = max(deadline - loop.time(), 0.05)
            try:
                await self._ask_to_confirm(message, min(left, CONFIRM_TRY))
            except (RequestTimeoutError, DisconnectedError):
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(backoff.next())
            else:
                return

    async def _ask_to_confirm(self, message: StreamMessage[Any], timeout: float) -> None:
        frame = await self._connection.request(message.reply, ACK, b"", timeout)
        if frame[3] and Headers.from_block(frame[3]).status == Status.NO_RESPONDERS:
            raise JetStreamApiError(503, 0, f"the consumer that delivered {message!r} is gone")

    def check(self, call: str) -> None:
        """Raise unless the caller runs in the app's event loop.

        Raises:
            WrongLoopError: it runs in another one.
        """
        self._api.home.check(call)

    def progress(self, message: StreamMessage[Any]) -> None:
        """Report to the server that a handler is working on a message.

        Raises:
            TidingsError: it cannot be sent.
        """
        if message.settlement is Settlement.OPEN:
            self._outbox.ack(message.reply, IN_PROGRESS)

    def keep(self, replies: set[str]) -> None:
        """Report progress for these reply subjects, unless there is no connection: then nothing may
        wait in the buffer."""
        if self._connection.state == "connected":
            with contextlib.suppress(TidingsError):
                for reply in replies:
                    self._outbox.ack(reply, IN_PROGRESS)

    # Given up.

    async def undecodable(
        self, message: StreamMessage[Any], error: BaseException, traced: Fields = NO_FIELDS
    ) -> None:
        """Give up a message whose body is not of the wanted type. The arguments are those of
        `raised`."""
        reason = "it does not decode"
        if isinstance(error, DecodeError):
            reason = f"not a valid {error.wanted}: {error.reason}"
        error_id = traced.get("error_id") or secrets.token_hex(6)
        await self.bury(message, type(error).__name__, reason, error_id, traced)

    async def used_up(self, message: StreamMessage[Any]) -> None:
        """Give up a message that was delivered more often than `max_deliver`.

        The process died during the last delivery, or the dead letter could not be stored then.
        """
        reason = "deliveries used up, and the last one had no outcome"
        crash = ("Crash", reason, secrets.token_hex(6))
        known = self._verdicts.get((message.sequence, message.timestamp))
        await self.bury(message, *(known or crash))

    async def bury(
        self,
        message: StreamMessage[Any],
        error: str,
        reason: str,
        error_id: str,
        traced: Fields = NO_FIELDS,
    ) -> None:
        """Store the dead letter of a message, and then end its deliveries.

        In this order the message is always stored somewhere. Without a subject for dead letters it
        is dropped.
        """
        target = self.spec.dead_letter_subject
        if target is not None and not await self._is_kept(message, target, error, reason, error_id):
            return
        self._verdicts.pop((message.sequence, message.timestamp), None)
        where = f"dead letter on {target!r}" if target else "dropped: it is not delivered again"
        self._log_end(
            message, f"{error}, {reason} (error id {error_id}); {where}", error_id, traced
        )
        try:
            await self.settle(message, Settlement.TERMED, TERM + b" " + error.encode())
        except TidingsError as failure:
            self._log_unsettled(message, "given up, but its deliveries go on", failure)

    async def _is_kept(
        self, message: StreamMessage[Any], target: str, error: str, reason: str, error_id: str
    ) -> bool:
        """Store the dead letter of a message.

        If that fails, the message is given back, to try again later. The server makes no delivery
        after its last one, so the message waits here then.

        Returns:
            False if it was given back.
        """
        while True:
            try:
                await dead_letter(self._api, target, message, error, reason, error_id)
            except Exception as failure:
                self._log.error(
                    "%s: no dead letter on %r was stored, so the message is kept for later: %s",
                    *(self.spec.name, target, failure),
                    extra={"listener": self.spec.name, "subject": message.subject},
                )
            else:
                return True
            if not self._is_last_of_server(message):
                break
            await asyncio.sleep(DEAD_LETTER_DELAY)
        while len(self._verdicts) >= MOST_VERDICTS:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[message.sequence, message.timestamp] = (error, reason, error_id)
        await self._give_back(message, DEAD_LETTER_DELAY)
        return False

    def _is_last_of_server(self, message: StreamMessage[Any]) -> bool:
        most = self._remote.terms.max_deliver
        return most is not None and message.delivered >= most

    async def _leave_to_server(
        self, message: StreamMessage[Any], error: BaseException, error_id: str, traced: Fields
    ) -> None:
        """Give back a message in the last delivery that the server makes, if no dead letter was
        declared. The server then does what its configuration asks, such as sending an advisory."""
        words = f"{type(error).__name__} in the last of {self._remote.limit} deliveries that the"
        words += f" server makes (error id {error_id}); dropped: it is not delivered again"
        self._log_end(message, words, error_id, traced)
        await self._give_back(message, 0)

    # Logged.

    def _log_end(
        self, message: StreamMessage[Any], words: str, error_id: str, traced: Fields
    ) -> None:
        self.dead += 1
        self.dropped += self.spec.dead_letter_subject is None
        self._log.error(
            "%s gave up on %r (%s, sequence %d): %s",
            *(self.spec.name, message.subject, message.stream, message.sequence),
            printable(words),
            extra={
                "listener": self.spec.name,
                "subject": message.subject,
                "error_id": error_id,
                **traced,
            },
        )

    def _log_unsettled(self, message: StreamMessage[Any], what: str, error: TidingsError) -> None:
        self._log.error(
            "%s: the message on %r (%s, sequence %d) is %s, so it is delivered again: %s",
            *(self.spec.name, message.subject, message.stream, message.sequence, what, error),
            extra={"listener": self.spec.name, "subject": message.subject},
        )

    def _log_failure(
        self, message: StreamMessage[Any], error: BaseException, error_id: str, traced: Fields
    ) -> None:
        metadata = message.metadata
        is_timeout = rest_of(error) is not None  # whose text is our own and complete
        self._log.error(
            "%s failed on %r (%s, sequence %d, delivery %d): %s (error id %s)",
            *(self.spec.name, message.subject, metadata.stream, metadata.sequence),
            *(metadata.delivered, error if is_timeout else failure_text(error, False), error_id),
            exc_info=None if is_timeout else error,
            extra={
                "listener": self.spec.name,
                "subject": message.subject,
                "stream": metadata.stream,
                "sequence": metadata.sequence,
                "error_id": error_id,
                **traced,
                **failed_request(error),
            },
        )
