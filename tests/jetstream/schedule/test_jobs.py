"""`@app.cron`: one run for all instances, held by the server, caught up once, never overlapped."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from support.process import Program
from support.waits import PATIENCE, until
from tidings import App, Group, Middleware, Retry, Stream, StreamMessage
from tidings.errors import ConfigError, JetStreamUnavailableError, StreamChangeError
from tidings.jetstream.schedule.jobs import list_jobs
from tidings.server import NATSCluster, NATSServer

MakeApp = Callable[..., App]

EACH_SECOND = "* * * * * *"
NEVER = "0 0 29 2 *"  # not while the tests run
AFTER_IT = "Nats-Schedule-Next"  # the header that tells the runs of a schedule apart

_numbers = itertools.count(1)


@pytest.fixture
def service() -> str:
    """The name of a service that no other test uses."""
    return f"cron{next(_numbers)}"


async def info(app: App, job: str) -> dict[str, Any]:
    name = app.service_name
    return await app.js.api.call(f"CONSUMER.INFO.CRON_{name}.{job}", timeout=PATIENCE)


async def due_now(app: App, job: str) -> None:
    """Let a job become due, as its schedule does."""
    await app.js.publish(f"_cron.{app.service_name}.run.{job}")


async def redeliver_quickly(app: App, job: str) -> None:
    """Set the time after which the server gives a run to another instance, as an operator does."""
    stream, subject = f"CRON_{app.service_name}", f"_cron.{app.service_name}.run.{job}"
    config = (await info(app, job))["config"] | {"ack_wait": 2_000_000_000}
    asked = {"stream_name": stream, "config": config, "action": "update"}
    await app.js.api.call(f"CONSUMER.CREATE.{stream}.{job}.{subject}", asked)


async def held(app: App, job: str) -> tuple[int, str]:
    """Sequence and expression of a job's schedule on the server."""
    jobs = {each.name: each for each in await list_jobs(app.js.api, app.service_name)}
    return jobs[job].held.sequence, jobs[job].held.schedule


# Runs.


async def test_one_of_several_instances_runs_a_job_each_time(
    make_app: MakeApp, service: str
) -> None:
    runs: list[str] = []

    def instance() -> App:
        app = make_app(service)

        @app.cron(EACH_SECOND)
        async def report(msg: StreamMessage[bytes]) -> None:
            runs.append(msg.headers[AFTER_IT])

        return app

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(instance())
        await until(lambda: len(runs) >= 4)
    assert len(set(runs)) == len(runs)


async def test_a_function_without_arguments_runs_and_so_does_a_synchronous_one(
    make_app: MakeApp, service: str
) -> None:
    app = make_app(service)
    ran: list[str] = []

    @app.cron(NEVER)
    async def first() -> None:
        ran.append("first")

    @app.cron(NEVER, name="other-name")
    def second() -> None:
        ran.append("second")

    async with app:
        await due_now(app, "first")
        await due_now(app, "other-name")
        await until(lambda: sorted(ran) == ["first", "second"])
        names = [stats.name for stats in app.stats().consumers]
    assert names == ["first", "second"]


async def test_runs_do_not_overlap_and_those_that_become_due_meanwhile_are_one(
    make_app: MakeApp, service: str
) -> None:
    begun: list[int] = []
    may_end = asyncio.Event()

    def instance() -> App:
        app = make_app(service)

        @app.cron(NEVER)
        async def report(msg: StreamMessage[bytes]) -> None:
            begun.append(msg.sequence)
            await may_end.wait()

        return app

    async with instance() as app, instance():
        await due_now(app, "report")
        await until(lambda: len(begun) == 1)
        for _ in range(50):
            await due_now(app, "report")
        assert (await info(app, "report"))["num_ack_pending"] == 1
        assert len(begun) == 1
        may_end.set()
        await until(lambda: len(begun) == 2)
        await drained(app, "report")
    first, second = begun
    assert second == first + 50  # the last one


async def drained(app: App, job: str) -> None:
    """Wait until no run of a job waits or goes on."""
    async with asyncio.timeout(PATIENCE):
        while True:
            state = await info(app, job)
            if not state["num_pending"] and not state["num_ack_pending"]:
                return
            await asyncio.sleep(0.01)


