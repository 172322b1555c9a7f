"""JetStream: what an app does with streams, as `app.js`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tidings import codec
from tidings.bus import Bus
from tidings.connection import Connection
from tidings.errors import ConfigError, NotStartedError, TidingsError
from tidings.headers import Headers, HeadersLike
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.publishing import PublishAck, publish_stored
from tidings.jetstream.streams import Stream, StreamPlan, apply_stream, plan_stream
from tidings.subject import check_subject

EXPECTED_STREAM = "Nats-Expected-Stream"
EXPECTED_SEQUENCE = "Nats-Expected-Last-Sequence"
EXPECTED_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_MSG_ID = "Nats-Expected-Last-Msg-Id"

# Seconds that a publish may take, a leader election within them included.
PUBLISH_TIMEOUT = 10.0
API_TIMEOUT = 5.0


class JetStream:
    """Streams: publish with acknowledgement, key-value buckets, object stores.

    Args:
        bus: the app's bus.
        streams: the streams that the app declares.
    """

    def __init__(self, bus: Bus, streams: Sequence[Stream]) -> None:
        self._bus = bus
        self._streams = tuple(streams)
        self._api: JetStreamApi | None = None
        for stream in self._streams:
            if not isinstance(stream, Stream):
                raise ConfigError(f"streams= takes Stream(...), not {type(stream).__name__}")

    def attach(self, connection: Connection) -> None:
        """Take up a connection."""
        self._api = JetStreamApi(connection, API_TIMEOUT)

    def detach(self) -> None:
        """Let go of the connection."""
        self._api = None

    @property
    def api(self) -> JetStreamApi:
        """The JetStream API, for what is not wrapped here.

        Raises:
            NotStartedError: the app is not running.
        """
        if self._api is None:
            raise NotStartedError("js")
        return self._api

    # Streams.

    async def plan(self) -> list[StreamPlan]:
        """What bringing the declared streams about would do.

        Raises:
            JetStreamUnavailableError: no JetStream answers.
        """
        return [await plan_stream(self.api, stream) for stream in self._streams]

    async def apply(self, *, force: bool = False) -> list[StreamPlan]:
        """Create or change the declared streams; returns what was done.

        Args:
            force: also make changes that drop messages.

        Raises:
            StreamChangeError: a change would drop messages, or the server refuses it.
        """
        plans = await self.plan()
        for plan in plans:
            await apply_stream(self.api, plan, force=force)
        return plans

    # Publishing.

    async def publish(
        self,
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
        timeout: float = PUBLISH_TIMEOUT,
    ) -> PublishAck:
        """Store a message in the stream that takes its subject, and return its place there.

        Without an answer it publishes again with the same message id, through a leader election or
        a lost connection, until `timeout`: the stream stores it once.

        Args:
            subject: where to.
            message: as in `App.publish`.
            msg_id: an id by which the stream knows the message again, within its duplicate window;
                one of its own where None.
            headers: as in `App.publish`.
            data_type: as in `App.publish`.
            expected_stream: refuse unless this stream takes it.
            expected_sequence: refuse unless this is the stream's last sequence.
            expected_subject_sequence: refuse unless this is the subject's last sequence.
            expected_msg_id: refuse unless this is the id of the stream's last message.
            timeout: seconds.

        Raises:
            NoStreamError: no stream takes the subject.
            PublishTimeoutError: no acknowledgement in time; it may be stored.
            WrongSequenceError: an expected sequence was not met: someone wrote first.
            JetStreamError: the stream refuses it otherwise.
            TidingsError: as `App.publish`, for what cannot be sent.

        Example:
            ```python
            ack = await app.js.publish("orders.created", {"id": 7}, msg_id="order-7")
            print(ack.stream, ack.sequence, ack.duplicate)
            ```
        """
        check_subject(subject)
        pairs = list(Headers(headers or ()).pairs())
        for name, value in (
            (EXPECTED_STREAM, expected_stream),
            (EXPECTED_SEQUENCE, expected_sequence),
            (EXPECTED_SUBJECT_SEQUENCE, expected_subject_sequence),
            (EXPECTED_MSG_ID, expected_msg_id),
        ):
            if value is not None:
                pairs.append((name, str(value)))
        return await publish_stored(
            self.api,
            subject,
            codec.encode(message, data_type),
            Headers(pairs),
            msg_id=msg_id or secrets.token_hex(16),
            timeout=timeout,
        )

    def publish_sync(self, subject: str, message: Any = None, **options: Any) -> PublishAck:
        """`publish` from synchronous code; the same arguments.

        Raises:
            LoopThreadError: on the event loop's own thread.
            TidingsError: as `publish`.
        """
        work = self.publish(subject, message, **options)
        return self._bus.portal.run(work, "js.publish_sync", "await app.js.publish(...)")

    def publish_window(self, size: int) -> PublishWindow:
        """Publish with up to `size` messages unacknowledged in flight.

        Raises:
            ConfigError: `size` below 1.

        Example:
            ```python
            async with app.js.publish_window(256) as window:
                for number in range(1000):
                    await window.publish("orders.created", {"id": number})
            print(len(window.acks), window.failed)
            ```
        """
        return PublishWindow(self, size)


class PublishWindow:
    """Publishes that overlap. Leaving it waits for every acknowledgement.

    Attributes:
        acks: the acknowledgements, in order of arrival.
        failed: subject, message and error of each publish that was not acknowledged.
    """

    def __init__(self, js: JetStream, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"publish_window({size!r}): a whole number above 0")
        self.acks: list[PublishAck] = []
        self.failed: list[tuple[str, Any, TidingsError]] = []
        self._js = js
        self._room = asyncio.Semaphore(size)
        self._tasks: set[asyncio.Task[None]] = set()

    async def publish(self, subject: str, message: Any = None, **options: Any) -> None:
        """`JetStream.publish` that returns when there is room in the window.

        What becomes of it is in `acks` or `failed`.
        """
        await self._room.acquire()
        task = asyncio.create_task(self._publish(subject, message, options))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, subject: str, message: Any, options: dict[str, Any]) -> None:
        try:
            self.acks.append(await self._js.publish(subject, message, **options))
        except TidingsError as error:
            self.failed.append((subject, message, error))
        finally:
            self._room.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
