"""app.lock: one holder at a time, through kills, stops, outages and interruptions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.process import Program
from support.waits import PATIENCE, until
from tidings import (
    App,
    Bucket,
    ConfigError,
    LockLostError,
    LockTimeoutError,
    LoopThreadError,
    NotStartedError,
    ServiceError,
    TidingsError,
    deadline,
)
from tidings.errors import (
    DeadlineExpiredError,
    DisconnectedError,
    JetStreamUnavailableError,
    RequestTimeoutError,
)
from tidings.jetstream.locks.leases import Leases, Place
from tidings.server import NATSCluster, NATSServer
from tidings.stats import LockStats

BUCKET = "tidings-locks"
# A lease that no test waits for: whoever gets the lock gets it because it was released.
LONG = 600

HOLDER = """
import asyncio, os
from tidings import App

app = App("holder", servers=os.environ["NATS_URL"])

async def main():
    async with app:
        async with app.lock(os.environ["LOCK"], lease=int(os.environ["LEASE"])) as lock:
            print("held", lock.token)
            await asyncio.sleep(1000)

try:
    asyncio.run(main())
finally:
    print("ended")
"""


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app("first")


@pytest.fixture
def other(make_app: Callable[..., App]) -> App:
    return make_app("second")


@pytest.fixture
def own(server: NATSServer) -> App:
    """An app on a server of the test's own, which notices faults quickly."""
    return App("own", servers=server.url, reconnect_time_wait=0.1, ping_interval=0.5)


@pytest.fixture
def start_holder(
    run_program: Callable[..., Program], subject: str
) -> Callable[[NATSServer, int], Program]:
    def start(server: NATSServer, lease: int) -> Program:
        program = run_program(HOLDER, NATS_URL=server.url, LOCK=subject, LEASE=str(lease))
        program.wait_for(r"held \d+")
        return program

    return start


def token_of(program: Program) -> int:
    return int(program.wait_for(r"held (\d+)")[1])


def failing_once(write: Any, error: Exception) -> Callable[..., Any]:
    """A write whose first acknowledgement is lost."""
    failed = False

    async def write_and_fail(self: Leases, *args: Any) -> int:
        nonlocal failed
        revision: int = await write(self, *args)
        if not failed:
            failed = True
            raise error
        return revision

    return write_and_fail


async def hold_until_it_is_lost(app: App, name: str, lease: int, begin: Any) -> None:
    """Hold a lock, await `begin()`, and then wait for a cancellation."""
    async with app.lock(name, lease=lease):
        await begin()
        await asyncio.sleep(1000)


async def delete_lease(app: App, name: str) -> None:
    """Break a lock, as an administrator does it."""
    await app.js.key_value(BUCKET, create=False).delete(name)


async def enter(app: App, name: str, **options: Any) -> None:
    """Acquire a lock, and release it."""
    async with app.lock(name, **options):
        pass


# One holder at a time.


async def test_one_task_of_all_apps_holds_the_lock_and_each_token_is_larger(
    app: App, other: App, subject: str
) -> None:
    inside = most = 0
    tokens: list[int] = []

    async def work(which: App) -> None:
        nonlocal inside, most
        async with which.lock(subject, lease=LONG) as lock:
            inside += 1
            most = max(most, inside)
            tokens.append(lock.token)
            await asyncio.sleep(0.001)
            inside -= 1

    async with app, other:
        await asyncio.gather(*(work(which) for which in (app, other) for _ in range(10)))
    assert most == 1
    assert len(tokens) == 20
    assert tokens == sorted(set(tokens))


async def test_locks_of_different_names_and_buckets_do_not_wait_for_each_other(
    app: App, subject: str
) -> None:
    async with (
        app,
        app.lock(subject, lease=LONG),
        app.lock(f"{subject}.x", lease=LONG, timeout=PATIENCE),
        app.lock(subject, lease=LONG, bucket="other-locks", timeout=PATIENCE),
    ):
        assert app.stats().locks.held == 3


async def test_who_waits_gets_the_lock_when_it_is_released(
    app: App, other: App, subject: str
) -> None:
    async def wait() -> int:
        async with other.lock(subject, lease=LONG) as lock:
            return lock.token

    async with app, other:
        async with app.lock(subject, lease=LONG) as lock:
            waiting = asyncio.create_task(wait())
            await until(lambda: other.stats().locks.waiting)
            token = lock.token
        assert await waiting > token


