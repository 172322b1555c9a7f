"""CronPlan: compares the declared jobs with the schedules on the server, and applies them."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Sequence
from datetime import datetime

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, JetStreamApiError, WrongSequenceError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.capability import FIRST_WITH_CRON, check_server
from tidings.jetstream.election import through_election
from tidings.jetstream.expected import Expected
from tidings.jetstream.get import stored_message
from tidings.jetstream.publish import PUBLISH_TIMEOUT, publish_stored
from tidings.jetstream.schedule.spec import (
    CronSpec,
    run_subject,
    schedule_subject,
    stream_name,
)
from tidings.log import logger
from tidings.text import printable

# Schedules of one service that are read.
MOST_JOBS = 1000
# Instances that start at the same time write the same schedule: so often it is compared again.
TRIES = 5

_COMPARED = ("Nats-Schedule", "Nats-Schedule-Target", "Nats-Schedule-Time-Zone")


class Held(msgspec.Struct, frozen=True):
    """A schedule on the server.

    Attributes:
        headers: its headers.
        sequence: its sequence in the stream.
        since: when it was written.
    """

    headers: Headers
    sequence: int
    since: datetime

    @property
    def schedule(self) -> str:
        """The expression, without the second if that is 0."""
        text = printable(self.headers.get("Nats-Schedule") or "")
        return text.removeprefix("0 ")

    @property
    def tz(self) -> str:
        """The time zone; "" for UTC."""
        return printable(self.headers.get("Nats-Schedule-Time-Zone") or "")

    def __str__(self) -> str:
        return f"{self.schedule} ({self.tz})" if self.tz else self.schedule


class CronPlan(msgspec.Struct, frozen=True):
    """What has to be done about one job.

    Attributes:
        name: the job's name.
        wanted: the declaration; None if the app does not declare the job any more.
        held: the schedule on the server; None if there is none.
        is_done: whether the schedule is as declared.
    """

    name: str
    wanted: CronSpec | None
    held: Held | None
    is_done: bool = False

    @property
    def is_left_over(self) -> bool:
        """Whether the server holds a schedule that the app does not declare any more."""
        return self.wanted is None

    def __str__(self) -> str:
        name = printable(self.name)
        if self.wanted is None:
            return (
                f"{name}: no longer declared, the server goes on with {self.held}; "
                f"`tidings cron apply --prune` removes it"
            )
        if self.held is None:
            return f"{name}: create {self.wanted.schedule}"
        if self.is_done:
            return f"{name}: as declared, {self.wanted.schedule}"
        return f"{name}: change {self.held} -> {self.wanted.schedule}"


async def plan_crons(api: JetStreamApi, service: str, specs: Sequence[CronSpec]) -> list[CronPlan]:
    """Compare the declared jobs of a service with the schedules on the server.

    Raises:
        JetStreamUnavailableError: JetStream does not answer.
        JetStreamApiError: the server refuses to describe the stream.
    """
    names = [spec.name for spec in specs]
    left_over = [name for name in await job_names(api, service) if name not in names]
    plans = [await _plan(api, service, spec.name, spec) for spec in specs]
    plans += [await _plan(api, service, name, None) for name in left_over]
    return [plan for plan in plans if plan.wanted is not None or plan.held is not None]


async def job_names(api: JetStreamApi, service: str) -> list[str]:
    """Return the names of the jobs of which the server holds a schedule.

    Raises:
        JetStreamUnavailableError, JetStreamApiError: as `plan_crons`.
    """
    asked = {"subjects_filter": schedule_subject(service, "*")}
    try:
        info = await api.call(f"STREAM.INFO.{stream_name(service)}", asked)
    except JetStreamApiError as error:
        if error.err_code == ErrorCode.STREAM_NOT_FOUND:
            return []
        raise
    subjects = sorted(info["state"].get("subjects") or {})
    return [subject.rpartition(".")[2] for subject in subjects[:MOST_JOBS]]


async def _plan(api: JetStreamApi, service: str, name: str, wanted: CronSpec | None) -> CronPlan:
    held = await held_schedule(api, service, name)
    is_done = False
    if wanted is not None and held is not None:
        headers = wanted.headers(service)
        is_done = all(held.headers.get(each) == headers.get(each) for each in _COMPARED)
    return CronPlan(name, wanted, held, is_done)


async def held_schedule(api: JetStreamApi, service: str, name: str) -> Held | None:
    """Return a job's schedule on the server, or None.

    Raises:
        JetStreamUnavailableError, JetStreamApiError: as `plan_crons`.
    """
    subject = schedule_subject(service, name)
    try:
        found = await stored_message(api, stream_name(service), last_on=subject)
    except JetStreamApiError as error:
        if error.err_code == ErrorCode.STREAM_NOT_FOUND:
            return None
        raise
    return None if found is None else Held(found.headers, found.sequence, found.time)


async def apply_crons(api: JetStreamApi, service: str, plans: Sequence[CronPlan]) -> None:
    """Write the schedules that differ. A schedule that is as declared is not written again,
    because an interval would begin anew.

    Raises:
        ConfigError: the server refuses a schedule.
        JetStreamError: the server does not answer.
    """
    for plan in plans:
        if plan.wanted is not None and not plan.is_done:
            await _apply(api, service, plan, plan.wanted)


async def _apply(api: JetStreamApi, service: str, plan: CronPlan, spec: CronSpec) -> None:
    check_server(api, FIRST_WITH_CRON, "app.cron")
    for _ in range(TRIES):
        try:
            await publish_stored(
                api,
                schedule_subject(service, spec.name),
                b"",
                Headers(spec.headers(service)),
                msg_id=secrets.token_hex(16),
                timeout=PUBLISH_TIMEOUT,
                expected=Expected(subject_sequence=plan.held.sequence if plan.held else 0),
            )
        except WrongSequenceError:  # another instance was faster
            again = functools.partial(_plan, api, service, spec.name, spec)
            plan = await through_election(again)
            if plan.is_done:
                return
        except JetStreamApiError as error:
            raise ConfigError(
                f"cron {spec.name}: the server refuses {str(spec.schedule)!r}: {error.description}"
            ) from None
        else:
            logger.info("applied the schedule of job %s", printable(str(plan)))
            return
    raise ConfigError(
        f"cron {spec.name}: other instances write another schedule at the same time; stop those of "
        f"another version, and start again"
    )


async def prune_cron(api: JetStreamApi, service: str, name: str) -> None:
    """Remove a job's schedule, its waiting runs and its consumer from the server.

    Raises:
        JetStreamError: the server does not answer, or refuses.
    """
    stream = stream_name(service)
    for subject in (schedule_subject(service, name), run_subject(service, name)):
        await api.call(f"STREAM.PURGE.{stream}", {"filter": subject})
    try:
        await api.call(f"CONSUMER.DELETE.{stream}.{name}")
    except JetStreamApiError as error:
        if error.err_code != ErrorCode.CONSUMER_NOT_FOUND:
            raise
