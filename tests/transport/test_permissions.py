"""What the server does not permit is told to who asked for it, and to nobody else."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import AT_ONCE, PATIENCE, until
from tidings import (
    App,
    NoRespondersError,
    SubjectPermissionError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]

CONFIG = """
authorization {
  users = [
    {user: ada, password: pw, permissions: {
      publish: {deny: "no.>"}, subscribe: {deny: ["no.>", "queued.* no"]}}}
    {user: eve, password: pw, permissions: {subscribe: {deny: "_INBOX.>"}}}
  ]
}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NATSServer]:
    path: Path = tmp_path_factory.mktemp("guarded") / "server.conf"
    path.write_text(CONFIG)
    with NATSServer(config=path) as server:
        yield server


async def outcomes(*calls: Any) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*calls, return_exceptions=True)


async def test_each_of_two_who_subscribe_at_once_is_told_of_its_own_denial(
    guarded: NATSServer, make_app: MakeApp
) -> None:
    inbox = Inbox()
    async with make_app(guarded, user="ada", password="pw") as app:
        subscribe = app.subscribe_new_subject
        good, bad, twice, other = await outcomes(
            subscribe("fine", inbox, data_type=int),
            subscribe("no.a", inbox),
            subscribe("no.a", inbox),
            subscribe("queued.a", inbox, queue="yes", data_type=int),
        )
        assert isinstance(good, str)
        assert isinstance(other, str)
        for denied in (bad, twice):
            assert isinstance(denied, SubjectPermissionError)
            assert denied.subject == "no.a"
        await app.publish("fine", 1)
        await app.publish("queued.a", 2)
        assert await inbox.has(2) == [1, 2]
        await until(lambda: len(app.stats().listeners) == 2)


async def test_a_denied_queue_group_says_nothing_of_another_on_the_same_subject(
    guarded: NATSServer, make_app: MakeApp
) -> None:
    inbox = Inbox()
    async with make_app(guarded, user="ada", password="pw") as app:
        denied, good = await outcomes(
            app.subscribe_new_subject("queued.b", inbox, queue="no"),
            app.subscribe_new_subject("queued.b", inbox, queue="yes", data_type=int),
        )
        assert isinstance(denied, SubjectPermissionError)
        assert isinstance(good, str)
        await app.publish("queued.b", 3)
        assert await inbox.has(1) == [3]


async def test_each_of_many_who_publish_with_force_at_once_is_told_of_its_denial(
    guarded: NATSServer, make_app: MakeApp
) -> None:
    async with make_app(guarded, user="ada", password="pw") as app:
        calls = []
        for number in range(50):
            calls.append(app.publish("no.a", number, force=True))
            calls.append(app.publish("fine", number, force=True))
        results = await outcomes(*calls)
    assert all(isinstance(result, SubjectPermissionError) for result in results[::2])
    assert all(result is None for result in results[1::2])


async def test_a_request_whose_answer_may_not_come_back_says_so_at_once(
    guarded: NATSServer, make_app: MakeApp
) -> None:
    async with make_app(guarded, user="eve", password="pw") as app:
        await app.subscribe_new_subject("echo", Inbox())
        for _ in range(2):
            results = await outcomes(*(app.request("echo", timeout=3600) for _ in range(3)))
            for result in results:
                assert isinstance(result, SubjectPermissionError)
                assert (result.operation, result.subject[:7]) == ("subscription", "_INBOX.")
        assert app.stats().connection.requests == 0
        assert app.stats().connection.reconnects == 0


async def test_a_thousand_denied_publishes_are_counted_each_and_told_in_a_line_or_two(
    guarded: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_app(guarded, user="ada", password="pw") as app:
        for number in range(1000):
            await app.publish("no.a", number)
        await until(lambda: app.stats().connection.errors == 1000)
    lines = [text for text in caplog.messages if "denies publish" in text]
    assert 1 <= len(lines) <= 3


# A server that permits little.

PERMISSIONS = """
authorization {
  users = [
    {user: "ada", password: "right", permissions: {
      publish: {allow: ["ok.>", "_INBOX.>"]}, subscribe: {allow: ["ok.>", "_INBOX.>"]}
    }}
  ]
}
"""


@pytest.fixture
def few(tmp_path: Path) -> Iterator[NATSServer]:
    """A server with one user, whose permissions are few."""
    config = tmp_path / "few.conf"
    config.write_text(PERMISSIONS)
    with NATSServer(config=config) as server:
        yield server


async def test_a_listener_that_may_not_subscribe_fails_the_start(
    few: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(few, user="ada", password="right")
    app.listen("ok.numbers")(Inbox())
    async with app:
        assert await app.request("ok.numbers", {"a": 1}) == {"a": 1}
    app.listen("forbidden.*", queue="group")(Inbox())
    began = time.monotonic()
    with pytest.raises(SubjectPermissionError) as caught:
        await app.__aenter__()
    assert time.monotonic() - began < AT_ONCE
    assert (caught.value.operation, caught.value.subject) == ("subscription", "forbidden.*")
    assert not app.is_running


async def test_subscribing_where_it_is_not_permitted_raises_and_the_rest_works(
    few: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(few, user="ada", password="right")
    inbox = Inbox()
    async with app:
        with pytest.raises(SubjectPermissionError):
            await app.subscribe_new_subject("forbidden", inbox)
        with pytest.raises(SubjectPermissionError):
            await app.subscribe_new_subject("forbidden", inbox, queue="q")
        await app.subscribe_new_subject("ok.numbers", inbox, data_type=int)
        await app.publish("ok.numbers", 7)
        assert await inbox.has(1) == [7]
        await until(lambda: len(app.stats().listeners) == 1)
        assert app.stats().connection.reconnects == 0


async def test_publishing_where_it_is_not_permitted_is_told_by_the_error_event(
    few: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(few, user="ada", password="right")
    errors: list[Any] = []
    app.on("error")(lambda event: errors.append(event.error))
    async with app:
        await app.publish("forbidden", 1)
        await until(lambda: errors)
        assert isinstance(errors[0], SubjectPermissionError)
        assert (errors[0].operation, errors[0].subject) == ("publish", "forbidden")
        assert app.stats().connection.errors == 1
        assert "forbidden" in caplog.text
        with pytest.raises(NoRespondersError):
            await app.request("ok.nobody")


@pytest.mark.parametrize(
    "call",
    [
        lambda app: app.publish("forbidden.a", force=True),
        lambda app: app.request("forbidden.a", timeout=3600),
    ],
    ids=["publish with force", "request"],
)
async def test_who_waits_for_the_server_is_told_of_its_denial(
    few: NATSServer, make_app: MakeApp, call: Callable[[App], Awaitable[Any]]
) -> None:
    async with make_app(few, user="ada", password="right") as app:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(SubjectPermissionError, match=r"forbidden\.a"):
                await call(app)
        await app.publish("ok.a", force=True)
