"""What the server does not permit is told to who asked for it, and to nobody else."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import App, SubjectPermissionError
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