async def test_runs_overlap_where_that_is_declared(make_app: MakeApp, service: str) -> None:
    app = make_app(service)
    begun: list[int] = []
    may_end = asyncio.Event()

    @app.cron(NEVER, overlap=True)
    async def report() -> None:
        begun.append(1)
        await may_end.wait()

    async with app:
        for count in (1, 2, 3):
            await due_now(app, "report")
            await until(lambda count=count: len(begun) == count)
        may_end.set()


async def test_what_became_due_while_no_instance_ran_is_caught_up_once(
    make_app: MakeApp, service: str
) -> None:
    runs: list[int] = []

    def instance(schedule: str) -> App:
        app = make_app(service)

        @app.cron(schedule)
        async def report(msg: StreamMessage[bytes]) -> None:
            runs.append(msg.sequence)

        return app

    async with instance(NEVER):
        pass
    async with make_app("operator") as operator:
        for _ in range(40):
            last = await operator.js.publish(f"_cron.{service}.run.report")
    async with instance(NEVER) as app:
        await until(lambda: runs)
        await drained(app, "report")
    assert runs == [last.sequence]


async def test_a_schedule_goes_on_after_a_restart_of_the_server(server: NATSServer) -> None:
    app = App("shop", servers=server.url, reconnect_time_wait=0.05)
    runs: list[int] = []

    @app.cron("@every 1s")
    async def report() -> None:
        runs.append(1)

    async with app:
        await redeliver_quickly(app, "report")  # the server may lose the last acknowledgement
        await until(lambda: runs)
        server.kill()
        await asyncio.to_thread(server.restart)
        count = len(runs)
        await until(lambda: len(runs) >= count + 2)


async def test_a_schedule_is_written_again_if_the_server_has_lost_its_stream(
    make_app: MakeApp, service: str
) -> None:
    app = make_app(service)
    runs: list[int] = []

    @app.cron("@every 1s")
    async def report() -> None:
        runs.append(1)

    async with app:
        await until(lambda: runs)
        await app.js.api.call(f"STREAM.DELETE.CRON_{service}")
        count = len(runs)
        await until(lambda: len(runs) >= count + 2)


async def test_a_run_whose_process_is_killed_is_run_by_another_instance(
    make_app: MakeApp,
    service: str,
    nats_server: NATSServer,
    run_program: Callable[..., Program],
) -> None:
    runs: list[int] = []
    app = make_app(service)

    @app.cron(NEVER)
    async def report(msg: StreamMessage[bytes]) -> None:
        runs.append(msg.delivered)

    async with app:
        await redeliver_quickly(app, "report")
    program = run_program(
        f"""
        import time
        from tidings import App

        app = App({service!r})

        @app.cron({NEVER!r})
        def report():
            print("begun", flush=True)
            time.sleep(60)

        app.run()
        """,
        NATS_URL=nats_server.url,
    )
    async with make_app("operator") as operator:
        await asyncio.to_thread(program.wait_for, "connected to")
        await operator.js.publish(f"_cron.{service}.run.report")
        await asyncio.to_thread(program.wait_for, "begun")
    program.popen.kill()
    async with app:
        await until(lambda: runs)
    assert runs == [2]


