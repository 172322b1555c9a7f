"""TestClient with an app that has scheduled jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tidings import App, ConfigError
from tidings.testing import JobFailedError, TestClient

MakeClient = Callable[[App], TestClient]


def reporting() -> App:
    app = App("reporting")

    @app.cron("0 9 29 feb *")
    async def report():
        await app.publish("reports.morning", {"total": 42})

    @app.cron("0 9 29 feb *", name="clean-up")
    def clean_up():
        raise LookupError("nothing to clean")

    return app


async def test_a_test_runs_a_job_and_waits_for_its_end() -> None:
    async with TestClient(reporting()) as client:  # its own server has JetStream
        await client.run_cron("report")
        [message] = await client.wait_for("reports.morning")
        assert message.data == {"total": 42}
        assert client.consumed("report").handled == 1


def test_a_synchronous_test_does_the_same(test_client: MakeClient) -> None:
    with test_client(reporting()) as client:
        client.run_cron("report")
        client.wait_for("reports.morning")


async def test_a_run_that_raises_fails_the_test(test_client: MakeClient) -> None:
    async with test_client(reporting()) as client:
        with pytest.raises(JobFailedError, match="the run of clean-up raised") as caught:
            await client.run_cron("clean-up")
        assert caught.value.job == "clean-up"


async def test_a_server_that_several_tests_use_has_no_pulls_of_the_last_one(
    test_client: MakeClient,
) -> None:
    for _ in range(2):  # a message for a pull of the first app would be lost until its redelivery
        async with test_client(reporting()) as client:
            await client.run_cron("report")


async def test_a_run_that_does_not_end_in_time_fails_the_test(test_client: MakeClient) -> None:
    app = App("reporting")
    released = asyncio.Event()

    @app.cron("0 9 29 feb *")
    async def report():
        await released.wait()

    async with test_client(app) as client:
        with pytest.raises(JobFailedError, match=r"did not end within 0\.05 s"):
            await client.run_cron("report", timeout=0.05)
        released.set()


async def test_a_job_that_is_none_is_told(test_client: MakeClient) -> None:
    async with test_client(reporting()) as client:
        with pytest.raises(ConfigError, match="no job 'repot'; its jobs are: report, clean-up"):
            await client.run_cron("repot")