async def test_who_waits_does_not_ask_again_and_again(
    app: App, other: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = Leases.read

    async def count(self: Leases, key: str) -> Place:
        nonlocal reads
        reads += 1
        return await read(self, key)

    monkeypatch.setattr(Leases, "read", count)
    async with app, other, app.lock(subject, lease=LONG):
        with pytest.raises(LockTimeoutError):
            async with other.lock(subject, timeout=1):
                pass
    assert reads == 2  # each of the two looked once


async def test_tasks_of_one_process_get_the_lock_in_their_order(app: App, subject: str) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        async with app.lock(subject, lease=LONG):
            order.append(number)

    async with app:
        tasks = []
        async with app.lock(subject, lease=LONG):
            for number in range(5):
                tasks.append(asyncio.create_task(work(number)))
                await until(lambda number=number: app.stats().locks.waiting == number + 1)
        await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_an_error_in_the_block_releases_the_lock_and_comes_through(
    app: App, other: App, subject: str
) -> None:
    async with app, other:
        with pytest.raises(ZeroDivisionError):
            async with app.lock(subject, lease=LONG):
                _ = 1 / 0
        async with other.lock(subject, timeout=PATIENCE):
            pass


async def test_a_block_that_is_cancelled_releases_the_lock(
    app: App, other: App, subject: str
) -> None:
    async def hold() -> None:
        async with app.lock(subject, lease=LONG):
            await asyncio.sleep(1000)

    async with app, other:
        holding = asyncio.create_task(hold())
        await until(lambda: app.stats().locks.held)
        holding.cancel()
        async with other.lock(subject, timeout=PATIENCE):
            pass
        with pytest.raises(asyncio.CancelledError):
            await holding


async def test_a_lock_can_be_entered_again_and_not_twice_at_once(app: App, subject: str) -> None:
    async with app:
        lock = app.lock(subject)
        for _ in range(2):
            async with lock:
                assert lock.is_held
                assert repr(lock) == f"<Lock {subject!r} held>"
                with pytest.raises(ConfigError, match="entered twice"):
                    async with lock:
                        pass
            assert not lock.is_held
            assert (lock.token, repr(lock)) == (0, f"<Lock {subject!r} not held>")


async def test_a_task_that_holds_the_lock_is_not_left_waiting_for_itself(
    app: App, subject: str
) -> None:
    async with app, app.lock(subject):
        with pytest.raises(ConfigError, match="would wait for itself"):
            async with app.lock(subject):
                pass


# Waiting ends.


async def test_a_lock_that_is_not_acquired_in_time_names_its_holder(
    app: App, other: App, subject: str
) -> None:
    async with app, other, app.lock(subject, lease=LONG):
        with pytest.raises(LockTimeoutError, match=f"first/{app.instance_id} holds it") as caught:
            async with other.lock(subject, timeout=0.2):
                pass
        assert (caught.value.name, caught.value.timeout) == (subject, 0.2)
        assert other.stats().locks == LockStats(timed_out=1)


async def test_the_holder_is_named_to_each_task_that_waits_in_this_process(
    app: App, subject: str
) -> None:
    async with app, app.lock(subject, lease=LONG):
        tries = [asyncio.create_task(enter(app, subject, timeout=0.2)) for _ in range(2)]
        for each in tries:
            with pytest.raises(LockTimeoutError) as caught:
                await each
            assert caught.value.holder == f"first/{app.instance_id}"


async def test_the_deadline_ends_the_waiting_but_not_the_lease(
    app: App, other: App, subject: str
) -> None:
    async with app, other:
        with deadline(1):
            async with app.lock(subject, lease=3) as lock:
                with pytest.raises(DeadlineExpiredError):
                    async with other.lock(subject):
                        pass
                await asyncio.sleep(3)  # together longer than the lease
                assert lock.is_held
        async with other.lock(subject, timeout=PATIENCE):
            pass


async def test_a_task_that_is_cancelled_while_it_takes_the_lock_leaves_it_free(
    app: App, other: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = asyncio.Event(), Leases.write

    async def write_slowly(self: Leases, *args: Any) -> int:
        revision = await write(self, *args)
        if not written.is_set():
            written.set()
            await asyncio.sleep(0.1)
        return revision

    monkeypatch.setattr(Leases, "write", write_slowly)

    async def hold() -> None:
        async with app.lock(subject, lease=LONG):
            raise AssertionError("it was cancelled")

    async with app, other:
        taking = asyncio.create_task(hold())
        await written.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        async with other.lock(subject, timeout=PATIENCE):
            pass


async def test_what_holds_the_lock_can_be_anything_and_is_shown_without_harm(
    app: App, subject: str
) -> None:
    async with app:
        await enter(app, subject)
        kv = app.js.key_value(BUCKET, type=bytes, create=False)
        for body in (b"\xff\x00", b"[" * 10_000, b'{"holder":"\x1b[31m","lease":1e300}'):
            await kv.put(subject, body)
            with pytest.raises(LockTimeoutError) as caught:
                async with app.lock(subject, timeout=0.1):
                    pass
            assert "\x1b" not in str(caught.value)
        await delete_lease(app, subject)
        async with app.lock(subject, timeout=PATIENCE):
            pass


# Kills, stops and outages.


async def test_after_a_kill_the_next_one_gets_the_lock_when_the_lease_ends(
    app: App, subject: str, nats_server: NATSServer, start_holder: Any
) -> None:
    holder = await asyncio.to_thread(start_holder, nats_server, 2)
    async with app:
        holder.popen.kill()
        async with app.lock(subject, timeout=PATIENCE) as lock:
            assert lock.token > token_of(holder)


async def test_ctrl_c_releases_the_lock_at_once(
    app: App, subject: str, nats_server: NATSServer, start_holder: Any
) -> None:
    holder = await asyncio.to_thread(start_holder, nats_server, LONG)
    async with app:
        holder.signal(signal.SIGINT)
        async with app.lock(subject, timeout=PATIENCE):
            pass
    await asyncio.to_thread(holder.wait_for, "ended")


async def test_a_process_that_was_stopped_for_longer_than_its_lease_learns_that_it_lost_the_lock(
    app: App, subject: str, nats_server: NATSServer, start_holder: Any
) -> None:
    holder = await asyncio.to_thread(start_holder, nats_server, 1)
    async with app:
        holder.signal(signal.SIGSTOP)
        async with app.lock(subject, timeout=PATIENCE) as lock:
            assert lock.token > token_of(holder)
            holder.signal(signal.SIGCONT)
            await asyncio.to_thread(holder.wait_for, "LockLostError")
            assert lock.is_held


async def test_a_blocked_event_loop_loses_the_lock(app: App, subject: str) -> None:
    async def block() -> None:
        time.sleep(1.2)  # noqa: ASYNC251 - this is what the test is about

    async with app:
        with pytest.raises(LockLostError, match="event loop was blocked"):
            await hold_until_it_is_lost(app, subject, 1, block)
        assert app.stats().locks.lost == 1


async def test_a_lock_is_kept_while_the_server_restarts(own: App, server: NATSServer) -> None:
    async with own:
        async with own.lock("x", lease=12) as lock:
            token, revision = lock.token, await revision_of(own, "x")
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            await until(lambda: own.stats().connection.reconnects == 1)
            while revision >= await revision_of(own, "x"):  # noqa: ASYNC110 - until it is renewed
                await asyncio.sleep(0.05)
            assert (lock.is_held, lock.token) == (True, token)
        async with own.lock("x", timeout=PATIENCE) as following:
            assert following.token > token


async def test_a_lock_is_lost_while_the_server_is_away_for_longer_than_the_lease(
    own: App, server: NATSServer
) -> None:
    async with own:
        with pytest.raises(LockLostError, match="not renewed in time"):
            await hold_until_it_is_lost(own, "x", 1, lambda: asyncio.to_thread(server.kill))
        await asyncio.to_thread(server.restart)
        async with own.lock("x", timeout=PATIENCE):
            pass


async def test_who_waits_goes_on_waiting_through_a_restart_of_the_server(
    own: App, server: NATSServer, start_holder: Any, subject: str
) -> None:
    holder = await asyncio.to_thread(start_holder, server, 2)
    async with own:

        async def wait() -> int:
            async with own.lock(subject) as lock:
                return lock.token

        waiting = asyncio.create_task(wait())
        await until(lambda: own.stats().locks.waiting)
        await asyncio.to_thread(server.kill)
        holder.popen.kill()
        await asyncio.to_thread(server.restart)
        async with asyncio.timeout(20):
            assert await waiting > token_of(holder)


async def test_a_lock_waits_for_a_server_that_is_away_until_its_timeout(
    own: App, server: NATSServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with own:
        await asyncio.to_thread(server.kill)
        with pytest.raises(LockTimeoutError) as caught:
            async with own.lock("x", timeout=0.5):
                pass
        assert isinstance(caught.value.__cause__, DisconnectedError)
        await asyncio.to_thread(server.restart)
    # After that, the lines of the connection tell the rest.
    assert sum("waiting for the lock 'x'" in text for text in caplog.messages) == 1


@pytest.mark.parametrize("error", [RequestTimeoutError("x", 1.0), JetStreamUnavailableError("x")])
async def test_a_lost_acknowledgement_loses_no_lock(
    app: App, subject: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Leases.write
    async with app:
        monkeypatch.setattr(Leases, "write", failing_once(write, error))
        async with app.lock(subject, lease=3, timeout=PATIENCE) as lock:  # of the take
            monkeypatch.setattr(Leases, "write", failing_once(write, error))
            await asyncio.sleep(3.5)  # of the renewal: longer than the lease
            assert lock.is_held
            monkeypatch.setattr(Leases, "write", failing_once(write, error))
        monkeypatch.setattr(Leases, "write", write)  # of the release
        assert app.stats().locks.lost == 0
        async with app.lock(subject, timeout=PATIENCE):
            pass


async def test_in_a_cluster_a_lock_is_kept_when_the_leader_of_its_bucket_is_killed() -> None:
    buckets = [Bucket(BUCKET, marker_ttl=60, replicas=3)]
    async with NATSCluster(3, jetstream=True) as cluster:
        app, other = (
            App(name, servers=cluster.urls, reconnect_time_wait=0.1, buckets=buckets)
            for name in ("first", "second")
        )

        async def wait() -> int:
            async with other.lock("x", lease=24) as following:
                return following.token

        async with app, other:
            async with app.lock("x", lease=24) as lock:
                token = lock.token
                waiting = asyncio.create_task(wait())
                await until(lambda: other.stats().locks.waiting)
                info = await app.js.api.call(f"STREAM.INFO.KV_{BUCKET}")
                leader = int(info["cluster"]["leader"].rpartition("-")[2])
                revision = await revision_of(app, "x")
                await asyncio.to_thread(cluster.servers[leader - 1].kill)
                while revision >= await revision_of(app, "x"):  # noqa: ASYNC110 - until it is renewed
                    await asyncio.sleep(0.05)
                assert (lock.is_held, lock.token) == (True, token)
            async with asyncio.timeout(30):
                assert await waiting > token


async def revision_of(app: App, key: str) -> int:
    """The revision of a lease; 0 during an election."""
    try:
        return (await app.js.key_value(BUCKET, create=False).get(key)).revision
    except TidingsError:
        return 0


async def test_a_handler_that_loses_its_lock_fails_and_answers(
    app: App, other: App, subject: str
) -> None:
    ends: list[str] = []

    @app.listen(subject)
    async def handle(msg: Any) -> None:
        async with app.lock(subject, lease=1):
            await is_deleted.wait()
            try:
                await asyncio.sleep(1000)
            finally:
                ends.append("cancelled")

    is_deleted = asyncio.Event()
    async with app, other:
        for _ in range(2):  # the worker is of use afterwards
            is_deleted.clear()
            request = asyncio.create_task(other.request(subject, {}))
            await until(lambda: app.stats().locks.held)
            await delete_lease(app, subject)
            is_deleted.set()
            with pytest.raises(ServiceError, match="LockLostError"):
                await request
        assert ends == ["cancelled"] * 2
        assert app.stats().listeners[0].failed == 2


async def test_a_lock_that_an_administrator_deletes_is_lost(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def delete() -> None:
        entry = await app.js.key_value(BUCKET, create=False).get(subject)
        assert entry.value["holder"] == f"first/{app.instance_id}"
        await delete_lease(app, subject)

    async with app:
        with pytest.raises(LockLostError, match="it was deleted") as caught:
            await hold_until_it_is_lost(app, subject, 5, delete)
        assert caught.value.name == subject
        assert f"the lock '{subject}' is lost" in caplog.text
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()


async def test_an_error_of_the_block_after_the_loss_comes_through_with_a_note(
    app: App, subject: str
) -> None:
    async def hold() -> None:
        async with app.lock(subject, lease=1):
            await delete_lease(app, subject)
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                raise KeyError("x") from None

    async with app:
        with pytest.raises(KeyError) as caught:
            await hold()
        assert any("is lost" in note for note in caught.value.__notes__)


async def test_a_block_that_ends_in_spite_of_the_loss_raises_all_the_same(
    app: App, subject: str
) -> None:
    async def hold() -> None:
        async with app.lock(subject, lease=1):
            await delete_lease(app, subject)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

    async with app:
        with pytest.raises(LockLostError):
            await hold()


async def test_a_cancellation_from_elsewhere_stays_one_after_the_loss(
    app: App, subject: str
) -> None:
    async def hold() -> None:
        async with app.lock(subject, lease=1):
            await delete_lease(app, subject)
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                holding.cancel()
                await asyncio.sleep(1000)

    async with app:
        holding = asyncio.create_task(hold())
        with pytest.raises(asyncio.CancelledError):
            await holding


async def test_a_block_that_goes_on_after_the_loss_is_logged(
    app: App,
    subject: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tidings.jetstream.locks.lock.GRACE", 0.05)

    async def hold() -> None:
        async with app.lock(subject, lease=1):
            await delete_lease(app, subject)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)
            await until(lambda: "goes on" in caplog.text)

    async with app:
        with pytest.raises(LockLostError):
            await hold()
    assert [each.levelno for each in caplog.records if "goes on" in each.message] == [logging.ERROR]


# The app ends.


async def test_the_end_of_the_app_takes_the_lock_from_a_task_that_is_not_its_own(
    app: App, other: App, subject: str
) -> None:
    async def hold() -> None:
        async with app.lock(subject, lease=LONG):
            await asyncio.sleep(1000)

    async with other:
        async with app:
            holding = asyncio.create_task(hold())
            await until(lambda: app.stats().locks.held)
        with pytest.raises(LockLostError, match="the app ends"):
            await holding
        async with other.lock(subject, timeout=PATIENCE):
            pass


async def test_a_handler_that_holds_the_lock_finishes_when_the_app_ends(
    app: App, other: App, subject: str
) -> None:
    taken, ended = asyncio.Event(), asyncio.Event()

    @app.listen(subject)
    async def handle(msg: Any) -> None:
        async with app.lock(subject, lease=LONG):
            taken.set()
            await asyncio.sleep(0.2)
            ended.set()

    async with other:
        async with app:
            await other.publish(subject, {})
            await taken.wait()
        assert ended.is_set()
        async with other.lock(subject, timeout=PATIENCE):
            pass


async def test_the_end_of_an_app_whose_server_is_away_does_not_wait_for_the_release(
    own: App, server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.jetstream.locks.lock.RELEASE_TIMEOUT", 0.05)
    monkeypatch.setattr("tidings.jetstream.locks.locks.FINISH_TIMEOUT", 0.05)
    own.drain_timeout = 600
    async with own, own.lock("x", lease=LONG):
        await asyncio.to_thread(server.kill)
        await until(lambda: own.stats().connection.state != "connected")
    assert not own.is_running


async def test_a_lock_needs_a_running_app(app: App, subject: str) -> None:
    with pytest.raises(NotStartedError, match="lock"):
        async with app.lock(subject):
            pass


# Threads.


async def test_a_thread_holds_a_lock_in_a_with_block(app: App, subject: str) -> None:
    @app.listen(subject)
    def handle(msg: Any) -> dict[str, int]:
        with app.lock(subject, lease=LONG) as lock:
            assert lock.is_held
            with pytest.raises(LockTimeoutError):
                app.js.run_sync(enter(app, subject, timeout=0.1))
            return {"token": lock.token}

    async with app:
        answer = await app.request(subject, {})
        assert answer["token"] > 0
        async with app.lock(subject, timeout=PATIENCE):
            pass


async def test_a_thread_learns_of_the_loss_by_asking_and_at_the_end(app: App, subject: str) -> None:
    def work() -> None:
        with app.lock(subject, lease=1) as lock:
            app.js.run_sync(delete_lease(app, subject))
            while lock.is_held:
                time.sleep(0.01)
            assert lock.is_lost or lock.token

    async with app:
        with pytest.raises(LockLostError):
            await asyncio.to_thread(work)


async def test_with_on_the_event_loop_says_async_with(app: App, subject: str) -> None:
    async with app:
        with pytest.raises(LoopThreadError, match=r"async with app\.lock"), app.lock(subject):
            pass


WAITER = """
import os
from tidings import App

app = App("waiter", servers=os.environ["NATS_URL"])
with app:
    print("started")
    with app.lock(os.environ["LOCK"], lease=600):
        print("held")
"""


async def test_ctrl_c_ends_a_thread_that_waits_and_leaves_the_lock_to_others(
    app: App, other: App, subject: str, nats_server: NATSServer, run_program: Any
) -> None:
    async with app, other:
        async with app.lock(subject, lease=LONG):
            waiter = run_program(WAITER, NATS_URL=nats_server.url, LOCK=subject)
            await asyncio.to_thread(waiter.wait_for, "started")
            info = "STREAM.INFO.KV_tidings-locks"
            while not (await app.js.api.call(info))["state"]["consumer_count"]:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.01)
            waiter.signal(signal.SIGINT)
            assert await asyncio.to_thread(waiter.wait) != 0
        assert not waiter.count("held")
        async with other.lock(subject, timeout=PATIENCE):
            pass


# The bucket.


async def test_a_bucket_that_is_deleted_is_created_again_and_tokens_go_on_growing(
    own: App,
) -> None:
    async with own:
        async with own.lock("x") as lock:
            token = lock.token
        await own.js.api.call(f"STREAM.DELETE.KV_{BUCKET}")
        async with own.lock("x", timeout=PATIENCE) as lock:
            assert lock.token > token


async def test_a_holder_whose_bucket_is_deleted_loses_the_lock(own: App) -> None:
    async with own:
        delete = f"STREAM.DELETE.KV_{BUCKET}"
        with pytest.raises(LockLostError):
            await hold_until_it_is_lost(own, "x", 1, lambda: own.js.api.call(delete))


async def test_a_lock_uses_a_bucket_that_the_app_declares(own: App) -> None:
    own.js.key_value("mine", marker_ttl=60, storage="memory")
    async with own:
        async with own.lock("x", bucket="mine") as lock:
            assert lock.is_held
        config = (await own.js.api.call("STREAM.INFO.KV_mine"))["config"]
        assert config["storage"] == "memory"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "no time to live"),
        ({"marker_ttl": 60, "history": 5}, "more than one revision"),
        ({"marker_ttl": 60, "ttl": 60}, "deletes every key after 60 s"),
    ],
)
async def test_a_bucket_that_would_not_end_a_lease_is_refused(
    own: App, options: dict[str, Any], problem: str
) -> None:
    own.js.key_value("bad", **options)
    async with own:
        with pytest.raises(ConfigError, match=f"{problem}.*bucket="):
            async with own.lock("x", bucket="bad"):
                pass


async def test_a_server_without_times_to_live_is_refused_with_the_version_that_has_them(
    own: App,
) -> None:
    async with own:
        own.js.api.connection.server_version = (2, 10)
        with pytest.raises(ConfigError, match=r"a lock needs nats-server 2\.11 or newer"):
            async with own.lock("x"):
                pass


async def test_without_jetstream_a_lock_fails_soon(tmp_path: Path) -> None:
    with NATSServer() as server:
        app = App("plain", servers=server.url)
        async with app:
            with pytest.raises(JetStreamUnavailableError):
                async with app.lock("x"):
                    pass


async def test_a_released_lock_leaves_nothing_behind_for_long(
    own: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lease", "leases"):
        monkeypatch.setattr(f"tidings.jetstream.locks.{module}.MARKER", 1)
    async with own:
        await enter(own, "x")
        info = f"STREAM.INFO.KV_{BUCKET}"
        while (state := (await own.js.api.call(info))["state"])["messages"]:  # noqa: ASYNC110 - of the server
            await asyncio.sleep(0.05)
        assert not state["consumer_count"]
        await enter(own, "x", timeout=PATIENCE)


@pytest.mark.parametrize("name", ["", "a b", "a.*", ".a", "a..b", "a" * 201, 7, None])
def test_a_name_that_no_key_can_have_is_refused(app: App, name: Any) -> None:
    with pytest.raises(ConfigError, match="the name of a lock"):
        app.lock(name)


@pytest.mark.parametrize("lease", [0, 0.5, 1.5, -1, "10", True, float("inf")])
def test_a_lease_that_the_server_cannot_count_is_refused(app: App, lease: Any) -> None:
    with pytest.raises(ConfigError, match="lease"):
        app.lock("x", lease=lease)


def test_a_timeout_or_a_bucket_that_is_none_is_refused(app: App) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        app.lock("x", timeout=0)
    with pytest.raises(ConfigError, match="bucket"):
        app.lock("x", bucket="a.b")
