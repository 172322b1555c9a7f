"""The metrics of an app, made of its statistics when somebody asks for them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tidings.stats import (
    AppStats,
    ConnectionStats,
    ConsumerStats,
    Histogram,
    LeaderStats,
    ListenerStats,
    LockStats,
    TaskStats,
    WatcherStats,
)
from tidings.version import __version__

from .families import Families, Family, Merge

# The label of the listeners that were subscribed while the app runs. Their subjects may be many.
DYNAMIC = "(subscribed)"


class ConsumerInfo(msgspec.Struct, frozen=True):
    """What the server knows about a consumer.

    Attributes:
        lag: number of messages of the stream that were not delivered yet.
        ack_pending: number of messages that were delivered and not acknowledged yet.
        redelivered: number of those that were delivered more than once.
    """

    lag: int
    ack_pending: int
    redelivered: int


class LoopStats(msgspec.Struct, frozen=True):
    """How punctual the event loop is.

    Attributes:
        lag: how late it ran a timer, four times a second.
        blocked: seconds since it should have run the last one; 0 if it is not late.
    """

    lag: Histogram
    blocked: float


class AppReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the metrics of an app are made of.

    Attributes:
        service: the name of the service.
        version: its version.
        running: whether listeners and tasks are at work.
        stats: its statistics.
        consumers: what the server knows about consumers, by stream and name. Those that are not
            known now are left out.
        loop: how punctual the event loop is; None if that is not measured.
    """

    service: str
    version: str
    running: bool
    stats: AppStats
    consumers: Mapping[tuple[str, str], ConsumerInfo]
    loop: LoopStats | None


def families_of(report: AppReport) -> list[Family]:
    """Return the metrics of an app."""
    families = Families()
    _add_app(families, report)
    _add_connection(families, report.stats.connection)
    for listener in _bounded(report.stats):
        _add_listener(families, listener)
    for request in report.stats.requests:
        families.histogram(
            "tidings_request_duration_seconds",
            "Time of a request, from the call to the decoded answer.",
            request.seconds,
            {"result": request.result},
        )
    for consumer in report.stats.consumers:
        info = report.consumers.get(consumer.on_server)
        _add_consumer(families, consumer, info)
    # With those that were stopped, no count goes down.
    for ended in report.stats.ended_consumers:
        _add_consumer(families, ended, None)
    for watcher in (*report.stats.watchers, *report.stats.ended_watchers):
        _add_watcher(families, watcher)
    for task in report.stats.tasks:
        _add_task(families, task)
    for leader in report.stats.leaders:
        _add_leader(families, leader)
    if report.stats.locks.acquired or report.stats.locks.waiting:
        _add_locks(families, report.stats.locks)
    return families.all()


def _add_app(families: Families, report: AppReport) -> None:
    families.gauge(
        "tidings_app_info",
        "The service and its version; always 1.",
        1,
        {"service": report.service, "version": report.version, "tidings": __version__},
        Merge.MAX,
    )
    families.gauge(
        "tidings_app_running",
        "Whether the app is at work: 0 while it starts and while it drains.",
        int(report.running),
        merge=Merge.EACH,
    )
    if report.loop is None:
        return
    families.histogram(
        "tidings_event_loop_lag_seconds",
        "How late the event loop ran a timer, measured four times a second.",
        report.loop.lag,
    )
    families.gauge(
        "tidings_event_loop_blocked_seconds",
        "Time for which the event loop has been blocked up to now.",
        report.loop.blocked,
        merge=Merge.EACH,
    )


