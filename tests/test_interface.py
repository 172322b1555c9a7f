"""The interface that users asked for: a test a row of its table, each call as it is documented."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import PATIENCE
from tidings import App, Middleware, NoRespondersError
from tidings.testing import NATSServer

on_app_and_nats = pytest.mark.parametrize(
    "on", [lambda app: app, lambda app: app.nats], ids=["app", "app.nats"]
)
On = Callable[[App], Any]


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App(service_name="interface", servers=nats_server.url)


def in_thread(function: Callable[[], Any]) -> Any:
    """Run in another thread, from synchronous code, and hand back the result."""
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((function(), None))
        except BaseException as error:
            results.put((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    result, error = results.get(timeout=PATIENCE)
    if error is not None:
        raise error
    return result


# @app.task()


async def test_task_is_launched_with_the_application_and_executed_once(app: App) -> None:
    runs = []
    ticked = asyncio.Event()

    @app.task()
    async def once():
        runs.append(asyncio.current_task())

    @app.task(interval=0.01)
    async def tick():
        if app.stats().tasks[1].runs == 5:
            ticked.set()

    async with app, asyncio.timeout(PATIENCE):
        await ticked.wait()
        assert app.stats().tasks[0].runs == len(runs) == 1


# @app.task(interval=2)


@pytest.mark.parametrize("interval", [1, 0.02])
async def test_task_with_interval_runs_again_and_again(app: App, interval: float) -> None:
    times = []
    done = asyncio.Event()

    @app.task(interval=interval)
    async def tick():
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            done.set()

    async with app, asyncio.timeout(PATIENCE):
        await done.wait()
    # Half, because a busy machine may start the first run late and the second on time.
    assert times[1] - times[0] >= interval / 2


# @app.listen(subject="some.subject")


async def test_listen_runs_the_callback_for_every_incoming_message(app: App, subject: str) -> None:
    inbox = Inbox()

    @app.listen(subject=subject)
    async def handle(msg):
        await inbox(msg)

    async with app:
        for number in range(3):
            await app.publish(subject=subject, message={"number": number})
        for number in range(3):
            msg = await inbox.next()
            assert (msg.subject, msg.data) == (subject, {"number": number})


async def test_listen_takes_several_subjects_and_wildcards(app: App, subject: str) -> None:
    inbox = Inbox()
    app.listen([f"{subject}.a", f"{subject}.*.b", f"{subject}.c.>"])(inbox)
    async with app:
        for end in ("a", "x", "x.b", "c.d.e", "a"):
            await app.publish(f"{subject}.{end}")
        got = [(await inbox.next()).subject for _ in range(4)]
    assert got == [f"{subject}.{end}" for end in ("a", "x.b", "c.d.e", "a")]


def test_listen_and_task_return_the_function(app: App) -> None:
    def function(*args):
        return args

    assert app.listen("a")(function) is function
    assert app.task()(lambda: None)() is None


# await app.publish(subject=, message=, reply_to=, force=)


@on_app_and_nats
async def test_publish_sends_and_returns_none(app: App, on: On, subject: str) -> None:
    inbox = Inbox()
    app.listen(subject=subject)(inbox)
    async with app:
        result = await on(app).publish(
            subject=subject, message={"a": 1}, reply_to=f"{subject}.reply", force=False
        )
        first = await inbox.next()
        await on(app).publish(subject, {"a": 2}, f"{subject}.reply", True)
        second = await inbox.next()
    assert result is None
    assert (first.subject, first.data, first.reply) == (subject, {"a": 1}, f"{subject}.reply")
    assert (second.subject, second.data, second.reply) == (subject, {"a": 2}, f"{subject}.reply")


async def test_publish_without_force_goes_out_with_the_next_turn_of_the_loop(
    app: App, subject: str
) -> None:
    async with app:
        await app.flush()
        before = app.stats().connection
        for _ in range(3):
            await app.publish(subject=subject, message=b"x")
        assert app.stats().connection.unsent == 3
        await asyncio.sleep(0)
        after = app.stats().connection
    assert (after.sent - before.sent, after.unsent) == (3, 0)


async def test_publish_with_force_sends_what_was_buffered_and_returns_when_the_server_has_it(
    app: App, nats_server: NATSServer, subject: str
) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)
    async with app:
        nats_server.pause()
        try:
            await app.publish(subject=subject, message={"n": 1})
            forced = asyncio.create_task(app.publish(subject=subject, message={"n": 2}, force=True))
            done, _ = await asyncio.wait([forced], timeout=0.1)
            assert not done
        finally:
            nats_server.resume()
        assert await forced is None
        assert [(await inbox.next()).data["n"] for _ in range(2)] == [1, 2]


# await app.request(subject=, message=, timeout=, response_data_type=)


@on_app_and_nats
async def test_request_returns_the_response_body(app: App, on: On, subject: str) -> None:
    app.listen(subject)(Inbox())
    async with app:
        request = on(app).request
        assert await request(subject=subject, message={"a": 1}) == {"a": 1}
        answer = await request(
            subject=subject, message={"a": 1}, timeout=PATIENCE, response_data_type=bytes
        )
        assert answer == b'{"a":1}'
        assert await request(subject, {"a": 1}, PATIENCE, "str") == '{"a":1}'


# app.nats.publish_from_another_thread(subject=, message=, reply_to=, force=)


@on_app_and_nats
def test_publish_from_another_thread_sends_and_returns_none(app: App, on: On, subject: str) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)
    with app:
        publish = on(app).publish_from_another_thread
        result = in_thread(
            lambda: publish(
                subject=subject, message={"a": 1}, reply_to=f"{subject}.reply", force=True
            )
        )
        in_thread(lambda: publish(subject, {"a": 2}, f"{subject}.reply", False))
        first, second = inbox.get(), inbox.get()
    assert result is None
    assert (first.data, first.reply) == ({"a": 1}, f"{subject}.reply")
    assert (second.data, second.reply) == ({"a": 2}, f"{subject}.reply")


# await app.request_from_another_thread(subject=, message=, timeout=, headers=)


@on_app_and_nats
async def test_request_from_another_thread_is_awaited_in_that_threads_own_loop(
    app: App, on: On, subject: str
) -> None:
    @app.listen(subject)
    async def answer(msg):
        return {"data": msg.data, "header": msg.headers["A"]}

    async with app:
        request = on(app).request_from_another_thread

        def other_thread():
            async def ask():
                by_name = await request(
                    subject=subject, message={"a": 1}, timeout=PATIENCE, headers={"A": "1"}
                )
                return [by_name, await request(subject, {"a": 2}, PATIENCE, {"A": "2"})]

            return asyncio.run(ask())

        assert await asyncio.to_thread(other_thread) == [
            {"data": {"a": 1}, "header": "1"},
            {"data": {"a": 2}, "header": "2"},
        ]


# await app.subscribe_new_subject(subject=, callback=)


@on_app_and_nats
async def test_subscribe_new_subject_returns_the_subscription_id(
    app: App, on: On, subject: str
) -> None:
    inbox = Inbox()
    async with app:
        ssid = await on(app).subscribe_new_subject(subject=subject, callback=inbox)
        other = await on(app).subscribe_new_subject(f"{subject}.other", inbox)
        await app.publish(subject, {"a": 1})
        msg = await inbox.next()
    assert isinstance(ssid, str)
    assert ssid != other
    assert (msg.subject, msg.data, msg.sid) == (subject, {"a": 1}, ssid)


# await app.unsubscribe_subject(subject=)


@on_app_and_nats
async def test_unsubscribe_subject_ends_every_subscription_on_exactly_that_subject(
    app: App, on: On, subject: str
) -> None:
    ended, wider = Inbox(), Inbox()
    app.listen(f"{subject}.a")(ended)
    async with app:
        for _ in range(2):
            await app.subscribe_new_subject(f"{subject}.a", ended)
        await app.subscribe_new_subject(f"{subject}.*", wider)
        assert await on(app).unsubscribe_subject(subject=f"{subject}.a") is None
        await app.publish(f"{subject}.a", {"a": 1}, force=True)
        assert (await wider.next()).data == {"a": 1}
        await app.subscribe_new_subject(f"{subject}.a", ended)
        await on(app).unsubscribe_subject(f"{subject}.a")
        await app.unsubscribe_subject(f"{subject}.*")
        with pytest.raises(NoRespondersError):
            await app.request(f"{subject}.a")
    assert ended.is_empty()


# await app.unsubscribe_ssid(ssid=)


@on_app_and_nats
async def test_unsubscribe_ssid_ends_the_one_subscription_with_that_id(
    app: App, on: On, subject: str
) -> None:
    first, second = Inbox(), Inbox()
    async with app:
        ssid = await app.subscribe_new_subject(subject, first)
        other = await app.subscribe_new_subject(subject, second)
        assert await on(app).unsubscribe_ssid(ssid=ssid) is None
        await app.publish(subject, {"a": 1}, force=True)
        assert (await second.next()).data == {"a": 1}
        await on(app).unsubscribe_ssid(other)
        with pytest.raises(NoRespondersError):
            await app.request(subject)
    assert first.is_empty()


# await app.disconnect()


@pytest.mark.parametrize("entry", ["run", "start"])
def test_disconnect_drains_and_closes_and_run_returns(app: App, subject: str, entry: str) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)

    @app.task()
    async def end():
        for number in range(50):
            await app.publish(subject, {"number": number})
        await app.disconnect()

    assert getattr(app, entry)() is None
    assert [inbox.get().data["number"] for _ in range(50)] == list(range(50))
    assert not app.is_running


@on_app_and_nats
async def test_disconnect_returns_when_all_is_closed(app: App, on: On) -> None:
    async with app:
        assert await on(app).disconnect() is None
        assert not app.is_running
        assert app.connected_url is None


# The blocking forms.


@on_app_and_nats
def test_publish_sync_is_publish(app: App, on: On, subject: str) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)
    with app:
        publish_sync = on(app).publish_sync
        reply = f"{subject}.reply"
        assert publish_sync(subject=subject, message={"a": 1}, reply_to=reply, force=True) is None
        publish_sync(subject, {"a": 2}, reply, False)
        first, second = inbox.get(), inbox.get()
    assert (first.data, first.reply) == ({"a": 1}, reply)
    assert (second.data, second.reply) == ({"a": 2}, reply)


@on_app_and_nats
def test_request_sync_is_request(app: App, on: On, subject: str) -> None:
    app.listen(subject)(Inbox())
    with app:
        request_sync = on(app).request_sync
        answer = request_sync(
            subject=subject, message={"a": 1}, timeout=PATIENCE, response_data_type="bytes"
        )
        assert answer == b'{"a":1}'
        assert request_sync(subject, {"a": 1}, PATIENCE, dict) == {"a": 1}


@on_app_and_nats
def test_subscribe_new_subject_sync_is_subscribe_new_subject(
    app: App, on: On, subject: str
) -> None:
    inbox = Inbox()
    with app:
        ssid = on(app).subscribe_new_subject_sync(subject=subject, callback=inbox)
        on(app).subscribe_new_subject_sync(f"{subject}.other", inbox)
        app.publish_sync(subject, {"a": 1})
        msg = inbox.get()
        app.publish_sync(f"{subject}.other", {"a": 2})
        assert inbox.get().data == {"a": 2}
    assert isinstance(ssid, str)
    assert (msg.data, msg.sid) == ({"a": 1}, ssid)


@on_app_and_nats
def test_unsubscribe_subject_sync_is_unsubscribe_subject(app: App, on: On, subject: str) -> None:
    app.listen(subject)(Inbox())
    with app:
        assert on(app).unsubscribe_subject_sync(subject=subject) is None
        with pytest.raises(NoRespondersError):
            app.request_sync(subject)
        app.subscribe_new_subject_sync(subject, Inbox())
        on(app).unsubscribe_subject_sync(subject)
        with pytest.raises(NoRespondersError):
            app.request_sync(subject)


@on_app_and_nats
def test_unsubscribe_ssid_sync_is_unsubscribe_ssid(app: App, on: On, subject: str) -> None:
    with app:
        ssid = app.subscribe_new_subject_sync(subject, Inbox())
        assert on(app).unsubscribe_ssid_sync(ssid=ssid) is None
        with pytest.raises(NoRespondersError):
            app.request_sync(subject)


@on_app_and_nats
def test_disconnect_sync_is_disconnect(app: App, on: On, subject: str) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)
    with app:
        app.publish_sync(subject, {"a": 1})
        began = time.monotonic()
        assert on(app).disconnect_sync() is None
        assert not app.is_running
    assert inbox.get().data == {"a": 1}
    assert time.monotonic() - began < PATIENCE / 2  # the drain timeout is 30 s


# app.add_middleware(SomeMiddleware, *args, **kwargs), app.middlewares


async def test_add_middleware_takes_the_class_and_its_arguments(app: App, subject: str) -> None:
    class Stamp(Middleware):
        def __init__(self, name: str, *, mark: str) -> None:
            self.text = name + mark

        async def send_publish(self, subject, message, publish_func, *args, **kwargs):
            return await publish_func(subject, {**message, "by": self.text}, *args, **kwargs)

    inbox = Inbox()
    app.listen(subject)(inbox)
    assert app.middlewares == ()
    assert app.add_middleware(Stamp, "Ada", mark="!") is None
    (added,) = app.middlewares
    assert (added.cls, added.args, added.kwargs) == (Stamp, ("Ada",), {"mark": "!"})
    async with app:
        await app.publish(subject=subject, message={"a": 1})
        assert (await inbox.next()).data == {"a": 1, "by": "Ada!"}


# data_type and response_data_type


@dataclass
class Order:
    id: int


@pytest.mark.parametrize(
    ("data_type", "expected"),
    [
        ("json", {"id": 7}),
        ("dict", {"id": 7}),
        ("str", '{"id":7}'),
        ("bytes", b'{"id":7}'),
        (dict, {"id": 7}),
        (str, '{"id":7}'),
        (bytes, b'{"id":7}'),
        (Order, Order(7)),
    ],
)
async def test_data_type_on_listen_and_subscribe_is_a_type_or_its_name(
    app: App, subject: str, data_type: Any, expected: object
) -> None:
    listened, subscribed = Inbox(), Inbox()
    app.listen(subject, data_type=data_type)(listened)
    async with app:
        await app.subscribe_new_subject(subject, subscribed, data_type=data_type)
        await app.publish(subject, {"id": 7})
        assert (await listened.next()).data == expected
        assert (await subscribed.next()).data == expected
        assert await app.request(subject, {"id": 7}, response_data_type=data_type) == expected


@pytest.mark.parametrize("data_type", ["list", list, list[int], tuple[int, ...]])
async def test_a_list_is_a_data_type_too(app: App, subject: str, data_type: Any) -> None:
    app.listen(subject, data_type=data_type)(Inbox())
    async with app:
        answer = await app.request(subject, [1, 2], response_data_type=data_type)
    assert list(answer) == [1, 2]


async def test_data_type_on_publish_says_what_is_sent(app: App, subject: str) -> None:
    inbox = Inbox()
    app.listen(subject, data_type=bytes)(inbox)
    async with app:
        await app.publish(subject, "text", data_type="json")
        await app.publish(subject, "text", data_type=str)
        await app.publish(subject, Order(7), data_type=Order)
        bodies = [(await inbox.next()).data for _ in range(3)]
    assert bodies == [b'"text"', b"text", b'{"id":7}']
