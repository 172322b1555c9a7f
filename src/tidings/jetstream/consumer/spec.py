"""ConsumerSpec: a stream's consumer as it is declared."""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import msgspec

from tidings import codec
from tidings.checks import (
    Seconds,
    as_seconds,
    check_choice,
    check_flag,
    check_metadata,
    check_seconds,
    check_text,
    check_whole,
)
from tidings.concurrency.time_limit import check_timeout
from tidings.errors import ConfigError
from tidings.functions import function_name
from tidings.handlers.annotations import Given
from tidings.handlers.middleware import Middleware
from tidings.handlers.parameters import Parameters, read_parameters
from tidings.jetstream.api import JetStreamApi, nanoseconds
from tidings.jetstream.bucket import MOST_REPLICAS, Storage
from tidings.jetstream.consumer.layout import MOST_PARTITIONS, Layout
from tidings.jetstream.consumer.priority import Priority, check_priority
from tidings.jetstream.filters import check_filters
from tidings.jetstream.message import StreamMessage, no_data
from tidings.jetstream.names import check_existing_name
from tidings.jetstream.start import Start, beginning, check_start
from tidings.subject import as_subjects, check_subject

# The shortest ack_wait: a busy loop cannot report progress more often.
LEAST_ACK_WAIT = 0.1

# The largest prefetch: a new consumer allows no more unsettled messages.
MOST_PREFETCHED = 65_536

# The shortest batch_timeout: the resolution of a timer.
LEAST_BATCH_TIMEOUT = 0.001

GIVEN = Given("consume()", StreamMessage)
GIVEN_BATCH = Given("consume(batch=)", StreamMessage, is_batch=True)

_FLAGS = ("double_ack", "manual_ack", "ordered", "headers_only", "create")

