"""ConsumerSpec: a stream's listener as it was written down."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from tidings import codec
from tidings.errors import ConfigError
from tidings.handlers import check_handler, function_name, wanted_type
from tidings.jetstream.api import nanoseconds
from tidings.middleware import Middleware
from tidings.subject import check_pattern, check_subject
from tidings.time_limit import check_timeout

# What the server takes as a name of a stream or consumer, and a file system as a folder.
_NAME = re.compile(r"[A-Za-z0-9_\-=]+")

# Seconds until the server removes an ephemeral consumer that nobody pulls from.
INACTIVE_THRESHOLD = 300.0

# The shortest ack_wait: below it a busy loop is late with saying that a handler is at work.
LEAST_ACK_WAIT = 0.1

# Messages delivered and not settled yet, those that wait for their redelivery included.
MAX_ACK_PENDING = 65_536

# The server counts nanoseconds in 64 bits.
MOST_SECONDS = 100 * 365 * 86_400.0

_STARTS = ("all", "new", "last")
_FLAGS = ("double_ack", "manual_ack", "ordered")

# Options that say something of acknowledging, which an ordered consumer does not do.
_NOT_ORDERED = (
    *("durable", "max_deliver", "dead_letter", "double_ack", "manual_ack"),
    *("batch", "ack_wait", "backoff"),
)


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
    timeout: float | None = None
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
        check_timeout(self.timeout)
        codec.decoder(self.wanted_type)
        self._check_numbers()
        self._check_combinations()

    def _check_numbers(self) -> None:
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={getattr(self, name)!r}: True or False")
        for name in ("concurrency", "max_deliver", "batch"):
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and value >= 1):
                raise ConfigError(f"{name}={value!r}: a whole number above 0")
        for name, least in (("ack_wait", LEAST_ACK_WAIT), ("batch_timeout", 0.001)):
            value = getattr(self, name)
            if not (_is_seconds(value) and value >= least):
                raise ConfigError(f"{name}={value!r}: seconds, at least {least:g}")
        if not self.backoff or not all(_is_seconds(delay) for delay in self.backoff):
            raise ConfigError(f"backoff={list(self.backoff)!r}: seconds before each redelivery")
        if self.start not in _STARTS and not (_is_whole(self.start) and int(self.start) >= 1):
            raise ConfigError(f"start={self.start!r}: 'all', 'new', 'last' or a sequence")

    def _check_combinations(self) -> None:
        if self.max_deliver is not None and self.dead_letter is None:
            raise ConfigError(
                f"max_deliver={self.max_deliver} needs dead_letter=, the subject that a message "
                f"goes to when its deliveries are used up; else it would be lost"
            )
        if self.batch is None and self._says("batch_timeout"):
            raise ConfigError("batch_timeout means nothing without batch=")
        if self.batch is not None and self.batch_timeout >= self.ack_wait:
            raise ConfigError(
                f"batch_timeout={self.batch_timeout:g} is to be less than ack_wait, "
                f"{self.ack_wait:g}: the first message of a batch waits so long to be handled"
            )
        if self.batch is not None and self.max_deliver == 1:
            raise ConfigError(
                "max_deliver=1 means no batches: the last delivery of a message before the dead "
                "letter comes alone"
            )
        if self.ordered:
            self._check_ordered()

    def _check_ordered(self) -> None:
        for name in _NOT_ORDERED:
            if self._says(name):
                raise ConfigError(
                    f"{name} means nothing with ordered=True: an ordered consumer "
                    f"follows the stream and acknowledges nothing"
                )
        if self.concurrency not in (None, 1):
            raise ConfigError(
                "concurrency above 1 means nothing with ordered=True: one after the other is what "
                "keeps the order"
            )

    def _says(self, name: str) -> bool:
        """Whether an option was given, and not as it is without."""
        return bool(getattr(self, name) != _DEFAULTS[name])

    @property
    def name(self) -> str:
        """The handler's name, for logs and statistics."""
        return function_name(self.handler)

    @property
    def wanted_type(self) -> Any:
        """The type of `msg.data`: `data_type=`, or that of the signature, or dict."""
        wanted = wanted_type(self.handler, self.data_type)
        return dict if wanted is None else wanted

    def config(self, name: str, start_sequence: int | None = None) -> dict[str, Any]:
        """The consumer's configuration, as the server takes it. (NATS ADR-15, ADR-13)

        The server's own `max_deliver` stays unlimited: a process killed in the last delivery would
        leave the message undelivered and unsaid. The limit is kept by the consumer.
        """
        config: dict[str, Any] = {
            "name": name,
            "deliver_policy": self.start if self.start in _STARTS else "by_start_sequence",
            "replay_policy": "instant",
        }
        if self.durable is None:
            config["inactive_threshold"] = nanoseconds(INACTIVE_THRESHOLD)
        else:
            config["durable_name"] = name
        config |= {"ack_policy": "explicit", "max_deliver": -1}
        config |= {"ack_wait": nanoseconds(self.ack_wait), "max_ack_pending": MAX_ACK_PENDING}
        if self.subject is not None:
            config["filter_subject"] = self.subject
        if start_sequence is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start_sequence}
        elif self.start not in _STARTS:
            config["opt_start_seq"] = self.start
        return config


_DEFAULTS = {field.name: field.default for field in fields(ConsumerSpec)}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_seconds(value: object) -> bool:
    """Whether it is a number of seconds that the server can count."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return math.isfinite(value) and 0 <= value <= MOST_SECONDS
