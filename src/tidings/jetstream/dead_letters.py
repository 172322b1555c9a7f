"""Reading dead letters, publishing their messages again, and dropping them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime

from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, JetStreamApiError, NoStreamError, RedriveError
from tidings.headers import Headers
from tidings.jetstream import dead_letter
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import Stored, stored_message
from tidings.jetstream.names import check_existing_name
from tidings.jetstream.publish import PUBLISH_TIMEOUT, PublishAck, publish_stored
from tidings.subject import check_subject, matches

# Messages that are read at a time, as long as no sequence is missing.
READ_AHEAD = 16
# Digits of a number in a header: a sequence has no more.
MOST_DIGITS = 19
# How many mirrors and sources are followed to the stream that takes a subject.
MOST_LINKS = 3


@dataclass(frozen=True)
class DeadLetter:
    """A message that a consumer gave up, and the reason.

    Attributes:
        kept_in: the stream that keeps the dead letter.
        sequence: its sequence there.
        time: when it was given up.
        subject: the subject of the message.
        stream: the stream that the message came from.
        stream_sequence: its sequence there.
        consumer: the consumer that gave it up.
        deliveries: how often it was delivered to it.
        error: the class of the last error; "Reject" if the handler raised that, "Crash" if the
            process died.
        error_id: the id of the error in the service's log.
        reason: why it was given up, in words.
        headers: the message's own headers.
        body: its body.
    """

    kept_in: str
    sequence: int
    time: datetime
    subject: str
    stream: str
    stream_sequence: int
    consumer: str
    deliveries: int
    error: str
    error_id: str
    reason: str
    headers: Headers
    body: bytes

    @classmethod
    def of(cls, stream: str, message: Stored) -> DeadLetter | None:
        """Read a dead letter from a message; None if the message is not one."""
        headers = message.headers
        if dead_letter.SUBJECT not in headers:
            return None
        return cls(
            kept_in=stream,
            sequence=message.sequence,
            time=message.time,
            subject=headers[dead_letter.SUBJECT],
            stream=headers.get(dead_letter.STREAM, ""),
            stream_sequence=_number(headers.get(dead_letter.SEQUENCE, "")),
            consumer=headers.get(dead_letter.CONSUMER, ""),
            deliveries=_number(headers.get(dead_letter.DELIVERIES, "")),
            error=headers.get(dead_letter.ERROR, ""),
            error_id=headers.get(dead_letter.ERROR_ID, ""),
            reason=headers.get(dead_letter.REASON, ""),
            headers=_own_headers(headers),
            body=message.body,
        )

    @property
    def redrive_id(self) -> str:
        """The message id under which it is published again, always the same.

        It contains the time, because a stream that is created again counts from 1 again.
        """
        stamp = round(self.time.timestamp() * 1e6)
        return f"redrive-{self.kept_in}-{self.sequence}-{stamp}"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which dead letters to read: those that meet every condition.

    Attributes:
        subject: the subject of the message, wildcards allowed.
        before: given up before this time.
        error: the class of the error.
        sequences: their sequences in the stream that keeps them; empty for all.
        kept_on: subjects that they are kept on, wildcards allowed; empty for all.
    """

    subject: str | None = None
    before: datetime | None = None
    error: str | None = None
    sequences: frozenset[int] = frozenset()
    kept_on: tuple[str, ...] = ()

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a dead letter meets the conditions."""
        return (
            (self.subject is None or matches(self.subject, letter.subject))
            and (self.before is None or letter.time < self.before)
            and (self.error is None or letter.error == self.error)
        )

    def keeps(self, message: Stored) -> bool:
        """Whether a message of the stream has the subject of a wanted dead letter."""
        return not self.kept_on or any(matches(each, message.subject) for each in self.kept_on)


async def last_sequence(api: JetStreamApi, stream: str, *, to_delete: bool = False) -> int:
    """Return the last sequence of a stream, up to which its dead letters are read.

    Args:
        api: the API.
        stream: the stream's name.
        to_delete: whether dead letters will be deleted, which the stream must allow.

    Raises:
        ConfigError: there is no such stream, or messages cannot be deleted from it.
        JetStreamApiError: the server refuses.
        JetStreamUnavailableError: no JetStream answers.
    """
    try:
        info = await api.call(f"STREAM.INFO.{stream}")
    except JetStreamApiError as error:
        if error.err_code == ErrorCode.STREAM_NOT_FOUND:
            raise ConfigError(f"there is no stream {stream!r}") from None
        raise
    config = info["config"]
    if to_delete and (config.get("deny_delete") or config.get("sealed")):
        raise ConfigError(
            f"messages cannot be deleted from the stream {stream!r} (deny_delete, sealed)"
        )
    return int(info["state"]["last_seq"])


async def read_dead_letters(
    api: JetStreamApi, stream: str, wanted: Wanted, last: int
) -> AsyncIterator[DeadLetter]:
    """Yield the dead letters of a stream, oldest first, with a few in memory at a time.

    Args:
        api: the API.
        stream: the stream's name.
        wanted: which dead letters.
        last: the last sequence to read, from `last_sequence`, so that this ends while new dead
            letters come.

    Raises:
        JetStreamApiError: the server refuses.
        JetStreamUnavailableError: no JetStream answers.
    """
    async for message in _messages(api, stream, wanted, last):
        letter = DeadLetter.of(stream, message) if wanted.keeps(message) else None
        if letter is not None and wanted.takes(letter):
            yield letter


async def redrive(api: JetStreamApi, letter: DeadLetter) -> PublishAck:
    """Publish the message again on its subject, and then delete the dead letter.

    It is stored with its body, its headers and a message id that belongs to the dead letter, so
    two calls within the duplicate window of the stream store it once. Every consumer of that stream
    gets it, including those that have handled it before.

    The dead letter must name a stream that takes its subject. If that stream still has the message,
    its subject, headers and body must be those of the dead letter.

    Raises:
        RedriveError: the dead letter does not match its message.
        NoStreamError: no stream takes its subject.
        PublishTimeoutError: the message may be stored. The dead letter is kept.
        JetStreamApiError: the message is not stored. The dead letter is kept.
        TidingsError: as `drop`.
    """
    await _check_origin(api, letter)
    ack = await publish_stored(
        api,
        letter.subject,
        letter.body,
        letter.headers,
        msg_id=letter.redrive_id,
        timeout=PUBLISH_TIMEOUT,
    )
    await drop(api, letter)
    return ack


async def _check_origin(api: JetStreamApi, letter: DeadLetter) -> None:
    """Check what a dead letter says about its message: anybody can have written it."""

    def refuse(reason: str) -> RedriveError:
        return RedriveError(letter.kept_in, letter.sequence, reason)

    if letter.subject.startswith("$"):
        raise refuse(f"its subject {letter.subject!r} belongs to the server")
    check_subject(letter.subject)
    if not letter.stream:
        raise refuse("it does not name the stream of its message")
    try:
        check_existing_name(letter.stream, "stream")
    except ConfigError as error:
        raise refuse(f"it names a stream that cannot exist: {error}") from None
    if not await _is_taken(api, letter.stream, letter.subject):
        if not await api.streams_taking(letter.subject):
            raise NoStreamError(letter.subject)
        raise refuse(f"its stream {letter.stream!r} does not take its subject {letter.subject!r}")
    original = await _original(api, letter)
    if original is not None and (what := _difference(original, letter)):
        raise refuse(f"message {letter.stream_sequence} of {letter.stream!r} has {what}")


def _difference(original: Stored, letter: DeadLetter) -> str:
    """Return what a message has that its dead letter has not; "" if they are the same."""
    if original.subject != letter.subject:
        return f"another subject, {original.subject!r}"
    if original.body != letter.body:
        return "another body"
    return "other headers" if _own_headers(original.headers) != letter.headers else ""


async def _is_taken(api: JetStreamApi, stream: str, subject: str, links: int = MOST_LINKS) -> bool:
    """Whether a stream takes a subject, by itself or from the streams that it copies."""
    try:
        config = (await api.call(f"STREAM.INFO.{stream}"))["config"]
    except JetStreamApiError as error:
        if error.err_code != ErrorCode.STREAM_NOT_FOUND:
            raise
        return False
    if any(matches(pattern, subject) for pattern in config.get("subjects") or ()):
        return True
    copied = [each for each in (config.get("mirror"), *(config.get("sources") or ())) if each]
    for origin in copied if links else ():
        if not origin.get("external") and await _is_taken(api, origin["name"], subject, links - 1):
            return True
    return False


async def _original(api: JetStreamApi, letter: DeadLetter) -> Stored | None:
    """Return the message that a dead letter stands for; None if it is gone.

    In a stream that was created again, a newer message can have its sequence.
    """
    if not letter.stream_sequence:
        return None
    found = await stored_message(api, letter.stream, sequence=letter.stream_sequence)
    return found if found is not None and found.time <= letter.time else None


async def drop(api: JetStreamApi, letter: DeadLetter) -> None:
    """Delete a dead letter. It is not an error if it is gone already.

    Raises:
        JetStreamApiError: it cannot be deleted.
        TidingsError: the server does not answer.
    """
    body = {"seq": letter.sequence, "no_erase": True}
    try:
        await api.call(f"STREAM.MSG.DELETE.{letter.kept_in}", body)
    except JetStreamApiError:
        if await stored_message(api, letter.kept_in, sequence=letter.sequence) is not None:
            raise


async def streams_of(api: JetStreamApi, subjects: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the streams that take dead letters, each with its subjects.

    Raises:
        ConfigError: no stream takes a subject.
        JetStreamApiError: the server refuses.
        JetStreamUnavailableError: no JetStream answers.
    """
    found: dict[str, tuple[str, ...]] = {}
    for subject in subjects:
        names = await api.streams_taking(subject)
        if not names:
            raise ConfigError(f"no stream takes the dead letters of {subject!r}")
        for name in names:
            found[name] = (*found.get(name, ()), subject)
    return found


