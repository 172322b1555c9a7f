"""Publishing to streams: repeated with the same id until it is acknowledged."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

import msgspec

from tidings import codec
from tidings.checks import Seconds, check_seconds, check_text
from tidings.concurrency.backoff import Backoff
from tidings.deadlines import at_most_left, current, in_time
from tidings.error_codes import PASSING
from tidings.errors import (
    ConfigError,
    DeadlineExpiredError,
    DisconnectedError,
    HeaderError,
    JetStreamApiError,
    JetStreamUnavailableError,
    NoStreamError,
    PublishTimeoutError,
    RequestTimeoutError,
    TidingsError,
    WrongSequenceError,
)
from tidings.headers import Headers, HeadersLike
from tidings.jetstream.api import JetStreamApi, raise_refusal, read_answer
from tidings.jetstream.capability import FIRST_WITH_TTL, check_server, switched_off
from tidings.jetstream.counts import read_number
from tidings.jetstream.delay import due_time, schedule_block
from tidings.jetstream.election import OFF_AFTER
from tidings.jetstream.expected import MSG_ID as MSG_ID
from tidings.jetstream.expected import Expected, own_place
from tidings.jetstream.ttl import HEADER as TTL
from tidings.jetstream.ttl import SCHEDULED as SCHEDULED_TTL
from tidings.jetstream.ttl import Never, ttl_text
from tidings.keywords import known_as
from tidings.protocol.deadlines import HEADER as DEADLINE
from tidings.protocol.headers import header_block, header_problem
from tidings.protocol.parser import Frame
from tidings.subject import check_subject

# Seconds to wait for an acknowledgement before publishing again, once the server has received the
# message.
TRY_TIMEOUT = 2.0
# Seconds between two tries: the first wait, and the longest.
TRY_FIRST, TRY_MOST = 0.1, 0.5
# Default timeout of a publish, in seconds: long enough for the election of a leader.
PUBLISH_TIMEOUT = 10.0
# Shortest timeout of the question whether a stream takes the subject, in seconds. A publish may end
# so much later than its timeout.
LEAST_CHECK = 0.25
# What most publishes expect.
NOTHING = Expected()


class PublishAck(msgspec.Struct, frozen=True):
    """A stream's acknowledgement of a message.

    Attributes:
        stream: the stream's name.
        sequence: the message's sequence in the stream; 0 if it was published in a batch, where the
            stream does not name it.
        duplicate: whether the stream already had a message with this id, and stored nothing. Always
            False in a batch.
        schedule: what `JetStream.cancel` takes, for a message with `delay` or `at`; otherwise
            None. The sequence is then that of the waiting message.
        value: the new value of the counter, in a stream of counters; otherwise None.
    """

    stream: str
    sequence: int
    duplicate: bool = False
    schedule: str | None = None
    value: int | None = None


class FirstTry(msgspec.Struct, frozen=True):
    """The first try of a publish, and how it ended.

    Attributes:
        began: when it was sent, on the clock of `time.monotonic`.
        outcome: the frame of the answer, or why there is none.
    """

    began: float
    outcome: Frame | TidingsError

    def answer(self, subject: str) -> dict[str, Any]:
        """Return the answer, or raise the error: as `JetStreamApi.request`."""
        if isinstance(self.outcome, TidingsError):
            raise self.outcome
        return read_answer(subject, self.outcome[3], self.outcome[4])


class Publication(msgspec.Struct, frozen=True):
    """A message that is ready to be published: it was checked and encoded."""

    subject: str
    body: bytes
    block: bytes  # the headers, encoded once
    expected: Expected
    msg_id: str
    id_is_known: bool  # given by the caller, who may have published it before
    timeout: float
    due: datetime | None = None  # None for at once
    has_ttl: bool = False

    def check(self, api: JetStreamApi) -> None:
        """Check that the server can do what the message asks for: an older one would ignore it.

        Raises:
            ConfigError: it is too old.
        """
        if self.has_ttl:
            check_server(api, FIRST_WITH_TTL, "ttl=")

    def send(
        self, api: JetStreamApi, first: FirstTry | None = None
    ) -> Coroutine[Any, Any, PublishAck]:
        """Publish it until it is acknowledged: see `publish_stored`.

        Args:
            api: the API.
            first: the first try, if it has been made already.
        """
        work = self._send(api, first) if self.due is None else self._send_later(api, self.due)
        return work if current.get() is None else self._send_in_time(work, first)

    async def _send_in_time(
        self, work: Coroutine[Any, Any, PublishAck], first: FirstTry | None
    ) -> PublishAck:
        # The questions after the last try may take longer than the timeout, but not than this.
        try:
            return await in_time(work, self.subject)
        except DeadlineExpiredError as error:
            if not error.has_begun and first is None:
                raise
            raise PublishTimeoutError(self.subject, self.msg_id, self.timeout) from None

    async def _send(self, api: JetStreamApi, first: FirstTry | None) -> PublishAck:
        self.check(api)
        doubt: TidingsError | None = None
        streams = StreamCheck(api, self.subject)
        deadline = (time.monotonic() if first is None else first.began) + self.timeout
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while (left := deadline - time.monotonic()) > 0 or first is not None:
            try:
                made, first = first, None
                answer = (
                    await api.request(
                        self.subject, self.body, self.block, min(left, TRY_TIMEOUT), limit=left
                    )
                    if made is None
                    else made.answer(self.subject)
                )
                return acknowledgement(self.subject, answer)
            except WrongSequenceError as error:
                if not self.id_is_known and doubt is None:
                    raise  # the first try: somebody else wrote
                try:
                    place = await own_place(api, self.subject, self.expected, self.msg_id)
                except (RequestTimeoutError, DisconnectedError, JetStreamUnavailableError):
                    doubt = error  # during an election: ask again who wrote
                else:
                    if place is None:
                        raise
                    return PublishAck(*place, duplicate=True)
            except JetStreamApiError as error:
                if not passes(error):
                    raise
                doubt = error
            except (JetStreamUnavailableError, RequestTimeoutError) as error:
                doubt = error  # it may be stored, or no stream takes it
                left = deadline - time.monotonic()
                await streams.check(min(max(left, LEAST_CHECK), TRY_TIMEOUT))
            except DisconnectedError as error:
                doubt = error
            await asyncio.sleep(backoff.next())
        raise PublishTimeoutError(self.subject, self.msg_id, self.timeout) from doubt

    async def _send_later(self, api: JetStreamApi, due: datetime) -> PublishAck:
        """Publish it to where its stream keeps it until it is due."""
        deadline = time.monotonic() + self.timeout
        place, block = await self._place(api, due, deadline)
        left = max(deadline - time.monotonic(), LEAST_CHECK)
        later = msgspec.structs.replace(self, subject=place, block=block, due=None, timeout=left)
        try:
            ack = await later.send(api)
        except PublishTimeoutError as error:
            late = PublishTimeoutError(self.subject, self.msg_id, self.timeout)
            raise late from error.__cause__
        return msgspec.structs.replace(ack, schedule=place)

    async def _place(self, api: JetStreamApi, due: datetime, deadline: float) -> tuple[str, bytes]:
        """Find out where to publish it, through an outage as `_send` does."""
        doubt: TidingsError | None = None
        streams = StreamCheck(api, self.subject)
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while (left := deadline - time.monotonic()) > 0:
            patience = min(left, TRY_TIMEOUT)
            try:
                return await schedule_block(
                    api, self.subject, self.block, due, self.msg_id, patience
                )
            except (NoStreamError, JetStreamUnavailableError, RequestTimeoutError) as error:
                doubt = error
                await streams.check(max(min(deadline - time.monotonic(), patience), LEAST_CHECK))
            except JetStreamApiError as error:
                if not passes(error):
                    raise
                doubt = error
            except DisconnectedError as error:
                doubt = error
            await asyncio.sleep(backoff.next())
        raise PublishTimeoutError(self.subject, self.msg_id, self.timeout) from doubt


@known_as("JetStream.publish")  # `publish_sync` and the window pass their options on
def prepare(
    subject: str,
    message: Any = None,
    *,
    msg_id: str | None = None,
    headers: HeadersLike | None = None,
    data_type: Any = None,
    expected_stream: str | None = None,
    expected_sequence: int | None = None,
    expected_subject_sequence: int | None = None,
    expected_msg_id: str | None = None,
    delay: Seconds | None = None,
    at: datetime | None = None,
    ttl: Seconds | Never | None = None,
    timeout: Seconds = PUBLISH_TIMEOUT,
) -> Publication:
    """Check and encode the arguments of `JetStream.publish`.

    Raises:
        SubjectError, HeaderError, EncodeError, ConfigError: it cannot be sent.
        DeadlineExpiredError: the deadline has passed.
    """
    check_subject(subject)
    limit = at_most_left(check_seconds("timeout", timeout), subject)
    pairs = Headers(headers).pairs() if headers else []
    own = [value for name, value in pairs if name == MSG_ID]
    if msg_id is not None and own:
        raise ConfigError(f"msg_id={msg_id!r} and the header {MSG_ID}: leave one out")
    given = own[0] if own else msg_id
    if given is not None:
        check_text("msg_id", given)
    chosen = given or secrets.token_hex(16)
    if problem := header_problem(MSG_ID, chosen):
        raise HeaderError(MSG_ID, problem)
    wishes = (expected_stream, expected_sequence, expected_subject_sequence, expected_msg_id)
    expected = NOTHING
    if wishes.count(None) < len(wishes):
        expected = Expected(
            stream=expected_stream,
            sequence=expected_sequence,
            subject_sequence=expected_subject_sequence,
            msg_id=expected_msg_id,
        )
    # A deadline would be over when a consumer reads the message. A handler may forward it here with
    # the other headers of its request.
    others = [pair for pair in pairs if pair[0] != MSG_ID and pair[0] != DEADLINE]
    due = due_time(delay, at)
    if due is not None:
        _check_delayed(pairs, wishes[1:])
    if ttl is not None:
        others = [*others, _ttl_pair(ttl, pairs, is_delayed=due is not None)]
    return Publication(
        subject=subject,
        body=codec.encode(message, data_type),
        block=_block(others, expected, chosen),
        expected=expected,
        msg_id=chosen,
        id_is_known=given is not None,
        timeout=limit,
        due=due,
        has_ttl=ttl is not None,
    )


def _ttl_pair(
    ttl: Seconds | Never, pairs: list[tuple[str, str]], *, is_delayed: bool
) -> tuple[str, str]:
    """Return the header of a time to live. It must not be among the other headers, too."""
    text = ttl_text(ttl)
    if any(name.lower() == TTL.lower() for name, _ in pairs):
        raise ConfigError(f"ttl={ttl!r} and the header {TTL}: leave one out")
    return SCHEDULED_TTL if is_delayed else TTL, text


def _check_delayed(pairs: list[tuple[str, str]], expected: tuple[object, ...]) -> None:
    """Refuse what a delayed message cannot have."""
    if any(each is not None for each in expected):
        raise ConfigError(
            "delay= and at= cannot be combined with an expected sequence or message id: it would "
            "be checked now, and not when the message is due"
        )
    for name, _ in pairs:
        if name.lower() == "nats-ttl" or name.lower().startswith("nats-schedule"):
            raise ConfigError(
                f"delay= and at= cannot be combined with the header {name}, which would apply to "
                f"the waiting message: leave it out, and use ttl= for a time to live"
            )


def _block(pairs: list[tuple[str, str]], expected: Expected, msg_id: str) -> bytes:
    """Return the header block of a publish. `pairs` and `msg_id` have been checked."""
    # Headers checks what is expected: the caller can have named any stream.
    wanted = () if expected is NOTHING else Headers(expected.pairs()).pairs()
    return header_block([*pairs, *wanted, (MSG_ID, msg_id)])


def publication_of(
    subject: str,
    body: bytes,
    headers: Headers,
    *,
    msg_id: str,
    timeout: float,
    expected: Expected | None = None,
    id_is_known: bool = False,
) -> Publication:
    """Return a message of our own, which needs no check."""
    expected = expected or NOTHING
    return Publication(
        subject=subject,
        body=body,
        block=_block(headers.pairs(), expected, msg_id),
        expected=expected,
        msg_id=msg_id,
        id_is_known=id_is_known,
        timeout=timeout,
    )


async def publish_stored(
    api: JetStreamApi,
    subject: str,
    body: bytes,
    headers: Headers,
    *,
    msg_id: str,
    timeout: float,
    expected: Expected | None = None,
    id_is_known: bool = False,
    first: FirstTry | None = None,
) -> PublishAck:
    """Publish a message, again and again with the same id, until it is acknowledged.

    The election of a leader, a lost connection and a slow disk look the same: no answer comes.
    Within its duplicate window, the stream stores one message of an id.

    Raises:
        NoStreamError: no stream takes the subject.
        JetStreamUnavailableError: there is no JetStream.
        PublishTimeoutError: no acknowledgement came in time.
        JetStreamApiError: the stream refuses the message; WrongSequenceError if an expectation is
            not met.
        TidingsError: it cannot be sent.
    """
    publication = publication_of(
        subject,
        body,
        headers,
        msg_id=msg_id,
        timeout=timeout,
        expected=expected,
        id_is_known=id_is_known,
    )
    return await publication.send(api, first)


def acknowledgement(subject: str, answer: dict[str, Any]) -> PublishAck:
    """Read the acknowledgement of a publish.

    Raises:
        ConfigError: the stream does not have a feature switched on that the message needs.
        JetStreamApiError: the stream refused the message, or the answer is not an acknowledgement.
        JetStreamUnavailableError: there is no JetStream.
        DecodeError: the acknowledgement has a value that is no number.
    """
    stream, sequence = answer.get("stream"), answer.get("seq")
    try:
        raise_refusal(answer, f"publish to {subject!r}")
    except JetStreamApiError as error:
        problem = switched_off(error.err_code, stream)
        if problem is not None:
            raise problem from None
        raise
    if not isinstance(stream, str) or type(sequence) is not int or sequence < 1:
        raise JetStreamApiError(
            500,
            0,
            f"a listener on {subject!r} answered before the stream, so it is not known whether the "
            f"message is stored: let the listener return None, or declare it with no_reply=True",
        )
    value = read_number(answer["val"]) if "val" in answer else None
    return PublishAck(stream, sequence, bool(answer.get("duplicate")), value=value)


def passes(error: JetStreamApiError) -> bool:
    """Whether the same publish can succeed a moment later, for example after an election."""
    return error.err_code in PASSING or (error.code == 503 and not error.err_code)


class StreamCheck:
    """Finds out why no acknowledgement comes: an election passes, a missing stream does not.

    Attributes:
        subject: the subject that was published to.
    """

    def __init__(self, api: JetStreamApi, subject: str) -> None:
        self._api = api
        self.subject = subject
        # The streams of another domain take the subject without the prefix that leads there.
        self._stored_subject = subject.removeprefix(f"{api.prefix}.")
        self._off_since: float | None = None

    async def check(self, timeout: float) -> None:
        """Return if a stream takes the subject, or if that is not known now.

        A declared stream that the server has lost is created again.

        Raises:
            NoStreamError: no stream takes the subject.
            JetStreamUnavailableError: nobody has listened on the API for `OFF_AFTER` seconds.
            JetStreamApiError: the server refuses to create the declared stream.
        """
        try:
            names = await self._api.streams_taking(self._stored_subject, timeout)
        except JetStreamUnavailableError:
            now = time.monotonic()
            self._off_since = self._off_since or now
            if now - self._off_since > OFF_AFTER:
                raise
        except TidingsError:
            self._off_since = None
        else:
            self._off_since = None
            if not names and not await self._restore(timeout):
                raise NoStreamError(self.subject) from None

    async def _restore(self, timeout: float) -> bool:
        """Create the declared stream again that takes the subject.

        Returns:
            Whether to publish again.
        """
        for name in self._api.declared_for(self._stored_subject):
            try:
                async with asyncio.timeout(timeout):
                    if await self._api.restore_stream(name):
                        return True
            except (TimeoutError, DisconnectedError, JetStreamUnavailableError):
                return True  # not known now
        return False