def _add_connection(families: Families, stats: ConnectionStats) -> None:
    families.gauge(
        "tidings_connection_up",
        "Whether the app is connected to a server.",
        int(stats.state == "connected"),
        merge=Merge.EACH,
    )
    counters = {
        "reconnects": (stats.reconnects, "Connections that were established again."),
        "errors": (stats.errors, "Errors that the server sent."),
        "possibly_lost_messages": (
            stats.possibly_lost,
            "Messages that the server had not confirmed when their connection dropped.",
        ),
        "sent_messages": (stats.sent, "Messages written to the server."),
        "sent_bytes": (stats.sent_bytes, "Bytes written to the server."),
        "received_messages": (stats.received, "Messages that arrived."),
        "received_bytes": (stats.received_bytes, "Bytes that arrived."),
        "refused_messages": (stats.refused, "Messages that were not sent, with an error."),
        "malformed": (stats.malformed, "Lines and messages that are not valid."),
        "unrouted_messages": (stats.unrouted, "Messages for a subscription that had ended."),
        "mismatched_messages": (
            stats.mismatched,
            "Messages whose subject does not match their subscription.",
        ),
        "late_replies": (stats.late_replies, "Replies that arrived after their request ended."),
    }
    for name, (value, text) in counters.items():
        families.counter(f"tidings_connection_{name}", text, value)
    gauges = {
        "tidings_connection_unsent_messages": (stats.unsent, "Messages that wait to be sent."),
        "tidings_connection_unsent_bytes": (stats.unsent_bytes, "Bytes that wait to be sent."),
        "tidings_connection_refused_subjects": (
            len(stats.refused_subjects),
            "Subjects whose subscriptions the server refuses.",
        ),
        "tidings_requests_waiting": (stats.requests, "Requests that wait for a reply."),
    }
    for name, (value, text) in gauges.items():
        families.gauge(name, text, value)


def _bounded(stats: AppStats) -> list[ListenerStats]:
    """Return the declared listeners, and one record for all others: their subjects may be as many
    as the requests of a day."""
    declared = [each for each in stats.listeners if not each.dynamic]
    others = stats.ended
    for each in stats.listeners:
        if each.dynamic:
            others = others.plus(each)
    if others.received or len(declared) < len(stats.listeners):
        others = msgspec.structs.replace(others, name=DYNAMIC, subjects=(), queue="")
        declared.append(others)
    return declared


def _add_listener(families: Families, stats: ListenerStats) -> None:
    labels = {"listener": stats.name, "subject": ",".join(stats.subjects), "queue": stats.queue}
    families.counter(
        "tidings_messages_received", "Messages that arrived for a listener.", stats.received, labels
    )
    results = {
        "handled": stats.handled,
        "failed": stats.failed - stats.timed_out,
        "timed_out": stats.timed_out,
        "dropped": stats.dropped,
        "expired": stats.expired,
        "abandoned": stats.abandoned,
    }
    for result, value in results.items():
        text = "Messages that a listener is done with, by what became of them."
        families.counter("tidings_messages", text, value, {**labels, "result": result})
    families.gauge(
        "tidings_messages_pending", "Messages in the queue of a listener.", stats.pending, labels
    )
    families.gauge(
        "tidings_messages_pending_bytes",
        "Bytes in the queue of a listener.",
        stats.pending_bytes,
        labels,
    )
    families.gauge(
        "tidings_messages_running",
        "Messages that the handler of a listener is working on.",
        stats.running,
        labels,
    )
    families.histogram(
        "tidings_handler_duration_seconds",
        "Time that a listener takes for a message, with decoding and reply.",
        stats.seconds,
        labels,
    )


def _add_consumer(families: Families, stats: ConsumerStats, info: ConsumerInfo | None) -> None:
    # The server's name of an ordered consumer changes: as a label it would be without a bound.
    name = "" if stats.ordered else stats.consumer
    labels = {"handler": stats.name, "stream": stats.stream, "consumer": name}
    families.counter(
        "tidings_consumer_received", "Deliveries to a stream handler.", stats.received, labels
    )
    results = {
        "handled": stats.handled,
        "failed": stats.failed - stats.timed_out,
        "timed_out": stats.timed_out,
        "copy": stats.copies,
        "abandoned": stats.abandoned,
    }
    for result, value in results.items():
        text = "Deliveries that a stream handler is done with, by what became of them."
        families.counter("tidings_consumer_deliveries", text, value, {**labels, "result": result})
    for answer, value in {"ack": stats.acked, "nak": stats.nacked, "term": stats.termed}.items():
        text = "Answers to the server about deliveries."
        families.counter("tidings_consumer_acks", text, value, {**labels, "answer": answer})
    counters = {
        "redelivered": (stats.redelivered, "Deliveries that were not the first of their message."),
        "dead_letters": (
            stats.dead - stats.dropped,
            "Messages that were given up and became dead letters.",
        ),
        "dropped": (stats.dropped, "Messages that were given up without a dead letter."),
        "recovered": (stats.recovered, "Times that pulling began again after a failure."),
        "foreign": (stats.foreign, "Messages that the consumer did not deliver."),
    }
    for word, (value, text) in counters.items():
        families.counter(f"tidings_consumer_{word}", text, value, labels)
    gauges = {
        "pending": (stats.pending, "Deliveries that wait for the handler."),
        "running": (stats.running, "Deliveries that the handler is working on."),
        "recovering": (int(stats.recovering), "Whether the consumer tries to pull again."),
    }
    for word, (value, text) in gauges.items():
        families.gauge(f"tidings_consumer_{word}", text, value, labels)
    families.histogram(
        "tidings_consumer_handler_duration_seconds",
        "Time that a stream handler takes for a message or a batch.",
        stats.seconds,
        labels,
    )
    if info is None or stats.ordered:
        return
    known = {
        "lag_messages": (info.lag, "Messages of the stream that were not delivered yet."),
        "ack_pending": (info.ack_pending, "Messages that are delivered and not acknowledged."),
        "redelivery_pending": (
            info.redelivered,
            "Messages that are delivered more than once and not acknowledged.",
        ),
    }
    for word, (value, text) in known.items():
        families.gauge(f"tidings_consumer_{word}", text, value, labels, Merge.MAX)


