"""Runs of scheduled jobs that a test starts and waits for."""

from __future__ import annotations

import asyncio
import time

from tidings.app import App
from tidings.checks import Seconds, check_seconds
from tidings.errors import ConfigError
from tidings.internals import plan_of
from tidings.jetstream.schedule.spec import run_subject
from tidings.testing.consumed import POLL, consumed


class JobFailedError(AssertionError):
    """A run of a scheduled job that the test started raised, or did not end in time.

    Attributes:
        job: the name of the job.
    """

    def __init__(self, job: str, what: str) -> None:
        self.job = job
        super().__init__(f"the run of {job} {what}")


class JobRun:
    """A run of a scheduled job, from just before it starts.

    Args:
        app: the app under test.
        job: the name of the job.
        timeout: seconds that the run may take.

    Attributes:
        subject: where a message starts the run.

    Raises:
        ConfigError: if the app has no job of this name, or if `timeout` is not a number of seconds.
        NotStartedError: if the app is not running.
    """

    def __init__(self, app: App, job: str, timeout: Seconds) -> None:
        names = [spec.name for spec in plan_of(app).crons]
        if job not in names:
            known = ", ".join(names) or "none"
            raise ConfigError(f"the app has no job {job!r}; its jobs are: {known}")
        self.subject = run_subject(app.service_name, job)
        self._app = app
        self._job = job
        self._timeout = check_seconds("timeout", timeout, least=0)
        before = consumed(app, job)
        self._handled, self._failed = before.handled, before.failed
        self._deadline = time.monotonic() + self._timeout

    async def ended(self) -> None:
        """Wait until the run has ended.

        Raises:
            JobFailedError: if it raised, or did not end in time.
        """
        while not self._is_over():  # noqa: ASYNC110 - the app may run in another loop
            await asyncio.sleep(POLL)

    def ended_sync(self) -> None:
        """Block until the run has ended, like `ended`."""
        while not self._is_over():
            time.sleep(POLL)

    def _is_over(self) -> bool:
        stats = consumed(self._app, self._job)
        if stats.failed > self._failed:
            raise JobFailedError(self._job, "raised: the log has its error")
        if stats.handled > self._handled:
            return True
        if time.monotonic() > self._deadline:
            raise JobFailedError(self._job, f"did not end within {self._timeout:g} s")
        return False
