"""What strangers send into a consumer's inbox, and servers in other forms than the usual one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.streams import MakeApp, is_acked
from support.waits import until
from tidings import App, ConfigError, Message
from tidings.jetstream import Metadata, Stream
from tidings.jetstream.message import ack_prefix, delivery, first_delivery, other_ack_prefix
from tidings.protocol.parser import Frame
from tidings.server import NATSServer

REST = "1.7.7.1700000000000000000.0"


@pytest.fixture
def forge() -> Callable[..., None]:
    """Hands a message to a consumer as if the server had routed it to its inbox."""

    def forge(app: App, reply: str, body: bytes = b"666", block: bytes = b"") -> None:
        [consumer] = app._run.consumers._consumers
        inbox = consumer._puller._inboxes[-1]
        frame: Frame = (inbox.sid, inbox.subject, reply, block, body)
        consumer._puller._on_frames(inbox, len(body), [frame])

    return forge


@pytest.mark.parametrize(
    "reply",
    [
        f"a.b.STREAM.d.{REST}",
        f"$JS.ACK.OTHER.d.{REST}",
        f"$JS.ACK.STREAM.other.{REST}",
        f"$JS.ACK.STREAM.d2.{REST}",
        f"$JS.ACK._.hash.OTHER.d.{REST}",
        f"x.y._.hash.STREAM.d.{REST}",
        "$JS.ACK.STREAM.d.1",
        "$JS.ACK.STREAM.d.one.7.7.1700000000000000000.0",
        "$JS.ACK._.hash.STREAM.d.",
        "answer.here",
        "",
    ],
)
async def test_a_message_that_the_consumer_did_not_deliver_is_not_handled_but_counted(
    make_app: MakeApp,
    stream: Stream,
    forge: Callable[..., None],
    reply: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with app:
        for _ in range(100):
            forge(app, reply.replace("STREAM", stream.name))
        await until(lambda: app.stats().consumers[0].foreign == 100)
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
        [stats] = app.stats().consumers
    assert got == [1]
    assert (stats.received, stats.handled, stats.failed, stats.recovered) == (1, 1, 0, 0)
    assert caplog.text.count("did not deliver came to its inbox") == 1


async def test_a_stranger_cannot_send_with_the_reply_subject_of_a_delivery(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with app, make_app("stranger") as stranger:
        inbox = app._run.consumers._consumers[0]._puller._inboxes[-1].subject
        for reply in (f"$JS.ACK.{stream.name}.d.{REST}", f"a.b.{stream.name}.d.{REST}"):
            await stranger.publish(inbox, 666, reply_to=reply, force=True)
        await until(lambda: app.stats().consumers[0].foreign)
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
    assert got == [1]


async def test_a_watch_goes_on_after_messages_that_are_none_of_its_bucket(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app()
    bucket = app.js.key_value(stream.name, type=int, storage="memory")
    seen = []

    @app.watch(stream.name, data_type=int)
    async def tell(entry: Any) -> None:
        seen.append(entry.value)

    async with app:
        await bucket.put("k", 1)
        await until(lambda: seen == [1])
        [watcher] = app._run.watchers._watchers
        follower = watcher._consumer
        name = follower.consumer
        for reply in ("", "x", f"a.b.KV_{stream.name}.{name}.{REST}"):
            follower._on_frames(3, [(follower._sid, "inbox", reply, b"", b"666")])
        await asyncio.sleep(0)
        await bucket.put("k", 2)
        await until(lambda: seen == [1, 2])
        assert app.stats().watchers[0].recovered == 0


async def test_reply_subjects_with_domain_and_account_are_those_of_deliveries(
    tmp_path: Any, stream: Stream
) -> None:
    conf = tmp_path / "server.conf"
    conf.write_text("jetstream {}\nfeature_flags { js_ack_fc_v2: true }\n")
    async with NATSServer(config=conf, store_dir=tmp_path / "js") as server:
        app = App("app", servers=server.url, streams=[stream])
        got = []

        @app.consume(stream.name, durable="d", data_type=int)
        async def keep(msg: Message[int]) -> None:
            got.append((msg.data, msg.reply))

        async with app:
            for number in range(3):
                await app.js.publish(f"{stream.name}.n", number)
            await is_acked(app, stream, "d", 3)
            assert app.stats().consumers[0].foreign == 0
    assert [data for data, _ in got] == [0, 1, 2]
    assert len(got[0][1].split(".")) > 9  # else this server says it in the usual form


# Reply subjects.

WORDS = st.sampled_from(["$JS", "ACK", "_", "S", "c", "1", "-1", "9" * 30, "x", "", "\u0661"])


@given(st.lists(WORDS, max_size=13).map(".".join))
@example(f"$JS.ACK.S.c.1.1.1.{'9' * 40}.0")
@example(f"$JS.ACK.S.c.1.1.1.{'9' * 5000}.0")
@example(f"$JS.ACK.S.c.{'9' * 5000}.1.1.1.0")
@example("$JS.ACK.S.c.1.1.1.-99999999999999999999.0")
def test_whatever_a_reply_subject_is_reading_it_raises_nothing_else(reply: str) -> None:
    assert len(delivery(reply)) == 4
    assert other_ack_prefix(reply, "S", "c") is None or "$JS.ACK" in reply
    with contextlib.suppress(ConfigError):
        Metadata.of(reply)


def test_both_forms_of_a_reply_subject_are_known() -> None:
    assert ack_prefix("S", "c") == "$JS.ACK.S.c."
    other = f"$JS.ACK.hub.hash.S.c.{REST}"
    assert other_ack_prefix(other, "S", "c") == "$JS.ACK.hub.hash.S.c."
    assert other_ack_prefix(f"{other}.random", "S", "c") == "$JS.ACK.hub.hash.S.c."
    assert other_ack_prefix(other, "S", "d") is None
    assert delivery(other) == delivery(f"$JS.ACK.S.c.{REST}") == ("c", 1, 7, 7)


@pytest.mark.parametrize(
    ("reply", "is_first"),
    [
        ("$JS.ACK.S.c.1.7.7.1700000000000000000.0", True),
        ("$JS.ACK.S.c.2.7.7.1700000000000000000.0", False),
        ("$JS.ACK.S.c.11.7.7.1700000000000000000.0", False),
        ("$JS.ACK.S.cc.1.7.7.1700000000000000000.0", False),
        ("$JS.ACK.S.c.1.7.7.1700000000000000000", False),
        ("$JS.ACK.S.c.1.7.7.1700000000000000000.0.0", False),
        ("$JS.ACK.S.c.1.7.x.1700000000000000000.0", False),
        ("$JS.ACK.S.c.1.\u0667.7.1700000000000000000.0", False),
        ("$JS.ACK.S.c.1.7.7.1700000000000000000.0\n", False),
        ("$JS.ACK.hub.hash.S.c.1.7.7.1700000000000000000.0", False),
        ("", False),
    ],
)
def test_only_a_whole_reply_subject_is_that_of_a_first_delivery(reply: str, is_first: bool) -> None:
    assert bool(first_delivery("S", "c")(reply)) is is_first
