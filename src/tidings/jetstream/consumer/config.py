"""Configurations of consumers: a new one, a changed one, and what tidings cannot work with."""

from __future__ import annotations

import math
from typing import Any

from tidings.jetstream.api import nanoseconds
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.filters import filters_of

Config = dict[str, Any]

# Seconds until the server removes a consumer without a durable name that nobody pulls from.
INACTIVE_THRESHOLD = 300.0
# Messages delivered and not settled yet, those that wait for their redelivery included. The
# server's own default of 1,000 would end all deliveries once so many messages wait to be retried.
MAX_ACK_PENDING = 65_536

_BEGINNING = ("deliver_policy", "opt_start_seq", "opt_start_time")
_FILTERS = ("filter_subject", "filter_subjects")
_DURATIONS = ("ack_wait", "inactive_threshold", "max_expires")


def new_config(spec: ConsumerSpec, name: str, stream: Config) -> Config:
    """The configuration of a consumer that is not there yet. (NATS ADR-13, ADR-15)

    It has what was declared and what tidings cannot do without; the rest is the server's choice.
    The server's own `max_deliver` stays unlimited: it would drop a message whose process is killed
    in the last delivery.

    Args:
        spec: the consumer as it is declared.
        name: its name.
        stream: the configuration of its stream.
    """
    config: Config = {"name": name, **spec.beginning(), **spec.declared()}
    if spec.durable is None:
        most = (stream.get("consumer_limits") or {}).get("inactive_threshold") or math.inf
        config["inactive_threshold"] = min(nanoseconds(INACTIVE_THRESHOLD), most)
    else:
        config["durable_name"] = name
    return config | {"ack_policy": "explicit", "max_ack_pending": MAX_ACK_PENDING}


def remade_config(last: Config, name: str, after: int | None) -> Config:
    """The configuration of a consumer that is created again: as it was, whoever had made it so.

    Args:
        last: its configuration as the server last answered it.
        name: its name.
        after: the sequence after which it begins; None for its first beginning.
    """
    config = {**last, "name": name}
    if after is None:
        return config
    kept = {option: value for option, value in config.items() if option not in _BEGINNING}
    return {**kept, "deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}


def updated_config(spec: ConsumerSpec, current: Config) -> Config:
    """The configuration of an existing consumer with what was declared; all else stays as it is.

    Where it begins was decided when it was created. A `backoff` on the server decides instead of
    `ack_wait`. A limit of deliveries is lifted where the declared one could not be reached.
    """
    declared = spec.declared()
    wanted = dict(current)
    if current.get("backoff"):
        declared.pop("ack_wait", None)
    if spec.subject is None or filters_of(current) == (spec.subject,):
        declared.pop("filter_subject", None)
    else:
        for option in _FILTERS:
            wanted.pop(option, None)
    if spec.max_deliver is not None and 0 < current.get("max_deliver", -1) <= spec.max_deliver:
        wanted["max_deliver"] = -1
    return wanted | declared


def unusable(config: Config) -> str:
    """Why tidings cannot handle the messages of a consumer, in words; "" where it can."""
    if config.get("deliver_subject"):
        return "is a push consumer, and tidings pulls"
    if (policy := config.get("ack_policy")) != "explicit":
        return f"has ack_policy {policy!r}, and tidings acknowledges each message by itself"
    if config.get("priority_groups"):
        return "has priority_groups, which tidings does not join"
    if config.get("headers_only"):
        return "has headers_only, so that no body arrives"
    return ""


def create_operation(stream: str, name: str, config: Config) -> str:
    """The operation that creates or updates a consumer.

    One filter stands in it, too: permissions for a part of a stream are given by that.
    """
    one = config.get("filter_subject")
    return f"CONSUMER.CREATE.{stream}.{name}{'.' + one if one else ''}"


def differences(before: Config, after: Config) -> list[str]:
    """The options that an update changed, in words. The server alone writes the metadata then."""
    options = sorted((set(before) | set(after)) - {"metadata"})
    return [
        f"{option} {_words(option, before.get(option))} -> {_words(option, after.get(option))}"
        for option in options
        if before.get(option) != after.get(option)
    ]


def _words(option: str, value: Any) -> str:
    return f"{value / 1e9:g} s" if option in _DURATIONS and value else str(value)
