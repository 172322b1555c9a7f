"""Cautions: warnings about declarations that are valid but almost surely not meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tidings.functions import function_place
from tidings.handlers.hook_checks import silent_hooks
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.middleware import Middleware
from tidings.handlers.queue_groups import competing
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.kv.watchers import WatchSpec
from tidings.jetstream.streams.stream import Stream
from tidings.log import logger
from tidings.subject import overlaps, warn_of_literal

# What is lost if a hook returns nothing, by the beginning of its name.
_LOST = {"listen": "requests get no answer", "send": "the calls that it surrounds return None"}


def warn_of_declarations(
    listeners: Sequence[ListenerSpec],
    consumers: Sequence[ConsumerSpec],
    watches: Sequence[WatchSpec],
    streams: Sequence[Stream],
    middlewares: Sequence[type[Middleware]] = (),
) -> None:
    """Log a warning for each doubtful declaration. Called when the app starts."""
    for what, pattern in _patterns(listeners, consumers, watches, streams):
        warn_of_literal(what, pattern)
    in_groups = (type(each) for spec in listeners for each in spec.middlewares)
    for cls in dict.fromkeys([*middlewares, *in_groups]):
        for hook in silent_hooks(cls, Middleware):
            logger.warning(
                "%s.%s never returns a value, so %s. Return what the awaited function returns",
                *(cls.__qualname__, hook, _LOST[hook.partition("_")[0]]),
            )
    for first, second in competing(listeners):
        logger.warning(
            "%s and %s both join the queue group %r and their subjects overlap, so each message "
            "reaches only one of the two; leave queue= out to give each a group of its own",
            *(function_place(first.handler), function_place(second.handler), first.queue),
        )
    for spec in listeners:
        for subject, stream in () if spec.no_reply else _stored(spec, streams):
            logger.warning(
                "%s answers requests on %r, which the stream %s stores: the stream's "
                "acknowledgement reaches the requester first; take the subject out of the stream, "
                "or declare the listener with no_reply=True",
                *(spec.name, subject, stream.name),
                extra={"listener": spec.name, "subject": subject},
            )


def _patterns(
    listeners: Sequence[ListenerSpec],
    consumers: Sequence[ConsumerSpec],
    watches: Sequence[WatchSpec],
    streams: Sequence[Stream],
) -> Iterator[tuple[str, str]]:
    for listener in listeners:
        for subject in listener.subjects:
            yield f"listener {listener.name}", subject
    for consumer in consumers:
        for subject in consumer.subjects:
            yield f"consumer {consumer.name}", subject
    for watch in watches:
        for keys in watch.stored_keys:
            yield f"watch {watch.name}", keys
    for stream in streams:
        for subject in stream.subjects:
            yield f"stream {stream.name}", subject


def _stored(spec: ListenerSpec, streams: Sequence[Stream]) -> Iterator[tuple[str, Stream]]:
    """For each stream that stores a subject of the listener: the first such subject."""
    for stream in streams:
        for subject in spec.subjects:
            if any(overlaps(subject, stored) for stored in stream.subjects):
                yield subject, stream
                break
