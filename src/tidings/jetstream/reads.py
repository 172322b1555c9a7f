"""Reads: what `app.js` reads from a stream without a consumer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar, overload

from tidings import codec
from tidings.checks import check_flag, check_whole
from tidings.deadlines import in_time
from tidings.errors import ConfigError, JetStreamApiError, MessageNotFoundError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.batch_get import read_batch, read_last_for
from tidings.jetstream.filters import check_filters
from tidings.jetstream.get import Stored
from tidings.jetstream.host import JetStreamHost
from tidings.jetstream.latest import read_from, read_stored
from tidings.jetstream.message import no_data
from tidings.jetstream.messages import Messages
from tidings.jetstream.names import check_existing_name
from tidings.jetstream.ordered import READ_AHEAD, Reading
from tidings.jetstream.start import Start, check_start, check_time
from tidings.jetstream.stored import StoredMessage
from tidings.keywords import called, known_as
from tidings.subject import as_subjects, check_pattern, has_wildcard, matches

T = TypeVar("T")

# Bytes of bodies that `get_batch` returns at most, unless it is told otherwise.
MAX_BYTES = 64 * 1024 * 1024
# The largest `prefetch` of `messages`.
MOST_PREFETCHED = 65_536


@known_as("JetStream")
class Reads:
    """The reads of `app.js`.

    Args:
        host: what the app declares, and where its run is found.
    """

    def __init__(self, host: JetStreamHost) -> None:
        self._host = host

    @overload
    async def get(self, stream: str, sequence: int, *, data_type: type[T]) -> StoredMessage[T]: ...

    @overload
    async def get(
        self, stream: str, sequence: int, *, data_type: Any = ...
    ) -> StoredMessage[Any]: ...

    async def get(self, stream: str, sequence: int, *, data_type: Any = dict) -> StoredMessage[Any]:
        """Read the message with a sequence. (NATS ADR-31)

        Any replica answers if the stream allows direct reads. If it does not have the message, or
        if the stream allows none, the leader is asked.

        Args:
            stream: the stream's name.
            sequence: the message's sequence.
            data_type: the type of `data`, as in `App.consume`.

        Raises:
            MessageNotFoundError: there is no such message.
            ConfigError: an argument is wrong.
            JetStreamApiError: there is no such stream.
            DeadlineExpiredError: the deadline passed before the answer.
            TidingsError: the server does not answer.

        Example:
            ```python
            ack = await app.js.publish("orders.created", {"id": 7})
            message = await app.js.get("ORDERS", ack.sequence)
            print(message.subject, message.data)
            ```
        """
        check_existing_name(stream, "stream")
        check_whole("sequence", sequence)
        decode = codec.decoder(data_type)
        api = self._host.here("js.get").api
        found = await in_time(read_stored(api, stream, sequence), stream)
        if found is None:
            raise MessageNotFoundError(stream, sequence=sequence)
        if found.sequence != sequence:
            raise _other_message(stream)
        return StoredMessage(stream, found, decode)

    @overload
    async def get_last(
        self, stream: str, subject: str, *, data_type: type[T]
    ) -> StoredMessage[T]: ...

    @overload
    async def get_last(
        self, stream: str, subject: str, *, data_type: Any = ...
    ) -> StoredMessage[Any]: ...

    async def get_last(
        self, stream: str, subject: str, *, data_type: Any = dict
    ) -> StoredMessage[Any]:
        """Read the last message on a subject. (NATS ADR-31)

        Any replica answers if the stream allows direct reads, so a message that was stored a moment
        ago may not be found yet.

        Args:
            stream: the stream's name.
            subject: the subject. With wildcards, this is the last message of all that match.
            data_type: as in `get`.

        Raises:
            MessageNotFoundError: no message has this subject.
            SubjectError: the subject is not valid.
            TidingsError: as `get`.

        Example:
            ```python
            await app.js.publish("orders.created", {"id": 7})
            message = await app.js.get_last("ORDERS", "orders.*")
            print(message.sequence, message.data)
            ```
        """
        check_existing_name(stream, "stream")
        check_pattern(subject)
        decode = codec.decoder(data_type)
        api = self._host.here("js.get_last").api
        found = await in_time(_last(api, stream, subject), stream)
        if found is None:
            raise MessageNotFoundError(stream, subject=subject)
        if not matches(subject, found.subject):
            raise _other_message(stream)
        return StoredMessage(stream, found, decode)

    @overload
    async def get_batch(
        self,
        stream: str,
        batch: int,
        *,
        start: int | datetime = ...,
        subject: str | None = ...,
        max_bytes: int = ...,
        data_type: type[T],
    ) -> list[StoredMessage[T]]: ...

    @overload
    async def get_batch(
        self,
        stream: str,
        batch: int,
        *,
        start: int | datetime = ...,
        subject: str | None = ...,
        max_bytes: int = ...,
        data_type: Any = ...,
    ) -> list[StoredMessage[Any]]: ...

    async def get_batch(
        self,
        stream: str,
        batch: int,
        *,
        start: int | datetime = 1,
        subject: str | None = None,
        max_bytes: int = MAX_BYTES,
        data_type: Any = dict,
    ) -> list[StoredMessage[Any]]:
        """Read a number of messages in order, with one request for up to 4,096 of them.

        To read the messages that follow, begin with the sequence after the last one. If the stream
        allows no direct reads or the server is older than 2.11, the messages are read one by one.
        Otherwise any replica answers, which may not have the last messages yet. (NATS ADR-31)

        Args:
            stream: the stream's name.
            batch: the most messages to return.
            start: the sequence to begin with, or a `datetime` with a time zone. If there is no such
                message, the next one is the first.
            subject: return only messages on this subject, wildcards allowed.
            max_bytes: the most bytes of all bodies together. The last message may exceed it.
            data_type: as in `get`. Each body is decoded when its `data` is read.

        Returns:
            The messages; fewer than `batch` if there are no more, or at `max_bytes`.

        Raises:
            ConfigError: an argument is wrong, or `start` is a time and the server is older than
                2.11.
            TidingsError: as `get`.

        Example:
            ```python
            for number in range(3):
                await app.js.publish("orders.created", {"id": number})
            for message in await app.js.get_batch("ORDERS", 100, subject="orders.created"):
                print(message.sequence, len(message.body))
            ```
        """
        check_existing_name(stream, "stream")
        check_whole("batch", batch)
        check_whole("max_bytes", max_bytes)
        _check_place("start", start)
        if subject is not None:
            check_pattern(subject)
        decode = codec.decoder(data_type)
        api = self._host.here("js.get_batch").api
        work = read_batch(api, stream, batch, start=start, subject=subject, max_bytes=max_bytes)
        return [StoredMessage(stream, each, decode) for each in await in_time(work, stream)]

    @overload
    async def get_last_for(
        self,
        stream: str,
        subjects: str | Sequence[str],
        *,
        up_to: int | datetime | None = ...,
        data_type: type[T],
    ) -> list[StoredMessage[T]]: ...

    @overload
    async def get_last_for(
        self,
        stream: str,
        subjects: str | Sequence[str],
        *,
        up_to: int | datetime | None = ...,
        data_type: Any = ...,
    ) -> list[StoredMessage[Any]]: ...

    async def get_last_for(
        self,
        stream: str,
        subjects: str | Sequence[str],
        *,
        up_to: int | datetime | None = None,
        data_type: Any = dict,
    ) -> list[StoredMessage[Any]]:
        """Read the last message on each of several subjects, with one request.

        The messages are those of one moment, up to 1,024 subjects and 16 MiB. For more, several
        requests read the stream one after another. If the stream allows no direct reads or the
        server is older than 2.11, the messages are read one by one. Otherwise any replica answers,
        which may not have the last messages yet. (NATS ADR-31)

        Args:
            stream: the stream's name.
            subjects: the subjects, wildcards allowed. A subject without a message is left out.
            up_to: ignore what was stored after this sequence, or after this `datetime`.
            data_type: as in `get`. Each body is decoded when its `data` is read.

        Returns:
            The messages in the order of their sequences.

        Raises:
            ConfigError: an argument is wrong; or `up_to` is given, and the stream allows no direct
                reads or the server is older than 2.11.
            SubjectError: a subject is not valid.
            TidingsError: as `get`.

        Example:
            ```python
            await app.js.publish("orders.created", {"id": 7})
            messages = await app.js.get_last_for("ORDERS", ["orders.created", "invoices.*"])
            print({message.subject: message.data["id"] for message in messages})
            ```
        """
        check_existing_name(stream, "stream")
        wanted = as_subjects(subjects)
        if not wanted:
            raise ConfigError("subjects must be a subject or a list of at least one, got none")
        for each in wanted:
            check_pattern(each)
        if up_to is not None:
            _check_place("up_to", up_to)
        decode = codec.decoder(data_type)
        api = self._host.here("js.get_last_for").api
        found = await in_time(read_last_for(api, stream, wanted, up_to=up_to), stream)
        return [StoredMessage(stream, each, decode) for each in found]

    # Messages as they come.

    @overload
    def messages(
        self,
        stream: str,
        *,
        subject: str | Sequence[str] | None = ...,
        start: Start = ...,
        data_type: type[T],
        headers_only: bool = ...,
        prefetch: int = ...,
    ) -> Messages[T]: ...

    @overload
    def messages(
        self,
        stream: str,
        *,
        subject: str | Sequence[str] | None = ...,
        start: Start = ...,
        data_type: Any = ...,
        headers_only: bool = ...,
        prefetch: int = ...,
    ) -> Messages[Any]: ...

    @called("messages()")
    def messages(
        self,
        stream: str,
        *,
        subject: str | Sequence[str] | None = None,
        start: Start = "all",
        data_type: Any = dict,
        headers_only: bool = False,
        prefetch: int = READ_AHEAD,
    ) -> Messages[Any]:
        """Read a stream in order while the app runs, for as long as a web socket lives, say.

        Each message comes once and in order, through reconnections and restarts of the server. No
        more than `prefetch` messages and about 8 MiB wait here: the server keeps the others until
        the loop gets to them. The loop ends when the app stops. Nothing is acknowledged, and
        nothing is left on the server. (NATS ADR-17)

        A body that cannot be decoded is logged and counted, and the next message follows.

        Args:
            stream: the stream's name.
            subject: read only messages on this subject, or on one of a list of subjects, of which
                no two match the same message. They may contain wildcards.
            start: "all", "new", "last", "last_per_subject" (the last message of each subject), the
                sequence of the first message, or a `datetime` with a time zone. New messages follow
                in each case.
            data_type: the type of `msg.data`, as in `App.consume`.
            headers_only: whether the server leaves out the bodies. `msg.data` is None then.
            prefetch: the most messages that wait here.

        Returns:
            What to use as `async with ... as messages`, with `async for` inside.

        Raises:
            ConfigError: an option is wrong.
            SubjectError: a subject is not valid.

        Example:
            ```python
            await app.js.publish("orders.created", {"id": 7})
            async with app.js.messages("ORDERS", start="last") as messages:
                async for msg in messages:
                    print(msg.sequence, msg.data["id"])
                    break
            ```
        """
        check_existing_name(stream, "stream")
        check_filters(subject)
        check_start(start)
        check_flag("headers_only", headers_only)
        check_whole("prefetch", prefetch, most=MOST_PREFETCHED)
        if headers_only and data_type is not dict:
            raise ConfigError("headers_only=True excludes data_type: no body arrives")
        reading = Reading(
            stream=stream,
            subject=None if subject is None else as_subjects(subject),
            begin=start,
            headers_only=headers_only,
            purpose=f"messages of {stream}",
        )
        decode = no_data if headers_only else codec.decoder(data_type)
        return Messages(self._host, reading, decode, prefetch)


async def _last(api: JetStreamApi, stream: str, subject: str) -> Stored | None:
    if has_wildcard(subject):
        api.connection.outbox.take_pattern(f"{api.prefix}.DIRECT.GET.{stream}.{subject}")
    return await read_from(api, stream, subject, 1)


def _check_place(name: str, value: object) -> None:
    if isinstance(value, datetime):
        check_time(name, value)
    else:
        check_whole(name, value, hint="or a datetime with a time zone")


def _other_message(stream: str) -> JetStreamApiError:
    return JetStreamApiError(500, 0, f"a read of {stream} was answered with another message")
