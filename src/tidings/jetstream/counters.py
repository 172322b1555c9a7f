"""Counters: a stream that adds up numbers, one counter for each subject. (NATS ADR-49)"""

from __future__ import annotations

import secrets
from datetime import datetime

import msgspec

from tidings.checks import Seconds, check_seconds, check_text
from tidings.deadlines import at_most_left, in_time
from tidings.errors import ConfigError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.capability import FIRST_WITH_COUNTERS, check_server
from tidings.jetstream.counts import (
    INCREMENT,
    SOURCES,
    increment_text,
    read_count,
    read_sources,
)
from tidings.jetstream.get import Stored
from tidings.jetstream.latest import read_from, read_last, read_sequence
from tidings.jetstream.names import check_existing_name
from tidings.jetstream.ordered import Reading
from tidings.jetstream.publish import PUBLISH_TIMEOUT, PublishAck, publish_stored
from tidings.jetstream.reader import Host, read_all
from tidings.subject import check_pattern, check_subject


class CounterEntry(msgspec.Struct, frozen=True):
    """The state of a counter.

    Attributes:
        subject: the counter's subject.
        value: its value.
        sources: what other streams have contributed, if the stream has sources: the value of each
            counter there, by stream and subject.
        sequence: the sequence of the last addition in the stream.
        updated: when that was, in UTC.
    """

    subject: str
    value: int
    sources: dict[str, dict[str, int]]
    sequence: int
    updated: datetime


class Counters:
    """The counters of a stream. Create it with `JetStream.counters`.

    Values are whole numbers of any size.

    Attributes:
        stream: the stream's name.
    """

    def __init__(self, host: Host, stream: str) -> None:
        check_existing_name(stream, "stream")
        self.stream = stream
        self._host = host

    async def add(
        self,
        subject: str,
        amount: int = 1,
        *,
        msg_id: str | None = None,
        timeout: Seconds = PUBLISH_TIMEOUT,
    ) -> int:
        """Add to a counter, and return its new value.

        All instances may add at the same time: the server adds up. If the acknowledgement is lost,
        the amount is sent again with the same id, and counted once.

        Args:
            subject: the subject of the counter. It begins at 0.
            amount: what to add; a negative number subtracts.
            msg_id: an id by which the stream knows this addition again, within its duplicate
                window, and counts it once; None for a new one.
            timeout: seconds to wait for the acknowledgement.

        Returns:
            The value after this addition. If the addition was counted before and others have added
            since, the current value.

        Raises:
            ConfigError: the amount is no whole number, the stream has no counters, the server is
                too old, or another stream has counted it.
            NoStreamError: no stream stores the subject.
            PublishTimeoutError: no acknowledgement in time; it may be counted.
            JetStreamError: the stream refuses it.
            SubjectError: NATS does not allow the subject.

        Example:
            ```python
            hits = app.js.counters("HITS")
            print(await hits.add("hits.home"))
            print(await hits.add("hits.home", 41))
            ```
        """
        check_subject(subject)
        headers = Headers([(INCREMENT, increment_text(amount))])
        if msg_id is not None:
            check_text("msg_id", msg_id)
        limit = at_most_left(check_seconds("timeout", timeout), subject)
        api = self._host.api
        check_server(api, FIRST_WITH_COUNTERS, "app.js.counters")
        ack = await publish_stored(  # the server takes no expectations in a counter's message
            api,
            subject,
            b"",
            headers,
            msg_id=msg_id or secrets.token_hex(16),
            timeout=limit,
            id_is_known=msg_id is not None,
        )
        if ack.stream != self.stream:
            raise ConfigError(
                f"{subject!r} is a counter of the stream {ack.stream}, which has counted it, and "
                f"not of {self.stream}: use app.js.counters({ack.stream!r})"
            )
        if ack.value is not None:
            return ack.value
        return await in_time(self._counted_before(api, subject, ack), subject)

    async def load(self, subject: str) -> int:
        """Return the value of a counter, 0 if nothing was added to it yet.

        In a cluster, a replica that does not have the latest addition yet may answer.

        Args:
            subject: the subject of the counter.

        Raises:
            DecodeError: the stream has something else than a count.
            JetStreamError: there is no such stream, or the server does not answer.
            SubjectError: NATS does not allow the subject.

        Example:
            ```python
            hits = app.js.counters("HITS")
            assert await hits.load("hits.nobody") == 0
            ```
        """
        entry = await self.get(subject)
        return 0 if entry is None else entry.value

    async def get(self, subject: str) -> CounterEntry | None:
        """Return the state of a counter with what its sources have contributed, None if nothing was
        added to it yet.

        Args:
            subject: the subject of the counter.

        Raises:
            TidingsError: as `load`.

        Example:
            ```python
            hits = app.js.counters("HITS")
            await hits.add("hits.home")
            entry = await hits.get("hits.home")
            print(entry.value, entry.updated)
            ```
        """
        check_subject(subject)
        found = await in_time(read_last(self._host.api, self.stream, subject), subject)
        return None if found is None else _entry(found)

    async def load_many(self, pattern: str = ">") -> dict[str, int]:
        """Return the values of many counters, by subject.

        Args:
            pattern: the subjects of the counters, with wildcards.

        Raises:
            TidingsError: as `load`.

        Example:
            ```python
            hits = app.js.counters("HITS")
            await hits.add("hits.home")
            print((await hits.load_many("hits.*"))["hits.home"])
            ```
        """
        check_pattern(pattern)
        reading = Reading(
            stream=self.stream,
            subject=(pattern,),
            begin="last_per_subject",
            purpose=f"counters of {self.stream}",
        )
        messages = await in_time(read_all(reading, self._host), pattern)
        # A counter that changes during the reading comes several times: the last value counts.
        return {each.subject: read_count(each.body, each.subject) for each in messages}

    async def _counted_before(self, api: JetStreamApi, subject: str, ack: PublishAck) -> int:
        """Return the value after an addition that was counted already: the server does not say."""
        found = await read_sequence(api, self.stream, ack.sequence)
        if found is None or found.subject != subject:  # it is not kept any more
            found = await read_from(api, self.stream, subject, ack.sequence)
        return 0 if found is None else read_count(found.body, subject)

    def __repr__(self) -> str:
        return f"<Counters {self.stream!r}>"


def _entry(stored: Stored) -> CounterEntry:
    return CounterEntry(
        subject=stored.subject,
        value=read_count(stored.body, stored.subject),
        sources=read_sources(stored.headers.get(SOURCES)),
        sequence=stored.sequence,
        updated=stored.time,
    )
