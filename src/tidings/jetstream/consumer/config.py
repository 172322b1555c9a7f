"""Configurations of consumers: of a new one, of an updated one, and those tidings cannot use."""

from __future__ import annotations

import math
from typing import Any

from tidings.jetstream.api import nanoseconds
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.filters import filters_of

Config = dict[str, Any]

# Seconds until the server deletes a consumer without a durable name that gets no pulls.
INACTIVE_THRESHOLD = 300.0
# Messages that are delivered and not settled, including those that wait for a redelivery. With the
# server's default of 1,000, all deliveries would end while so many messages wait to be retried.
MAX_ACK_PENDING = 65_536

_BEGINNING = ("deliver_policy", "opt_start_seq", "opt_start_time")
_FILTERS = ("filter_subject", "filter_subjects")
_DURATIONS = ("ack_wait", "inactive_threshold", "max_expires", "priority_timeout")


def new_config(spec: ConsumerSpec, name: str, stream: Config) -> Config:
    """Return the configuration of a new consumer. (NATS ADR-13, ADR-15)

    It has the declared options and those that tidings needs. The server chooses the rest. The
    server's `max_deliver` stays unlimited, because with a limit it would drop a message whose
    process is killed during the last delivery.

    Args:
        spec: the consumer as it is declared.
        name: its name.
        stream: the configuration of its stream.
    """
    config: Config = {"name": name, **spec.beginning(), **spec.declared()}
    if spec.durable is None and spec.inactive_threshold is None:
        most = (stream.get("consumer_limits") or {}).get("inactive_threshold") or math.inf
        config["inactive_threshold"] = min(nanoseconds(INACTIVE_THRESHOLD), most)
    if spec.durable is not None:
        config["durable_name"] = name
    if spec.start == "last_per_subject" and not spec.subjects:
        config["filter_subject"] = ">"  # the server requires a filter for this start
    return {"max_ack_pending": MAX_ACK_PENDING, **config, "ack_policy": "explicit"}


def remade_config(last: Config, name: str, after: int | None) -> Config:
    """Return the configuration of a consumer that is created again: the one that it had.

    Args:
        last: its last known configuration on the server.
        name: its name.
        after: the sequence after which it begins; None to begin where it first began.
    """
    config = {**last, "name": name}
    if after is None:
        return config
    kept = {option: value for option, value in config.items() if option not in _BEGINNING}
    return {**kept, "deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}


def updated_config(spec: ConsumerSpec, current: Config) -> Config:
    """Return the configuration of an existing consumer with the declared options.

    Everything else stays as it is. The beginning cannot be changed. If the consumer has a `backoff`
    on the server, that replaces `ack_wait`. The server's limit of deliveries is removed if it would
    be reached before the declared one.
    """
    declared = spec.declared()
    wanted = dict(current)
    if current.get("backoff"):
        declared.pop("ack_wait", None)
    if not spec.subjects or set(filters_of(current)) == set(spec.subjects):
        for option in _FILTERS:
            declared.pop(option, None)
    else:
        for option in _FILTERS:
            wanted.pop(option, None)
    if spec.max_deliver is not None and 0 < current.get("max_deliver", -1) <= spec.max_deliver:
        wanted["max_deliver"] = -1
    if "metadata" in declared:
        declared["metadata"] = (current.get("metadata") or {}) | declared["metadata"]
    if spec.priority is not None and spec.priority.group in _groups(current):
        declared["priority_groups"] = _groups(current)  # instances of others may be in them
    for option, value in list(declared.items()):
        if not value and not current.get(option):
            del declared[option]  # the server leaves out what is empty
    return wanted | declared


def _groups(config: Config) -> list[str]:
    return list(config.get("priority_groups") or ())


def unusable(spec: ConsumerSpec, config: Config) -> str:
    """Return why tidings cannot handle the messages of a consumer; "" if it can."""
    if config.get("deliver_subject"):
        return "is a push consumer, and tidings pulls"
    if (policy := config.get("ack_policy")) != "explicit":
        return f"has ack_policy {policy!r}, and tidings acknowledges each message by itself"
    groups = _groups(config)
    if groups and spec.priority is None:
        return f"has priority_groups ({', '.join(groups)}), and priority= is not declared"
    if config.get("headers_only") and spec.headers_only is None:
        return "has headers_only, so that no body arrives, and headers_only=True is not declared"
    return ""


def create_operation(stream: str, name: str, config: Config) -> str:
    """Return the operation that creates or updates a consumer.

    It names a single filter, as permissions for a part of a stream demand.
    """
    one = config.get("filter_subject")
    return f"CONSUMER.CREATE.{stream}.{name}{'.' + one if one else ''}"


def differences(before: Config, after: Config) -> list[str]:
    """Describe the options that an update changed, except the metadata of the server."""
    before, after = _own(before), _own(after)
    options = sorted(set(before) | set(after))
    return [
        f"{option} {_words(option, before.get(option))} -> {_words(option, after.get(option))}"
        for option in options
        if before.get(option) != after.get(option)
    ]


def _own(config: Config) -> Config:
    metadata = config.get("metadata") or {}
    own = {key: value for key, value in metadata.items() if not key.startswith("_nats.")}
    return {**config, "metadata": own or None}


def _words(option: str, value: Any) -> str:
    return f"{value / 1e9:g} s" if option in _DURATIONS and value else str(value)
