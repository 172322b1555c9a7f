"""Batched reads: many messages of a stream with one request. (NATS ADR-31)

If the stream allows no direct reads or the server is older than 2.11, the messages are read one by
one over the API.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, JetStreamApiError, RequestTimeoutError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import Stored, stored_message
from tidings.jetstream.latest import direct_message
from tidings.jetstream.start import server_stamp
from tidings.jetstream.status import Status
from tidings.protocol.parser import Frame
from tidings.subject import has_wildcard, matches

# The most messages, and bytes of them, that are asked for at once. What waits here is bounded by
# this, and by one message more.
MOST_AT_ONCE, MOST_BYTES_AT_ONCE = 4_096, 16 * 1024 * 1024
# The server answers with the last messages of at most so many subjects.
MOST_SUBJECTS = 1_024
# Bytes of subjects in one request, which leave room below every server's `max_payload`.
MOST_ASKED = 256 * 1024
# The most subjects of a stream that a pattern may match.
MOST_MATCHED = 1_000_000
# Reads one by one that wait for their answers at the same time.
AT_ONCE = 32
# How often a read is tried if its first message expires meanwhile.
TRIES = 5
# What the server says if no subject has a message.
NO_RESULTS = "No Results"


class Page(msgspec.Struct, frozen=True):
    """The answer to one request.

    Attributes:
        messages: the messages, in the order of their sequences.
        has_more: whether the server has more to send.
    """

    messages: list[Stored]
    has_more: bool


class _TooManySubjectsError(Exception):
    """The filters match more subjects than one answer can have."""


class _Answers:
    """The answers to one request, as they come. Checks that none is missing or forged.

    Attributes:
        subject, target: the subject of the request.
        sid: the subscription of the inbox.
        page: the result: None if the stream or the server cannot do it.
    """

    def __init__(self, api: JetStreamApi, stream: str, filters: Sequence[str], most: int) -> None:
        self.subject = self.target = f"{api.prefix}.DIRECT.GET.{stream}"
        self._connection = api.connection
        self._filters = filters
        self._most = most
        self._bytes = 0
        self._messages: list[Stored] = []
        self.page: asyncio.Future[Page | None] = asyncio.get_running_loop().create_future()
        self._connection.require(f"request to {self.subject!r}")
        self.inbox = self._connection.new_inbox()
        self.sid = self._connection.subscribe_route(self.inbox, "", self._deliver)
        self._connection.exchanges.add(self)

    async def read(self, query: dict[str, Any], timeout: float) -> Page | None:
        """Send the request, and return its answers.

        Raises:
            JetStreamApiError: they are not those of a server.
            RequestTimeoutError: for `timeout` seconds none came.
            TidingsError: the connection was lost, or the request cannot be sent.
        """
        outbox = self._connection.outbox
        try:
            body = msgspec.json.encode(query)
            outbox.post(outbox.frame(self.subject, body, self.inbox.encode()))
            come = -1
            while not self.page.done():
                if len(self._messages) == come:
                    raise RequestTimeoutError(self.subject, timeout)
                come = len(self._messages)
                await asyncio.wait([self.page], timeout=timeout)
            return self.page.result()
        finally:
            self._connection.exchanges.discard(self)
            self._connection.unsubscribe_route(self.sid)
            self.page.cancel()

    def fail(self, error: Exception) -> None:
        """End with an error."""
        if not self.page.done():
            self.page.set_exception(error)

    def _deliver(self, size: int, frames: list[Frame]) -> None:
        for frame in frames:
            if self.page.done():
                return
            found = direct_message(frame[3], frame[4])
            if found is None:
                self._take_status(Headers.from_block(frame[3]))
            else:
                self._take_message(*found)

    def _take_message(self, message: Stored, added: Headers) -> None:
        before = added.get("Nats-Last-Sequence")
        if before is None:  # the server knows no batches, and has sent the first message only
            self.page.set_result(None)
            return
        last = self._last
        is_next = before == str(last) and message.sequence > last
        is_wanted = any(matches(each, message.subject) for each in self._filters)
        self._bytes += len(message.body)
        is_within = len(self._messages) < self._most and (
            self._bytes - len(message.body) <= MOST_BYTES_AT_ONCE
        )
        if is_next and is_wanted and is_within:
            self._messages.append(message)
        else:
            self._refuse("with another message than the next one")

    @property
    def _last(self) -> int:
        return self._messages[-1].sequence if self._messages else 0

    def _take_status(self, headers: Headers) -> None:
        status = headers.status
        if status == Status.END_OF_BATCH:
            if headers.get("Nats-Last-Sequence") == str(self._last):
                has_more = headers.get("Nats-Num-Pending") != "0"
                self.page.set_result(Page(self._messages, has_more))
            else:
                self._refuse("without the last messages")
        elif status == Status.NOT_FOUND:
            # If the next message has expired meanwhile, the server says so and stops.
            self.page.set_result(Page(self._messages, headers.description != NO_RESULTS))
        elif status in (Status.NO_RESPONDERS, Status.TIMEOUT) and not self._messages:
            # No direct reads; or a server that knows no such request, and finds it empty.
            self.page.set_result(None)
        elif status == Status.TOO_MANY_RESULTS:
            self.fail(_TooManySubjectsError())
        else:
            self._refuse(f"with {status} {headers.description}".strip())

    def _refuse(self, how: str) -> None:
        self.fail(JetStreamApiError(500, 0, f"a batched read was answered {how}"))


async def read_batch(
    api: JetStreamApi,
    stream: str,
    count: int,
    *,
    start: int | datetime,
    subject: str | None,
    max_bytes: int,
) -> list[Stored]:
    """Read up to `count` messages in order, beginning with a sequence or a time.

    Args:
        api: the API.
        stream: the stream's name.
        count: the most messages to read.
        start: the sequence or the time to begin with.
        subject: read only messages on this subject, wildcards allowed; None for all.
        max_bytes: read no further message when the bodies together have so many bytes.

    Raises:
        JetStreamApiError: there is no such stream, or something else than a server has answered.
        ConfigError: `start` is a time, and the server is too old for it.
        TidingsError: no answer.
    """
    found: list[Stored] = []
    wanted = subject or ">"
    place = {"start_time": server_stamp(start)} if isinstance(start, datetime) else {"seq": start}
    while len(found) < count and (left := max_bytes - _size(found)) > 0:
        most = min(count - len(found), MOST_AT_ONCE)
        sizes = {"batch": most, "max_bytes": min(left, MOST_BYTES_AT_ONCE)}
        query = {**sizes, **place, "next_by_subj": wanted}
        try:
            page = await _Answers(api, stream, [wanted], most).read(query, api.timeout)
        except _TooManySubjectsError:
            raise JetStreamApiError(
                500, 0, f"a batched read of {stream} was answered with too many results"
            ) from None
        if page is None:
            return await _read_one_by_one(api, stream, count, start, wanted, max_bytes)
        found += page.messages
        if not page.messages or not page.has_more:
            break
        place = {"seq": found[-1].sequence + 1}
    return found


async def _read_one_by_one(
    api: JetStreamApi, stream: str, count: int, start: int | datetime, wanted: str, max_bytes: int
) -> list[Stored]:
    found: list[Stored] = []
    while len(found) < count and _size(found) < max_bytes:
        if isinstance(start, datetime):
            message = await stored_message(api, stream, since=start, next_on=wanted)
            if message is not None and message.time < start:
                raise ConfigError("a time as start= needs nats-server 2.11 or newer")
        else:
            message = await stored_message(api, stream, sequence=start, next_on=wanted)
        if message is None:
            break
        found.append(message)
        start = message.sequence + 1
    return found


def _size(messages: list[Stored]) -> int:
    return sum(len(each.body) for each in messages)


async def read_last_for(
    api: JetStreamApi,
    stream: str,
    subjects: Sequence[str],
    *,
    up_to: int | datetime | None = None,
) -> list[Stored]:
    """Read the last message on each of several subjects, in the order of their sequences.

    Subjects without a message are left out. One request is enough for 1,024 subjects and 16 MiB.
    Beyond that, several requests read the stream at different moments. Of a subject that gets
    another message meanwhile, the newer one is returned.

    Args:
        api: the API.
        stream: the stream's name.
        subjects: the subjects, wildcards allowed.
        up_to: the last messages up to this sequence or time; None for now.

    Raises:
        JetStreamApiError: there is no such stream, or something else than a server has answered.
        ConfigError: there is an `up_to`, and the stream or the server cannot do it.
        TidingsError: no answer.
    """
    latest: dict[str, Stored] = {}
    for part in _parts(subjects):
        for message in await _last_for_part(api, stream, part, up_to):
            known = latest.get(message.subject)
            if known is None or known.sequence < message.sequence:
                latest[message.subject] = message
    return sorted(latest.values(), key=lambda each: each.sequence)


async def _last_for_part(
    api: JetStreamApi, stream: str, part: list[str], up_to: int | datetime | None
) -> list[Stored]:
    try:
        found = await _last_at_once(api, stream, part, up_to)
    except _TooManySubjectsError:
        if not any(map(has_wildcard, part)):
            reason = f"{stream} was answered with too many results for {len(part)} subjects"
            raise JetStreamApiError(500, 0, f"a batched read of {reason}") from None
        named = await _subjects_of(api, stream, part)
        return await read_last_for(api, stream, named, up_to=up_to)
    if found is not None:
        return found
    if up_to is not None:
        raise ConfigError(
            f"up_to needs nats-server 2.11 or newer, and a stream that allows direct reads: "
            f"declare allow_direct=True for {stream}"
        )
    return await _last_one_by_one(api, stream, part)


async def _last_at_once(
    api: JetStreamApi, stream: str, subjects: list[str], up_to: int | datetime | None
) -> list[Stored] | None:
    """Return the last messages; None if the stream or the server cannot do it.

    Raises:
        _TooManySubjectsError: the subjects match too many.
    """
    query: dict[str, Any] = {"multi_last": subjects, "max_bytes": MOST_BYTES_AT_ONCE}
    if isinstance(up_to, datetime):
        query["up_to_time"] = server_stamp(up_to)
    elif up_to is not None:
        query["up_to_seq"] = up_to
    found: list[Stored] = []
    empty = 0
    while empty < TRIES:
        page = await _Answers(api, stream, subjects, MOST_SUBJECTS).read(query, api.timeout)
        if page is None:
            return None
        found += page.messages
        if not page.has_more:
            return found
        if page.messages:
            query["seq"] = found[-1].sequence + 1
        else:
            empty += 1
    raise JetStreamApiError(
        404, ErrorCode.MESSAGE_NOT_FOUND, f"the messages of {stream} expire while they are read"
    )


async def _last_one_by_one(api: JetStreamApi, stream: str, subjects: list[str]) -> list[Stored]:
    found: list[Stored] = []
    named = await _subjects_of(api, stream, subjects)
    for at in range(0, len(named), AT_ONCE):
        asked = [stored_message(api, stream, last_on=each) for each in named[at : at + AT_ONCE]]
        found += [each for each in await asyncio.gather(*asked) if each is not None]
    return found


async def _subjects_of(api: JetStreamApi, stream: str, patterns: list[str]) -> list[str]:
    """Return the subjects that the patterns match in a stream. Full subjects are returned as they
    are."""
    subjects: dict[str, None] = {}
    for pattern in patterns:
        if has_wildcard(pattern):
            subjects |= dict.fromkeys(await _stored_subjects(api, stream, pattern))
        else:
            subjects[pattern] = None
    return list(subjects)


async def _stored_subjects(api: JetStreamApi, stream: str, pattern: str) -> list[str]:
    """Return the subjects of a stream's messages that a pattern matches, page by page."""
    found: list[str] = []
    while True:
        asked = {"subjects_filter": pattern, "offset": len(found)}
        info = await api.call(f"STREAM.INFO.{stream}", asked)
        try:
            page, total = list(info["state"].get("subjects") or ()), int(info.get("total") or 0)
        except (KeyError, AttributeError, TypeError, ValueError):
            raise JetStreamApiError(500, 0, f"STREAM.INFO.{stream} has no subjects") from None
        found += page
        if not page or len(found) >= total:
            return found
        if len(found) > MOST_MATCHED:
            reason = f"more than {MOST_MATCHED} subjects of {stream} match {pattern!r}"
            raise JetStreamApiError(500, 0, reason)


def _parts(subjects: Sequence[str]) -> Iterator[list[str]]:
    """Divide the subjects into parts that fit into one request each."""
    part: list[str] = []
    size = 0
    for subject in subjects:
        if part and (len(part) == MOST_SUBJECTS or size + len(subject) > MOST_ASKED):
            yield part
            part, size = [], 0
        part.append(subject)
        size += len(subject)
    if part:
        yield part
