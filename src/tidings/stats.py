"""Statistics: frozen records of the current counts."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from tidings.core import NAME


class _Record(msgspec.Struct, frozen=True):
    """The common base."""

    @classmethod
    def zero(cls, **known: Any) -> Self:
        """A record in which nothing is counted yet.

        Args:
            known: the fields that are not counts, such as `name`.
        """
        required = cls.__struct_fields__[: -len(cls.__struct_defaults__) or None]
        return cls(**dict.fromkeys(required, 0) | known)


class Histogram(_Record, frozen=True):
    """Durations, counted by their length.

    Attributes:
        bounds: upper bounds of the buckets in seconds, ascending.
        counts: number of durations in each bucket, and at the end of those above all bounds.
        total: the sum of all durations, in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """Number of durations."""
        return sum(self.counts)

    def plus(self, other: Histogram) -> Histogram:
        """Return this record with the counts of another added, which has the same bounds."""
        counts = tuple(map(sum, zip(self.counts, other.counts, strict=True)))
        return Histogram(self.bounds, counts, self.total + other.total)


def _sum(one: Histogram | None, other: Histogram | None) -> Histogram | None:
    return one.plus(other) if one and other else one or other


class _HandlerStats(_Record, frozen=True):
    """The base of the records about handlers."""

    def plus(self, other: Self) -> Self:
        """Return this record with the counts of another added."""
        changed: dict[str, Any] = {}
        for name in self.__struct_fields__:
            one, more = getattr(self, name), getattr(other, name)
            if type(one) is int:
                changed[name] = one + more
            elif name == "seconds":
                changed[name] = _sum(one, more)
        return msgspec.structs.replace(self, **changed)


class ListenerStats(_HandlerStats, frozen=True):
    """The statistics of one listener. Each message is counted exactly once at any time:
    ``received == handled + failed + dropped + expired + pending + running + abandoned``.

    Attributes:
        name: the handler's name.
        subjects: the listener's subjects.
        queue: the listener's queue group; "" if it has none.
        received: number of messages that arrived.
        handled: number of messages whose handler returned.
        failed: number of messages whose handler raised or exceeded its timeout, or whose body could
            not be decoded.
        timed_out: number of messages in `failed` whose handler exceeded `timeout=`, or was
            cancelled at the request's deadline (`cancel_expired=True`).
        dropped: number of messages that were dropped because the queue was full (slow consumer).
        expired: number of requests that were not handled, because their deadline had passed while
            they were in the queue.
        pending: number of messages in the queue.
        pending_bytes: number of bytes in the queue.
        running: number of messages that a handler is working on.
        abandoned: number of messages that were unfinished when the drain timeout passed.
        items_sent: number of items that the handler has streamed to requesters.
        items_received: number of items that requesters have streamed to the handler.
        dynamic: whether `subscribe_new_subject` added the listener while the app ran.
        seconds: how long the handler took, with the decoding and the reply; None if the app is not
            monitored.
    """

    name: str
    subjects: tuple[str, ...]
    queue: str
    received: int
    handled: int
    failed: int
    timed_out: int
    dropped: int
    expired: int
    pending: int
    pending_bytes: int
    running: int
    abandoned: int
    items_sent: int = 0
    items_received: int = 0
    dynamic: bool = False
    seconds: Histogram | None = None

    @classmethod
    def none(cls) -> ListenerStats:
        """Return a record of zeros, to add others to."""
        return cls.zero(name="", subjects=(), queue="")


