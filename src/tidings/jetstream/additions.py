"""Additions: the consumers and watches that are added with `app.js` while the app runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from tidings.jetstream.consumer.spec import ConsumeOptions, consumer_spec
from tidings.jetstream.host import JetStreamHost
from tidings.jetstream.kv.key_value import KeyValue
from tidings.jetstream.kv.watchers import WatchOptions, watch_spec
from tidings.jetstream.roster import AddedHandler
from tidings.keywords import called, known_as, refuse_options

if TYPE_CHECKING:
    from tidings.stats import ConsumerStats, WatcherStats


@known_as("JetStream")
class Additions:
    """The calls of `app.js` that add handlers.

    Args:
        host: what the app declares, and where its run is found.
    """

    def __init__(self, host: JetStreamHost) -> None:
        self._host = host

    @called("add_consumer()", hint='await app.js.add_consumer(bill, "ORDERS", durable="billing")')
    async def add_consumer(
        self, handler: Callable[..., Any], stream: str, **options: Unpack[ConsumeOptions]
    ) -> AddedHandler[ConsumerStats]:
        """Consume a stream from now on, until `stop` or the end of the app.

        It is like `@app.consume`, with the same options and promises. The middlewares of the app
        run around the handler, it is part of the statistics, and the app finishes its work at the
        end. All instances that add a consumer with the same `durable` share it.

        Args:
            handler: the function that gets the messages.
            stream: the stream's name.
            options: as in `App.consume`. `durable` is required, unless `ordered` is True.

        Returns:
            What stops it.

        Raises:
            ConfigError: an option is wrong, the stream does not exist, the consumer has no
                `durable`, or the app has one of this name.
            SubjectError: a subject is not valid.
            JetStreamApiError: the server refuses the consumer.
            NotStartedError: the app is not running, or has begun to stop.
            TidingsError: the server does not answer.

        Example:
            ```python
            async def bill(msg):
                print(msg.sequence, msg.data["id"])

            billing = await app.js.add_consumer(
                bill, "ORDERS", durable="billing", subject="orders.created"
            )
            await app.js.publish("orders.created", {"id": 7})
            await billing.stop()
            ```
        """
        refuse_options("add_consumer()", options, ConsumeOptions.__annotations__, consumer_spec)
        return await self._host.add_consumer(consumer_spec(handler, stream, **options))

    @called("add_watch()", hint='await app.js.add_watch(on_session, "sessions", "user.*")')
    async def add_watch(
        self,
        handler: Callable[..., Any],
        bucket: str | KeyValue[Any],
        keys: str | Sequence[str] = ">",
        **options: Unpack[WatchOptions],
    ) -> AddedHandler[WatcherStats]:
        """Watch a key-value bucket from now on, until `stop` or the end of the app.

        It is like `@app.watch`, with the same options.

        Args:
            handler: the function that gets the entries.
            bucket: the bucket's name, or the bucket that `app.js.key_value` has returned.
            keys: the pattern of the keys, or a list of patterns.
            options: as in `App.watch`.

        Returns:
            What stops it.

        Raises:
            ConfigError: an option is wrong.
            SubjectError: NATS does not allow a pattern.
            BucketNotFoundError: there is no such bucket.
            NotStartedError: the app is not running, or has begun to stop.
            TidingsError: the server does not answer.

        Example:
            ```python
            sessions = app.js.key_value("sessions", type=dict)
            await sessions.put("user.1", {"name": "Ada"})

            async def on_session(entry):
                print(entry.key, entry.value)

            watch = await app.js.add_watch(on_session, "sessions", "user.*")
            await watch.stop()
            ```
        """
        refuse_options("add_watch()", options, WatchOptions.__annotations__, watch_spec)
        return await self._host.add_watch(watch_spec(handler, bucket, keys, **options))
