"""CronSpec: a scheduled job as it is declared, and its names on the server."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from tidings.checks import check_flag, check_name, check_seconds
from tidings.cron import CronExpression
from tidings.errors import ConfigError
from tidings.functions import function_name, is_async
from tidings.handlers.middleware import Middleware
from tidings.handlers.signatures import check_handler, signature_of
from tidings.jetstream.consumer.instances import fitted
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.schedule.late import Late
from tidings.jetstream.streams.stream import UNLIMITED, Stream

PREFIX = "_cron"
STREAM_PREFIX = "CRON_"
# Runs of a job with overlap=True that may go on at the same time.
MOST_RUNS = 64
# Runs of one job that wait on the server. If there were more, the server would remove the oldest,
# which may be going on, and would let the next one begin.
MOST_WAITING = 10_000

_NAME = re.compile(r"[A-Za-z0-9_\-]{1,200}")
# Options that would make the stream of the jobs lose schedules or runs.
_LOSING = ("max_age", "max_msgs", "max_bytes", "max_msgs_per_subject")


class CronSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduled job as it is declared.

    Attributes: as the arguments of `App.cron`, and:
        function: the function to run.
        given_name: the argument `name`.

    Raises:
        ConfigError: the function takes other arguments than a message, or an option is wrong.
    """

    function: Callable[..., Any]
    schedule: CronExpression
    given_name: str | None = None
    overlap: bool = False
    ttl: float | None = None
    timeout: float | None = None
    middlewares: tuple[Middleware, ...] = ()

    def __post_init__(self) -> None:
        check_handler(self.function, "" if self._takes_nothing else "the message of the run")
        check_flag("overlap", self.overlap)
        if self.given_name is not None:
            check_name("name", self.given_name, _NAME, "letters, digits, '_' and '-', at most 200")
        if self.ttl is not None:
            check_seconds("ttl", self.ttl, hint="or None for no limit")
        self.consumer("service")

    @property
    def name(self) -> str:
        """The job's name on the server."""
        return self.given_name or fitted(function_name(self.function))

    def check_unique(self, declared: Iterable[CronSpec]) -> None:
        """Check that the app has no other job of this name.

        Raises:
            ConfigError: it has.
        """
        if any(other.name == self.name for other in declared):
            raise ConfigError(
                f"the app has two jobs named {self.name!r}, and one schedule would replace the "
                f"other: give one of them another name="
            )

    def headers(self, service: str) -> dict[str, str]:
        """Return the headers of the message that is the schedule."""
        headers = {
            "Nats-Schedule": self.schedule.server_form,
            "Nats-Schedule-Target": run_subject(service, self.name),
        }
        if self.schedule.tz is not None:
            headers["Nats-Schedule-Time-Zone"] = self.schedule.tz
        return headers

    def consumer(self, service: str) -> ConsumerSpec:
        """Return the consumer that all instances of a service share to run the job."""
        most = MOST_RUNS if self.overlap else 1
        return ConsumerSpec(
            handler=_taking_message(self.function) if self._takes_nothing else self.function,
            stream=stream_name(service),
            durable=self.name,
            subject=run_subject(service, self.name),
            data_type=bytes,
            concurrency=most,
            prefetch=0,
            max_ack_pending=most,
            timeout=self.timeout,
            middlewares=self.middlewares,
            once=True,
            skip=Late(self.name, overlap=self.overlap, ttl=self.ttl),
        )

    @property
    def _takes_nothing(self) -> bool:
        signature = signature_of(self.function)
        if signature is None:
            return False
        required = (each.default is each.empty for each in signature.parameters.values())
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        kinds = (each.kind in variable for each in signature.parameters.values())
        return not any(
            needed and not is_variable for needed, is_variable in zip(required, kinds, strict=True)
        )


def _taking_message(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes a message, which it ignores, and is of the same kind."""

    async def run(message: StreamMessage[bytes]) -> None:
        await function()

    def run_in_thread(message: StreamMessage[bytes]) -> None:
        function()

    chosen: Callable[..., Any] = run if is_async(function) else run_in_thread
    chosen.__qualname__ = chosen.__name__ = function_name(function)
    return chosen


# Names on the server.


def stream_name(service: str) -> str:
    """Return the name of the stream that holds the schedules and the runs of a service."""
    return STREAM_PREFIX + fitted(service)


def schedule_subject(service: str, job: str) -> str:
    """Return the subject of a job's schedule; `*` stands for every job."""
    return f"{PREFIX}.{fitted(service)}.at.{job}"


def run_subject(service: str, job: str) -> str:
    """Return the subject of a job's runs."""
    return f"{PREFIX}.{fitted(service)}.run.{job}"


def cron_stream(service: str, declared: Sequence[Stream] = ()) -> Stream:
    """Return the stream that holds the schedules and the runs of a service.

    It is the one of this name that the app declares, to choose replicas for example, or a default.

    Raises:
        ConfigError: the declared stream would break the promises of jobs.
    """
    name = stream_name(service)
    subject = f"{PREFIX}.{fitted(service)}.>"
    for stream in declared:
        if stream.name == name:
            _check_stream(stream, subject)
            return stream
    return Stream(
        name,
        subjects=[subject],
        description=f"scheduled jobs of {service}",
        retention="workqueue",
        max_msgs_per_subject=MOST_WAITING,
        schedules=True,
    )


def _check_stream(stream: Stream, subject: str) -> None:
    if stream.retention != "workqueue" or not stream.schedules or subject not in stream.subjects:
        raise ConfigError(
            f"the stream {stream.name} holds the app's jobs: declare it as Stream("
            f"{stream.name!r}, subjects=[{subject!r}], retention='workqueue', schedules=True)"
        )
    for option in _LOSING:
        if getattr(stream, option) not in (None, UNLIMITED):
            raise ConfigError(
                f"the stream {stream.name} holds the app's jobs, and {option}="
                f"{getattr(stream, option)!r} would lose schedules or runs: leave it out"
            )
