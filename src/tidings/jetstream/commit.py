"""Commit: an atomic batch on its way to its stream, again and again until it is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import Any

from tidings.concurrency.backoff import Backoff
from tidings.deadlines import at_most_left, in_time
from tidings.error_codes import ErrorCode
from tidings.errors import (
    BatchTimeoutError,
    ConfigError,
    DeadlineExpiredError,
    DisconnectedError,
    DuplicateMessageError,
    JetStreamApiError,
    JetStreamUnavailableError,
    NoStreamError,
    PayloadTooLargeError,
    RequestTimeoutError,
    SubjectPermissionError,
    TidingsError,
    TransportError,
    WrongSequenceError,
)
from tidings.jetstream.api import JetStreamApi, raise_refusal, read_answer
from tidings.jetstream.atomic_batch import ID, NUMBER, AtomicBatch, BatchAck, read_ack
from tidings.jetstream.capability import FIRST_WITH_ATOMIC, check_server, switched_off
from tidings.jetstream.get import stored_message
from tidings.jetstream.publish import (
    LEAST_CHECK,
    TRY_FIRST,
    TRY_MOST,
    TRY_TIMEOUT,
    StreamCheck,
    passes,
)
from tidings.protocol.parser import Frame
from tidings.subject import matches

# After so many messages, wait until the server has them. The first one shows early whether the
# stream takes batches at all.
PACE = 100
# Seconds to wait for the acknowledgement of a batch before sending it again, from when the server
# has received it.
COMMIT_TIMEOUT = 5.0
# Messages of which the place is asked for, to find out whether a batch is stored.
MOST_ASKED = 8


async def commit(api: JetStreamApi, batch: AtomicBatch, timeout: float, what: str) -> BatchAck:
    """Store a batch as a whole, or nothing of it.

    If the acknowledgement is lost, the batch is sent again with the same message ids, so the stream
    stores it once.

    Args:
        api: the API.
        batch: the messages, at least one.
        timeout: seconds to wait, at most what is left until the deadline.
        what: the call, for an error.

    Raises:
        ConfigError: the server or the stream takes no batches, or the messages are for several
            streams.
        NoStreamError: no stream takes a subject.
        WrongSequenceError: an expectation is not met. Nothing was stored.
        DuplicateMessageError: the stream knows the id of a message. Nothing was stored.
        JetStreamApiError: the stream refuses the batch. Nothing was stored.
        BatchTimeoutError: no acknowledgement in time.
        DeadlineExpiredError: the deadline had passed before. Nothing was sent.
        TidingsError: it cannot be sent.
    """
    check_server(api, FIRST_WITH_ATOMIC, what)
    limit = api.connection.outbox.max_payload
    for size in batch.sizes():
        if size > limit:
            raise PayloadTooLargeError(size, limit)
    first = batch.messages[0]
    seconds = at_most_left(timeout, first.subject)
    try:
        return await in_time(Commit(api, batch, seconds).run(), first.subject)
    except DeadlineExpiredError as error:
        if not error.has_begun:
            raise
        raise BatchTimeoutError(first.subject, first.msg_id, seconds, len(batch)) from None


class Commit:
    """The tries to store one batch: see `commit`.

    Args:
        api: the API.
        batch: the messages.
        timeout: seconds for all tries.
    """

    def __init__(self, api: JetStreamApi, batch: AtomicBatch, timeout: float) -> None:
        self._api = api
        self._batch = batch
        self._timeout = timeout
        self._stream = ""
        self._tried: set[str] = set()
        self._doubt: TidingsError | None = None  # why it is not known whether the batch is stored
        self._gap_is_known = False
        self._streams = StreamCheck(api, batch.messages[0].subject)
        self._denied = api.connection.denials.count

    async def run(self) -> BatchAck:
        """Try until the batch is acknowledged. Raises: as `commit`."""
        deadline = time.monotonic() + self._timeout
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while (left := deadline - time.monotonic()) > 0:
            try:
                return await self._try(left)
            except (WrongSequenceError, DuplicateMessageError) as error:
                if self._doubt is None:
                    raise
                return await self._own_ack(error)
            except JetStreamApiError as error:
                if error.err_code == ErrorCode.BATCH_INCOMPLETE:
                    await self._explain_gap()
                elif not passes(error):
                    raise
                self._doubt = error
            except (JetStreamUnavailableError, RequestTimeoutError) as error:
                self._doubt = error
                left = deadline - time.monotonic()
                await self._streams.check(min(max(left, LEAST_CHECK), TRY_TIMEOUT))
            except DisconnectedError as error:
                self._doubt = error
            await asyncio.sleep(backoff.next())
        raise self._timed_out() from self._doubt

    def _timed_out(self) -> BatchTimeoutError:
        first = self._batch.messages[0]
        return BatchTimeoutError(first.subject, first.msg_id, self._timeout, len(self._batch))

    async def _try(self, left: float) -> BatchAck:
        """Send the batch once, under an id of its own."""
        batch_id = secrets.token_hex(16)
        self._tried.add(batch_id)
        connection = self._api.connection
        self._api.home.check("app.js")
        deadline = time.monotonic() + left
        for number, (message, block, is_last) in enumerate(self._batch.blocks(batch_id)):
            subject, body = message.subject, message.body
            if not is_last and number % PACE:
                outbox = connection.outbox
                if outbox.post(outbox.frame(subject, body, b"", block)):
                    await outbox.make_room()
                continue
            if subject != self._streams.subject:
                self._streams = StreamCheck(self._api, subject)
            left = max(deadline - time.monotonic(), LEAST_CHECK)
            patience = min(left, COMMIT_TIMEOUT if is_last else TRY_TIMEOUT)
            frame = await connection.request_patiently(subject, body, block, patience, left)
            if is_last:
                return read_ack(self._read(subject, frame), len(self._batch))
            self._take_step(subject, frame)
        raise AssertionError("a batch has a last message")

    def _take_step(self, subject: str, frame: Frame) -> None:
        """Read the answer to a message that is not the last: it is empty, or a refusal."""
        if not frame[3] and not frame[4]:
            return
        # Anything else than a refusal: the server knows no batches, or a listener has answered.
        read_ack(self._read(subject, frame), len(self._batch))

    def _read(self, subject: str, frame: Frame) -> dict[str, Any]:
        answer = read_answer(subject, frame[3], frame[4])
        stream = answer.get("stream")
        if isinstance(stream, str):
            self._stream = stream
        try:
            raise_refusal(answer, f"an atomic batch with {subject!r}")
        except JetStreamApiError as error:
            problem = switched_off(error.err_code, stream)
            if problem is not None:
                raise problem from None
            raise
        return answer

    async def _own_ack(self, refusal: JetStreamApiError) -> BatchAck:
        """Return the acknowledgement that was lost, if the refusal comes of an earlier try: the
        stream refuses a batch that it has stored already.

        Raises:
            WrongSequenceError: somebody else is the reason.
            BatchTimeoutError: it is not known who is. Others can have used the ids that the caller
                has chosen.
        """
        sequence = await self._own_sequence()
        is_duplicate = isinstance(refusal, DuplicateMessageError)
        if sequence or (is_duplicate and self._batch.has_own_ids):
            return BatchAck(self._stream, sequence, len(self._batch))
        if is_duplicate:
            raise self._timed_out() from refusal
        raise refusal

    async def _own_sequence(self) -> int:
        """Return the sequence of the last message, if a message of the batch is still the last one
        on its subject, else 0."""
        last = self._batch.messages[: -MOST_ASKED - 1 : -1]
        for subject in dict.fromkeys(message.subject for message in last):
            where = subject.removeprefix(f"{self._api.prefix}.")
            # The user may not be allowed to ask.
            with contextlib.suppress(TidingsError, ValueError):
                found = await stored_message(self._api, self._stream, last_on=where)
                if found is not None and found.headers.get(ID) in self._tried:
                    number = int(found.headers.get(NUMBER, ""))
                    return found.sequence + len(self._batch) - number
        return 0

    async def _explain_gap(self) -> None:
        """Find out why not all messages arrived at one stream: a lost connection passes.

        Raises:
            SubjectPermissionError: the user may not publish one of them.
            NoStreamError: no stream takes one of them.
            ConfigError: they are for several streams.
        """
        if self._gap_is_known:
            return
        subjects = dict.fromkeys(message.subject for message in self._batch.messages)
        for subject in subjects:  # the server's error came before the answer
            denied = self._api.connection.denials.of_publish(subject, self._denied)
            if denied is not None:
                raise denied
        with contextlib.suppress(TransportError, RequestTimeoutError, JetStreamApiError):
            with contextlib.suppress(SubjectPermissionError):  # the user may not ask, ever
                await self._check_streams(list(subjects))
            self._gap_is_known = True

    async def _check_streams(self, subjects: list[str]) -> None:
        home = ""
        patterns: list[str] = []
        for subject in subjects:
            where = subject.removeprefix(f"{self._api.prefix}.")
            if any(matches(pattern, where) for pattern in patterns):
                continue
            names = await self._api.streams_taking(where, TRY_TIMEOUT)
            if not names:
                raise NoStreamError(subject)
            if not home:
                home = names[0]
                info = await self._api.call(f"STREAM.INFO.{home}", timeout=TRY_TIMEOUT)
                patterns = info["config"].get("subjects") or []
            elif home not in names:
                raise ConfigError(
                    f"an atomic batch is stored in one stream, and {subjects[0]!r} is stored in "
                    f"{home}, {subject!r} in {names[0]}: make a batch for each stream"
                )
