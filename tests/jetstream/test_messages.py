"""app.js.messages: a stream in order, for as long as a task reads it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.streams import MakeApp, consumer_info, consumer_names
from support.waits import PATIENCE, until
from tidings import App, ConfigError, Message, NotStartedError, Stream, SubjectError
from tidings.errors import JetStreamApiError
from tidings.jetstream import Messages, ordered
from tidings.server import NATSServer


@dataclass
class Order:
    id: int


async def publish(app: App, stream: Stream, numbers: range, name: str = "n") -> None:
    async with app.js.publish_window(64) as window:
        for number in numbers:
            await window.publish(f"{stream.name}.{name}", {"id": number})
    assert not window.failed


async def read(messages: Messages[Any], count: int) -> list[int]:
    """Return the sequences of the next messages."""
    async with asyncio.timeout(PATIENCE):
        return [(await anext(messages)).sequence for _ in range(count)]


async def no_consumer(app: App, stream: Stream) -> None:
    async with asyncio.timeout(PATIENCE):
        while await consumer_names(app, stream):  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.005)


# What is read.


async def test_a_loop_gets_what_is_there_and_then_what_comes(
    make_app: MakeApp, stream: Stream
) -> None:
    app, got = make_app(streams=[stream]), []
    async with app:
        await publish(app, stream, range(3))
        async with app.js.messages(stream.name, data_type=Order) as messages:
            async for msg in messages:
                got.append((msg.sequence, msg.subject, msg.data))
                if msg.sequence == 3:
                    await publish(app, stream, range(3, 5))
                if msg.sequence == 5:
                    break
        assert await consumer_names(app, stream) == []
    assert got == [(n + 1, f"{stream.name}.n", Order(n)) for n in range(5)]


async def test_thousands_come_once_and_in_order(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    async with app, app.js.messages(stream.name) as messages:
        await publish(app, stream, range(3_000))
        assert await read(messages, 3_000) == list(range(1, 3_001))
    assert (messages.failed, messages.gaps, messages.missed) == (0, 0, 0)


async def test_several_subjects_are_read(make_app: MakeApp, stream: Stream) -> None:
    app, name = make_app(streams=[stream]), stream.name
    async with app:
        for each in ("a", "b", "c.d", "a"):
            await app.js.publish(f"{name}.{each}", {})
        async with app.js.messages(name, subject=[f"{name}.a", f"{name}.c.>"]) as messages:
            assert await read(messages, 3) == [1, 3, 4]


@pytest.mark.parametrize(
    ("start", "expected"),
    [("all", [1, 2, 3]), ("last", [2, 3]), ("new", [3]), (2, [2, 3]), ("last_per_subject", [1, 2])],
)
async def test_reading_begins_where_it_is_told(
    make_app: MakeApp, stream: Stream, start: Any, expected: list[int]
) -> None:
    app = make_app(streams=[stream])
    async with app:
        await publish(app, stream, range(1), "a")
        await publish(app, stream, range(1), "b")
        async with app.js.messages(stream.name, start=start) as messages:
            await publish(app, stream, range(1), "c")
            assert await read(messages, len(expected)) == expected


async def test_reading_begins_at_a_time(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    async with app:
        await publish(app, stream, range(2))
        second = (await app.js.get(stream.name, 2)).timestamp
        async with app.js.messages(stream.name, start=second) as messages:
            assert await read(messages, 1) == [2]


async def test_headers_only_reads_no_bodies(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    async with app:
        await app.js.publish(f"{stream.name}.a", {"id": 1}, headers={"Trace-Id": "t"})
        async with app.js.messages(stream.name, headers_only=True) as messages:
            msg = await anext(messages)
    assert (msg.body, msg.data, msg.headers["Trace-Id"]) == (b"", None, "t")


async def test_a_body_that_does_not_decode_is_logged_and_counted_and_the_next_follows(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    async with app:
        await app.js.publish(f"{stream.name}.a", {"id": "secret"})
        await app.js.publish(f"{stream.name}.a", {"id": 2})
        async with app.js.messages(stream.name, data_type=Order) as messages:
            msg = await anext(messages)
    assert (msg.data, messages.failed) == (Order(2), 1)
    assert "(sequence 1) was left out: DecodeError, not a valid Order" in caplog.text
    assert "secret" not in caplog.text


async def test_many_tasks_read_at_the_same_time(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])

    async def life() -> list[int]:
        async with app.js.messages(stream.name) as messages:
            return await read(messages, 200)

    async with app:
        lives = [asyncio.create_task(life()) for _ in range(20)]
        await publish(app, stream, range(200))
        assert await asyncio.gather(*lives) == 20 * [list(range(1, 201))]
        assert await consumer_names(app, stream) == []


# Back-pressure.


async def test_the_server_keeps_what_the_loop_has_not_got_to(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    async with app:
        await publish(app, stream, range(100))
        async with app.js.messages(stream.name, prefetch=8) as messages:
            assert await read(messages, 1) == [1]
            [name] = await consumer_names(app, stream)
            info = await consumer_info(app, stream, name)
            assert info["delivered"]["consumer_seq"] == 8
            assert await read(messages, 99) == list(range(2, 101))


async def test_the_bytes_that_wait_are_bounded(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered, "READ_AHEAD_BYTES", 0)  # twice the largest message remains
    app = make_app(streams=[stream])
    sizes = [400_000] * 12 + [1_000_000] * 4
    async with app:
        for size in sizes:
            await app.js.publish(f"{stream.name}.n", b"x" * size)
        async with app.js.messages(stream.name, data_type=bytes) as messages:
            assert await read(messages, 1) == [1]
            [name] = await consumer_names(app, stream)
            info = await consumer_info(app, stream, name)
            assert info["delivered"]["consumer_seq"] == 5
            assert await read(messages, len(sizes) - 1) == list(range(2, len(sizes) + 1))
    assert messages.gaps == 0


async def test_a_message_larger_than_the_bound_is_read_all_the_same(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that allowed larger messages may have stored it."""
    monkeypatch.setattr(ordered, "READ_AHEAD_BYTES", 0)
    monkeypatch.setattr(ordered, "SLACK", -1_048_576 + 1_000)  # as if max_payload were 1,000
    app = make_app(streams=[stream])
    async with app:
        for size in (10, 9_000, 10):
            await app.js.publish(f"{stream.name}.n", b"x" * size)
        async with app.js.messages(stream.name, data_type=bytes) as messages:
            assert await read(messages, 3) == [1, 2, 3]


