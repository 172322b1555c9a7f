"""JetStream: what an app does with streams, as `app.js`."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Awaitable, Coroutine
from datetime import datetime
from typing import Any, TypeVar, Unpack, overload

from tidings.checks import Seconds, check_seconds
from tidings.deadlines import time_left
from tidings.errors import LoopTimeoutError, PublishTimeoutError, WrongSequenceError
from tidings.headers import Headers, HeadersLike
from tidings.jetstream.additions import Additions
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.bucket import Storage
from tidings.jetstream.counters import Counters
from tidings.jetstream.delay import cancel_headers, cancel_subject, stream_of_schedule
from tidings.jetstream.get import stored_message
from tidings.jetstream.kv.codecs import KeyCodec, ValueCodec
from tidings.jetstream.kv.key_value import KeyValue, KeyValueOptions
from tidings.jetstream.objects.store import ObjectStore
from tidings.jetstream.pauses import pause_consumer, resume_consumer
from tidings.jetstream.publish import (
    LEAST_CHECK,
    PUBLISH_TIMEOUT,
    Publication,
    PublishAck,
    prepare,
    publish_stored,
)
from tidings.jetstream.publish_batch import PublishBatch
from tidings.jetstream.publish_window import PublishWindow
from tidings.jetstream.reads import Reads
from tidings.jetstream.streams.plan import StreamPlan
from tidings.jetstream.streams.stream import Stream
from tidings.jetstream.ttl import Never
from tidings.keywords import called, known_as

T = TypeVar("T")

# Seconds that a thread waits past the timeout of a publish, which may be late by its last question.
PUBLISH_LATE = 2 * LEAST_CHECK
# Seconds that a thread waits past a deadline.
LATE = 0.2


@known_as("JetStream")
class JetStream(Reads, Additions):
    """Streams: publish with acknowledgement, read, key-value buckets, object stores.

    Args:
        host: what the app declares, and where its run is found.
    """

    def __repr__(self) -> str:
        return f"<JetStream {self._host.current.state}>"

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that the app declares."""
        return self._host.streams

    @property
    def api(self) -> JetStreamApi:
        """The JetStream API, for calls that have no method here.

        Raises:
            NotStartedError: the app is not running.
            WrongLoopError: in another event loop than the app's.
        """
        return self._host.api

    # Streams.

    async def plan(self) -> list[StreamPlan]:
        """Compare the declared streams with those on the server.

        Raises:
            JetStreamUnavailableError: no JetStream answers.
        """
        return await self._host.plan()

    async def apply(self, *, force: bool = False) -> list[StreamPlan]:
        """Create or change the declared streams. Returns what was done.

        Args:
            force: also make changes that drop messages.

        Raises:
            StreamChangeError: a change would drop messages, so nothing was changed; or the server
                refuses a change.
            JetStreamUnavailableError: no JetStream answers.
        """
        return await self._host.apply(force=force)

    # Consumers.

    async def pause(
        self,
        stream: str,
        consumer: str,
        *,
        until: datetime | None = None,
        duration: Seconds | None = None,
    ) -> datetime:
        """Let the server deliver no message of a consumer until a time. Returns that time.

        All instances get no messages meanwhile, and go on by themselves afterwards. Messages that
        were delivered before are still handled. It needs nats-server 2.11.

        Args:
            stream: the stream's name.
            consumer: the consumer's name, which is its `durable`.
            until: the end of the pause, as a `datetime` with a time zone.
            duration: the length of the pause in seconds, instead of `until`.

        Raises:
            ConfigError: a name, `until` or `duration` is wrong, or not exactly one of the two is
                given.
            JetStreamApiError: there is no such consumer, or the server refuses.
            TidingsError: the server does not answer.

        Example:
            ```python
            @app.consume("ORDERS", durable="mailing")
            async def mail(msg):
                print(msg.sequence)

            async def close_for_an_hour():
                await app.js.pause("ORDERS", "mailing", duration=3600)

            async def open_again():
                await app.js.resume("ORDERS", "mailing")
            ```
        """
        api = self._host.here("js.pause").api
        return await pause_consumer(api, stream, consumer, until=until, duration=duration)

    async def resume(self, stream: str, consumer: str) -> None:
        """End the pause of a consumer. Of a consumer that is not paused, this changes nothing.

        Args:
            stream: the stream's name.
            consumer: the consumer's name, which is its `durable`.

        Raises:
            ConfigError: a name is wrong.
            JetStreamApiError: there is no such consumer, or the server refuses.
            TidingsError: the server does not answer.
        """
        await resume_consumer(self._host.here("js.resume").api, stream, consumer)

    # Buckets.

    @overload
    def key_value(
        self, bucket: str, *, type: type[T], **options: Unpack[KeyValueOptions]
    ) -> KeyValue[T]: ...

    @overload
    def key_value(
        self, bucket: str, *, type: Any = ..., **options: Unpack[KeyValueOptions]
    ) -> KeyValue[Any]: ...

    @called("key_value()")
    def key_value(
        self,
        bucket: str,
        *,
        type: Any = dict,  # noqa: A002 - the word of the interface
        ttl: Seconds | None = None,
        marker_ttl: Seconds | None = None,
        history: int | None = None,
        description: str | None = None,
        storage: Storage | None = None,
        replicas: int | None = None,
        max_bytes: int | None = None,
        max_value_size: int | None = None,
        atomic: bool | None = None,
        create: bool = True,
        key_codec: KeyCodec | None = None,
        value_codec: ValueCodec | None = None,
    ) -> KeyValue[Any]:
        """A key-value bucket. Declare it where the app is made, and use it while the app runs.

        When the app starts, or at the first use if it is already running, the bucket is created, or
        compared with what is declared here. Options that are left out are not compared. A bucket
        that the server loses is created again at its next use.

        Args:
            bucket: its name: letters, digits, `_`, `-`.
            type: what values are: as `data_type` of `App.listen`, dict by default. What is put is
                checked, too.
            ttl: seconds that a value is kept after it was written.
            marker_ttl: let a value have a `ttl` of its own, and watchers get an entry when a value
                expires. The bucket keeps the marker of an expired key for so many seconds, at least
                1. It needs nats-server 2.11. (NATS ADR-48)
            history: revisions of a key that are kept, 1 to 64; 1 where a bucket is made without.
            description: what it is for.
            storage: "file" or "memory".
            replicas: copies in the cluster, 1 to 5.
            max_bytes: bytes of all values together.
            max_value_size: bytes of one value.
            atomic: allow `KeyValue.transaction`. It needs nats-server 2.12. (NATS ADR-50)
            create: create the bucket if there is none; with False that is an error.
            key_codec: how keys are stored, such as `Base64Codec()` for keys of any characters; None
                as they are.
            value_codec: how encoded values are stored; None as they are.

        Raises:
            ConfigError: a bad name or option.

        Example:
            ```python
            from dataclasses import dataclass

            @dataclass
            class Session:
                user: str

            sessions = app.js.key_value("logins", type=Session, ttl=3600)
            await sessions.put("user.1", Session("ada"))
            print((await sessions.get("user.1")).value.user)
            ```
        """
        return self._host.declare(
            KeyValue(
                self._host,
                bucket,
                type=type,
                ttl=ttl,
                marker_ttl=marker_ttl,
                history=history,
                description=description,
                storage=storage,
                replicas=replicas,
                max_bytes=max_bytes,
                max_value_size=max_value_size,
                atomic=atomic,
                create=create,
                key_codec=key_codec,
                value_codec=value_codec,
                current=self._host.current,
            )
        )

    @called("object_store()")
    def object_store(
        self,
        bucket: str,
        *,
        ttl: Seconds | None = None,
        description: str | None = None,
        storage: Storage | None = None,
        replicas: int | None = None,
        max_bytes: int | None = None,
        create: bool = True,
    ) -> ObjectStore:
        """An object store. As with `key_value`: declare it where the app is made.

        Args:
            bucket: its name: letters, digits, `_`, `-`.
            ttl: seconds that an object is kept after it was put.
            description: what it is for.
            storage: "file" or "memory".
            replicas: copies in the cluster, 1 to 5.
            max_bytes: bytes of all objects together.
            create: create the bucket if there is none; with False that is an error.

        Raises:
            ConfigError: a bad name or option.

        Example:
            ```python
            files = app.js.object_store("files")
            await files.put("hello.txt", b"hello")
            print((await files.info("hello.txt")).digest)
            ```
        """
        return self._host.declare(
            ObjectStore(
                self._host,
                bucket,
                ttl=ttl,
                description=description,
                storage=storage,
                replicas=replicas,
                max_bytes=max_bytes,
                create=create,
            )
        )

    def counters(self, stream: str) -> Counters:
        """The counters of a stream: numbers that the server adds up, one for each subject.

        The stream is declared with `counters=True`. It needs nats-server 2.12. (NATS ADR-49)

        Args:
            stream: the stream's name.

        Raises:
            ConfigError: no stream can have that name.

        Example:
            ```python
            hits = app.js.counters("HITS")
            await hits.add("hits.home", 2)
            print(await hits.load("hits.home"))
            ```
        """
        return Counters(self._host, stream)

    def run_sync(self, work: Coroutine[Any, Any, T], *, timeout: Seconds | None = None) -> T:
        """Wait for a call of a bucket, a store or of `app.js` from synchronous code.

        Args:
            work: the call, not awaited.
            timeout: seconds to wait, even while a handler blocks the event loop; None to wait for
                as long as the call takes, or until the deadline.

        Raises:
            LoopThreadError: on the event loop's own thread.
            LoopTimeoutError: the call did not end within `timeout`.
            NotStartedError: the app is not running.
            Exception: whatever the call raises.

        Example:
            ```python
            quotas = app.js.key_value("quotas", type=int)

            @app.listen("quotas.raise")
            def raise_quota(msg):  # a `def` handler runs in a worker thread
                return app.js.run_sync(quotas.put("ada", 10))
            ```
        """
        limit = None if timeout is None else check_seconds("timeout", timeout)
        left = time_left()
        if left is not None:  # a bit longer, since the call itself keeps to the deadline
            left = max(left, 0.0) + LATE
            limit = left if limit is None else min(limit, left)
        return self._host.current.run(work, "js.run_sync", "await ...", limit)

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
        delay: Seconds | None = None,
        at: datetime | None = None,
        ttl: Seconds | Never | None = None,
        timeout: Seconds = PUBLISH_TIMEOUT,
    ) -> PublishAck:
        """Store a message in the stream that takes its subject, and return its place there.

        Without an answer it publishes again with the same message id, through a leader election or
        a lost connection, until `timeout`: the stream stores it once.

        Args:
            subject: where to.
            message: as in `App.publish`.
            msg_id: an id by which the stream knows the message again, within its duplicate window;
                None for a new one.
            headers: as in `App.publish`.
            data_type: as in `App.publish`.
            expected_stream: refuse unless this stream takes it.
            expected_sequence: refuse unless this is the stream's last sequence.
            expected_subject_sequence: refuse unless this is the subject's last sequence.
            expected_msg_id: refuse unless this is the id of the stream's last message.
            delay: seconds after which the stream delivers the message, or a `timedelta`. The
                stream is declared with `schedules=True`, and keeps the message until then. It
                needs nats-server 2.12. The message comes up to a second late. (NATS ADR-51)
            at: when the stream delivers the message, an aware datetime, instead of `delay`. If it
                has passed, the message is delivered at once.
            ttl: seconds after which the stream removes the message, a second or more, or a
                `timedelta`. The server counts whole seconds; a fraction is rounded up. "never"
                keeps the message beyond the stream's `max_age`. With `delay` or `at`, it begins
                when the message is due. The stream is declared with `ttl=True`. It needs
                nats-server 2.11. (NATS ADR-43)
            timeout: seconds; inside a `deadline`, at most what is left.

        Raises:
            ConfigError: an option is wrong, or the server or the stream cannot keep a message until
                it is due, or would lose it, or does not know `ttl`.
            NoStreamError: no stream takes the subject.
            PublishTimeoutError: no acknowledgement in time; it may be stored.
            DeadlineExpiredError: the deadline had passed before. Nothing was sent.
            WrongSequenceError: an expected sequence was not met: someone wrote first.
            JetStreamUnavailableError: there is no JetStream on the server.
            JetStreamError: the stream refuses it otherwise.
            TidingsError: as `App.publish`, for what cannot be sent.

        Example:
            ```python
            ack = await app.js.publish("orders.created", {"id": 7}, msg_id="order-7")
            print(ack.stream, ack.sequence, ack.duplicate)
            ```
        """
        options = {
            "msg_id": msg_id,
            "headers": headers,
            "data_type": data_type,
            "expected_stream": expected_stream,
            "expected_sequence": expected_sequence,
            "expected_subject_sequence": expected_subject_sequence,
            "expected_msg_id": expected_msg_id,
            "timeout": timeout,
        }
        if delay is not None or at is not None:
            options |= {"delay": delay, "at": at}
        if ttl is not None:
            options["ttl"] = ttl
        publication = prepare(subject, message, **options)
        return await self._begin(publication, message, options)

    def _begin(
        self, publication: Publication, message: Any, options: dict[str, Any]
    ) -> Awaitable[PublishAck]:
        """What to await for the acknowledgement of a publish that was found right."""
        run = self._host.here("js.publish")
        if run.send is None:
            return publication.send(run.api)
        if not publication.id_is_known:  # so that a failure names the id that was sent
            options = {**options, "msg_id": publication.msg_id}
        return run.send(publication.subject, message, **options)

    def publish_sync(self, subject: str, message: Any = None, **options: Any) -> PublishAck:
        """`publish` from synchronous code; the same arguments.

        The thread waits for `timeout` at the most, the time in send hooks included, even while a
        handler blocks the event loop.

        Raises:
            LoopThreadError: on the event loop's own thread.
            TidingsError: as `publish`.
        """
        publication = prepare(subject, message, **options)
        work = self._send_begun(publication, message, options)
        limit = publication.timeout
        try:
            return self._host.current.run(
                work, "js.publish_sync", "await app.js.publish(...)", limit + PUBLISH_LATE
            )
        except LoopTimeoutError:
            raise PublishTimeoutError(subject, publication.msg_id, limit) from None

    async def _send_begun(
        self, publication: Publication, message: Any, options: dict[str, Any]
    ) -> PublishAck:
        return await self._begin(publication, message, options)

    async def cancel(self, schedule: str) -> bool:
        """Cancel a message that is not due yet.

        The server does it in one step: the message is either cancelled or delivered.

        Args:
            schedule: `PublishAck.schedule` of the message.

        Returns:
            Whether the message was still waiting. False if it was delivered or cancelled before.

        Raises:
            ConfigError: this is not the schedule of a message.
            PublishTimeoutError: no acknowledgement in time; it may be cancelled.
            JetStreamError: the stream does not exist, or refuses.

        Example:
            ```python
            reminder = await app.js.publish("orders.remind", {"id": 7}, delay=3600)
            print(await app.js.cancel(reminder.schedule))    # True
            ```
        """
        stream = stream_of_schedule(schedule)
        api = self._host.here("js.cancel").api
        found = await stored_message(api, stream, last_on=schedule)
        if found is None:
            return False
        try:
            await publish_stored(
                api,
                cancel_subject(stream),
                b"",
                Headers(cancel_headers(schedule, found.sequence)),
                msg_id=secrets.token_hex(16),
                timeout=PUBLISH_TIMEOUT,
            )
        except WrongSequenceError:  # it was delivered a moment ago
            return False
        return True

    def publish_window(self, size: int, *, batched: bool = False) -> PublishWindow:
        """Publish with up to `size` messages unacknowledged in flight.

        They are sent in order; one that has to be sent again may be stored after its successors.

        Args:
            size: how many messages may wait for their acknowledgement.
            batched: publish in batches to streams that allow it (`batched` on the stream,
                nats-server 2.14). The server then acknowledges many messages at once, but does not
                say the sequence of each one: `PublishAck.sequence` is 0, and `duplicate` False.
                Messages with expectations, and messages to other streams, are published one by
                one. (NATS ADR-50)

        Raises:
            ConfigError: `size` below 1, or `batched` is no bool.

        Example:
            ```python
            async with app.js.publish_window(256) as window:
                for number in range(1000):
                    await window.publish("orders.created", {"id": number})
            print(window.acked, window.failed)
            ```
        """
        here = functools.partial(self._host.here, "js.publish")
        return PublishWindow(here, self._begin, size, batched=batched)

    def batch(self, *, timeout: Seconds = PUBLISH_TIMEOUT) -> PublishBatch:
        """Publish messages that their stream stores all, or none of them. (NATS ADR-50)

        The block collects up to 1000 messages, and its end stores them. If the block raises,
        nothing is sent. In a `def` handler or another thread, write `with` instead of `async with`.

        The stream is declared with `atomic=True`. It needs nats-server 2.12.

        Args:
            timeout: seconds for storing the batch, at the end of the block; inside a `deadline`, at
                most what is left.

        Raises:
            ConfigError: `timeout` is wrong. At the end of the block: the stream or the server takes
                no atomic batches, or the messages are for several streams.
            WrongSequenceError: at the end of the block: an expected sequence was not met.
            DuplicateMessageError: at the end of the block: the stream has a message with one of the
                ids.
            BatchTimeoutError: at the end of the block: no acknowledgement in time; all messages may
                be stored, or none.
            DeadlineExpiredError: the deadline had passed before. Nothing was sent.
            NoStreamError: at the end of the block: no stream takes the messages.
            JetStreamError: at the end of the block: the stream refuses the batch otherwise.
            PayloadTooLargeError: at the end of the block: a message is too large.

        Example:
            ```python
            async with app.js.batch() as batch:
                batch.add("ledger.ada", {"amount": -10})
                batch.add("ledger.bob", {"amount": 10})
            print(batch.ack.stream, batch.ack.count)
            ```
        """
        return PublishBatch(self._host.here, self._host.current.run, timeout)
