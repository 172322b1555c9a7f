"""Job: a scheduled job as the server holds it, and what an operator does with it."""

from __future__ import annotations

import math
import secrets
from datetime import UTC, datetime, timedelta

import msgspec

from tidings.cron import parse_cron
from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, JetStreamApiError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import stored_message
from tidings.jetstream.publish import PUBLISH_TIMEOUT, publish_stored
from tidings.jetstream.schedule.plan import MOST_JOBS, Held
from tidings.jetstream.schedule.spec import (
    PREFIX,
    run_subject,
    schedule_subject,
    stream_name,
)

# A pause without an end, in seconds. The server counts nanoseconds in 64 bits.
FOREVER = timedelta(days=36_500)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduled job as the server holds it.

    Attributes:
        service: the service, as in the subjects of the job.
        name: its name.
        held: its schedule.
        paused: the time until which no run begins; None if it is not paused.
        running: its runs that instances have.
        waiting: its runs that no instance has yet.
        is_known: whether an instance of the service has ever run with this job.
    """

    service: str
    name: str
    held: Held
    paused: datetime | None = None
    running: int = 0
    waiting: int = 0
    is_known: bool = False

    def due_after(self, now: datetime) -> datetime:
        """Return when the job is due next.

        Raises:
            MissingExtraError: the extra `cron` is not installed.
            ConfigError: the schedule is not one that tidings knows.
        """
        headers = self.held.headers
        cron = parse_cron(
            headers.get("Nats-Schedule") or "", headers.get("Nats-Schedule-Time-Zone")
        )
        if cron.interval is None:
            return next(cron.times(now))
        passed = (now - self.held.since).total_seconds() / cron.interval
        return self.held.since + timedelta(seconds=(math.floor(passed) + 1) * cron.interval)


async def list_jobs(api: JetStreamApi, service: str | None = None) -> list[Job]:
    """Return the jobs on the server, in the order of services and names.

    Args:
        api: the JetStream API.
        service: the name of a service; None for all.

    Raises:
        JetStreamError: the server does not answer, or refuses.
    """
    subject = f"{PREFIX}.*.at.*" if service is None else schedule_subject(service, "*")
    jobs: list[Job] = []
    for stream in await api.streams_taking(subject):
        info = await api.call(f"STREAM.INFO.{stream}", {"subjects_filter": subject})
        for found in sorted(info["state"].get("subjects") or {})[:MOST_JOBS]:
            job = await _job(api, stream, found)
            if job is not None:
                jobs.append(job)
    return sorted(jobs, key=lambda job: (job.service, job.name))


async def _job(api: JetStreamApi, stream: str, subject: str) -> Job | None:
    tokens = subject.split(".")
    stored = await stored_message(api, stream, last_on=subject)
    if stored is None or len(tokens) != 4 or not stored.headers.get("Nats-Schedule"):
        return None
    job = Job(
        service=tokens[1],
        name=tokens[3],
        held=Held(stored.headers, stored.sequence, stored.time),
    )
    try:
        info = await api.call(f"CONSUMER.INFO.{stream}.{job.name}")
    except JetStreamApiError as error:
        if error.err_code != ErrorCode.CONSUMER_NOT_FOUND:
            raise
        return job
    until = datetime.fromisoformat(info["config"]["pause_until"]) if info.get("paused") else None
    return msgspec.structs.replace(
        job,
        paused=until,
        running=info["num_ack_pending"],
        waiting=info["num_pending"],
        is_known=True,
    )


async def run_job(api: JetStreamApi, service: str, name: str) -> int:
    """Let an instance run a job now, as if it were due. Returns the sequence of the run.

    Raises:
        JetStreamError: the server does not answer, or there is no stream of jobs.
    """
    ack = await publish_stored(
        api,
        run_subject(service, name),
        b"",
        Headers(),
        msg_id=secrets.token_hex(16),
        timeout=PUBLISH_TIMEOUT,
    )
    return ack.sequence


async def pause_job(api: JetStreamApi, service: str, name: str, span: timedelta) -> datetime:
    """Let no run of a job begin for a while. Returns when the pause ends.

    Raises:
        ConfigError: no instance of the service has run with this job yet.
        JetStreamError: the server does not answer, or refuses.
    """
    until = datetime.now(UTC) + span
    await _set_pause(api, service, name, until)
    return until


async def resume_job(api: JetStreamApi, service: str, name: str) -> None:
    """End the pause of a job. If a run became due meanwhile, it begins now.

    Raises:
        ConfigError, JetStreamError: as `pause_job`.
    """
    await _set_pause(api, service, name, None)


async def _set_pause(api: JetStreamApi, service: str, name: str, until: datetime | None) -> None:
    asked = {} if until is None else {"pause_until": until.isoformat().replace("+00:00", "Z")}
    try:
        await api.call(f"CONSUMER.PAUSE.{stream_name(service)}.{name}", asked)
    except JetStreamApiError as error:
        if error.err_code not in (ErrorCode.CONSUMER_NOT_FOUND, ErrorCode.STREAM_NOT_FOUND):
            raise
        raise ConfigError(
            f"job {name}: no instance of the service has run with it yet, so there is nothing to "
            f"pause or to resume: start the service first"
        ) from None