# Interruptions.


async def test_reading_has_no_gap_and_no_duplicate_after_the_server_was_killed(
    server: NATSServer,
) -> None:
    stream = Stream("READ", subjects=["READ.>"])
    got: list[int] = []
    async with App("reader", servers=server.url, reconnect_time_wait=0.1, streams=[stream]) as app:
        await publish(app, stream, range(1_000))
        async with app.js.messages("READ") as messages:
            got += await read(messages, 300)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            got += await read(messages, 700)
            await publish(app, stream, range(5))
            got += await read(messages, 5)
    assert got == list(range(1, 1_006))
    assert (messages.gaps, messages.missed) == (0, 0)


async def test_reading_goes_on_after_its_consumer_was_deleted(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    async with app, app.js.messages(stream.name, subject=f"{stream.name}.*") as messages:
        await publish(app, stream, range(5))
        assert await read(messages, 5) == [1, 2, 3, 4, 5]
        [name] = await consumer_names(app, stream)
        await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.{name}")
        await publish(app, stream, range(2))
        assert await read(messages, 2) == [6, 7]
    assert messages.gaps == 0


async def test_messages_that_were_removed_before_they_were_read_are_counted_and_logged(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    async with app:
        await publish(app, stream, range(20))
        async with app.js.messages(stream.name, prefetch=4) as messages:
            assert await read(messages, 1) == [1]
            await app.js.api.call(f"STREAM.PURGE.{stream.name}", {"seq": 11})
            assert await read(messages, 5) == [2, 3, 4, 11, 12]
            assert (messages.gaps, messages.missed) == (1, 6)
    assert "6 messages were removed before they could be read" in caplog.text


async def test_a_reader_that_comes_back_too_late_is_told(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    async with app:
        await publish(app, stream, range(20))
        await app.js.api.call(f"STREAM.PURGE.{stream.name}", {"seq": 11})
        for subject in (None, f"{stream.name}.*"):
            async with app.js.messages(stream.name, subject=subject, start=6) as messages:
                assert await read(messages, 2) == [11, 12]
                assert (messages.gaps, messages.missed) == (1, 5)


async def test_a_gap_in_a_part_of_the_subjects_is_noticed_after_an_interruption(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    async with app, app.js.messages(stream.name, subject=f"{stream.name}.n") as messages:
        await publish(app, stream, range(2))
        assert await read(messages, 2) == [1, 2]
        [name] = await consumer_names(app, stream)
        await app.js.api.call(f"CONSUMER.PAUSE.{stream.name}.{name}", {"pause_until": LATER})
        await publish(app, stream, range(5))
        await app.js.api.call(f"STREAM.PURGE.{stream.name}")
        await publish(app, stream, range(1))
        await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.{name}")
        assert await read(messages, 1) == [8]
    assert (messages.gaps, messages.missed) == (1, 5)
    assert "messages on other subjects included" in caplog.text


async def test_a_stream_that_keeps_the_last_messages_only_has_no_gaps(
    make_app: MakeApp, stream: Stream
) -> None:
    latest = Stream(stream.name, subjects=stream.subjects, storage="memory", max_msgs_per_subject=1)
    app = make_app(streams=[latest])
    async with app:
        await publish(app, latest, range(5))
        async with app.js.messages(latest.name, start=2) as messages:
            await publish(app, latest, range(5), "other")
            assert (await read(messages, 1))[0] > 4
    assert (messages.gaps, messages.missed) == (0, 0)


async def test_a_stream_that_was_created_again_is_read_from_its_beginning_and_that_is_told(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    async with app, app.js.messages(stream.name) as messages:
        await publish(app, stream, range(5))
        assert await read(messages, 5) == [1, 2, 3, 4, 5]
        await app.js.api.call(f"STREAM.DELETE.{stream.name}")
        await app.js.apply()
        await publish(app, stream, range(2))
        assert await read(messages, 2) == [1, 2]
    assert (messages.gaps, messages.missed) == (1, 0)
    assert "the stream has begun again with sequence 1" in caplog.text


# The end.


async def test_a_cancelled_task_leaves_nothing_behind(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    reading = asyncio.Event()

    async def life() -> None:
        async with app.js.messages(stream.name) as messages:
            async for _ in messages:
                reading.set()

    async with app:
        await publish(app, stream, range(1))
        task = asyncio.create_task(life())
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await consumer_names(app, stream) == []


async def test_a_task_that_is_cancelled_again_and_again_leaves_nothing_behind(
    make_app: MakeApp, stream: Stream
) -> None:
    """As the cancel scopes of anyio do it, so that a task cannot wait for anything any more."""
    app = make_app(streams=[stream])
    reading = asyncio.Event()

    async def life() -> None:
        async with app.js.messages(stream.name) as messages:
            reading.set()
            await anext(messages)

    async with app:
        task = asyncio.create_task(life())
        await reading.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        await no_consumer(app, stream)


async def test_a_cancellation_during_the_start_leaves_nothing_behind(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])

    async def life() -> None:
        async with app.js.messages(stream.name):
            await asyncio.Event().wait()

    async with app:
        for turns in range(12):
            task = asyncio.create_task(life())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await no_consumer(app, stream)


async def test_a_consumer_whose_creation_was_cut_off_is_deleted_after_it_exists() -> None:
    """A server works on a creation and a deletion at the same time. This one creates slowly."""
    at = "2026-01-01T00:00:00Z"
    consumers: set[str] = set()
    asked, refused = asyncio.Event(), asyncio.Event()

    async def life() -> None:
        async with app.js.messages("S"):
            pass

    with NATSServer() as server:  # without JetStream
        api, app = App("api", servers=server.url), App("app", servers=server.url)

        @api.listen("$JS.API.STREAM.INFO.S")
        async def info(msg: Message[Any]) -> dict[str, Any]:
            state = {"messages": 0, "first_seq": 0, "last_seq": 0, "first_ts": at, "last_ts": at}
            return {"config": {"name": "S", "retention": "limits"}, "created": at, "state": state}

        @api.listen("$JS.API.CONSUMER.CREATE.S.*")
        async def create(msg: Message[Any]) -> dict[str, Any]:
            asked.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(refused.wait(), 0.2)
            consumers.add(msg.subject.split(".")[-1])
            place = {"consumer_seq": 0, "stream_seq": 0}
            counts = {"num_pending": 0, "num_ack_pending": 0, "num_waiting": 0}
            return {"created": at, "config": {}, "delivered": place, "ack_floor": place, **counts}

        @api.listen("$JS.API.CONSUMER.DELETE.S.*")
        async def delete(msg: Message[Any]) -> dict[str, Any]:
            name = msg.subject.split(".")[-1]
            if name in consumers:
                consumers.remove(name)
                return {"success": True}
            refused.set()
            return {"error": {"code": 404, "err_code": 10014, "description": "not found"}}

        async with asyncio.timeout(PATIENCE), api, app:
            task = asyncio.create_task(life())
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not consumers
        assert not refused.is_set()


async def test_a_wait_that_was_cancelled_loses_no_message(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    async with app, app.js.messages(stream.name) as messages:
        for number in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(messages)
            await publish(app, stream, range(1))
            assert await read(messages, 1) == [number + 1]


async def test_the_loop_ends_when_the_app_stops(make_app: MakeApp, stream: Stream) -> None:
    app, got = make_app(streams=[stream]), []

    async def life() -> None:
        async with app.js.messages(stream.name) as messages:
            async for msg in messages:
                got.append(msg.sequence)  # noqa: PERF401 - the test waits for the first of them

    async with make_app("other", streams=[stream]) as other:
        async with app:
            task = asyncio.create_task(life())
            await publish(app, stream, range(3))
            await until(lambda: len(got) == 3)
        async with asyncio.timeout(PATIENCE):
            await task
        await no_consumer(other, stream)


async def test_a_handler_that_reads_ends_with_the_app(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    begun = asyncio.Event()

    @app.listen(f"{stream.name}-ask")
    async def ask(msg: Any) -> int:
        count = 0
        async with app.js.messages(stream.name) as messages:
            begun.set()
            async for _ in messages:
                count += 1
        return count

    async with make_app("other") as other:
        async with app:
            answer = asyncio.create_task(
                other.request(f"{stream.name}-ask", timeout=PATIENCE, response_data_type=int)
            )
            await begun.wait()
        assert await answer == 0


# Wrong use.


async def test_a_loop_without_async_with_is_refused(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    async with app:
        with pytest.raises(ConfigError, match="write `async with"):
            async for _ in app.js.messages(stream.name):
                pass
        messages = app.js.messages(stream.name)
        async with messages:
            pass
        with pytest.raises(ConfigError, match="must be entered"):
            await anext(messages)
        with pytest.raises(ConfigError, match="entered twice"):
            async with messages:
                pass


async def test_a_stream_that_is_not_there_is_an_error(make_app: MakeApp) -> None:
    app = make_app()
    async with app:
        with pytest.raises(JetStreamApiError, match=r"stream not found \(.*\bNOWHERE\b"):
            async with app.js.messages("NOWHERE"):
                pass


async def test_messages_that_are_not_due_are_not_read_by_accident(
    make_app: MakeApp, stream: Stream
) -> None:
    later = Stream(stream.name, subjects=stream.subjects, schedules=True)
    app = make_app(streams=[later])
    async with app:
        with pytest.raises(ConfigError, match="not due: pass the subject="):
            async with app.js.messages(later.name):
                pass
        async with app.js.messages(later.name, subject=f"{later.name}.a"):
            pass


async def test_reading_needs_a_running_app(stream: Stream) -> None:
    with pytest.raises(NotStartedError):
        async with App("idle").js.messages(stream.name):
            pass


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda js: js.messages("a.b"), ConfigError, "stream"),
        (lambda js: js.messages("S", start="first"), ConfigError, "start must be"),
        (lambda js: js.messages("S", start=0), ConfigError, "start must be"),
        (lambda js: js.messages("S", subject=[]), ConfigError, "at least one"),
        (lambda js: js.messages("S", subject=["a.*", "a.b"]), ConfigError, "same messages"),
        (lambda js: js.messages("S", subject="a b"), SubjectError, "a b"),
        (lambda js: js.messages("S", prefetch=0), ConfigError, "prefetch"),
        (lambda js: js.messages("S", headers_only=1), ConfigError, "headers_only"),
        (lambda js: js.messages("S", headers_only=True, data_type=int), ConfigError, "excludes"),
        (lambda js: js.messages("S", data_type="dct"), ConfigError, "data_type"),
        (lambda js: js.messages("S", subjects="a"), TypeError, "did you mean 'subject'"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_written(
    call: Callable[[Any], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(App("idle").js)


LATER = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
