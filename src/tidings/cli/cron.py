"""`tidings cron`: lists scheduled jobs, and plans, applies, runs and pauses them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from tidings.app import App
from tidings.errors import ConfigError, MissingExtraError
from tidings.internals import plan_of
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.schedule.crons import Crons
from tidings.jetstream.schedule.jobs import (
    FOREVER,
    Job,
    list_jobs,
    pause_job,
    resume_job,
    run_job,
)
from tidings.jetstream.schedule.plan import CronPlan, prune_cron
from tidings.jetstream.streams.plan import StreamPlan
from tidings.text import printable

from .console import mention, say, table
from .flags import Flags, connects
from .session import Yes, app_of, confirm, counted, run_with_api

cron = typer.Typer(no_args_is_help=True)

Target = Annotated[
    str,
    typer.Argument(metavar="MODULE:APP", help="App that declares the jobs. It is not started."),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.")]
Span = Annotated[
    str | None,
    typer.Option("--for", help="End the pause by itself after this time: 90s, 30m, 12h, 7d."),
]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_COLUMNS = ("service", "job", "schedule", "time zone", "next (UTC)", "state")


@cron.callback()
def root() -> None:
    """List scheduled jobs, and plan, apply, run and pause them."""


@cron.command()
@connects
def ls(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[MODULE:APP]", help="Only the jobs of this app's service."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    *,
    flags: Flags,
) -> None:
    """List the jobs on the server."""
    app = app_of(target, flags)
    service = None if target is None else app.service_name
    jobs = run_with_api(app, lambda api: list_jobs(api, service))
    now = datetime.now(UTC)
    rows = _with_times(jobs, now)
    if as_json:
        say(json.dumps([_facts(job, due) for job, due in rows], indent=2))
        return
    if not rows:
        mention("no jobs")
        return
    table(_COLUMNS, [_row(job, due) for job, due in rows], numbers=0)


@cron.command()
@connects
def plan(target: Target, *, flags: Flags) -> None:
    """Show what would change on the server."""
    app = app_of(target, flags)
    _show(*_plan(app))


@cron.command()
@connects
def apply(
    target: Target,
    prune: Annotated[
        bool, typer.Option("--prune", help="Also remove jobs that are no longer declared.")
    ] = False,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Write the schedules that differ. The app does the same when it starts.

    A job that is no longer declared stays, because another version of the service may run it. With
    --prune, the command asks for confirmation and removes it, with the runs that wait.
    """
    if yes and not prune:
        raise ConfigError("--yes has no effect without --prune: use both, or neither")
    app = app_of(target, flags)
    stream, jobs = _plan(app)
    _show(stream, jobs)
    left_over = [each.name for each in jobs if each.is_left_over] if prune else []
    if left_over:
        confirm(f"Remove {', '.join(map(printable, left_over))}?", yes)

    async def work(api: JetStreamApi) -> None:
        await _crons(api, app).apply(warns=False)
        for name in left_over:
            await prune_cron(api, app.service_name, name)

    run_with_api(app, work)
    count = sum(not each.is_done and not each.is_left_over for each in jobs)
    done = [counted(count, "schedule")] if count or not stream.is_done else []
    say(f"applied: {done[0]}" if done else "nothing to apply")
    if left_over:
        say(f"removed: {counted(len(left_over), 'job')}")


@cron.command()
@connects
def run(target: Target, job: JobName, *, flags: Flags) -> None:
    """Run a job now, as if it were due. One instance of the service runs it."""
    app = _app_with(target, job, flags)
    run_with_api(app, lambda api: run_job(api, app.service_name, job))
    say(f"{job} is due: the first instance that is free runs it")


@cron.command()
@connects
def pause(target: Target, job: JobName, span: Span = None, *, flags: Flags) -> None:
    """Let no run of a job begin. A run that is going on is not interrupted.

    If the job becomes due during the pause, it runs once after it.
    """
    length = FOREVER if span is None else _span(span)
    app = _app_with(target, job, flags)
    until = run_with_api(app, lambda api: pause_job(api, app.service_name, job, length))
    end = f"`tidings cron resume {target} {job}`" if span is None else _shown(until)
    say(f"{job} is paused until {end}")


@cron.command()
@connects
def resume(target: Target, job: JobName, *, flags: Flags) -> None:
    """End the pause of a job. If it became due meanwhile, it runs once now."""
    app = _app_with(target, job, flags)
    run_with_api(app, lambda api: resume_job(api, app.service_name, job))
    say(f"{job} is not paused")


def _app_with(target: str, job: str, flags: Flags) -> App:
    app = app_of(target, flags)
    names = [spec.name for spec in plan_of(app).crons]
    if job not in names:
        known = ", ".join(names) or "none"
        raise ConfigError(f"the app declares no job {printable(job)!r}; its jobs are: {known}")
    return app


def _crons(api: JetStreamApi, app: App) -> Crons:
    return Crons(api, app.service_name, plan_of(app).crons, app.js.streams)


def _plan(app: App) -> tuple[StreamPlan, list[CronPlan]]:
    stream, jobs = run_with_api(app, lambda api: _crons(api, app).plan())
    if not plan_of(app).crons and not jobs:
        raise ConfigError('the app declares no jobs: add @app.cron("0 9 * * mon-fri")')
    return stream, jobs


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhd])", text)
    if match is None or not float(match[1]):
        raise ConfigError(f"--for {text!r} is not a time: write 90s, 30m, 12h or 7d, for example")
    return min(timedelta(**{_UNITS[match[2]]: float(match[1])}), FOREVER)


def _show(stream: StreamPlan, jobs: Sequence[CronPlan]) -> None:
    if not stream.is_done:
        say(printable(f"stream {stream}"))
    for each in jobs:
        say(printable(str(each)), style="bold red" if each.is_left_over else "")


def _with_times(jobs: Sequence[Job], now: datetime) -> list[tuple[Job, datetime | None]]:
    """Return each job with its next time, if it is known."""
    rows: list[tuple[Job, datetime | None]] = []
    missing: MissingExtraError | None = None
    for job in jobs:
        due = None
        try:
            due = job.due_after(now)
        except MissingExtraError as error:
            missing = error
        except ConfigError:
            pass  # another client wrote the schedule, in a form of its own
        rows.append((job, due))
    if missing is not None:
        print(f"tidings: some times are not shown: {missing}", file=sys.stderr)
    return rows


def _row(job: Job, due: datetime | None) -> tuple[str, ...]:
    cells = (job.service, job.name, job.held.schedule, job.held.tz or "UTC")
    return (*map(printable, cells), _shown(due) if due else "-", _state(job))


def _state(job: Job) -> str:
    if job.paused is not None:
        lasts = job.paused - datetime.now(UTC) > FOREVER / 2
        state = "paused" if lasts else f"paused until {_shown(job.paused)}"
    elif job.running:
        state = "running"
    elif not job.is_known:
        state = "never started"
    else:
        state = "due" if job.waiting else "idle"
    return state


def _facts(job: Job, due: datetime | None) -> dict[str, object]:
    return {
        "service": job.service,
        "job": job.name,
        "schedule": job.held.schedule,
        "tz": job.held.tz or None,
        "next": due.astimezone(UTC).isoformat() if due else None,
        "paused_until": job.paused.isoformat() if job.paused else None,
        "running": job.running,
        "waiting": job.waiting,
    }


def _shown(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
