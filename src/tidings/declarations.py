"""Declarations: listeners and tasks as they are written down. Group: some, under a prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from tidings.checks import Seconds, as_seconds
from tidings.errors import ConfigError
from tidings.handlers.hook_checks import check_hooks, check_instance
from tidings.handlers.listener import DEFAULT_PENDING_BYTES, DEFAULT_PENDING_MSGS, ListenerSpec
from tidings.handlers.middleware import Middleware
from tidings.handlers.tasks import TaskSpec
from tidings.jetstream.consumer.spec import ConsumerSpec, Drop, check_unique
from tidings.jetstream.kv.watchers import WatchSpec
from tidings.subject import check_pattern, check_queue

F = TypeVar("F", bound=Callable[..., Any])


class Declarations:
    """The decorators that `App` and `Group` share."""

    def __init__(self) -> None:
        self._listener_specs: list[ListenerSpec] = []
        self._task_specs: list[TaskSpec] = []
        self._consumer_specs: list[ConsumerSpec] = []
        self._watch_specs: list[WatchSpec] = []

    def listen(
        self,
        subject: str | Sequence[str],
        *,
        queue: str | None = None,
        data_type: Any = None,
        concurrency: int | None = None,
        no_reply: bool = False,
        pending_msgs_limit: int = DEFAULT_PENDING_MSGS,
        pending_bytes_limit: int = DEFAULT_PENDING_BYTES,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Subscribe; the decorated function runs for every message.

        If the message is a request, the value it returns is the reply; None sends no reply. `def`
        functions run in worker threads.

        Args:
            subject: the subject or subjects, wildcards (`*`, `>`) allowed.
            queue: the queue group to join: one of its members gets each message. "" for none, so
                that every instance of the service handles every message. Where None, the listener
                has a group of its own: one instance of the service handles each message, and every
                other listener still gets it.
            data_type: what `msg.data` is decoded into: dict (the default), list, str, bytes, any
                type that msgspec validates, a pydantic model, another callable, or one of the names
                "json", "dict", "list", "str", "bytes". `Message[T]` in the signature says the same.
            concurrency: handlers at work at a time; the app's where None, 1 keeps strict order.
            no_reply: never answer, errors included.
            pending_msgs_limit: messages that may wait; past it the newest is dropped and counted.
            pending_bytes_limit: bytes that may wait.
            timeout: seconds that one run may take; None for no limit. Then an `async def` handler
                is cancelled, and a requester gets error 504. A `def` handler cannot be stopped: it
                keeps its place until it returns.

        Raises:
            SubjectError: a subject or queue group that NATS does not allow.
            ConfigError: a handler that does not take one argument, or a bad option.

        Example:
            ```python
            @app.listen("orders.*", queue="billing", concurrency=10)
            async def on_order(msg):
                return {"seen": msg.subject}
            ```
        """
        if callable(subject):
            raise ConfigError('listen needs a subject: @app.listen("some.subject")')
        subjects = (subject,) if isinstance(subject, str) else tuple(subject)
        for each in subjects:
            check_pattern(each)

        def declare(handler: F) -> F:
            self._add_listener(
                ListenerSpec(
                    handler=handler,
                    subjects=subjects,
                    queue=queue,
                    data_type=data_type,
                    concurrency=concurrency,
                    no_reply=no_reply,
                    pending_msgs_limit=pending_msgs_limit,
                    pending_bytes_limit=pending_bytes_limit,
                    timeout=as_seconds(timeout),
                )
            )
            return handler

        return declare

    def consume(
        self,
        stream: str,
        *,
        durable: str | None = None,
        subject: str | None = None,
        data_type: Any = None,
        concurrency: int | None = None,
        ack_wait: Seconds | None = None,
        max_deliver: int | None = None,
        backoff: Sequence[Seconds] | None = None,
        dead_letter: str | Drop | None = None,
        double_ack: bool = False,
        manual_ack: bool = False,
        ordered: bool = False,
        batch: int | None = None,
        batch_timeout: Seconds = 0.5,
        start: str | int | None = None,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Consume a stream; the decorated function runs at least once for every message.

        A message is acknowledged when the function is done, never before. When it raises, the
        message is delivered again after the backoff; `Retry(delay)` says when, `Reject(reason)`
        says never. While it runs, the server is told that it does. It may run twice for one
        message: after a crash, or when an acknowledgement is lost.

        Args:
            stream: the stream's name.
            durable: the consumer's name. Instances share it, and it outlives them. None derives
                a name from the service and the function: instances share it too, and it ends with
                the last of them.
            subject: only messages of this subject, wildcards allowed. None for all, or for the
                filter that an existing consumer has.
            data_type: as in `listen`; a body that does not decode is a dead letter at once.
            concurrency: handlers at work at a time; never more messages are fetched than these.
            ack_wait: seconds after which the server delivers again what it heard nothing of. None
                for what an existing consumer has, or the server's default of 30.
            max_deliver: deliveries after which a message is given up; None for no limit but that of
                an existing consumer. It requires `dead_letter`.
            backoff: seconds before each redelivery; the last one for all further. None for those
                of an existing consumer, or 1 second.
            dead_letter: the subject for messages that are given up; a stream must take it. `DROP`
                drops them: each is logged and counted.
            double_ack: wait for the server's word that it has the acknowledgement.
            manual_ack: the function acknowledges itself: `msg.ack()`, `nak()`, `term()`.
            ordered: follow the stream in order, ephemeral, without acknowledgements.
            batch: hand the function a list of up to so many messages.
            batch_timeout: seconds to wait for a batch to fill.
            start: where a new consumer begins: "all", "new", "last", or a sequence; None for
                "all".
            timeout: seconds that one run may take; None for no limit. Past it the run has failed:
                an `async def` function is cancelled, and the message is delivered again. A `def`
                function cannot be stopped: it keeps its place until it returns, and the message is
                delivered again meanwhile.

        Raises:
            ConfigError: an option is wrong, two options contradict each other, or another consumer
                of the app has the same stream and durable name.
            SubjectError: a subject is not valid.

        Example:
            ```python
            @app.consume("ORDERS", durable="billing", subject="orders.created", ack_wait=30)
            async def bill(msg):
                print(msg.sequence, msg.data)
            ```
        """
        if callable(stream):
            raise ConfigError('consume needs a stream: @app.consume("ORDERS", durable="billing")')

        def declare(handler: F) -> F:
            self._add_consumer(
                ConsumerSpec(
                    handler=handler,
                    stream=stream,
                    durable=durable,
                    subject=subject,
                    data_type=data_type,
                    concurrency=concurrency,
                    ack_wait=as_seconds(ack_wait),
                    max_deliver=max_deliver,
                    backoff=_delays(backoff),
                    dead_letter=dead_letter,
                    double_ack=double_ack,
                    manual_ack=manual_ack,
                    ordered=ordered,
                    batch=batch,
                    batch_timeout=as_seconds(batch_timeout),
                    start=start,
                    timeout=as_seconds(timeout),
                )
            )
            return handler

        return declare

    def watch(
        self,
        bucket: str,
        keys: str = ">",
        *,
        data_type: Any = None,
        initial: bool = True,
        timeout: Seconds | None = None,
    ) -> Callable[[F], F]:
        """Watch a key-value bucket; the decorated function runs for each entry, in order.

        First come the entries that are there, deletions among them, then every change, one after
        another. When the function raises, that is logged and counted, and the next entry follows.

        Args:
            bucket: the bucket's name; one that the app declares, or that is there at start.
            keys: only keys of this pattern, as "user.*".
            data_type: the type of `entry.value`; where None that of the signature,
                `entry: Entry[T]`, else that of the declared bucket, else dict.
            initial: begin with what is there; False for changes only.
            timeout: seconds that one run may take, as in `listen`; None for no limit. The next
                entry follows when the run has ended.

        Raises:
            ConfigError: a bad option.
            SubjectError: a pattern that NATS does not allow.

        Example:
            ```python
            sessions = app.js.key_value("sessions", type=dict)

            @app.watch("sessions", "user.*")
            async def on_session(entry):
                print(entry.key, "ended" if entry.is_deleted else entry.value)
            ```
        """
        if callable(bucket):
            raise ConfigError('watch needs a bucket: @app.watch("sessions", "user.*")')

        def declare(handler: F) -> F:
            self._add_watch(
                WatchSpec(
                    handler=handler,
                    bucket=bucket,
                    keys=keys,
                    data_type=data_type,
                    initial=initial,
                    timeout=as_seconds(timeout),
                )
            )
            return handler

        return declare

    def task(
        self, interval: Seconds | None = None, *, timeout: Seconds | None = None
    ) -> Callable[[F], F]:
        """Run the decorated function once at start, or at an interval.

        Timing is from start to start; a run that overruns is followed at once, never overlapped,
        never caught up. A run that raises is logged and counted, and the next one happens. `def`
        functions run in a worker thread. Tasks are cancelled at shutdown.

        Args:
            interval: seconds, or a `timedelta`; None to run once.
            timeout: seconds that one run may take; None for no limit. Past it an `async def`
                function is cancelled, and the run has failed. A `def` function cannot be stopped:
                the next run waits for its end.

        Raises:
            ConfigError: an interval or a timeout of 0 or less, or a function that takes arguments.

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
        TaskSpec(function=_nothing, interval=every, timeout=limit)

        def declare(function: F) -> F:
            self._add_task(TaskSpec(function=function, interval=every, timeout=limit))
            return function

        return declare

    def _declaring(self, call: str) -> None:
        """Raise where it is too late to declare."""

    def _add_listener(self, spec: ListenerSpec) -> None:
        self._declaring("listen")
        self._listener_specs.append(spec)

    def _add_consumer(self, spec: ConsumerSpec) -> None:
        self._declaring("consume")
        check_unique(spec, self._consumer_specs)
        self._consumer_specs.append(spec)

    def _add_watch(self, spec: WatchSpec) -> None:
        self._declaring("watch")
        self._watch_specs.append(spec)

    def _add_task(self, spec: TaskSpec) -> None:
        self._declaring("task")
        self._task_specs.append(spec)


class Group(Declarations):
    """Listeners and tasks written in another module, added to an app by `App.include`.

    Args:
        prefix: first tokens of the subjects of its listeners, "" for none.
        queue: first word of the queue groups of those listeners that name none: `orders` gives
            `orders.<handler>`. "" for no groups; the app's `queue` where None.
        middlewares: middlewares around those listeners only, inside the app's; classes or
            instances.

    Raises:
        SubjectError: a prefix that is no subject, or ends with `>`; a bad queue group.
        ConfigError: a middleware that is none, or with a hook that would not run.

    Example:
        ```python
        from tidings import App, Group

        orders = Group("orders")

        @orders.listen("created")
        async def created(msg):
            print(msg.subject)                  # orders.created

        app = App("billing")
        app.include(orders)
        ```
    """

    def __init__(
        self,
        prefix: str,
        *,
        queue: str | None = None,
        middlewares: Sequence[Middleware | type[Middleware]] = (),
    ) -> None:
        super().__init__()
        if prefix != "":
            check_pattern(prefix)
            check_pattern(f"{prefix}.x")
        if queue is not None:
            check_queue(queue)
        self.prefix = prefix
        self.queue = queue
        self._middlewares = tuple(map(_instance, middlewares))
        self._included = False

    def include_done(self) -> None:
        """Take no more declarations: an app has those that there are."""
        self._included = True

    def _declaring(self, call: str) -> None:
        if self._included:
            raise ConfigError(f"{call}: the group is in an app already; declare, then include it")

    @property
    def listeners(self) -> tuple[ListenerSpec, ...]:
        """Its listeners, as an app takes them."""
        return tuple(map(self._placed, self._listener_specs))

    @property
    def consumers(self) -> tuple[ConsumerSpec, ...]:
        """Its stream consumers; `subject` of each stands as it is, without the prefix."""
        return tuple(
            msgspec.structs.replace(spec, middlewares=self._middlewares)
            for spec in self._consumer_specs
        )

    @property
    def watches(self) -> tuple[WatchSpec, ...]:
        """Its watches; the bucket and keys of each stand as they are, without the prefix."""
        return tuple(
            msgspec.structs.replace(spec, middlewares=self._middlewares)
            for spec in self._watch_specs
        )

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """Its tasks."""
        return tuple(self._task_specs)

    def _placed(self, spec: ListenerSpec) -> ListenerSpec:
        dot = f"{self.prefix}." if self.prefix else ""
        return msgspec.structs.replace(
            spec,
            subjects=tuple(f"{dot}{subject}" for subject in spec.subjects),
            group_queue=self.queue,
            prefix=self.prefix,
            middlewares=self._middlewares,
        )


def _delays(backoff: Any) -> tuple[float, ...] | None:
    if backoff is None:
        return None
    if not isinstance(backoff, (list, tuple)):
        raise ConfigError(
            f"backoff must be a list of seconds, one for each redelivery, got {backoff!r}"
        )
    return tuple(map(as_seconds, backoff))


def _instance(middleware: Middleware | type[Middleware]) -> Middleware:
    made = middleware() if isinstance(middleware, type) else middleware
    if not isinstance(made, Middleware):
        raise ConfigError(f"{middleware!r} is no Middleware")
    check_hooks(type(made), Middleware)
    check_instance(made)
    return made


def _nothing() -> None:
    """A function to check the options with, before the decorator gets the real one."""
