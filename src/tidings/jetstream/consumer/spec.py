"""ConsumerSpec: a stream's consumer as it is declared."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from tidings.checks import check_flag, check_seconds, check_whole
from tidings.concurrency.time_limit import check_timeout
from tidings.errors import ConfigError
from tidings.functions import function_name
from tidings.handlers.annotations import Given
from tidings.handlers.middleware import Middleware
from tidings.handlers.parameters import Parameters, read_parameters
from tidings.jetstream.api import JetStreamApi, nanoseconds
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.names import check_existing_name
from tidings.subject import check_pattern, check_subject

# The shortest ack_wait: a busy loop cannot report progress more often.
LEAST_ACK_WAIT = 0.1

# The largest prefetch: a new consumer allows no more unsettled messages.
MOST_PREFETCHED = 65_536

# The shortest batch_timeout: the resolution of a timer.
LEAST_BATCH_TIMEOUT = 0.001

GIVEN = Given("consume()", StreamMessage)
GIVEN_BATCH = Given("consume(batch=)", StreamMessage, is_batch=True)

_STARTS = ("all", "new", "last")
_FLAGS = ("double_ack", "manual_ack", "ordered")

# Options about acknowledging, which an ordered consumer does not do.
_NOT_ORDERED = (
    *("durable", "max_deliver", "dead_letter", "double_ack", "manual_ack"),
    *("batch", "ack_wait", "backoff", "prefetch"),
)


Skip = Callable[[JetStreamApi, StreamMessage[Any]], Awaitable[bool]]


class Drop(enum.Enum):
    """What happens to a message that is given up without a dead letter."""

    DROP = "drop"  # it is logged, counted and not delivered again

    def __repr__(self) -> str:
        return self.name


DROP = Drop.DROP
"""`dead_letter=DROP`: a message that is given up is dropped, logged and counted."""


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer as it is declared, with every check that needs no server.

    An option that is None was not declared, and is not sent to the server.

    Attributes: as the arguments of `App.consume`.

    Raises:
        ConfigError: an option is wrong, or two options contradict each other.
        SubjectError: a subject is not valid.
    """

    handler: Callable[..., Any]
    stream: str
    durable: str | None = None
    subject: str | None = None
    data_type: Any = None
    concurrency: int | None = None
    prefetch: int | None = None
    ack_wait: float | None = None
    max_deliver: int | None = None
    backoff: tuple[float, ...] | None = None
    dead_letter: str | Drop | None = None
    double_ack: bool = False
    manual_ack: bool = False
    ordered: bool = False
    batch: int | None = None
    batch_timeout: float = 0.5
    start: str | int | None = None
    timeout: float | None = None
    max_ack_pending: int | None = None
    once: bool = False  # a message whose handler raised is not delivered again
    skip: Skip | None = None  # acknowledges a message without calling the handler
    middlewares: tuple[Middleware, ...] = ()

    def __post_init__(self) -> None:
        check_existing_name(self.stream, "stream")
        if self.durable is not None:
            check_existing_name(self.durable, "durable")  # a new one is checked at its creation
        if self.subject is not None:
            check_pattern(self.subject)
        if self.dead_letter_subject is not None:
            check_subject(self.dead_letter_subject)
        read_parameters(self.handler, self.data_type, self._given)
        check_timeout(self.timeout)
        self._check_numbers()
        self._check_combinations()

    def _check_numbers(self) -> None:
        for name in _FLAGS:
            check_flag(name, getattr(self, name))
        for name in ("concurrency", "max_deliver", "batch"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value)
        if self.prefetch is not None:
            check_whole("prefetch", self.prefetch, least=0, most=MOST_PREFETCHED)
        if self.ack_wait is not None:
            check_seconds("ack_wait", self.ack_wait, least=LEAST_ACK_WAIT)
        check_seconds("batch_timeout", self.batch_timeout, least=LEAST_BATCH_TIMEOUT)
        if self.backoff == ():
            raise ConfigError("backoff must be a list of at least one delay, got []")
        for index, delay in enumerate(self.backoff or ()):
            check_seconds(f"backoff[{index}]", delay, least=0)
        if self.start is not None and self.start not in _STARTS:
            check_whole("start", self.start, hint="or 'all', 'new' or 'last'")

    def _check_combinations(self) -> None:
        if self.max_deliver is not None and self.dead_letter is None:
            raise ConfigError(
                f"max_deliver={self.max_deliver} needs dead_letter=: the subject that keeps a "
                f"message after its last delivery, or DROP to drop it"
            )
        if self.batch is not None and self.prefetch is not None:
            raise ConfigError(
                "prefetch cannot be combined with batch=: tidings fetches as many messages as fill "
                "the lists of the free workers"
            )
        if self.batch is None and self._says("batch_timeout"):
            raise ConfigError("batch_timeout requires batch=")
        if self.batch is not None and self.ack_wait is not None:
            self.check_batch_timeout(self.ack_wait)
        if self.batch is not None and self.max_deliver == 1:
            raise ConfigError(
                "max_deliver=1 excludes batch=: the last delivery of a message comes alone"
            )
        if self.ordered:
            self._check_ordered()

    def check_unique(self, declared: Iterable[ConsumerSpec]) -> None:
        """Check that no other consumer of the app has the same durable name on the same stream.

        Raises:
            ConfigError: there is one.
        """
        if self.durable is None:
            return
        for other in declared:
            if (other.stream, other.durable) == (self.stream, self.durable):
                raise ConfigError(
                    f"{self.name} and {other.name} both consume {self.stream} as durable="
                    f"{self.durable!r}, so each would get only a part of the messages. Give them "
                    f"different names, or handle both kinds of messages in one function"
                )

    def check_batch_timeout(self, ack_wait: float) -> None:
        """Check that a batch is handed over before the server delivers its messages again.

        Raises:
            ConfigError: `batch_timeout` is not shorter than `ack_wait`, in seconds.
        """
        if self.batch is not None and self.batch_timeout >= ack_wait:
            raise ConfigError(
                f"batch_timeout={self.batch_timeout:g} must be less than ack_wait, {ack_wait:g}: "
                f"the first message of a batch waits that long before it is handled"
            )

    def _check_ordered(self) -> None:
        for name in _NOT_ORDERED:
            if self._says(name):
                raise ConfigError(
                    f"{name} cannot be combined with ordered=True: an ordered consumer "
                    f"follows the stream and acknowledges nothing"
                )
        if self.concurrency not in (None, 1):
            raise ConfigError(
                "concurrency above 1 cannot be combined with ordered=True: handling one message "
                "at a time is what keeps the order"
            )

    def _says(self, name: str) -> bool:
        """Whether an option was declared with another value than its default."""
        return bool(getattr(self, name) != _DEFAULTS[name])

    @property
    def name(self) -> str:
        """The handler's name, for logs and statistics."""
        return function_name(self.handler)

    @property
    def wanted_type(self) -> Any:
        """The type of `msg.data`: `data_type=`, the type in the signature, or dict."""
        wanted = self.parameters.wanted_type
        return dict if wanted is None else wanted

    @property
    def parameters(self) -> Parameters:
        """What the handler is called with.

        Raises:
            ConfigError: see `read_parameters`.
        """
        return read_parameters(self.handler, self.data_type, self._given)

    @property
    def _given(self) -> Given:
        return GIVEN if self.batch is None else GIVEN_BATCH

    @property
    def dead_letter_subject(self) -> str | None:
        """The subject of its dead letters; None if it has none."""
        return None if isinstance(self.dead_letter, Drop) else self.dead_letter

    def declared(self) -> dict[str, Any]:
        """Return the declared options that can be updated, with the server's names."""
        options: dict[str, Any] = {}
        if self.ack_wait is not None:
            options["ack_wait"] = nanoseconds(self.ack_wait)
        if self.subject is not None:
            options["filter_subject"] = self.subject
        if self.max_ack_pending is not None:
            options["max_ack_pending"] = self.max_ack_pending
        return options

    def beginning(self) -> dict[str, Any]:
        """Return where a new consumer begins, with the server's names."""
        if self.start is None:
            return {}
        if self.start in _STARTS:
            return {"deliver_policy": self.start}
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self.start}


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(ConsumerSpec)}