async def test_a_run_that_raises_is_logged_and_counted_and_not_repeated(
    make_app: MakeApp, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(service)
    runs: list[int] = []

    @app.cron(NEVER)
    async def report(msg: StreamMessage[bytes]) -> None:
        runs.append(msg.sequence)
        if len(runs) == 1:
            raise LookupError("no data")

    async with app:
        await due_now(app, "report")
        await drained(app, "report")
        await due_now(app, "report")
        await until(lambda: len(runs) == 2)
        await until(lambda: app.stats().consumers[0].handled == 1)
        stats = app.stats().consumers[0]
    assert (stats.failed, stats.termed, stats.redelivered) == (1, 1, 0)
    assert runs[0] != runs[1]
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "report failed" in record.getMessage()


async def test_a_run_that_lasts_longer_than_its_timeout_is_not_repeated(
    make_app: MakeApp, service: str
) -> None:
    app = make_app(service)

    @app.cron(NEVER, timeout=0.05)
    async def report() -> None:
        await asyncio.Event().wait()

    async with app:
        await due_now(app, "report")
        await until(lambda: app.stats().consumers[0].timed_out)
        await drained(app, "report")
        assert app.stats().consumers[0].failed == 1


async def test_a_run_is_repeated_where_it_asks_for_it(make_app: MakeApp, service: str) -> None:
    app = make_app(service)
    runs: list[int] = []

    @app.cron(NEVER)
    async def report(msg: StreamMessage[bytes]) -> None:
        runs.append(msg.delivered)
        if msg.delivered < 3:
            raise Retry(0.01)

    async with app:
        await due_now(app, "report")
        await until(lambda: runs == [1, 2, 3])


async def test_a_run_that_comes_later_than_its_ttl_is_skipped(
    make_app: MakeApp, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def instance(ttl: float) -> App:
        app = make_app(service)

        @app.cron(NEVER, ttl=ttl)
        async def report() -> None:
            runs.append(1)

        return app

    async with instance(60):
        pass
    async with make_app("operator") as operator:
        await operator.js.publish(f"_cron.{service}.run.report")
    async with instance(0.000_001) as app:
        await drained(app, "report")
    assert runs == []
    assert any("its ttl is 1e-06 s" in line for line in caplog.messages)


async def test_a_group_has_jobs_with_its_middlewares(make_app: MakeApp, service: str) -> None:
    seen: list[str] = []

    class Watching(Middleware):
        async def listen_stream(self, message, handle):
            seen.append(message.subject)
            return await handle(message)

    group = Group("reports", middlewares=[Watching])
    ran = asyncio.Event()

    @group.cron(NEVER)
    async def report() -> None:
        ran.set()

    app = make_app(service)
    app.include(group)
    async with app, asyncio.timeout(PATIENCE):
        await due_now(app, "report")
        await ran.wait()
    assert seen == [f"_cron.{service}.run.report"]
    with pytest.raises(ConfigError, match="already included"):
        group.cron(NEVER)(lambda: None)


# Schedules on the server.


def with_job(make_app: MakeApp, service: str, schedule: str, **options: Any) -> App:
    app = make_app(service, **options)

    @app.cron(schedule)
    async def report() -> None: ...

    return app


async def test_a_schedule_that_is_as_declared_is_not_written_again(
    make_app: MakeApp, service: str
) -> None:
    async with with_job(make_app, service, "@every 1h") as app:
        first = await held(app, "report")
    async with with_job(make_app, service, "@every 1h") as app:
        assert await held(app, "report") == first
    async with with_job(make_app, service, "0 9 * * mon-fri") as app:
        sequence, schedule = await held(app, "report")
    assert sequence > first[0]
    assert schedule == "0 9 * * 1-5"


async def test_instances_that_start_at_the_same_time_write_one_schedule(
    make_app: MakeApp, service: str
) -> None:
    apps = [with_job(make_app, service, "@every 1h") for _ in range(5)]
    await asyncio.gather(*(app.connect() for app in apps))
    sequence, _ = await held(apps[0], "report")
    await asyncio.gather(*(app.disconnect() for app in apps))
    assert sequence == 1


async def test_a_job_that_is_no_longer_declared_stays_and_is_logged(
    make_app: MakeApp, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_job(make_app, service, NEVER):
        pass
    app = make_app(service)
    app.cron(NEVER, name="other")(lambda: None)
    async with app:
        assert (await held(app, "report"))[1] == NEVER
    (line,) = [line for line in caplog.messages if "no longer declared" in line]
    assert "tidings cron apply --prune" in line


async def test_the_services_own_stream_may_be_declared_with_other_options(
    make_app: MakeApp, service: str
) -> None:
    own = Stream(
        f"CRON_{service}",
        subjects=[f"_cron.{service}.>"],
        retention="workqueue",
        schedules=True,
        storage="memory",
    )
    async with with_job(make_app, service, NEVER, streams=[own]) as app:
        config = (await app.js.api.call(f"STREAM.INFO.CRON_{service}"))["config"]
    assert (config["storage"], config["retention"]) == ("memory", "workqueue")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_age": 60}, "max_age=60 would lose"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject=1 would lose"),
        ({"retention": "limits"}, "retention='workqueue', schedules=True"),
        ({"schedules": None}, "retention='workqueue', schedules=True"),
        ({"subjects": ["other.>"]}, r"subjects=\['_cron\.cron"),
    ],
)
async def test_a_stream_that_would_lose_runs_is_refused(
    make_app: MakeApp, service: str, options: dict[str, Any], words: str
) -> None:
    right = {
        "subjects": [f"_cron.{service}.>"],
        "retention": "workqueue",
        "schedules": True,
        "storage": "memory",
    }
    own = Stream(f"CRON_{service}", **{**right, **options})
    with pytest.raises(ConfigError, match=words):
        await with_job(make_app, service, NEVER, streams=[own]).connect()


