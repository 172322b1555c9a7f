"""Crons: the scheduled jobs of one run of an app."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.capability import FIRST_WITH_CRON, check_server
from tidings.jetstream.consumer.remote import RestoreStream
from tidings.jetstream.election import through_election
from tidings.jetstream.schedule.plan import CronPlan, apply_crons, plan_crons
from tidings.jetstream.schedule.spec import CronSpec, cron_stream
from tidings.jetstream.streams.plan import StreamPlan, apply_streams, plan_stream
from tidings.jetstream.streams.stream import Stream
from tidings.log import logger
from tidings.text import printable


class Crons:
    """The scheduled jobs of one run of an app.

    Args:
        api: the JetStream API.
        service: the service's name.
        specs: the jobs.
        streams: the streams that the app declares.
    """

    def __init__(
        self,
        api: JetStreamApi,
        service: str,
        specs: Sequence[CronSpec],
        streams: Sequence[Stream],
    ) -> None:
        self._api = api
        self._service = service
        self._specs = specs
        self._streams = streams

    async def plan(self) -> tuple[StreamPlan, list[CronPlan]]:
        """Compare the stream of the jobs, and their schedules, with those on the server.

        Raises:
            ConfigError: the server is too old.
            JetStreamUnavailableError: JetStream does not answer.
        """
        check_server(self._api, FIRST_WITH_CRON, "app.cron")
        stream = cron_stream(self._service, self._streams)
        plan = await through_election(functools.partial(plan_stream, self._api, stream))
        return plan, await self._plan_jobs()

    async def _plan_jobs(self) -> list[CronPlan]:
        work = functools.partial(plan_crons, self._api, self._service, self._specs)
        return await through_election(work)

    async def apply(self, *, warns: bool = True) -> None:
        """Create the stream of the jobs, or change it, and write the schedules that differ.

        Args:
            warns: whether to log the jobs that are no longer declared.

        Raises:
            ConfigError: the server is too old, or refuses a schedule.
            StreamChangeError: the server refuses the stream.
            JetStreamUnavailableError: JetStream does not answer.
        """
        if not self._specs:
            return
        stream, jobs = await self.plan()
        await apply_streams(self._api, [stream])
        self._api.declared[stream.stream.name] = stream.stream.config()
        for each in jobs if warns else ():
            if each.is_left_over:
                logger.warning("job %s", printable(str(each)))
        await apply_crons(self._api, self._service, jobs)

    def restoring(self, restore_stream: RestoreStream) -> RestoreStream:
        """Return what creates a stream again, with the schedules if it is the one of the jobs."""
        stream = cron_stream(self._service, self._streams).name

        async def restore(name: str) -> bool:
            is_there = await restore_stream(name)
            if is_there and name == stream:
                await apply_crons(self._api, self._service, await self._plan_jobs())
            return is_there

        return restore
