"""What must not reach the wire: refused where it is called, and the connection stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest

from support.fake_peer import FakePeer
from support.inbox import Inbox
from support.jwts import new_pair
from support.waits import until
from tidings import App, ServiceError, Stream
from tidings.errors import (
    AuthError,
    EncodeError,
    HeaderError,
    KeyNotFoundError,
    PayloadTooLargeError,
    SubjectError,
    TidingsError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]

BAD_SUBJECTS: list[Any] = [
    "",
    " ",
    "a b",
    "a\tb",
    "a\r\nPUB b 0",
    "a\nb",
    "a\0b",
    "a\x7fb",
    "a\u00a0b",
    "a\u2028b",
    "a..b",
    ".a",
    "a.",
    "a.*",
    "a.>",
    "*",
    ">",
    "a" * 10_240,
    "\ud800",
    None,
    5,
    b"a",
]
BAD_HEADERS: list[Any] = [
    {"A": "b\r\nC: d"},
    {"A": "b\nc"},
    {"A\r\nB": "c"},
    {"A:B": "c"},
    {"A B": "c"},
    {"": "c"},
    {"Ä": "c"},
    {"A": 5},
    {5: "c"},
    {"A": None},
    {"A": b"c"},
    {"A": "\ud800"},
    {"A": "\0"},
    {"A": ["b", 5]},
    [("A",)],
    5,
    "text",
]


def calls(app: App, subject: Any, **options: Any) -> list[Callable[[], Any]]:
    """Every way to send, as functions that return something to await or nothing."""
    return [
        lambda: app.publish(subject, 1, **options),
        lambda: app.publish(subject, 1, force=True, **options),
        lambda: app.request(subject, 1, **options),
        lambda: app.publish_sync(subject, 1, **options),
        lambda: asyncio.to_thread(app.publish_sync, subject, 1, **options),
        lambda: asyncio.to_thread(app.request_sync, subject, 1, **options),
    ]


async def expect(error: type[TidingsError], call: Callable[[], Any]) -> None:
    async def made() -> None:
        result = call()
        if result is not None:
            await result

    with pytest.raises(error):
        await made()


@pytest.mark.parametrize("subject", BAD_SUBJECTS, ids=lambda subject: repr(subject)[:20])
async def test_a_bad_subject_raises_and_nothing_is_on_the_wire(
    make_app: MakeApp, subject: Any
) -> None:
    async with FakePeer() as peer, make_app(peer) as app:
        for call in calls(app, subject):
            await expect(SubjectError, call)
        if subject != "":
            await expect(SubjectError, lambda: app.publish("good", 1, reply_to=subject or "\n"))
        await app.publish("good", b"body", force=True)
        assert peer.published == [("good", b"body")]
        assert app.stats().connection.unsent == 0
        assert peer.connections == 1


@pytest.mark.parametrize("headers", BAD_HEADERS, ids=repr)
async def test_bad_headers_raise_and_nothing_is_on_the_wire(
    make_app: MakeApp, headers: Any
) -> None:
    async with FakePeer() as peer, make_app(peer) as app:
        for call in calls(app, "good", headers=headers):
            await expect(HeaderError, call)
        await app.publish("good", b"body", force=True)
        assert peer.published == [("good", b"body")]


@pytest.mark.parametrize("body", ["\ud800", 1j, {"a": 1j}, {1.5j: 2}, {"a": {1j}}], ids=repr)
async def test_a_body_that_cannot_be_encoded_raises_and_nothing_is_on_the_wire(
    make_app: MakeApp, body: Any
) -> None:
    async with FakePeer() as peer, make_app(peer) as app:
        with pytest.raises(EncodeError):
            await app.publish("good", body)
        with pytest.raises(EncodeError):
            await app.request("good", body)
        await app.publish("good", b"body", force=True)
        assert peer.published == [("good", b"body")]
        assert app.stats().connection.requests == 0


async def test_a_body_within_itself_is_an_encode_error(make_app: MakeApp) -> None:
    endless: list[Any] = []
    endless.append(endless)
    async with FakePeer() as peer, make_app(peer) as app:
        with pytest.raises(EncodeError):
            await app.publish("good", endless)


async def test_headers_count_towards_max_payload_and_one_byte_less_passes(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    inbox = Inbox()
    app.listen("big", data_type=bytes)(inbox)
    async with app:
        limit = app._run.connection.outbox.max_payload
        block = len(b"NATS/1.0\r\nA: b\r\n\r\n")
        for call in (
            lambda: app.publish("big", b"x" * (limit + 1)),
            lambda: app.publish("big", b"x" * (limit - block + 1), headers={"A": "b"}),
            lambda: app.request("big", b"x" * (limit + 1)),
            lambda: app.publish("big", b"", headers={"A": "b" * limit}),
            lambda: app.publish_sync("big", b"x" * (limit + 1)),
            lambda: asyncio.to_thread(app.publish_sync, "big", b"x" * (limit + 1)),
        ):
            await expect(PayloadTooLargeError, call)
        await app.publish("big", b"x" * limit)
        await app.publish("big", b"x" * (limit - block), headers={"A": "b"})
        assert [len(body) for body in await inbox.has(2)] == [limit, limit - block]
        stats = app.stats().connection
        assert (stats.reconnects, stats.errors, stats.refused) == (0, 0, 6)


async def test_the_longest_subject_and_reply_together_keep_the_connection_open(
    server: NATSServer, make_app: MakeApp
) -> None:
    longest = "s" * 2000
    app = make_app(server)
    inbox = Inbox()
    app.listen(longest, queue="q" * 2000, data_type=str)(inbox)
    async with app:
        await app.publish(longest, "here", reply_to="r" * 2000, headers={"A": "b" * 100_000})
        assert await inbox.has(1) == ["here"]
        await app.flush()
        stats = app.stats().connection
        assert (stats.reconnects, stats.errors) == (0, 0)


async def test_a_stranger_cannot_cut_a_service_off_by_a_long_reply_subject(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)

    @app.listen("a", data_type=str)
    async def fail(msg):
        raise RuntimeError

    async with app:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        # The longest that the server takes in a PUB is too long for the answer's HPUB.
        writer.write(b'CONNECT {"verbose":false}\r\nPUB a ' + b"r" * 4092 + b" 0\r\n\r\nPING\r\n")
        while not (await reader.readline()).startswith(b"PONG"):
            pass
        await until(lambda: app.stats().listeners[0].failed == 1)
        await app.flush()
        stats = app.stats().connection
        assert (stats.reconnects, stats.errors) == (0, 0)
        writer.close()


async def test_a_stranger_cannot_have_a_service_write_to_the_server_by_a_reply_subject(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """The service may do all that; the stranger may only ask it."""
    with NATSServer(jetstream=True) as server:
        app = make_app(server, streams=[Stream("ORDERS", subjects=["orders.>"])])
        flags = app.js.key_value("flags", type=str)

        @app.listen("echo", data_type=bytes)
        async def echo(msg):
            if msg.data == b"raise":
                raise ServiceError(400, "yes")
            await msg.respond(msg.data)
            return msg.data

        async with app:
            await app.js.publish("orders.a", 1)
            for reply in ("$KV.flags.admin", "$JS.API.STREAM.DELETE.ORDERS"):
                await app.publish("echo", b"on", reply_to=reply)
                await app.publish("echo", b"raise", reply_to=reply)
            await until(lambda: app.stats().listeners[0].handled == 2)
            await until(lambda: app.stats().listeners[0].failed == 2)
            assert app.stats().connection.refused == 6
            with pytest.raises(KeyNotFoundError):
                await flags.get("admin")
            await app.js.publish("orders.a", 2)  # the stream is still there
            assert await app.request("echo", b"1", response_data_type=bytes) == b"1"
    lines = [text for text in caplog.messages if "belong to the server" in text]
    assert 1 <= len(lines) <= 3


async def test_an_authentication_callout_is_answered(make_app: MakeApp, tmp_path: Path) -> None:
    """The server asks it at an inbox of its own, which begins with `$`."""
    issuer = new_pair(nkeys.PREFIX_BYTE_ACCOUNT).public_key.decode()
    config = tmp_path / "callout.conf"
    config.write_text(
        "accounts { AUTH: { users: [{user: auth, password: auth}] }, SYS: {} }\n"
        "system_account: SYS\n"
        f"authorization {{ auth_callout {{\nissuer: {issuer}\naccount: AUTH\n"
        "auth_users: [auth]\n} }"
    )
    with NATSServer(config=config) as server:
        app = make_app(server, user="auth", password="auth")
        asked = []

        @app.listen("$SYS.REQ.USER.AUTH", data_type=bytes)
        async def decide(msg):
            asked.append(msg.reply)
            return b"no JWT, so no"

        async with app:
            with pytest.raises(AuthError):
                await make_app(server, user="ada", password="x").__aenter__()
            assert asked[0].startswith("$SYS._INBOX.")
            assert app.stats().connection.refused == 0
            assert app.stats().connection.sent >= 1


async def test_an_answer_that_is_too_large_is_an_error_to_the_requester(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)

    @app.listen("big")
    async def big(msg):
        return b"x" * (app._run.connection.outbox.max_payload + 1)

    async with app:
        with pytest.raises(TidingsError, match="PayloadTooLargeError"):
            await app.request("big")
        assert app.stats().connection.reconnects == 0