# Options about acknowledging, which an ordered consumer does not do.
_NOT_ORDERED = (
    *("durable", "max_deliver", "dead_letter", "double_ack", "manual_ack"),
    *("batch", "ack_wait", "backoff", "prefetch", "max_ack_pending", "priority"),
    *(
        "rate_limit",
        "description",
        "metadata",
        "replicas",
        "storage",
        "inactive_threshold",
        "create",
    ),
)
# Options that are not for a consumer with partitions: it settles each message by itself, and its
# consumers on the server come and go.
_NOT_PARTITIONED = (
    *("ordered", "manual_ack", "batch", "max_ack_pending", "priority", "replicas", "storage"),
    "create",
)
# The shortest lease of a partition, in seconds.
LEAST_LEASE = 2.0
# Options of a consumer that the app creates. With create=False, the app changes nothing.
_CREATED = (
    *("start", "max_ack_pending", "description", "metadata", "replicas", "storage"),
    "inactive_threshold",
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
    subject: str | tuple[str, ...] | None = None
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
    start: Start | None = None
    timeout: float | None = None
    max_ack_pending: int | None = None
    priority: Priority | None = None
    rate_limit: float | None = None
    description: str | None = None
    metadata: Mapping[str, str] | None = None
    headers_only: bool | None = None
    replicas: int | None = None
    storage: Storage | None = None
    inactive_threshold: float | None = None
    create: bool = True
    partitions: int | None = None
    key: int | tuple[int, ...] | None = None
    once: bool = False  # a message whose handler raised is not delivered again
    skip: Skip | None = None  # acknowledges a message without calling the handler
    middlewares: tuple[Middleware, ...] = ()

    def __post_init__(self) -> None:
        check_existing_name(self.stream, "stream")
        if self.durable is not None:
            check_existing_name(self.durable, "durable")  # a new one is checked at its creation
        check_filters(self.subject)
        if self.dead_letter_subject is not None:
            check_subject(self.dead_letter_subject)
        read_parameters(self.handler, self.data_type, self._given)
        check_timeout(self.timeout)
        self._check_numbers()
        self._check_words()
        self._check_combinations()

    def _check_words(self) -> None:
        for name in _FLAGS:
            if self._says(name):
                check_flag(name, getattr(self, name))
        if self.start is not None:
            check_start(self.start)
        if self.priority is not None:
            check_priority(self.priority)
        if self.description is not None:
            check_text("description", self.description, may_be_empty=True)
        if self.metadata is not None:
            check_metadata("metadata", self.metadata)
        if self.storage is not None:
            check_choice("storage", self.storage, ("file", "memory"))

    def _check_numbers(self) -> None:
        for name in ("concurrency", "max_deliver", "batch", "max_ack_pending"):
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
        if self.replicas is not None:
            check_whole("replicas", self.replicas, most=MOST_REPLICAS)
        if self.inactive_threshold is not None:
            check_seconds("inactive_threshold", self.inactive_threshold)
        if self.rate_limit is not None:
            _check_rate(self.rate_limit)

    def _check_combinations(self) -> None:
        if self.max_deliver is not None and self.dead_letter is None:
            raise ConfigError(
                f"max_deliver={self.max_deliver} needs dead_letter=: the subject that keeps a "
                f"message after its last delivery, or DROP to drop it"
            )
        if self.batch is not None:
            self._check_batch()
        elif self._says("batch_timeout"):
            raise ConfigError("batch_timeout requires batch=")
        if self.headers_only:
            self._check_headers_only()
        if self.ordered:
            self._check_ordered()
        if self.partitions is not None or self.key is not None:
            self._check_partitions()
        if not self.create:
            self._check_created()

    def _check_batch(self) -> None:
        if self.prefetch is not None:
            raise ConfigError(
                "prefetch cannot be combined with batch=: tidings fetches as many messages as fill "
                "the lists of the free workers"
            )
        if self.ack_wait is not None:
            self.check_batch_timeout(self.ack_wait)
        if self.max_deliver == 1:
            raise ConfigError(
                "max_deliver=1 excludes batch=: the last delivery of a message comes alone"
            )

    def _check_headers_only(self) -> None:
        if self.parameters.wanted_type not in (None, Any):
            raise ConfigError(
                "headers_only=True excludes a type for the data: no body arrives, and msg.data is "
                "None"
            )
        if self.dead_letter_subject is not None:
            raise ConfigError(
                "dead_letter cannot be combined with headers_only=True: no body arrives to be "
                "kept. Write dead_letter=DROP"
            )

    def _check_partitions(self) -> None:
        if self.partitions is None:
            raise ConfigError("key= requires partitions=, the number of partitions")
        check_whole("partitions", self.partitions, most=MOST_PARTITIONS)
        if self.durable is None:
            raise ConfigError("partitions= requires durable=, the name of the group of instances")
        for name in _NOT_PARTITIONED:
            if self._says(name):
                raise ConfigError(f"{name} cannot be combined with partitions=")
        if self.start in ("last", "last_per_subject"):
            raise ConfigError(
                f"start={self.start!r} cannot be combined with partitions=: write 'all', 'new', a "
                f"sequence or a datetime"
            )
        if self.inactive_threshold is not None:
            check_seconds("inactive_threshold", self.inactive_threshold, least=LEAST_LEASE)
        self.layout  # noqa: B018 - checks names, subjects and key

    @property
    def layout(self) -> Layout:
        """How the group of a consumer with partitions lies on the server.

        Raises:
            ConfigError: key, names or subjects do not fit.
        """
        assert self.partitions is not None
        return Layout.of(self.stream, self.durable or "", self.subjects, self.key, self.partitions)

    def _check_created(self) -> None:
        if self.durable is None:
            raise ConfigError("create=False requires durable=, the name of the existing consumer")
        for name in _CREATED:
            if self._says(name):
                raise ConfigError(
                    f"{name} cannot be combined with create=False: the app neither creates nor "
                    f"changes the consumer"
                )

    def created_options(self) -> list[str]:
        """Return the declared options that only the creation or a change of a consumer applies.

        Where a new consumer starts is not one of them: an existing one goes on where it was.
        """
        return [name for name in _CREATED if name != "start" and self._says(name)]

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
    def decoder(self) -> Callable[[bytes], Any]:
        """What makes `msg.data` of a body."""
        return no_data if self.headers_only else codec.decoder(self.wanted_type)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The filter subjects; empty if none is declared."""
        return () if self.subject is None else as_subjects(self.subject)

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
        if len(self.subjects) == 1:
            options["filter_subject"] = self.subjects[0]
        elif self.subjects:
            options["filter_subjects"] = list(self.subjects)
        if self.priority is not None:
            options |= {"priority_groups": [self.priority.group], **self.priority.config()}
        threshold = self.inactive_threshold
        plain = {
            "description": self.description,
            "metadata": None if self.metadata is None else dict(self.metadata),
            "headers_only": self.headers_only,
            "num_replicas": self.replicas,
            "mem_storage": None if self.storage is None else self.storage == "memory",
            "max_ack_pending": self.max_ack_pending,
            "inactive_threshold": None if threshold is None else nanoseconds(threshold),
        }
        return options | {name: value for name, value in plain.items() if value is not None}

    def beginning(self) -> dict[str, Any]:
        """Return where a new consumer begins, with the server's names."""
        return {} if self.start is None else beginning(self.start)


def _check_rate(value: object) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return
    raise ConfigError(f"rate_limit must be a positive number of messages per second, got {value!r}")


class ConsumeOptions(TypedDict, total=False):
    """The options of `App.consume`, beside the stream."""

    durable: str | None
    subject: str | Sequence[str] | None
    data_type: Any
    concurrency: int | None
    prefetch: int | None
    ack_wait: Seconds | None
    max_deliver: int | None
    backoff: Sequence[Seconds] | None
    dead_letter: str | Drop | None
    double_ack: bool
    manual_ack: bool
    ordered: bool
    batch: int | None
    batch_timeout: Seconds
    start: Start | None
    timeout: Seconds | None
    max_ack_pending: int | None
    priority: Priority | None
    rate_limit: float | None
    description: str | None
    metadata: Mapping[str, str] | None
    headers_only: bool | None
    replicas: int | None
    storage: Storage | None
    inactive_threshold: Seconds | None
    create: bool
    partitions: int | None
    key: int | Sequence[int] | None


# The options that may be a `timedelta`.
_SECONDS = ("ack_wait", "batch_timeout", "timeout", "inactive_threshold")


def consumer_spec(
    handler: Callable[..., Any], stream: str, **options: Unpack[ConsumeOptions]
) -> ConsumerSpec:
    """Return the declaration of a consumer, from the options as users write them.

    Raises:
        ConfigError, SubjectError: see `ConsumerSpec`.
    """
    given: dict[str, Any] = dict(options)
    for name in _SECONDS:
        if name in given:
            given[name] = as_seconds(given[name])
    for name in ("subject", "key"):
        if isinstance(given.get(name), list):  # a spec is compared and kept
            given[name] = tuple(given[name])
    given["backoff"] = _delays(given.get("backoff"))
    return ConsumerSpec(handler=handler, stream=stream, **given)


def _delays(backoff: Any) -> tuple[float, ...] | None:
    if backoff is None:
        return None
    if not isinstance(backoff, (list, tuple)):
        raise ConfigError(
            f"backoff must be a list of seconds, one for each redelivery, got {backoff!r}"
        )
    return tuple(map(as_seconds, backoff))


_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(ConsumerSpec)}
