"""What `app.publish` returns: a coroutine, or with the compiled core something that is used as one.

The first publish of a turn of the loop goes another way than the next ones, so most tests send two.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from support.inbox import Inbox
from tidings import App
from tidings.bus import Bus
from tidings.errors import (
    ConnectionClosedError,
    EncodeError,
    HeaderError,
    NotStartedError,
    PayloadTooLargeError,
    SubjectError,
)
from tidings.server import NATSServer

NEVER_AWAITED = rf"coroutine '{re.escape(Bus.publish.__qualname__)}' was never awaited"


@pytest.fixture
async def app(nats_server: NATSServer) -> AsyncIterator[App]:
    async with App("publisher", servers=nats_server.url) as running:
        yield running


@pytest.fixture
async def inbox(app: App, subject: str) -> Inbox:
    inbox = Inbox()
    await app.subscribe_new_subject(subject, inbox, data_type=bytes)
    return inbox


async def test_a_message_is_sent_when_it_is_awaited(app: App, inbox: Inbox, subject: str) -> None:
    later = app.publish(subject, b"2")
    await app.publish(subject, b"1")
    await later
    assert await inbox.has(2) == [b"1", b"2"]


async def test_arguments_may_be_positional_or_named(app: App, inbox: Inbox, subject: str) -> None:
    await app.publish(subject, b"0")
    await app.publish(subject, b"1")
    await app.publish(subject, message=b"2")
    await app.publish(subject=subject, message=b"3")
    await app.publish(message=b"4", subject=subject)
    await app.publish(subject)
    await app.publish(subject, b"6", "", False)
    await app.publish(subject, b"7", headers={"A": "1"}, data_type=bytes)
    await app.publish(subject, message=b"8", force=True)
    words = {
        name[:3] + name[3:]: value for name, value in [("subject", subject), ("message", b"9")]
    }
    await app.publish(**words)  # names that Python has not interned
    expected = [b"0", b"1", b"2", b"3", b"4", b"", b"6", b"7", b"8", b"9"]
    assert await inbox.has(10) == expected


@pytest.mark.parametrize(
    ("args", "keywords"),
    [
        ((), {}),
        ((), {"message": b"x"}),
        (("a",), {"subject": "a"}),
        (("a", b"x"), {"message": b"x"}),
        (("a", b"x"), {"topic": "a"}),
        (("a", b"x", "", False, {}), {}),
    ],
)
async def test_wrong_arguments_raise_at_the_call(
    app: App, args: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r"publish\(\)"):
        app.publish(*args, **keywords)


@pytest.mark.parametrize(
    ("subject", "message", "error"),
    [
        ("a b", b"", SubjectError),
        ("a.*", b"", SubjectError),
        ("", b"", SubjectError),
        (5, b"", SubjectError),
        ("a", object(), EncodeError),
        ("a", b"x" * (1024 * 1024 + 1), PayloadTooLargeError),
    ],
)
async def test_errors_are_raised_where_the_message_is_awaited(
    app: App, subject: Any, message: Any, error: type[Exception]
) -> None:
    refused = app.stats().connection.refused
    for _ in range(2):
        wrong = app.publish(subject, message)
        with pytest.raises(error):
            await wrong
    if error is PayloadTooLargeError:
        assert app.stats().connection.refused == refused + 2
    with pytest.raises(HeaderError):
        await app.publish("a", b"", headers={"A B": "1"})


async def test_a_message_that_nobody_awaits_is_not_sent_and_warns(
    app: App, inbox: Inbox, subject: str
) -> None:
    await app.publish(subject, b"1")
    forgotten = [app.publish(subject, b"forgotten")]
    with pytest.warns(RuntimeWarning, match=NEVER_AWAITED):
        forgotten.clear()
    await app.publish(subject, b"2", force=True)
    assert await inbox.has(2) == [b"1", b"2"]


async def test_a_forgotten_message_in_a_cycle_warns_too(app: App, subject: str) -> None:
    cycle: list[Any] = []
    cycle.append(app.publish(subject, cycle))
    del cycle
    with pytest.warns(RuntimeWarning, match=NEVER_AWAITED):
        gc.collect()


async def test_a_closed_message_is_not_sent_and_does_not_warn(app: App, subject: str) -> None:
    closed = app.publish(subject, b"")
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await closed


async def test_a_message_can_be_awaited_once(app: App, subject: str) -> None:
    await app.publish(subject, b"")
    sent = app.publish(subject, b"")
    await sent
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await sent
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        sent.throw(ValueError)


async def test_messages_are_sent_by_tasks_and_groups(app: App, inbox: Inbox, subject: str) -> None:
    await asyncio.create_task(app.publish(subject, b"1"), name="sender")
    await asyncio.gather(app.publish(subject, b"2"), app.publish(subject, b"3"))
    await asyncio.wait_for(app.publish(subject, b"4"), 10)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(app.publish(subject, b"5"))
        assert Bus.publish.__qualname__ in repr(task)
    assert await inbox.has(5) == [b"1", b"2", b"3", b"4", b"5"]


async def test_an_error_thrown_into_a_message_ends_it(app: App, subject: str) -> None:
    await app.publish(subject, b"")
    thrown = app.publish(subject, b"")
    with pytest.raises(ValueError, match="thrown"):
        thrown.throw(ValueError("thrown"))
    with pytest.raises(RuntimeError, match="cannot reuse"):
        thrown.send(None)


async def test_a_crowded_buffer_makes_the_sender_wait_and_can_be_cancelled(
    app: App, subject: str
) -> None:
    body = b"x" * 200_000  # more than the threshold
    await app.publish(subject, b"")
    waiting = app.publish(subject, body)
    assert waiting.send(None) is None  # a bare yield: one turn of the loop
    with pytest.raises(RuntimeError, match="is being awaited already"):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        waiting.throw(asyncio.CancelledError())
    again = app.publish(subject, body)
    again.send(None)
    again.close()
    third = app.publish(subject, body)
    third.send(None)
    with pytest.raises(StopIteration):
        third.send(None)


async def test_a_value_cannot_be_sent_before_the_start(app: App, subject: str) -> None:
    fresh: Any = app.publish(subject, b"")
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        fresh.send(1)
    fresh.close()


async def test_without_a_running_app_the_error_says_so() -> None:
    app = App("idle")
    with pytest.raises(NotStartedError):
        await app.publish("a", b"")


async def test_after_the_end_of_the_app_the_error_says_so(
    nats_server: NATSServer, subject: str
) -> None:
    async with App("publisher", servers=nats_server.url) as app:
        late = app.publish(subject, b"")
    with pytest.raises(NotStartedError):
        await late


async def test_after_the_connection_closed_a_message_is_refused(app: App, subject: str) -> None:
    run = app._run
    assert run is not None
    run.connection.outbox.close()
    for _ in range(2):
        with pytest.raises(ConnectionClosedError):
            await app.publish(subject, b"")


async def test_the_call_looks_like_the_method(app: App) -> None:
    assert list(inspect.signature(app.publish).parameters) == [
        *("subject", "message", "reply_to", "force", "headers", "data_type")
    ]
    assert app.publish.__doc__ == Bus.publish.__doc__
    assert (app.publish.__name__, app.publish.__qualname__) == ("publish", Bus.publish.__qualname__)
    assert app.publish.__module__ == "tidings.bus"
    assert app.publish.__self__ is app
    assert repr(app.publish).startswith(f"<bound method {Bus.publish.__qualname__} of ")


async def test_what_it_returns_is_a_coroutine_to_asyncio(app: App) -> None:
    sent = app.publish("a", b"")
    assert asyncio.iscoroutine(sent)
    assert inspect.isawaitable(sent)
    assert isinstance(sent, Coroutine)
    await sent