async def _messages(
    api: JetStreamApi, stream: str, wanted: Wanted, last: int
) -> AsyncIterator[Stored]:
    if not wanted.sequences:
        next_on = wanted.kept_on[0] if len(wanted.kept_on) == 1 else ">"
        async for message in _scan(api, stream, next_on, last):
            yield message
        return
    for sequence in sorted(wanted.sequences):
        found = await stored_message(api, stream, sequence=sequence)
        if found is not None and sequence <= last:
            yield found


async def _scan(api: JetStreamApi, stream: str, next_on: str, last: int) -> AsyncIterator[Stored]:
    """Read a stream from its beginning, several messages at a time until one is missing."""
    at = ahead = 1
    while at <= last:
        asked = range(at, min(at + ahead, last + 1))
        answers = await asyncio.gather(
            *(stored_message(api, stream, sequence=each, next_on=next_on) for each in asked)
        )
        found = {each.sequence: each for each in answers if each and each.sequence <= last}
        if not found:
            return
        for sequence in sorted(found):
            yield found[sequence]
        at = max(found) + 1
        ahead = min(ahead * 2, READ_AHEAD) if len(found) == len(asked) else 1


def _own_headers(headers: Headers) -> Headers:
    """Return the message's own headers, without those of the server and of the dead letter."""
    return Headers(
        [
            (name, dead_letter.sendable(value))
            for name, value in headers.pairs()
            if not dead_letter.is_added(name)
        ]
    )


def _number(text: str) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
    return int(text) if is_number else 0
