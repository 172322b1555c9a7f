"""Statistics: frozen records of what was counted up to now."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


class _Record:
    """What the records share. Methods written for each dataclass would make the import slower."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _values(other) == _values(self)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]  # each subclass is one
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({shown})"


def _values(record: Any) -> tuple[Any, ...]:
    return tuple(getattr(record, field.name) for field in fields(record))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ListenerStats(_Record):
    """What became of the messages of one listener. Each is counted once, at every moment:
    ``received == handled + failed + dropped + pending + running + abandoned``.

    Attributes:
        name: the handler's name.
        subjects: the listener's subjects.
        queue: its queue group, "" for none.
        received: messages that arrived.
        handled: handlers that returned.
        failed: handlers that raised or ran out of time, and bodies that did not decode.
        timed_out: those of `failed` whose run took longer than `timeout=`.
        dropped: messages dropped because the queue was full (slow consumer).
        pending: messages in the queue now.
        pending_bytes: bytes in the queue now.
        running: handlers at work now.
        abandoned: messages left when the drain timeout passed.
    """

    name: str
    subjects: tuple[str, ...]
    queue: str
    received: int
    handled: int
    failed: int
    timed_out: int
    dropped: int
    pending: int
    pending_bytes: int
    running: int
    abandoned: int

    @classmethod
    def none(cls) -> ListenerStats:
        """A record of nothing, to add others to."""
        return cls("", (), "", 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def plus(self, other: ListenerStats) -> ListenerStats:
        """The same record with what another counted added."""
        return ListenerStats(
            name=self.name,
            subjects=self.subjects,
            queue=self.queue,
            received=self.received + other.received,
            handled=self.handled + other.handled,
            failed=self.failed + other.failed,
            timed_out=self.timed_out + other.timed_out,
            dropped=self.dropped + other.dropped,
            pending=self.pending + other.pending,
            pending_bytes=self.pending_bytes + other.pending_bytes,
            running=self.running + other.running,
            abandoned=self.abandoned + other.abandoned,
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConsumerStats(_Record):
    """What became of the deliveries of one stream consumer. Each is counted once, at every moment:
    ``received == handled + failed + copies + pending + running + abandoned``.

    What the server was sent for a delivery, `acked`, `nacked` and `termed`, is counted beside that.
    An ordered consumer sends nothing, and has no copies.

    Attributes:
        name: the handler's name.
        stream: the stream.
        consumer: the consumer's name on the server.
        received: deliveries.
        handled: deliveries whose handler returned.
        failed: deliveries whose handler raised or ran out of time, whose body did not decode, or
            whose deliveries were used up.
        timed_out: those of `failed` whose run took longer than `timeout=`.
        copies: deliveries of a message whose handler was still at work here. Its outcome is
            that of both.
        acked: acknowledged, the handler being done.
        nacked: given back, to be delivered again.
        termed: never to be delivered again: dead letters, and what a handler said so of.
        dead: messages given up: to the dead letters, where there are any.
        dropped: those of them that no dead letter keeps.
        redelivered: deliveries that were not the message's first.
        pending: deliveries in the queue now.
        running: deliveries with a handler now.
        abandoned: deliveries left when the drain timeout passed; delivered again later.
        healed: times that pulling started over.
        foreign: messages in its inbox that the consumer did not deliver; not handled, and not in
            `received`.
    """

    name: str
    stream: str
    consumer: str
    received: int
    handled: int
    failed: int
    timed_out: int
    copies: int
    acked: int
    nacked: int
    termed: int
    dead: int
    dropped: int
    redelivered: int
    pending: int
    running: int
    abandoned: int
    healed: int
    foreign: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WatcherStats(_Record):
    """What became of the entries of one watch of a key-value bucket. Each is counted once, at
    every moment: ``received == handled + failed + pending + running + abandoned``.

    Attributes:
        name: the handler's name.
        bucket: the bucket.
        keys: the pattern of its keys.
        received: entries that arrived.
        handled: handlers that returned.
        failed: handlers that raised or ran out of time, and values that did not decode.
        timed_out: those of `failed` whose run took longer than `timeout=`.
        pending: entries in the queue now.
        running: handlers at work now.
        abandoned: entries left when the drain timeout passed.
        healed: times that reading started over.
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
    healed: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TaskStats(_Record):
    """What became of the runs of one task. Each is counted once, at every moment:
    ``begun == runs + running`` and ``runs == returned + failed + cancelled``.

    Attributes:
        name: the task's name.
        interval: seconds from start to start, None for a task that runs once.
        begun: runs that began.
        running: runs at work now: 0 or 1.
        runs: runs that ended, however they ended.
        returned: runs whose function returned.
        failed: runs that raised or ran out of time.
        timed_out: those of `failed` that took longer than `timeout=`.
        cancelled: runs that the end of the app cut off.
        overrun: runs that took longer than the interval.
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConnectionStats(_Record):
    """What passed over the connection.

    Attributes:
        state: "connected", "reconnecting", "closed", ...
        sent: messages written to the server.
        sent_bytes: bytes written, protocol included.
        unsent: messages that wait in the buffer.
        unsent_bytes: bytes that wait in the buffer.
        possibly_lost: messages written before a connection dropped, not confirmed by the server.
        refused: messages not taken, with an error to the caller.
        received: messages that arrived.
        received_bytes: bytes that arrived, protocol included.
        malformed: lines and messages that could not be understood.
        unrouted: messages for a subscription that was ended already.
        mismatched: messages whose subject is not under their subscription's; not handled.
        late_replies: replies that came after their request had ended.
        requests: requests that wait for a reply now.
        reconnects: times the connection was restored.
        errors: errors that the server sent.
        refused_subjects: subjects of subscriptions that the server refuses now; they are asked for
            again until it takes them.
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AppStats(_Record):
    """Everything that one app has counted.

    Attributes:
        connection: the connection's record.
        listeners: a record for each listener.
        ended: what listeners counted that were unsubscribed, together.
        tasks: a record for each task.
        consumers: a record for each stream consumer.
        watchers: a record for each watch of a bucket.
    """

    connection: ConnectionStats
    listeners: tuple[ListenerStats, ...]
    ended: ListenerStats
    tasks: tuple[TaskStats, ...]
    consumers: tuple[ConsumerStats, ...] = ()
    watchers: tuple[WatcherStats, ...] = ()
