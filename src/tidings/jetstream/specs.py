"""ConsumerSpec: a stream's listener as it was written down."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidings import codec
from tidings.errors import ConfigError
from tidings.handlers import annotated_type, check_handler, function_name
from tidings.jetstream.api import nanoseconds
from tidings.middleware import Middleware
from tidings.subject import check_pattern, check_subject

# What the server takes as a name of a stream or consumer, and a file system as a folder.
_NAME = re.compile(r"[A-Za-z0-9_\-=]+")

# Seconds until a fresh ephemeral consumer that nobody pulls from is removed by the server.
INACTIVE_THRESHOLD = 300.0


def check_name(name: object, what: str) -> None:
    """Check the name of a stream, consumer or bucket.

    Raises:
        ConfigError: characters that the server does not take.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{what} {name!r}: letters, digits, '_', '-' and '=' only")


@dataclass(frozen=True, kw_only=True)
class ConsumerSpec:
    """A consumer as it was written down. Everything that can be wrong with it is found here.

    Attributes: as the arguments of `App.consume`.

    Raises:
        ConfigError: a bad option, or options that mean nothing together.
        SubjectError: a bad subject.
    """

    handler: Callable[..., Any]
    stream: str
    durable: str | None = None
    subject: str | None = None
    data_type: Any = None
    concurrency: int | None = None
    ack_wait: float = 30.0
    max_deliver: int | None = None
    backoff: tuple[float, ...] = (1.0,)
    dead_letter: str | None = None
    double_ack: bool = False
    manual_ack: bool = False
    ordered: bool = False
    batch: int | None = None
    batch_timeout: float = 0.5
    start: str | int = "all"
    middlewares: tuple[Middleware, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.stream, "stream")
        if self.durable is not None:
            check_name(self.durable, "durable")
        if self.subject is not None:
            check_pattern(self.subject)
        if self.dead_letter is not None:
            check_subject(self.dead_letter)
        what = "the message" if self.batch is None else "the list of messages"
        check_handler(self.handler, what)
        codec.decoder(self.wanted_type)
        self._check_numbers()
        self._check_combinations()

    def _check_numbers(self) -> None:
        for name in ("concurrency", "max_deliver", "batch"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < 1
            ):
                raise ConfigError(f"{name}={value!r}: a whole number above 0")
        for name in ("ack_wait", "batch_timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"{name}={value!r}: seconds, above 0")
        if not self.backoff or any(
            isinstance(delay, bool) or not isinstance(delay, (int, float)) or delay < 0
            for delay in self.backoff
        ):
            raise ConfigError(f"backoff={list(self.backoff)!r}: seconds for each redelivery")
        number = isinstance(self.start, int) and not isinstance(self.start, bool)
        if (number and int(self.start) < 1) or (
            not number and self.start not in ("all", "new", "last")
        ):
            raise ConfigError(f"start={self.start!r}: 'all', 'new', 'last' or a sequence")

    def _check_combinations(self) -> None:
        if self.max_deliver is not None and self.dead_letter is None:
            raise ConfigError(
                f"max_deliver={self.max_deliver} needs dead_letter=, the subject that a message "
                f"goes to when its deliveries are used up; else it would be lost"
            )
        if not self.ordered:
            return
        for name, value in (
            ("durable", self.durable),
            ("max_deliver", self.max_deliver),
            ("dead_letter", self.dead_letter),
            ("double_ack", self.double_ack),
            ("manual_ack", self.manual_ack),
            ("batch", self.batch),
        ):
            if value:
                raise ConfigError(
                    f"{name} means nothing with ordered=True: an ordered consumer "
                    f"follows the stream and acknowledges nothing"
                )
        if self.concurrency not in (None, 1):
            raise ConfigError("concurrency above 1 means nothing with ordered=True")

    @property
    def name(self) -> str:
        """The handler's name, for logs and statistics."""
        return function_name(self.handler)

    @property
    def wanted_type(self) -> Any:
        """The type of `msg.data`."""
        if self.data_type is not None:
            return codec.resolve(self.data_type)
        annotated = annotated_type(self.handler)
        return dict if annotated is None else annotated

    def config(self, name: str, start_sequence: int | None = None) -> dict[str, Any]:
        """The consumer's configuration, as the server takes it. (NATS ADR-15, ADR-13)

        The server's own `max_deliver` stays unlimited: a process killed in the last delivery would
        leave the message undelivered and unsaid. The limit is kept by the consumer.
        """
        policies = {"all": "all", "new": "new", "last": "last"}
        config: dict[str, Any] = {
            "ack_policy": "none" if self.ordered else "explicit",
            "deliver_policy": policies.get(str(self.start), "by_start_sequence"),
            "replay_policy": "instant",
            "max_deliver": 1 if self.ordered else -1,
        }
        if self.durable is None:
            config["name"] = name
            config["inactive_threshold"] = nanoseconds(INACTIVE_THRESHOLD)
        else:
            config["durable_name"] = config["name"] = name
        if not self.ordered:
            config["ack_wait"] = nanoseconds(self.ack_wait)
            config["max_ack_pending"] = 65_536
        else:
            config["mem_storage"] = True
            config["num_replicas"] = 1
        if self.subject is not None:
            config["filter_subject"] = self.subject
        if start_sequence is not None:
            config["deliver_policy"] = "by_start_sequence"
            config["opt_start_seq"] = start_sequence
        elif config["deliver_policy"] == "by_start_sequence":
            config["opt_start_seq"] = self.start
        return config