def _add_watcher(families: Families, stats: WatcherStats) -> None:
    labels = {"handler": stats.name, "bucket": stats.bucket, "keys": stats.keys}
    results = {
        "handled": stats.handled,
        "failed": stats.failed - stats.timed_out,
        "timed_out": stats.timed_out,
        "abandoned": stats.abandoned,
    }
    families.counter(
        "tidings_watch_received", "Entries that arrived for a watch.", stats.received, labels
    )
    for result, value in results.items():
        text = "Entries that a watch is done with, by what became of them."
        families.counter("tidings_watch_entries", text, value, {**labels, "result": result})
    families.gauge("tidings_watch_pending", "Entries that wait for a watch.", stats.pending, labels)
    families.gauge(
        "tidings_watch_running", "Entries that a watch is working on.", stats.running, labels
    )
    families.counter(
        "tidings_watch_recovered", "Times that a watch began again.", stats.recovered, labels
    )
    families.histogram(
        "tidings_watch_handler_duration_seconds",
        "Time that a watch takes for an entry.",
        stats.seconds,
        labels,
    )


def _add_task(families: Families, stats: TaskStats) -> None:
    labels = {"task": stats.name}
    results = {
        "returned": stats.returned,
        "failed": stats.failed - stats.timed_out,
        "timed_out": stats.timed_out,
        "cancelled": stats.cancelled,
    }
    for result, value in results.items():
        text = "Runs of a task that have ended, by how."
        families.counter("tidings_task_runs", text, value, {**labels, "result": result})
    families.counter(
        "tidings_task_overruns",
        "Runs of a task that took longer than its interval.",
        stats.overrun,
        labels,
    )
    families.gauge("tidings_task_running", "Runs of a task under way.", stats.running, labels)
    if stats.last_seconds is not None:
        families.gauge(
            "tidings_task_last_duration_seconds",
            "Time that the last run of a task took.",
            stats.last_seconds,
            labels,
            Merge.EACH,
        )


def _add_leader(families: Families, stats: LeaderStats) -> None:
    labels = {"leader": stats.name, "lock": stats.lock}
    text = "Whether this instance leads."
    families.gauge("tidings_leader", text, int(stats.is_leading), labels)
    results = {"failed": stats.failed, "lost": stats.lost, "cancelled": stats.cancelled}
    for result, value in results.items():
        text = "Terms of a leader that have ended, by how."
        families.counter("tidings_leader_terms", text, value, {**labels, "result": result})


def _add_locks(families: Families, stats: LockStats) -> None:
    families.gauge("tidings_locks_held", "Locks that are held.", stats.held)
    families.gauge(
        "tidings_locks_waiting", "Tasks and threads that wait for a lock.", stats.waiting
    )
    counters = {
        "acquired": (stats.acquired, "Locks that were acquired."),
        "lost": (stats.lost, "Locks that were lost before they were released."),
        "timed_out": (stats.timed_out, "Locks that were not acquired in time."),
    }
    for name, (value, text) in counters.items():
        families.counter(f"tidings_locks_{name}", text, value)