class ConsumerStats(_HandlerStats, frozen=True):
    """The statistics of one stream consumer. Each delivery is counted exactly once at any time:
    ``received == handled + failed + copies + returned + pending + running + abandoned``.

    The answers to the server, `acked`, `nacked` and `termed`, are counted separately. An ordered
    consumer sends no answers, has no copies and returns nothing.

    Attributes:
        name: the handler's name.
        stream: the stream's name.
        consumer: the consumer's name on the server.
        received: number of deliveries.
        handled: number of deliveries whose handler returned.
        failed: number of deliveries whose handler raised or exceeded its timeout, whose body could
            not be decoded, or whose message had no deliveries left.
        timed_out: number of deliveries in `failed` whose handler exceeded `timeout=`.
        copies: number of deliveries of a message whose handler was still running here. The result
            of that handler counts for both deliveries. Also the runs of a scheduled job that were
            skipped.
        returned: number of deliveries that were given back without having been handled, because
            they waited for a worker when the app stopped, or for too long. See `prefetch` of
            `App.consume`.
        acked: number of deliveries that were acknowledged after their handler returned.
        nacked: number of deliveries that were given back, for another delivery.
        termed: number of deliveries that were terminated: dead letters, and messages whose handler
            called `term()`. They are not delivered again.
        dead: number of messages that were given up. They become dead letters, unless `dropped`.
        dropped: number of messages in `dead` that were dropped without a dead letter.
        redelivered: number of deliveries that were not the first one of their message.
        pending: number of deliveries in the queue.
        running: number of deliveries that a handler is working on.
        abandoned: number of deliveries that were unfinished when the drain timeout passed. The
            server delivers them again.
        recovered: number of times that the consumer started to pull again after a failure.
        foreign: number of messages in the consumer's inbox that the server did not deliver. They
            are not handled and not part of `received`.
        ordered: whether this is an ordered consumer, which has another name after each failure.
        recovering: whether the consumer has failed and is trying to pull again.
        partitions: number of partitions that this instance has; None without `partitions=`.
        member: the name of this instance in the group, and of its consumer of the work queue; ""
            without `partitions=`.
        blocked_keys: number of keys whose messages wait for one that has failed.
        seconds: how long the handler took for a message or a batch, with the decoding and the
            acknowledgement; None if the app is not monitored.
    """

    name: str
    stream: str
    consumer: str
    received: int
    handled: int
    failed: int
    timed_out: int
    copies: int
    returned: int
    acked: int
    nacked: int
    termed: int
    dead: int
    dropped: int
    redelivered: int
    pending: int
    running: int
    abandoned: int
    recovered: int
    foreign: int
    ordered: bool = False
    recovering: bool = False
    partitions: int | None = None
    member: str = ""
    blocked_keys: int = 0
    seconds: Histogram | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other consumers. The name of an ordered one on the server changes."""
        return self.name, self.stream, "" if self.ordered else self.consumer

    @property
    def on_server(self) -> tuple[str, str]:
        """The stream and the name of the consumer that delivers the messages."""
        if self.member:
            return f"{self.stream}-{self.consumer}", self.member
        return self.stream, self.consumer

    def anonymous(self) -> ConsumerStats:
        """Return the record without names."""
        return msgspec.structs.replace(
            self, name="", stream="", consumer="", member="", ordered=False
        )


class WatcherStats(_HandlerStats, frozen=True):
    """The statistics of one watch of a key-value bucket. Each entry is counted exactly once at any
    time: ``received == handled + failed + pending + running + abandoned``.

    Attributes:
        name: the handler's name.
        bucket: the bucket's name.
        keys: the pattern of the watched keys.
        received: number of entries that arrived.
        handled: number of entries whose handler returned.
        failed: number of entries whose handler raised or exceeded its timeout, or whose value could
            not be decoded.
        timed_out: number of entries in `failed` whose handler exceeded `timeout=`.
        pending: number of entries in the queue.
        running: number of entries that a handler is working on.
        abandoned: number of entries that were unfinished when the drain timeout passed.
        recovered: number of times that the watch started to read again after a failure.
        seconds: how long the handler took, with the decoding; None if the app is not monitored.
    """

    name: str
    bucket: str
    keys: str
    received: int
    handled: int
    failed: int
    timed_out: int
    pending: int
    running: int
    abandoned: int
    recovered: int
    seconds: Histogram | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other watches."""
        return self.name, self.bucket, self.keys

    def anonymous(self) -> WatcherStats:
        """Return the record without names."""
        return msgspec.structs.replace(self, name="", bucket="", keys="")


class TaskStats(_Record, frozen=True):
    """The statistics of one task. Each run is counted exactly once at any time:
    ``begun == runs + running`` and ``runs == returned + failed + cancelled``.

    Attributes:
        name: the task's name.
        interval: seconds from the start of one run to the start of the next; None for a task that
            runs once.
        begun: number of runs that have started.
        running: number of current runs, 0 or 1.
        runs: number of runs that have ended, in any way.
        returned: number of runs whose function returned.
        failed: number of runs that raised or exceeded their timeout.
        timed_out: number of runs in `failed` that exceeded `timeout=`.
        cancelled: number of runs that were cancelled when the app ended.
        overrun: number of runs that took longer than the interval.
        last_seconds: how long the last run took that has ended; None if none has.
    """

    name: str
    interval: float | None
    begun: int
    running: int
    runs: int
    returned: int
    failed: int
    timed_out: int
    cancelled: int
    overrun: int
    last_seconds: float | None = None