async def test_an_older_server_is_named_with_the_version_that_can(
    make_app: MakeApp, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.transport.connection.version_of", lambda info: (2, 12))
    with pytest.raises(ConfigError, match=r"app.cron needs nats-server 2\.14 or newer.* 2\.12"):
        await with_job(make_app, service, NEVER).connect()


async def test_without_jetstream_the_start_fails(service: str) -> None:
    with NATSServer() as plain:
        app = App(service, servers=plain.url)
        app.cron(NEVER, name="report")(lambda: None)
        with pytest.raises((JetStreamUnavailableError, StreamChangeError)):
            await app.connect()


async def test_a_zone_that_only_the_server_does_not_know_is_refused_at_the_start(
    make_app: MakeApp, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoneinfo.available_timezones", set)
    app = make_app(service)
    app.cron(NEVER, tz="Mars/Olympus", name="report")(lambda: None)
    with pytest.raises(ConfigError, match=r"cron report: the server refuses .*time zone"):
        await app.connect()


# Declarations.


def test_two_jobs_of_one_name_are_refused() -> None:
    app, group = App("a"), Group("g")
    app.cron(NEVER, name="report")(lambda: None)
    group.cron(NEVER, name="report")(lambda: None)
    with pytest.raises(ConfigError, match="two jobs named 'report'"):
        app.cron("@hourly", name="report")(lambda: None)
    with pytest.raises(ConfigError, match="two jobs named 'report'"):
        app.include(group)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "0 25 * * *"}, "hour must be 0 to 23"),
        ({"schedule": len}, "cron needs a schedule"),
        ({"tz": "Mars/Olympus"}, "no time zone"),
        ({"name": "a.b"}, "name must be a name of letters"),
        ({"name": ""}, "name must be"),
        ({"overlap": 1}, "overlap must be True or False"),
        ({"ttl": 0}, "ttl must be"),
        ({"timeout": -1}, "timeout must be"),
    ],
)
def test_a_wrong_declaration_is_refused_at_its_line(options: dict[str, Any], words: str) -> None:
    schedule = options.pop("schedule", NEVER)
    with pytest.raises(ConfigError, match=words):
        App("a").cron(schedule, **options)(lambda: None)


def test_a_function_with_other_arguments_is_refused() -> None:
    with pytest.raises(ConfigError, match="must take one argument, the message of the run"):
        App("a").cron(NEVER)(lambda first, second: None)


async def test_a_running_app_takes_no_more_jobs(make_app: MakeApp, service: str) -> None:
    async with make_app(service) as app:
        with pytest.raises(ConfigError):
            app.cron(NEVER)(lambda: None)


async def test_a_job_goes_on_through_an_election_and_the_loss_of_a_server() -> None:
    runs: list[tuple[str, int]] = []
    async with NATSCluster(3, jetstream=True) as cluster:
        app = App(
            "shop",
            servers=cluster.urls,
            reconnect_time_wait=0.1,
            streams=[
                Stream(
                    "CRON_shop",
                    subjects=["_cron.shop.>"],
                    retention="workqueue",
                    schedules=True,
                    replicas=3,
                )
            ],
        )

        @app.cron("@every 1s")
        async def report(msg: StreamMessage[bytes]) -> None:
            # The server that is killed may take an acknowledgement with it.
            runs.append((msg.headers[AFTER_IT], msg.delivered))

        async with app:
            await redeliver_quickly(app, "report")
            await until(lambda: runs)
            await app.js.api.call("STREAM.LEADER.STEPDOWN.CRON_shop", timeout=10)
            count = len(runs)
            await until(lambda: len(runs) >= count + 2)
            (lost,) = [each for each in cluster.servers if each.url == app.connected_url]
            lost.kill()
            count = len(runs)
            await until(lambda: len(runs) >= count + 3)
    assert len(set(runs)) == len(runs)
