"""Priority: how the instances that share a consumer divide its messages. (NATS ADR-42)"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import msgspec

from tidings.checks import Seconds, check_name, check_seconds, check_whole
from tidings.errors import ConfigError
from tidings.headers import Headers
from tidings.jetstream.api import nanoseconds

# What the server accepts.
_GROUP = re.compile(r"[A-Za-z0-9/_=-]{1,16}")
LEAST_TIMEOUT = 1.0
LOWEST_PRIORITY = 9

PIN_ID = "Nats-Pin-Id"


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """One instance gets all messages; the others stand by. It needs nats-server 2.11.

    If the pinned instance sends no pull for `timeout`, the server pins another one. The first one
    may still be working on the messages that it has then.

    Attributes:
        group: the priority group, at most 16 letters, digits and the signs `/ _ = -`.
        timeout: seconds of silence until another instance is pinned, at least 1. With None, an
            existing consumer keeps its value, and a new one gets the server's default.

    Raises:
        ConfigError: a wrong option.

    Example:
        ```python
        from tidings.jetstream import Pinned

        @app.consume("ORDERS", durable="ledger", priority=Pinned(timeout=10), concurrency=1)
        async def book(msg):
            print(msg.sequence)
        ```
    """

    group: str = "default"
    timeout: Seconds | None = None

    def __post_init__(self) -> None:
        _check_group(self.group)
        if self.timeout is not None:
            check_seconds("Pinned timeout", self.timeout, least=LEAST_TIMEOUT)

    def config(self) -> dict[str, Any]:
        """Return the options of the consumer, with the server's names."""
        options: dict[str, Any] = {"priority_policy": "pinned_client"}
        if self.timeout is not None:
            options["priority_timeout"] = nanoseconds(check_seconds("timeout", self.timeout))
        return options

    def of_pull(self) -> dict[str, Any]:
        """Return the fields of a pull."""
        return {"group": self.group}


class Overflow(msgspec.Struct, frozen=True, kw_only=True):
    """An instance gets messages only while the others do not keep up. It needs nats-server 2.11.

    Attributes:
        min_pending: it gets messages if at least so many wait for the consumer.
        min_ack_pending: it gets messages if at least so many are delivered and unacknowledged.
        group: the priority group, as for `Pinned`.

    An instance without either number gets messages at any time.

    Raises:
        ConfigError: a wrong option.

    Example:
        ```python
        from tidings.jetstream import Overflow

        @app.consume("ORDERS", durable="bills", priority=Overflow(min_pending=1000))
        async def bill(msg):
            print(msg.sequence)
        ```
    """

    min_pending: int | None = None
    min_ack_pending: int | None = None
    group: str = "default"

    def __post_init__(self) -> None:
        _check_group(self.group)
        for name in ("min_pending", "min_ack_pending"):
            value = getattr(self, name)
            if value is not None:
                check_whole(f"Overflow {name}", value)

    def config(self) -> dict[str, Any]:
        """Return the options of the consumer, with the server's names."""
        return {"priority_policy": "overflow"}

    def of_pull(self) -> dict[str, Any]:
        """Return the fields of a pull."""
        wanted = {"min_pending": self.min_pending, "min_ack_pending": self.min_ack_pending}
        limits = {name: value for name, value in wanted.items() if value is not None}
        return {"group": self.group, **limits}


class Prioritized(msgspec.Struct, frozen=True, kw_only=True):
    """Instances with a lower number get messages first. It needs nats-server 2.12.

    Attributes:
        priority: the number of this instance, 0 to 9. An instance gets messages only while no
            instance with a lower number waits for them.
        group: the priority group, as for `Pinned`.

    Raises:
        ConfigError: a wrong option.

    Example:
        ```python
        import os

        from tidings.jetstream import Prioritized

        here = Prioritized(priority=0 if os.environ.get("REGION") == "eu" else 5)

        @app.consume("ORDERS", durable="receipts", priority=here)
        async def receipt(msg):
            print(msg.sequence)
        ```
    """

    priority: int = 0
    group: str = "default"

    def __post_init__(self) -> None:
        _check_group(self.group)
        check_whole("Prioritized priority", self.priority, least=0, most=LOWEST_PRIORITY)

    def config(self) -> dict[str, Any]:
        """Return the options of the consumer, with the server's names."""
        return {"priority_policy": "prioritized"}

    def of_pull(self) -> dict[str, Any]:
        """Return the fields of a pull."""
        return {"group": self.group, "priority": self.priority}


Priority: TypeAlias = Pinned | Overflow | Prioritized


def check_priority(value: object) -> None:
    """Check the value of `priority=`.

    Raises:
        ConfigError: it is none of the three.
    """
    if not isinstance(value, Pinned | Overflow | Prioritized):
        raise ConfigError(
            f"priority must be Pinned(...), Overflow(...) or Prioritized(...) of "
            f"tidings.jetstream, got a value of type {type(value).__name__}"
        )


def _check_group(group: object) -> None:
    check_name("priority group", group, _GROUP, "letters, digits and / _ = -, at most 16")


class Membership:
    """What an instance adds to each of its pulls as a member of a priority group.

    Args:
        priority: what is declared.

    Attributes:
        pin: the id under which the server has pinned this instance; "" if it has not.
    """

    def __init__(self, priority: Priority) -> None:
        self.pin = ""
        self._fields = priority.of_pull()

    def of_pull(self) -> dict[str, Any]:
        """Return the fields of the next pull."""
        return {**self._fields, "id": self.pin} if self.pin else self._fields

    def read(self, block: bytes) -> None:
        """Read the pin id from the headers of a message."""
        if found := Headers.from_block(block).get_all(PIN_ID):
            self.pin = found[-1]  # the server's, which is behind those of the publisher

    def lose_pin(self) -> None:
        """The server has pinned another instance, or none."""
        self.pin = ""
