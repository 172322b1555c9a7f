"""Handlers that raise, are cancelled, exit, block or never end: the listener lives on."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from support.inbox import Inbox
from support.process import Program
from support.waits import AT_ONCE, PATIENCE, until
from tidings import App, ConnectionEvent, ServiceError, SlowConsumerError, Stream
from tidings.handlers import watchdog
from tidings.server import NATSServer

MakeApp = Callable[..., App]

SECRET = "the-text-of-the-exception"


class OwnBase(BaseException):
    """An error that `except Exception` does not see."""


ENDINGS: dict[str, BaseException] = {
    "ValueError": ValueError(SECRET),
    "KeyError": KeyError(SECRET),
    "CancelledError": asyncio.CancelledError(SECRET),
    "TimeoutError": TimeoutError(SECRET),
    "SystemExit": SystemExit(SECRET),
    "KeyboardInterrupt": KeyboardInterrupt(SECRET),
    "GeneratorExit": GeneratorExit(SECRET),
    "OwnBase": OwnBase(SECRET),
    "RecursionError": RecursionError(SECRET),
    "StopAsyncIteration": StopAsyncIteration(SECRET),
    "ExceptionGroup": ExceptionGroup(SECRET, [ValueError(SECRET)]),
}


async def ask_until_error(app: App, subject: str, message: Any = None) -> ServiceError:
    """Ask; the answer has to be an error, and to come at once."""
    asked = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        await app.request(subject, message, timeout=PATIENCE)
    assert time.monotonic() - asked < AT_ONCE
    return caught.value


@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize("name", ENDINGS)
async def test_a_handler_that_raises_answers_at_once_and_the_next_message_is_handled(
    nats_server: NATSServer,
    make_app: MakeApp,
    subject: str,
    caplog: pytest.LogCaptureFixture,
    name: str,
    kind: str,
) -> None:
    app = make_app(nats_server, "failing", concurrency=1)

    def fail_or_answer(msg):
        if msg.data["fail"]:
            raise ENDINGS[name]
        return {"answer": 1}

    async def fail_or_answer_async(msg):
        return fail_or_answer(msg)

    app.listen(subject)(fail_or_answer if kind == "def" else fail_or_answer_async)
    async with app:
        for _ in range(3):
            error = await ask_until_error(app, subject, {"fail": True})
            assert (error.code, error.description, error.service) == (500, name, "failing")
            assert SECRET.encode() not in error.body
            assert b"Traceback" not in error.body
            assert error.error_id in caplog.text
        assert await app.request(subject, {"fail": False}) == {"answer": 1}
        stats = app.stats().listeners[0]
        assert (stats.received, stats.handled, stats.failed) == (4, 1, 3)


async def test_a_body_that_does_not_decode_answers_at_once_and_the_next_one_is_handled(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)

    @app.listen(subject, data_type=list[int])
    async def add(msg):
        return sum(msg.data)

    bodies = [b"{", b"\xff", b"[1, 'a']", b'["a"]', b"[" * 100_000, b"{}", b"1e999999", b"null"]
    async with app:
        for body in bodies:
            error = await ask_until_error(app, subject, body)
            assert error.code == 400
            assert error.description.startswith("DecodeError: ")
            assert error.error_id
        assert await app.request(subject, [1, 2], response_data_type=int) == 3
        stats = app.stats().listeners[0]
        assert (stats.handled, stats.failed) == (1, len(bodies))


@pytest.mark.parametrize(
    "answer",
    [
        ServiceError(500, "x" * 2_000_000),
        ServiceError(500, "\ud800"),
        ServiceError(500, "\0\r\n"),
        ServiceError(500, ""),
        ServiceError("what?", "code"),  # type: ignore[arg-type]  # what is tested
        ServiceError(500, None),  # type: ignore[arg-type]  # what is tested
    ],
    ids=range(6),
)
async def test_an_error_is_answered_whatever_its_text_is(
    nats_server: NATSServer, make_app: MakeApp, subject: str, answer: ServiceError
) -> None:
    app = make_app(nats_server)

    @app.listen(subject)
    async def fail(msg):
        raise answer

    async with app:
        assert (await ask_until_error(app, subject)).code == 500


@pytest.mark.parametrize("concurrency", [1, 100])
async def test_a_handler_whose_task_is_cancelled_costs_no_other_message_and_no_listener(
    nats_server: NATSServer, make_app: MakeApp, subject: str, concurrency: int
) -> None:
    app = make_app(nats_server, concurrency=concurrency)
    handled = []

    @app.listen(subject, data_type=int)
    async def handle(msg):
        if msg.data % 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)
        else:
            await asyncio.sleep(0)
            handled.append(msg.data)
        return msg.data

    async with app:
        asked = [
            app.request(subject, n, response_data_type=int, timeout=PATIENCE) for n in range(40)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert answers[::2] == list(range(0, 40, 2))
        assert {type(answer) for answer in answers[1::2]} == {ServiceError}
        stats = app.stats().listeners[0]
        assert (stats.received, stats.running, stats.pending) == (40, 0, 0)
        assert (stats.handled, stats.failed) == (20, 20)


async def test_a_handler_that_cancels_its_task_and_returns_leaves_the_listeners_alive(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)

    @app.listen(subject, data_type=int)
    async def handle(msg):
        if msg.data == 0:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        else:
            await asyncio.sleep(0)
        return msg.data

    async with app:
        for _ in range(3):
            for number in range(20):
                asked = app.request(subject, number, response_data_type=int, timeout=1)
                assert await asked == number


async def test_cancelling_every_task_of_the_loop_leaves_the_listeners_alive(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)
    inbox = Inbox()
    started = asyncio.Event()

    @app.listen(subject, data_type=int)
    async def handle(msg):
        if msg.data == 1:
            started.set()
            await asyncio.sleep(60)
        await inbox(msg)

    async with app:
        await app.publish(subject, 1)
        await started.wait()
        await app.publish(subject, 0)
        await inbox.has(1)
        workers = [task for task in asyncio.all_tasks() if "worker" in task.get_name()]
        assert len(workers) >= 2  # one at rest, one in its handler
        for worker in workers:
            worker.cancel()
        for number in range(2, 20):
            await app.publish(subject, number)
        assert await inbox.has(19) == [0, *range(2, 20)]
        assert app.stats().listeners[0].failed == 1


async def test_a_program_ends_though_its_loop_is_left_with_an_app_at_work(
    run_program: Callable[..., Any],
) -> None:
    program = run_program(
        """
        import asyncio
        from tidings import App

        app = App("left")
        started = asyncio.Event()

        @app.listen("wait")
        async def wait(msg):
            started.set()
            await asyncio.sleep(60)

        @app.listen("rest")
        async def rest(msg):
            return {}

        @app.task(interval=0.01)
        async def tick():
            await asyncio.sleep(60)

        async def main():
            await app.__aenter__()
            await app.request("rest")
            await app.publish("wait")
            await started.wait()
            print("left")

        asyncio.run(main())
        print("ended")
        """
    )
    await asyncio.to_thread(program.until, "left")
    await asyncio.to_thread(program.until, "ended")
    assert await asyncio.to_thread(program.wait) == 0


async def test_headers_of_a_request_are_never_in_its_answer(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    from tidings import Message

    app = make_app(nats_server)

    @app.listen([f"{subject}.value", f"{subject}.error", f"{subject}.respond"])
    async def answer(msg):
        if msg.subject.endswith("error"):
            raise ValueError
        if msg.subject.endswith("respond"):
            await msg.respond({"a": 1})
            return None
        return {"a": 1}

    async with app:
        headers = {"Authorization": "Bearer s3cret", "Nats-Msg-Id": "7"}
        for kind in ("value", "respond"):
            reply = await app.request(
                f"{subject}.{kind}", response_data_type=Message, headers=headers
            )
            assert dict(reply.headers) == {}
        with pytest.raises(ServiceError) as caught:
            await app.request(f"{subject}.error", headers=headers)
        assert b"s3cret" not in caught.value.body


async def test_a_slow_consumer_keeps_within_its_bounds_and_counts_each_drop(
    server: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tidings")
    count, limit = 100_000, 1000
    app = make_app(server, "slow", drain_timeout=20)
    told = []
    app.on("slow_consumer")(told.append)
    pending = []

    @app.listen("flood", data_type=bytes, pending_msgs_limit=limit, concurrency=1)
    async def handle(msg):
        pending.append(app.stats().listeners[0].pending)
        await asyncio.sleep(0.001)

    process = psutil.Process()
    async with make_app(server, "flooder") as flooder, app:
        before = process.memory_info().rss
        began = time.monotonic()
        for _ in range(count):
            await flooder.publish("flood", b"x" * 100)
        await flooder.flush()
        await until(lambda: app.stats().listeners[0].received == count, 20)
        took = time.monotonic() - began
        stats = app.stats().listeners[0]
        assert stats.dropped >= count - limit - stats.handled - 2
        assert stats.received == stats.handled + stats.dropped + stats.pending + stats.running
        assert max(pending) <= limit
        assert process.memory_info().rss - before < 64 * 1024 * 1024
        lines = [record for record in caplog.records if "slow consumer" in record.getMessage()]
        assert 1 <= len(lines) <= took + 1
        assert len(told) == len(lines)
        await until(lambda: app.stats().listeners[0].pending == 0, 20)
    assert sum(getattr(line, "dropped", 0) > 0 for line in lines) == len(lines)


async def test_a_handler_that_blocks_the_loop_is_named_once_a_blockage(
    nats_server: NATSServer, make_app: MakeApp, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tidings")
    app = make_app(nats_server)

    def named() -> list[logging.LogRecord]:
        return [record for record in caplog.records if "blocked" in record.getMessage()]

    @app.listen(subject)
    async def blocker(msg):
        before = len(named())
        while len(named()) == before:
            time.sleep(0.01)  # noqa: ASYNC251 - what is tested
        time.sleep(3 * watchdog.LOOK)  # noqa: ASYNC251 - the same
        return {}

    async with app:
        for count in (1, 2):
            await app.request(subject, timeout=2 * PATIENCE)
            lines = named()
            assert len(lines) == count
            assert "blocker" in lines[-1].getMessage()
            assert __file__ in lines[-1].getMessage()
            assert lines[-1].name == "tidings"


async def test_a_handler_is_not_blamed_for_a_process_that_was_suspended(
    run_program: Callable[..., Program],
) -> None:
    program = run_program(
        """
        import asyncio, time
        from tidings import App

        app = App("busy")

        @app.task()
        async def work():
            print("works", flush=True)
            while True:
                end = time.monotonic() + 0.05
                while time.monotonic() < end:
                    pass
                await asyncio.sleep(0)

        app.listen("ask")(lambda msg: {"ok": True})
        app.run()
        """
    )
    await asyncio.to_thread(program.until, "works")
    for _ in range(3):
        program.signal(signal.SIGSTOP)
        await asyncio.sleep(watchdog.BLOCKED + 0.5)  # suspended for longer than a loop may block
        program.signal(signal.SIGCONT)
        await asyncio.sleep(2 * watchdog.LOOK)  # it looks again
    assert await asyncio.to_thread(program.stop) == 0
    assert "blocked" not in program.output


async def test_a_blocking_handler_of_a_stream_or_a_watch_is_named_by_its_function(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "BLOCKED", 0.1)
    monkeypatch.setattr(watchdog, "LOOK", 0.05)
    with NATSServer(jetstream=True) as server:
        app = make_app(server, streams=[Stream("WORK", subjects=["work.>"])])
        values = app.js.key_value("values", type=int)

        blocker = ""

        def block(name: str) -> None:
            while name == blocker and f"{name} has blocked" not in caplog.text:
                time.sleep(0.01)

        @app.listen("work.a", timeout=5, no_reply=True)
        async def bounded(msg):
            block("bounded")

        @app.consume("WORK", durable="d")
        async def one(msg):
            block("one")

        @app.consume("WORK", durable="b", batch=1)
        async def batch(messages):
            block("batch")

        @app.consume("WORK", ordered=True)
        async def ordered(msg):
            block("ordered")

        @app.watch("values")
        async def watch(entry):
            block("watch")

        async with app:
            for blocker in ("bounded", "one", "batch", "ordered", "watch"):
                await app.js.publish("work.a", {})
                await values.put("a", 1)
                await until(lambda name=blocker: f"{name} has blocked" in caplog.text)


async def test_a_def_handler_that_blocks_holds_nobody_up(
    nats_server: NATSServer, make_app: MakeApp, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "tidings")
    app = make_app(nats_server)
    released, blocking = threading.Event(), threading.Event()

    @app.listen(f"{subject}.slow")
    def slow(msg):
        blocking.set()
        released.wait(PATIENCE)
        return {}

    @app.listen(f"{subject}.quick")
    async def quick(msg):
        return {}

    async with app:
        waiting = asyncio.create_task(app.request(f"{subject}.slow", timeout=PATIENCE))
        await asyncio.to_thread(blocking.wait, PATIENCE)
        asked = time.monotonic()
        while time.monotonic() - asked < 1.5:
            began = time.monotonic()
            await app.request(f"{subject}.quick", timeout=PATIENCE)
            assert time.monotonic() - began < AT_ONCE
            await asyncio.sleep(0.05)
        released.set()
        assert await waiting == {}
    assert "blocked" not in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
async def test_nothing_of_a_burst_of_failures_is_left_behind(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)

    @app.listen(subject, data_type=int)
    async def handle(msg):
        await asyncio.sleep(0)
        if msg.data % 3 == 0:
            raise ValueError
        if msg.data % 3 == 1:
            raise SystemExit
        return msg.data

    async with app:
        tasks = len(asyncio.all_tasks())
        for start in range(0, 3000, 300):
            asked = [app.request(subject, n) for n in range(start, start + 300)]
            await asyncio.gather(*asked, return_exceptions=True)
        stats = app.stats()
        assert (stats.listeners[0].handled, stats.listeners[0].failed) == (1000, 2000)
        assert stats.connection.requests == 0
        assert len(asyncio.all_tasks()) <= tasks + 64  # workers at rest


async def test_an_app_ends_at_once_after_the_last_message_of_a_listener_that_was_ended(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server, drain_timeout=60)
    started, released = asyncio.Event(), asyncio.Event()

    async def handle(msg):
        started.set()
        await released.wait()

    await app.__aenter__()
    await app.subscribe_new_subject(subject, handle)
    await app.publish(subject)
    await started.wait()
    await app.unsubscribe_subject(subject)
    ending = asyncio.create_task(app.disconnect())
    await until(lambda: not app.is_running)
    released.set()
    async with asyncio.timeout(PATIENCE):
        await ending


async def test_who_asks_a_listener_that_drops_is_told_at_once(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, "busy")
    released = asyncio.Event()
    told: list[ConnectionEvent] = []
    app.on("slow_consumer")(told.append)

    @app.listen("work", data_type=int, concurrency=1, pending_msgs_limit=2)
    async def work(msg):
        await released.wait()
        return {"done": True}

    async with make_app(server, "asker", request_timeout=60) as asker, app:
        asking = [asyncio.create_task(asker.request("work", number)) for number in range(10)]
        await until(lambda: app.stats().listeners[0].received == 10)
        await until(lambda: sum(task.done() for task in asking) == app.stats().listeners[0].dropped)
        released.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        dropped = [answer for answer in answers if isinstance(answer, ServiceError)]
        assert 7 <= len(dropped) == app.stats().listeners[0].dropped
        assert {(error.code, error.service) for error in dropped} == {(503, "busy")}
        assert len(answers) - len(dropped) == answers.count({"done": True})
    error = told[0].error
    assert isinstance(error, SlowConsumerError)
    assert (error.subject, error.dropped >= 1, error.pending) == ("work", True, 2)
    assert error.listener.endswith("work")