class LeaderStats(_Record, frozen=True):
    """The statistics of one function of `App.leader`. Each term that has ended is counted exactly
    once: ``terms == failed + lost + cancelled``, and one more during a term.

    Attributes:
        name: the function's name.
        lock: the name of its lock.
        is_leading: whether this instance leads.
        terms: how often this instance became the leader.
        failed: number of terms that ended because the function raised.
        lost: number of terms that ended because the lease was lost.
        cancelled: number of terms that ended because the app ended.
        token: the fencing token of the current term; 0 if this instance does not lead.
    """

    name: str
    lock: str
    is_leading: bool
    terms: int
    failed: int
    lost: int
    cancelled: int
    token: int = 0


class LockStats(_Record, frozen=True):
    """The locks of an app, those of its leaders included.

    Attributes:
        held: number of locks that are held.
        waiting: number of tasks and threads that wait for a lock.
        acquired: how often a lock was acquired.
        lost: number of locks that were lost before they were released.
        timed_out: how often a lock was not acquired within its `timeout=`.
    """

    held: int = 0
    waiting: int = 0
    acquired: int = 0
    lost: int = 0
    timed_out: int = 0


class RequestStats(_Record, frozen=True):
    """The requests that ended in the same way, while the app was monitored.

    Attributes:
        result: "ok", "service_error", "no_responders", "timeout", "disconnected", "cancelled", or
            "error" for any other error.
        seconds: how long they took, from the call to the decoded answer.
    """

    result: str
    seconds: Histogram


class ConnectionStats(_Record, frozen=True):
    """The statistics of the connection.

    Attributes:
        state: "disconnected", "connected", "reconnecting" or "closed".
        sent: number of messages written to the server.
        sent_bytes: number of bytes written, including the protocol's own.
        unsent: number of messages that wait in the buffer.
        unsent_bytes: number of bytes that wait in the buffer.
        possibly_lost: number of messages that the server had not confirmed when their connection
            dropped.
        refused: number of messages that were refused with an error.
        received: number of messages that arrived.
        received_bytes: number of bytes that arrived, including the protocol's own.
        malformed: number of lines and messages that are not valid.
        unrouted: number of messages for a subscription that had already ended.
        mismatched: number of messages whose subject does not match their subscription. They are not
            handled.
        late_replies: number of replies that arrived after their request had ended.
        requests: number of requests that wait for a reply.
        reconnects: number of times that the connection was re-established.
        errors: number of errors that the server sent.
        refused_subjects: the subjects whose subscriptions the server refuses at the moment. tidings
            asks for them again until the server accepts them.
    """

    state: str
    sent: int
    sent_bytes: int
    unsent: int
    unsent_bytes: int
    possibly_lost: int
    refused: int
    received: int
    received_bytes: int
    malformed: int
    unrouted: int
    mismatched: int
    late_replies: int
    requests: int
    reconnects: int
    errors: int
    refused_subjects: tuple[str, ...] = ()


class AppStats(_Record, frozen=True):
    """The statistics of one app.

    Attributes:
        connection: the statistics of the connection.
        listeners: the statistics of each listener.
        ended: the summed statistics of the listeners that were unsubscribed.
        tasks: the statistics of each task.
        consumers: the statistics of each stream consumer.
        watchers: the statistics of each watch of a bucket.
        ended_consumers: the statistics of the consumers that were added while the app ran, and
            stopped. Those with the same handler, stream and name are summed.
        ended_watchers: the same, of watches.
        leaders: the statistics of each function of `App.leader`.
        locks: the locks of the app.
        requests: how long requests took, by their result; empty if the app is not monitored.
        core: what handles the messages: "compiled" for the compiled core, "pure" for the Python
            modules.
    """

    connection: ConnectionStats
    listeners: tuple[ListenerStats, ...]
    ended: ListenerStats
    tasks: tuple[TaskStats, ...]
    consumers: tuple[ConsumerStats, ...] = ()
    watchers: tuple[WatcherStats, ...] = ()
    ended_consumers: tuple[ConsumerStats, ...] = ()
    ended_watchers: tuple[WatcherStats, ...] = ()
    leaders: tuple[LeaderStats, ...] = ()
    locks: LockStats = LockStats()
    requests: tuple[RequestStats, ...] = ()
    core: str = NAME
