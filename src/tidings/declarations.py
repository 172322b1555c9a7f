"""Declarations: the decorators that declare handlers and tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tidings.checks import Seconds, as_seconds
from tidings.errors import ConfigError
from tidings.handlers.listener_spec import (
    DEFAULT_PENDING_BYTES,
    DEFAULT_PENDING_MSGS,
    ListenerSpec,
)
from tidings.handlers.task_spec import TaskSpec
from tidings.keywords import called
from tidings.subject import as_subjects, check_pattern

# Most services use no stream. What is for streams is imported where it is first declared.
if TYPE_CHECKING:
    from tidings.cron import CronExpression
    from tidings.jetstream.bucket import Storage
    from tidings.jetstream.consumer.priority import Priority
    from tidings.jetstream.consumer.spec import ConsumerSpec, Drop
    from tidings.jetstream.kv.key_value import KeyValue
    from tidings.jetstream.kv.watchers import WatchSpec
    from tidings.jetstream.locks.leader import LeaderSpec
    from tidings.jetstream.schedule.spec import CronSpec
    from tidings.jetstream.start import Start

F = TypeVar("F", bound=Callable[..., Any])


class Declarations:
    """The decorators that `App` and `Group` share."""

    def __init__(self) -> None:
        self._listener_specs: list[ListenerSpec] = []
        self._task_specs: list[TaskSpec] = []
        self._consumer_specs: list[ConsumerSpec] = []
        self._watch_specs: list[WatchSpec] = []
        self._cron_specs: list[CronSpec] = []
        self._leader_specs: list[LeaderSpec] = []

    @called("listen()", hint='@app.listen("some.subject")')
    def listen(
        self,
        subject: str | Sequence[str],
        *,
        queue: str | None = None,
        name: str | None = None,
        data_type: Any = None,
        concurrency: int | None = None,
        no_reply: bool = False,
        pending_msgs_limit: int = DEFAULT_PENDING_MSGS,
        pending_bytes_limit: int = DEFAULT_PENDING_BYTES,
        timeout: Seconds | None = None,
        cancel_expired: bool = False,
    ) -> Callable[[F], F]:
        """Subscribe to a subject. The decorated function runs for every message.

        If the message is a request, the return value of the function is the reply. None sends no
        reply. `def` functions run in worker threads.

        Args:
            subject: the subject or subjects. They may contain wildcards (`*`, `>`).
            queue: the queue group to join. One member of a group gets each message. With "", there
                is no group: every instance of the service handles every message. With None, the
                listener has its own group: one instance of the service handles each message, and
                other listeners still get it too.
            name: the name of the endpoint, for discovery. None uses the name of the function.
            data_type: the type of `msg.data`: dict (the default), list, str, bytes, any type that
                msgspec validates, a pydantic model, another callable, or one of the names "json",
                "dict", "list", "str" and "bytes". `Message[T]` in the signature has the same
                effect. An argument that is annotated with `T` itself gets the data.
            concurrency: the largest number of messages that are handled at the same time; 1 keeps
                strict order. None uses the concurrency of the app.
            no_reply: whether to never answer, not even with an error.
            pending_msgs_limit: the largest number of messages that may wait. Beyond it, new
                messages are dropped and counted.
            pending_bytes_limit: the largest number of bytes that may wait.
            timeout: the limit of one run in seconds; None for no limit. After it, an `async def`
                handler is cancelled, and a requester gets error 504. A `def` handler cannot be
                stopped: it occupies its worker until it returns.
            cancel_expired: whether to cancel the handler when the deadline of its request passes.
                The requester gets error 504. Only for `async def` handlers.

        Raises:
            SubjectError: if NATS does not allow a subject or the queue group.
            ConfigError: if the handler does not take the message, its data or both, or if an option
                is wrong.

        Example:
            ```python
            @app.listen("orders.*", queue="billing", concurrency=10)
            async def on_order(msg):
                return {"seen": msg.subject}

            @app.listen("prices.get")
            async def price(order: dict):               # the decoded body
                return {"price": 4 * order["count"]}
            ```
        """
        if callable(subject):
            raise ConfigError('listen needs a subject: @app.listen("some.subject")')
        subjects = as_subjects(subject)
        for each in subjects:
            check_pattern(each)

        def declare(handler: F) -> F:
            self._add_listener(
                ListenerSpec(
                    handler=handler,
                    subjects=subjects,
                    endpoint=name,
                    queue=queue,
                    data_type=data_type,
                    concurrency=concurrency,
                    no_reply=no_reply,
                    pending_msgs_limit=pending_msgs_limit,
                    pending_bytes_limit=pending_bytes_limit,
                    timeout=as_seconds(timeout),
                    cancel_expired=cancel_expired,
                )
            )
            return handler

        return declare

    @called("consume()", hint='@app.consume("ORDERS", durable="billing")')
    def consume(
        self,
        stream: str,
        *,
        durable: str | None = None,
        subject: str | Sequence[str] | None = None,
        data_type: Any = None,
        concurrency: int | None = None,
        prefetch: int | None = None,
        ack_wait: Seconds | None = None,
        max_deliver: int | None = None,
        backoff: Sequence[Seconds] | None = None,
        dead_letter: str | Drop | None = None,
        double_ack: bool = False,
        manual_ack: bool = False,
        ordered: bool = False,
        batch: int | None = None,
        batch_timeout: Seconds = 0.5,
        start: Start | None = None,
        timeout: Seconds | None = None,
        max_ack_pending: int | None = None,
        priority: Priority | None = None,
        rate_limit: float | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
        headers_only: bool | None = None,
        replicas: int | None = None,
        storage: Storage | None = None,
        inactive_threshold: Seconds | None = None,
        create: bool = True,
        partitions: int | None = None,
        key: int | Sequence[int] | None = None,
    ) -> Callable[[F], F]:
        """Consume a stream. The decorated function runs at least once for every message.

        A message is acknowledged after the function has returned. If the function raises, the
        message is delivered again after the backoff. To choose the delay, raise `Retry(delay)`; to
        give up on the message, raise `Reject(reason)`. While the function runs, tidings tells the
        server to wait. The function may run twice for one message after a crash, or when an
        acknowledgement is lost.

        If the app is already running, the consumer starts in the background and ends with the
        app. It needs `durable` or `ordered=True`. A failure to start it is logged;
        `app.js.add_consumer` raises it.

        Args:
            stream: the stream's name.
            durable: the consumer's name. All instances share the consumer, and it exists longer
                than they do. With None, the name is derived from the service and the function: all
                instances share the consumer, and the server deletes it after the last one ended.
            subject: the subject of the messages to consume, or a list of subjects, of which no two
                match the same message. They may contain wildcards. With None, an existing consumer
                keeps its filter, and a new one gets all messages.
            data_type: as in `listen`, with `StreamMessage[T]` for the message. A body that cannot
                be decoded becomes a dead letter at once.
            concurrency: the largest number of messages that are handled at the same time; 1 keeps
                the order of an only instance.
            prefetch: the number of messages that an instance may hold while no worker is free for
                them. It saves round trips to the server, but no other instance gets these messages
                meanwhile. With 0, an instance fetches only messages that it can handle at once.
                With None, `concurrency=1` means 0; otherwise an instance that handles thousands of
                messages a second holds what it handles in 20 milliseconds, at most 256.
            ack_wait: seconds without an acknowledgement or a sign of progress until the server
                delivers a message again. With None, an existing consumer keeps its value, and a new
                one gets the server's default of 30.
            max_deliver: the number of deliveries after which a message is given up. It requires
                `dead_letter`. With None, an existing consumer keeps its value, and a new one has no
                limit.
            backoff: seconds before each redelivery. The last value is used for all further ones.
                With None, an existing consumer keeps its values, and a new one waits for 1 second.
            dead_letter: the subject for messages that are given up. A stream must store it. `DROP`
                drops these messages; each is logged and counted.
            double_ack: whether to wait until the server confirms each acknowledgement.
            manual_ack: whether the function acknowledges messages itself: `msg.ack()`, `nak()`,
                `term()`.
            ordered: whether to read the stream in order, with a temporary consumer and without
                acknowledgements.
            batch: the largest number of messages in a batch. The function then gets a list of
                messages, or as `list[T]` a list of their data.
            batch_timeout: seconds to wait until a batch is full.
            start: the start of a new consumer: "all", "new", "last", "last_per_subject" (the last
                message of each subject), a sequence, or a `datetime` with a time zone. None means
                "all".
            timeout: the limit of one run in seconds; None for no limit. A longer run has failed: an
                `async def` function is cancelled, and the message is delivered again. A `def`
                function cannot be stopped: it occupies its worker until it returns, and the message
                may be delivered again before that.
            max_ack_pending: the largest number of messages that are delivered and not acknowledged,
                in all instances together. With None, a new consumer gets 65,536, or what the server
                allows.
            priority: how the instances divide the messages: `Pinned`, `Overflow` or `Prioritized`
                of `tidings.jetstream`. With None, every instance gets messages. (NATS ADR-42)
            rate_limit: messages that this instance gets in a second, at most.
            description: what the consumer is for.
            metadata: texts by name, which are added to those that the consumer has.
            headers_only: whether the server leaves out the bodies. `msg.data` is None then, and the
                header `Nats-Msg-Size` has the size.
            replicas: copies of the consumer's state in the cluster, 1 to 5; None for as many as the
                stream has.
            storage: "file" or "memory", for the consumer's state; None for that of the stream.
            inactive_threshold: seconds without a pull after which the server deletes the consumer.
                With None, it keeps a consumer with `durable`, and deletes another one after 300.
            create: whether the app creates the consumer, and changes what differs from the
                declaration. With False, it uses the consumer as it is, which requires `durable`.
                The user then needs no other permission than to pull and to acknowledge.
            partitions: the number of partitions, 1 to 1024, to handle the messages of one key in
                their order, one after another, in whichever instance. The instances divide the
                partitions among themselves. It requires `durable`, the name of the group, and
                nats-server 2.11. `inactive_threshold` is then the seconds after which the others
                get the partitions of an instance that is gone; None for 5.
            key: what the key of a message is, with `partitions`: the number of a `*` in `subject`,
                from 1, or a list of numbers. None uses the whole subject.

        Raises:
            ConfigError: if an option is wrong, if two options contradict each other, or if another
                consumer of the app has the same stream and durable name.
            SubjectError: if NATS does not allow a subject.

        Example:
            ```python
            @app.consume("ORDERS", durable="billing", subject="orders.created", ack_wait=30)
            async def bill(msg):
                print(msg.sequence, msg.data)
            ```
        """
        from tidings.jetstream.consumer.spec import consumer_spec

        if callable(stream):
            raise ConfigError('consume needs a stream: @app.consume("ORDERS", durable="billing")')

        def declare(handler: F) -> F:
            self._add_consumer(
                consumer_spec(
                    handler,
                    stream,
                    durable=durable,
                    subject=subject,
                    data_type=data_type,
                    concurrency=concurrency,
                    prefetch=prefetch,
                    ack_wait=ack_wait,
                    max_deliver=max_deliver,
                    backoff=backoff,
                    dead_letter=dead_letter,
                    double_ack=double_ack,
                    manual_ack=manual_ack,
                    ordered=ordered,
                    batch=batch,
                    batch_timeout=batch_timeout,
                    start=start,
                    timeout=timeout,
                    max_ack_pending=max_ack_pending,
                    priority=priority,
                    rate_limit=rate_limit,
                    description=description,
                    metadata=metadata,
                    headers_only=headers_only,
                    replicas=replicas,
                    storage=storage,
                    inactive_threshold=inactive_threshold,
                    create=create,
                    partitions=partitions,
                    key=key,
                )
            )
            return handler

        return declare

    @called("watch()", hint='@app.watch("sessions", "user.*")')
    def watch(
        self,
        bucket: str | KeyValue[Any],
        keys: str | Sequence[str] = ">",
        *,
        data_type: Any = None,
        initial: bool = True,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Watch a key-value bucket. The decorated function runs for each entry, in order.

        It first gets the existing entries, including deletions, and then every change, one after
        another. If it raises, tidings logs and counts the error, and the next entry follows.

        If the app is already running, the watch starts in the background and ends with the app. A
        failure to start it is logged; `app.js.add_watch` raises it.

        Args:
            bucket: the bucket's name, or the bucket that `app.js.key_value` has returned. The app
                declares the bucket, or it exists at the start.
            keys: the pattern of the keys to watch, such as "user.*", or a list of patterns, of
                which no two match the same key.
            data_type: the type of `entry.value`. None uses the type in the signature,
                `entry: Entry[T]`, else the type of the declared bucket, else dict. An argument that
                is annotated with `T` itself gets the value; it is None for a deletion.
            initial: whether to start with the existing entries; False for changes only.
            timeout: the limit of one run in seconds, as in `listen`; None for no limit. The next
                entry follows when the run has ended.

        Raises:
            ConfigError: if an option is wrong.
            SubjectError: if NATS does not allow the pattern.

        Example:
            ```python
            sessions = app.js.key_value("sessions", type=dict)

            @app.watch("sessions", "user.*")
            async def on_session(entry):
                print(entry.key, "ended" if entry.is_deleted else entry.value)
            ```
        """
        from tidings.jetstream.kv.watchers import watch_spec

        if callable(bucket):
            raise ConfigError('watch needs a bucket: @app.watch("sessions", "user.*")')

        def declare(handler: F) -> F:
            self._add_watch(
                watch_spec(
                    handler, bucket, keys, data_type=data_type, initial=initial, timeout=timeout
                )
            )
            return handler

        return declare

    @called("task()")
    def task(
        self,
        interval: Seconds | None = None,
        *,
        cron: str | None = None,
        tz: str | None = None,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Run the decorated function once at start, at an interval, or at certain times.

        Every instance of the service runs its own tasks. For one run however many instances there
        are, use `cron`.

        If a run takes longer than the interval, the next one starts immediately after it. Runs
        never overlap, and missed runs are not repeated. If a run raises, tidings logs and counts
        the error, and the next run takes place. `def` functions run in a worker thread. Tasks are
        cancelled at shutdown.

        Args:
            interval: seconds from the start of one run to the start of the next, or a `timedelta`;
                None to run once.
            cron: the times of the runs, instead of `interval`, as in `cron`. It needs the extra
                `cron`.
            tz: the time zone of `cron`, such as "Europe/Berlin"; None for UTC.
            timeout: the limit of one run in seconds; None for no limit. After it, an `async def`
                function is cancelled, and the run has failed. A `def` function cannot be stopped:
                the next run waits for its end.

        Raises:
            ConfigError: if the interval or the timeout is not a positive number, if the expression
                is not valid, or if the function takes arguments.
            MissingExtraError: if the extra `cron` is not installed.

        Example:
            ```python
            @app.task(interval=2)
            async def report():
                print(app.stats().connection.received)
            ```
        """
        if callable(interval):
            raise ConfigError("task needs parentheses: @app.task() or @app.task(interval=2)")
        every, limit = as_seconds(interval), as_seconds(timeout)
        times = _times(interval, cron, tz)
        TaskSpec(function=_nothing, interval=every, timeout=limit)

        def declare(function: F) -> F:
            self._add_task(TaskSpec(function=function, interval=every, cron=times, timeout=limit))
            return function

        return declare

    @called("cron()", hint='@app.cron("0 9 * * mon-fri")')
    def cron(
        self,
        schedule: str,
        *,
        name: str | None = None,
        tz: str | None = None,
        overlap: bool = False,
        ttl: Seconds | None = None,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Run the decorated function at certain times, once for all instances of the service.

        The server holds the schedule, in a stream that the app creates when it starts. It needs
        nats-server 2.14. Each time a run is due, one instance gets it. If the server or all
        instances are away at that time, the run takes place when they are back; several that were
        missed become one. A run that raises is logged and counted, and not repeated; raise
        `Retry(delay)` to repeat it. If the process dies during a run, another instance runs it
        again. `def` functions run in a worker thread. (NATS ADR-51)

        Args:
            schedule: five fields, `minute hour day-of-month month day-of-week`, or six with the
                second before them; `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`; or
                `@every 90s`, which counts from its first declaration.
            name: the name of the job on the server; None for the function's name. If you rename a
                job, its old schedule stays until `tidings cron apply --prune` removes it.
            tz: the time zone of the fields, such as "Europe/Berlin"; None for UTC.
            overlap: whether a run may begin while an earlier one goes on. With False, it begins
                after that; several that become due meanwhile become one.
            ttl: seconds that a run may begin late, or a `timedelta`. A run that could not begin in
                this time is skipped. None for no limit.
            timeout: the limit of one run in seconds; None for no limit. A longer run has failed: an
                `async def` function is cancelled. A `def` function cannot be stopped.

        Raises:
            ConfigError: if the expression is not valid, naming the field; if the function takes
                anything but nothing or one message; or if the app has a job of this name.

        Example:
            ```python
            @app.cron("0 9 * * mon-fri", tz="Europe/Berlin", ttl=3600)
            async def morning_report():
                await app.publish("reports.morning", {})
            ```
        """
        from tidings.cron import parse_cron
        from tidings.jetstream.schedule.spec import CronSpec

        if callable(schedule):
            raise ConfigError('cron needs a schedule: @app.cron("0 9 * * mon-fri")')
        expression = parse_cron(schedule, tz)

        def declare(function: F) -> F:
            self._add_cron(
                CronSpec(
                    function=function,
                    schedule=expression,
                    given_name=name,
                    overlap=overlap,
                    ttl=as_seconds(ttl),
                    timeout=as_seconds(timeout),
                )
            )
            return function

        return declare

    @overload
    def leader(self, function: F, /) -> F: ...

    @overload
    def leader(
        self, /, *, name: str | None = None, lease: Seconds = ..., bucket: str = ...
    ) -> Callable[[F], F]: ...

    @called("leader()", hint="@app.leader")
    def leader(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        lease: Seconds = 10,
        bucket: str = "tidings-locks",
    ) -> Any:
        """Run the decorated function in one instance of the service at a time: in the leader.

        Each instance waits until it leads. The function is cancelled when the instance leads no
        longer, because it could not renew its lease in time, or because the app ends. A clean end
        lets the next instance lead at once; after a kill, it leads when the lease has ended. If the
        function raises, the error is logged, and the instance gives the lead up and tries again
        after a pause. If it returns, the instance keeps the lead, and the function does not run
        again before another one leads. It needs nats-server 2.11.

        Args:
            function: an `async def` function, without arguments or with one, the `Lock`. Pass its
                `token` on with what you write.
            name: the name of the lock; None uses the names of the service and the function.
            lease: seconds after which another instance leads when this one is gone; whole seconds,
                or a `timedelta`.
            bucket: the key-value bucket of the lease. It is created if it does not exist.

        Raises:
            ConfigError: the function cannot be cancelled or called, an option is wrong, the app has
                a leader of this name, or it is already running.

        Example:
            ```python
            @app.leader
            async def poll_the_bank():
                while True:
                    await app.publish("bank.polled", {})
                    await asyncio.sleep(5)
            ```
        """
        from tidings.jetstream.locks.leader import LeaderSpec
        from tidings.jetstream.locks.lock import check_lease

        def declare(function: F) -> F:
            spec = LeaderSpec(
                function=function, given_name=name, lease=check_lease(lease), bucket=bucket
            )
            self._declaring("leader")
            spec.check_unique(self._leader_specs)
            self._leader_specs.append(spec)
            return function

        return declare if function is None else declare(function)

    def _declaring(self, call: str) -> None:
        """Raise ConfigError if it is too late for a declaration."""

    def _add_listener(self, spec: ListenerSpec) -> None:
        self._declaring("listen")
        self._listener_specs.append(spec)

    def _add_consumer(self, spec: ConsumerSpec) -> None:
        self._declaring("consume")
        spec.check_unique(self._consumer_specs)
        self._consumer_specs.append(spec)

    def _add_watch(self, spec: WatchSpec) -> None:
        self._declaring("watch")
        self._watch_specs.append(spec)

    def _add_task(self, spec: TaskSpec) -> None:
        self._declaring("task")
        self._task_specs.append(spec)

    def _add_cron(self, spec: CronSpec) -> None:
        self._declaring("cron")
        spec.check_unique(self._cron_specs)
        self._cron_specs.append(spec)


def _times(interval: Seconds | None, cron: str | None, tz: str | None) -> CronExpression | None:
    """Return the times of a task's runs, if it has any."""
    if cron is None:
        if tz is not None:
            raise ConfigError(f"tz={tz!r} requires cron=: an interval has no time zone")
        return None
    if interval is not None:
        raise ConfigError(
            f"task has interval={interval!r} and cron={cron!r}: leave out one of them"
        )
    from tidings.cron import parse_cron

    times = parse_cron(cron, tz, what="task(cron=)")
    if times.interval is not None:
        raise ConfigError(f"task(cron={cron!r}): write @app.task(interval={times.interval:g})")
    next(times.times(datetime.now(UTC)))  # needs the extra, which is missed here and not later
    return times


def _nothing() -> None:
    """A function that stands in while the options are checked, before the decorator runs."""
