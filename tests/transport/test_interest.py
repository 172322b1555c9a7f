"""Refused subscriptions: an error where the user sees it, and asked for again until they work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import until
from tidings import App, Stream
from tidings.errors import (
    NoRespondersError,
    SubjectPermissionError,
    SubscriptionLimitError,
    TransportError,
)
from tidings.protocol.info import denied_sid, read_error
from tidings.server import NATSServer
from tidings.transport.buffer import Buffer
from tidings.transport.interest import Interest

MakeApp = Callable[..., App]
Configured = Callable[[str], NATSServer]


# The forms of -ERR.


@pytest.mark.parametrize(
    ("words", "subject", "queue", "sid"),
    [
        (b'Permissions Violation for Subscription to "a.*"', "a.*", "", 0),
        (b'Permissions Violation for Subscription to "a.*" using queue "q"', "a.*", "q", 0),
        (b'Permissions Violation for Subscription to "a.*" (sid "7")', "a.*", "", 7),
        (
            b'Permissions Violation for Subscription to "a" using queue "q" (sid "12")',
            "a",
            "q",
            12,
        ),
        (b'Permissions Violation for Subscription to "a\\"b", too many tokens', 'a"b', "", 0),
    ],
)
def test_a_refusal_names_a_subject_with_its_queue_or_a_sid(
    words: bytes, subject: str, queue: str, sid: int
) -> None:
    error = read_error(b"'%b'" % words)
    assert isinstance(error, SubjectPermissionError)
    assert (error.operation, error.subject, error.queue) == ("subscription", subject, queue)
    assert denied_sid(words) == sid


@pytest.fixture
async def interest() -> Interest:
    loop = asyncio.get_running_loop()
    return Interest(loop, Buffer(loop, 1000))


def refused(interest: Interest) -> dict[int, TransportError | None]:
    return {sid: interest.refusal(sid) for sid in range(1, 6) if interest.refusal(sid)}


async def test_a_named_sid_is_refused_alone(interest: Interest) -> None:
    sids = [interest.add(b"a", b""), interest.add(b"a", b""), interest.add(b"a", b"q")]
    error = SubjectPermissionError("subscription", "a")
    assert interest.refuse(error, sids[1]) == ([sids[1]], True)
    assert refused(interest) == {sids[1]: error}
    assert interest.refuse(error, sids[1]) == ([sids[1]], False)
    assert interest.refused_subjects == ("a",)
    interest.end()


async def test_where_no_sid_is_named_subject_and_queue_say_which(interest: Interest) -> None:
    one, two, other = interest.add(b"a", b"q"), interest.add(b"a", b"q"), interest.add(b"a", b"")
    interest.refuse(SubjectPermissionError("subscription", "a", "q"), 0)
    assert set(refused(interest)) == {one, two}
    interest.refuse(SubjectPermissionError("subscription", "a"), 0)
    assert set(refused(interest)) == {one, two, other}
    interest.end()


async def test_of_too_many_subscriptions_the_last_ones_are_refused(interest: Interest) -> None:
    sids = [interest.add(b"s.%d" % number, b"") for number in range(5)]
    for _ in range(2):
        interest.refuse(SubscriptionLimitError("maximum subscriptions exceeded"), 0)
    assert set(refused(interest)) == set(sids[3:])
    error = interest.refusal(sids[3])
    assert isinstance(error, SubscriptionLimitError)
    assert error.subject == "s.3"
    interest.end()


async def test_an_ended_subscription_is_refused_no_more(interest: Interest) -> None:
    sid = interest.add(b"a", b"")
    error = SubjectPermissionError("subscription", "a")
    interest.refuse(error, sid)
    interest.remove(sid)
    assert interest.refused_subjects == ()
    assert interest.refuse(error, sid) == ([], True)
    interest.end()


async def test_a_new_connection_is_asked_for_everything(interest: Interest) -> None:
    interest.add(b"a", b"")
    sid = interest.add(b"b", b"q")
    interest.refuse(SubjectPermissionError("subscription", "b", "q"), 0)
    assert interest.begin() == [b"SUB a 1\r\n", b"SUB b q 2\r\n"]
    assert interest.refusal(sid) is None


async def test_an_optional_subscription_is_asked_for_again_only_on_the_next_connection(
    interest: Interest,
) -> None:
    sid = interest.add(b"a", b"", optional=True)
    error = SubjectPermissionError("subscription", "a")
    assert interest.refuse(error, sid) == ([sid], True)
    assert interest.refusal(sid) is error
    assert interest.refused_subjects == ()
    assert interest._timer is None
    assert interest.begin() == [b"SUB a 1\r\n"]
    assert interest.refusal(sid) is None


async def test_of_two_refused_subscriptions_only_the_needed_one_is_asked_for(
    interest: Interest,
) -> None:
    needed = interest.add(b"a", b"")
    interest.add(b"a", b"", optional=True)
    interest.refuse(SubjectPermissionError("subscription", "a"), 0)
    assert interest.refused_subjects == ("a",)
    interest._retry()
    assert interest._retried == {needed}
    interest.end()


# With a real server.

LIMIT = "max_subscriptions: 3\n"


async def test_a_start_with_more_listeners_than_the_server_takes_fails(
    configured: Configured, make_app: MakeApp
) -> None:
    app = make_app(configured(LIMIT))
    for number in range(5):
        app.listen(f"s.{number}")(Inbox())
    with pytest.raises(SubscriptionLimitError, match=r"'s\.3'.*maximum subscriptions exceeded"):
        await app.__aenter__()


async def test_more_subscriptions_than_the_server_takes_raise_and_the_others_work(
    configured: Configured, make_app: MakeApp
) -> None:
    inbox = Inbox()
    async with make_app(configured(LIMIT)) as app:
        ssids = [await app.subscribe_new_subject(f"s.{n}", inbox, data_type=int) for n in range(3)]
        for _ in range(2):
            with pytest.raises(SubscriptionLimitError):
                await app.subscribe_new_subject("s.4", inbox)
        with pytest.raises(SubscriptionLimitError):  # at once: no answer could come
            await app.request("s.0", timeout=3600)
        await app.unsubscribe_ssid(ssids[0])
        with pytest.raises(NoRespondersError):
            await app.request("nobody")
        await app.publish("s.1", 1)
        assert await inbox.has(1) == [1]


def permissions(deny: str = "") -> str:
    subscribe = f'{{ allow: ">", deny: [{deny}] }}'
    return (
        "jetstream: enabled\nauthorization { users = [\n"
        f'{{user: ada, password: p, permissions: {{publish: ">", subscribe: {subscribe}}}}}\n'
        "{user: other, password: p}\n] }\n"
    )


def reload(server: NATSServer, path: Path, text: str) -> None:
    path.write_text(text)
    os.kill(server.pid, signal.SIGHUP)


async def test_a_permission_that_is_taken_away_and_given_back_works_again_without_a_restart(
    configured: Configured, make_app: MakeApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tidings")
    server = configured(f'store_dir: "{tmp_path}"\n' + permissions())
    config = tmp_path / "server.conf"
    store = f'store_dir: "{tmp_path}"\n'
    ada: dict[str, Any] = {"user": "ada", "password": "p"}
    app = make_app(server, streams=[Stream("ST", subjects=["st.>"])], **ada)
    other = make_app(server, user="other", password="p")
    heard, shared, consumed, watched = Inbox(), Inbox(), Inbox(), Inbox()
    app.listen("work", data_type=int)(heard)
    app.listen("shared", queue="q", data_type=int)(shared)
    app.consume("ST", durable="d", data_type=int)(consumed)
    app.js.key_value("kv", type=int)

    @app.watch("kv", data_type=int)
    async def watch(entry):
        watched.got.append(entry.value)

    async with app, other:
        await other.publish("work", 1)
        await heard.has(1)
        reload(server, config, store + permissions('"work", "shared q", "_INBOX.>"'))
        await until(lambda: "work" in app.stats().connection.refused_subjects)
        assert "shared" in app.stats().connection.refused_subjects
        for _ in range(2):
            with pytest.raises(SubjectPermissionError):  # at once
                await app.request("nobody", timeout=3600)
        errors = app.stats().connection.errors
        reload(server, config, store + permissions())
        await until(lambda: not app.stats().connection.refused_subjects)
        assert app.stats().connection.reconnects == 0
        assert app.stats().connection.errors <= errors + 3
        await other.publish("work", 2)
        await other.publish("shared", 2)
        await other.js.publish("st.a", 2)
        await other.js.key_value("kv", type=int).put("k", 2)
        with pytest.raises(NoRespondersError):
            await app.request("nobody")
        assert await heard.has(2) == [1, 2]
        assert await shared.has(1) == [2]
        assert await consumed.has(1) == [2]
        assert await watched.has(1) == [2]
    assert "accepts the subscription to 'work' again" in caplog.text
