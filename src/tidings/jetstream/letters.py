"""Reading dead letters, and what becomes of them: published again, or dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime

from tidings.errors import ConfigError, JetStreamError
from tidings.headers import Headers
from tidings.jetstream import deadletter
from tidings.jetstream.api import STREAM_NOT_FOUND, JetStreamApi
from tidings.jetstream.publishing import PUBLISH_TIMEOUT, PublishAck, publish_stored
from tidings.jetstream.stored import Stored, stored_message
from tidings.subject import matches

# Messages that are asked for at a time, where they lie one behind the other.
READ_AHEAD = 16


@dataclass(frozen=True)
class DeadLetter:
    """A message that a consumer gave up, and what is known of the reason.

    Attributes:
        kept_in: the stream that keeps the dead letter.
        sequence: its sequence there.
        time: when it was given up.
        subject: the subject of the message.
        stream: the stream that the message came from.
        stream_sequence: its sequence there.
        consumer: the consumer that gave it up.
        deliveries: how often it was delivered to it.
        error: the class of the last error, "Reject" where the handler said so, "Crash" where the
            process ended in it.
        error_id: the id under which the service logged it.
        reason: why, in words.
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
        """Read one from a message; None where it is no dead letter."""
        headers = message.headers
        if deadletter.SUBJECT not in headers:
            return None
        own = [
            (name, deadletter.sendable(value))
            for name, value in headers.pairs()
            if not deadletter.is_added(name)
        ]
        return cls(
            kept_in=stream,
            sequence=message.sequence,
            time=message.time,
            subject=headers[deadletter.SUBJECT],
            stream=headers.get(deadletter.STREAM, ""),
            stream_sequence=_number(headers.get(deadletter.SEQUENCE, "")),
            consumer=headers.get(deadletter.CONSUMER, ""),
            deliveries=_number(headers.get(deadletter.DELIVERIES, "")),
            error=headers.get(deadletter.ERROR, ""),
            error_id=headers.get(deadletter.ERROR_ID, ""),
            reason=headers.get(deadletter.REASON, ""),
            headers=Headers(own),
            body=message.body,
        )

    @property
    def redrive_id(self) -> str:
        """The message id under which it is published again, always the same.

        The time is in it, since a stream that is deleted and made again begins to count anew.
        """
        stamp = round(self.time.timestamp() * 1e6)
        return f"redrive-{self.kept_in}-{self.sequence}-{stamp}"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which dead letters are meant: those that fulfil everything that is given.

    Attributes:
        subject: of the message, wildcards allowed.
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
        """Whether a dead letter is meant."""
        return (
            (self.subject is None or matches(self.subject, letter.subject))
            and (self.before is None or letter.time < self.before)
            and (self.error is None or letter.error == self.error)
        )

    def keeps(self, message: Stored) -> bool:
        """Whether a message of the stream is where the dead letters are."""
        return not self.kept_on or any(matches(each, message.subject) for each in self.kept_on)


async def last_sequence(api: JetStreamApi, stream: str, *, to_delete: bool = False) -> int:
    """The last sequence of a stream, up to which its dead letters are read.

    Args:
        api: the API.
        stream: the stream's name.
        to_delete: letters are to be deleted: make sure that the stream lets them.

    Raises:
        ConfigError: there is no such stream, or it lets nothing be deleted.
        JetStreamError, JetStreamUnavailableError: the server does not say.
    """
    try:
        info = await api.call(f"STREAM.INFO.{stream}")
    except JetStreamError as error:
        if error.err_code == STREAM_NOT_FOUND:
            raise ConfigError(f"there is no stream {stream!r}") from None
        raise
    config = info["config"]
    if to_delete and (config.get("deny_delete") or config.get("sealed")):
        raise ConfigError(f"the stream {stream!r} lets no message be deleted (deny_delete, sealed)")
    return int(info["state"]["last_seq"])


async def read_letters(
    api: JetStreamApi, stream: str, wanted: Wanted, last: int
) -> AsyncIterator[DeadLetter]:
    """The dead letters of a stream, oldest first. A few are in memory at a time.

    Args:
        api: the API.
        stream: the stream's name.
        wanted: which ones.
        last: the sequence to stop behind: `last_sequence`, so that it ends while others come.

    Raises:
        JetStreamError, JetStreamUnavailableError: the server does not say.
    """
    async for message in _messages(api, stream, wanted, last):
        letter = DeadLetter.of(stream, message) if wanted.keeps(message) else None
        if letter is not None and wanted.takes(letter):
            yield letter


async def redrive(api: JetStreamApi, letter: DeadLetter) -> PublishAck:
    """Publish the message again on its subject, and then delete the dead letter.

    It is stored with its body, its headers and a message id of the dead letter's own: twice within
    the duplicate window of the stream is once. Every consumer of that stream gets it, those that
    had handled it among them.

    Raises:
        NoStreamError, PublishTimeoutError, JetStreamError: it was not stored, or may be; the dead
            letter is kept.
        TidingsError: as `drop`.
    """
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


async def drop(api: JetStreamApi, letter: DeadLetter) -> None:
    """Delete a dead letter. One that is gone already is no error.

    Raises:
        JetStreamError: it cannot be deleted.
        TidingsError: no answer.
    """
    body = {"seq": letter.sequence, "no_erase": True}
    try:
        await api.call(f"STREAM.MSG.DELETE.{letter.kept_in}", body)
    except JetStreamError:
        if await stored_message(api, letter.kept_in, sequence=letter.sequence) is not None:
            raise


async def streams_of(api: JetStreamApi, subjects: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The streams that take dead letters, and on which of the subjects each.

    Raises:
        ConfigError: no stream takes a subject.
        JetStreamError, JetStreamUnavailableError: the server does not say.
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
    """Read a stream from its begin: several messages at a time, as long as no gap is met."""
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


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
