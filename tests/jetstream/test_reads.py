"""app.js.get, get_last, get_batch and get_last_for: messages of a stream without a consumer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import pytest

from support.waits import PATIENCE
from tidings import App, ConfigError, DecodeError, MessageNotFoundError, Stream, deadline
from tidings.errors import (
    ConnectionLostError,
    DeadlineExpiredError,
    JetStreamApiError,
    RequestTimeoutError,
    SubjectError,
)
from tidings.jetstream import batch_get
from tidings.server import NATSServer

MakeApp = Callable[..., App]
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - a time without a zone is what must be refused
direct_or_not = pytest.mark.parametrize("direct", [True, False], ids=["direct", "over the API"])


@dataclass
class Order:
    id: int


def of(stream: Stream, direct: bool) -> Stream:
    """The same stream, with or without direct reads."""
    return Stream(stream.name, subjects=stream.subjects, storage="memory", allow_direct=direct)


async def fill(app: App, stream: Stream, *names: str) -> None:
    for number, name in enumerate(names, 1):
        await app.js.publish(f"{stream.name}.{name}", {"id": number})


# One message.


@direct_or_not
async def test_a_message_is_read_by_its_sequence(
    make_app: MakeApp, stream: Stream, direct: bool
) -> None:
    app = make_app(streams=[of(stream, direct)])
    async with app:
        before = datetime.now(UTC) - timedelta(minutes=1)
        ack = await app.js.publish(f"{stream.name}.a", {"id": 7}, headers={"Trace-Id": "t"})
        message = await app.js.get(stream.name, ack.sequence, data_type=Order)
    assert (message.stream, message.subject, message.sequence) == (
        *(stream.name, f"{stream.name}.a"),
        ack.sequence,
    )
    assert message.data == Order(7)
    assert message.body == b'{"id":7}'
    assert message.timestamp > before
    assert sorted(message.headers) == ["Nats-Msg-Id", "Trace-Id"]  # those of the publisher only


@direct_or_not
async def test_the_last_message_on_a_subject_is_read(
    make_app: MakeApp, stream: Stream, direct: bool
) -> None:
    app = make_app(streams=[of(stream, direct)])
    async with app:
        await fill(app, stream, "a", "b", "a", "b.c")
        last = await app.js.get_last(stream.name, f"{stream.name}.a")
        of_all = await app.js.get_last(stream.name, f"{stream.name}.*")
    assert (last.sequence, last.data) == (3, {"id": 3})
    assert of_all.sequence == 3


@direct_or_not
async def test_a_message_that_is_not_there_is_a_lookup_error(
    make_app: MakeApp, stream: Stream, direct: bool
) -> None:
    app = make_app(streams=[of(stream, direct)])
    async with app:
        with pytest.raises(MessageNotFoundError, match="has no message with sequence 9") as by_seq:
            await app.js.get(stream.name, 9)
        with pytest.raises(LookupError, match=f"has no message on '{stream.name}.x'") as by_name:
            await app.js.get_last(stream.name, f"{stream.name}.x")
        assert await app.js.get_batch(stream.name, 5) == []
        assert await app.js.get_last_for(stream.name, f"{stream.name}.>") == []
    assert (by_seq.value.stream, by_seq.value.sequence) == (stream.name, 9)
    assert isinstance(by_name.value, MessageNotFoundError)
    assert by_name.value.subject == f"{stream.name}.x"


async def test_reads_of_a_stream_that_is_not_there_name_the_error_of_the_server(
    make_app: MakeApp,
) -> None:
    app = make_app()
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: app.js.get("NOWHERE", 1),
        lambda: app.js.get_last("NOWHERE", "a"),
        lambda: app.js.get_batch("NOWHERE", 5),
        lambda: app.js.get_last_for("NOWHERE", ["a", "b.*"]),
    ]
    async with app:
        for call in calls:
            with pytest.raises(JetStreamApiError, match="stream not found"):
                await call()


async def test_a_wrong_body_is_an_error_of_its_own_message_only(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    async with app:
        await app.js.publish(f"{stream.name}.a", {"id": "secret"})
        await app.js.publish(f"{stream.name}.a", {"id": 2})
        wrong, right = await app.js.get_batch(stream.name, 5, data_type=Order)
    assert right.data == Order(2)
    with pytest.raises(DecodeError, match=f"sequence 1 of stream '{stream.name}'") as caught:
        wrong.data  # noqa: B018 - raises
    assert "secret" not in str(caught.value) + repr(wrong)


async def test_a_publisher_cannot_forge_the_place_of_a_message(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    forged = {"Nats-Stream": "X", "Nats-Subject": "x", "Nats-Sequence": "99"}
    forged |= {"Nats-Time-Stamp": "2000-01-01T00:00:00Z", "Nats-Last-Sequence": "7"}
    forged |= {"Nats-Num-Pending": "12"}
    subject = f"{stream.name}.a"
    async with app:
        await app.js.publish(subject, {"id": 1}, headers=forged)
        found = [
            await app.js.get(stream.name, 1),
            await app.js.get_last(stream.name, subject),
            *await app.js.get_batch(stream.name, 5),
            *await app.js.get_last_for(stream.name, subject),
        ]
    assert [(each.sequence, each.subject) for each in found] == 4 * [(1, subject)]
    assert [each.headers["Nats-Subject"] for each in found] == 4 * ["x"]  # as it was published
    assert min(each.timestamp for each in found) > datetime(2020, 1, 1, tzinfo=UTC)


async def test_a_publisher_cannot_forge_the_end_of_a_batch(
    nats_server: NATSServer, make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    async with app:
        nc = await nats.connect(nats_server.url)
        for _ in range(3):
            # As a request, so that the stream has stored it when it answers.
            await nc.request(f"{stream.name}.a", b"", timeout=5, headers={"Status": "204"})
        await nc.close()
        assert len(await app.js.get_batch(stream.name, 5, data_type=bytes)) == 3


# Many messages.


@direct_or_not
async def test_a_batch_is_read_in_order_from_a_sequence(
    make_app: MakeApp, stream: Stream, direct: bool
) -> None:
    app = make_app(streams=[of(stream, direct)])
    async with app:
        await fill(app, stream, "a", "b", "a", "b", "a")
        await app.js.api.call(f"STREAM.MSG.DELETE.{stream.name}", {"seq": 2})
        some = await app.js.get_batch(stream.name, 2, start=2)
        of_a = await app.js.get_batch(stream.name, 10, subject=f"{stream.name}.a")
        all_of_it = await app.js.get_batch(stream.name, 10)
        nothing = await app.js.get_batch(stream.name, 10, start=6)
    assert [each.sequence for each in some] == [3, 4]
    assert [each.sequence for each in of_a] == [1, 3, 5]
    assert [each.data["id"] for each in all_of_it] == [1, 3, 4, 5]
    assert nothing == []


@direct_or_not
async def test_a_batch_is_read_from_a_time(make_app: MakeApp, stream: Stream, direct: bool) -> None:
    app = make_app(streams=[of(stream, direct)])
    async with app:
        await fill(app, stream, "a", "b")
        second = (await app.js.get(stream.name, 2)).timestamp
        late = await app.js.get_batch(stream.name, 10, start=second)
        none = await app.js.get_batch(stream.name, 10, start=second + timedelta(hours=1))
    assert ([each.sequence for each in late], none) == ([2], [])


@direct_or_not
async def test_a_batch_stops_at_max_bytes(make_app: MakeApp, stream: Stream, direct: bool) -> None:
    app = make_app(streams=[of(stream, direct)])
    async with app:
        for _ in range(4):
            await app.js.publish(f"{stream.name}.a", b"x" * 1_000)
        batch = await app.js.get_batch(stream.name, 10, max_bytes=1_500, data_type=bytes)
        least = await app.js.get_batch(stream.name, 10, max_bytes=1, data_type=bytes)
    assert (len(batch), len(least)) == (2, 1)


async def test_a_batch_of_several_pages_is_whole(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(batch_get, "MOST_BYTES_AT_ONCE", 20)
    app = make_app(streams=[stream])
    async with app:
        await fill(app, stream, *"abcdefgh")
        batch = await app.js.get_batch(stream.name, 7)
        last = await app.js.get_last_for(stream.name, f"{stream.name}.>")
    assert [each.sequence for each in batch] == [1, 2, 3, 4, 5, 6, 7]
    assert [each.sequence for each in last] == [1, 2, 3, 4, 5, 6, 7, 8]


@direct_or_not
async def test_the_last_messages_of_several_subjects_are_read(
    make_app: MakeApp, stream: Stream, direct: bool
) -> None:
    app = make_app(streams=[of(stream, direct)])
    name = stream.name
    async with app:
        await fill(app, stream, "a", "b", "a", "c.d", "none.of.these")
        found = await app.js.get_last_for(
            name, [f"{name}.a", f"{name}.*", f"{name}.c.>", f"{name}.x"], data_type=Order
        )
    assert {each.subject: each.data.id for each in found} == {
        f"{name}.b": 2,
        f"{name}.a": 3,
        f"{name}.c.d": 4,
    }
    assert [each.sequence for each in found] == [2, 3, 4]


async def test_the_last_messages_are_those_up_to_a_sequence_or_a_time(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    subjects = f"{stream.name}.*"
    async with app:
        await fill(app, stream, "a", "b", "a")
        third = (await app.js.get(stream.name, 3)).timestamp
        by_sequence = await app.js.get_last_for(stream.name, subjects, up_to=2)
        by_time = await app.js.get_last_for(
            stream.name, subjects, up_to=third - timedelta(microseconds=1)
        )
    assert [each.sequence for each in by_sequence] == [1, 2]
    assert [each.sequence for each in by_time] == [1, 2]


async def test_up_to_is_refused_where_the_stream_allows_no_direct_reads(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[of(stream, direct=False)])
    async with app:
        with pytest.raises(ConfigError, match="declare allow_direct=True"):
            await app.js.get_last_for(stream.name, f"{stream.name}.a", up_to=2)


async def test_more_subjects_are_read_than_one_answer_can_have(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    count = batch_get.MOST_SUBJECTS + 10
    async with app:
        async with app.js.publish_window(256) as window:
            for number in range(count):
                await window.publish(f"{stream.name}.{number}", {"id": number})
        found = await app.js.get_last_for(stream.name, f"{stream.name}.*")
        named = await app.js.get_last_for(
            stream.name, [f"{stream.name}.{number}" for number in range(count)]
        )
    assert len(found) == len(named) == count


async def test_a_user_who_may_read_directly_only_reads(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("""
    authorization { users = [
      { user: owner, password: x }
      { user: reader, password: x, permissions: {
          publish: { allow: ["$JS.API.DIRECT.GET.S", "$JS.API.DIRECT.GET.S.s.a"] }
          subscribe: { allow: ["_INBOX.>"] } } }
    ] }
    """)
    async with NATSServer(config=config, jetstream=True) as server:
        url = server.url.removeprefix("nats://")
        owner = App("o", servers=f"nats://owner:x@{url}", streams=[Stream("S", subjects=["s.>"])])
        reader = App("r", servers=f"nats://reader:x@{url}", discoverable=False)
        async with owner, reader:
            await owner.js.publish("s.a", {"id": 1})
            assert (await reader.js.get("S", 1)).data == {"id": 1}
            assert (await reader.js.get_last("S", "s.a")).sequence == 1
            assert len(await reader.js.get_batch("S", 5)) == 1
            assert len(await reader.js.get_last_for("S", ["s.a"])) == 1
            with pytest.raises(MessageNotFoundError):
                await reader.js.get("S", 2)


# Wrong use.


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda js: js.get("a.b", 1), ConfigError, "stream"),
        (lambda js: js.get("S", 0), ConfigError, "sequence must be a whole number above 0"),
        (lambda js: js.get("S", 1, data_type="dct"), ConfigError, "data_type"),
        (lambda js: js.get_last("S", "a b"), SubjectError, "a b"),
        (lambda js: js.get_batch("S", 0), ConfigError, "batch must be"),
        (lambda js: js.get_batch("S", 1, start="new"), ConfigError, "start must be .*datetime"),
        (lambda js: js.get_batch("S", 1, start=NAIVE), ConfigError, "time zone"),
        (lambda js: js.get_batch("S", 1, max_bytes=0), ConfigError, "max_bytes"),
        (lambda js: js.get_batch("S", 1, subject="a..b"), SubjectError, "a..b"),
        (lambda js: js.get_last_for("S", []), ConfigError, "at least one"),
        (lambda js: js.get_last_for("S", ["a", "b..c"]), SubjectError, "b..c"),
        (lambda js: js.get_last_for("S", "a", up_to=0), ConfigError, "up_to"),
    ],
)
async def test_a_wrong_argument_is_refused(
    make_app: MakeApp, call: Callable[[Any], Awaitable[Any]], error: type[Exception], words: str
) -> None:
    app = make_app()
    async with app:
        with pytest.raises(error, match=words):
            await call(app.js)


async def test_a_read_keeps_to_the_deadline(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    async with app:
        with deadline(1e-6):
            await asyncio.sleep(0.001)
            with pytest.raises(DeadlineExpiredError):
                await app.js.get_batch(stream.name, 1)


def test_a_thread_reads_with_run_sync(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    found = []

    @app.task()
    def read() -> None:
        app.js.publish_sync(f"{stream.name}.a", {"id": 5})
        found.append(app.js.run_sync(app.js.get_last(stream.name, f"{stream.name}.a")).data)
        app.disconnect_sync()

    app.run()
    assert found == [{"id": 5}]


# Other servers, and whoever else answers.

Answer = Callable[[dict[str, Any]], list[tuple[bytes, bytes]]]


@pytest.fixture(scope="module")
def plain_server() -> Iterator[NATSServer]:
    """A server without JetStream, for a test to answer in its place."""
    with NATSServer() as server:
        yield server


def message(sequence: int, last: int | None, subject: str = "s.a", pending: int = 0) -> bytes:
    added = f"Nats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\n"
    return (
        f"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: {subject}\r\nNats-Sequence: {sequence}\r\n"
        f"Nats-Time-Stamp: 2026-01-01T00:00:00Z\r\n{'' if last is None else added}\r\n"
    ).encode()


def end(last: int, pending: int = 0) -> bytes:
    return (
        f"NATS/1.0 204 EOB\r\nNats-Num-Pending: {pending}\r\nNats-Last-Sequence: {last}\r\n\r\n"
    ).encode()


def info_of(subjects: dict[str, int], *, total: int) -> bytes:
    """The answer to STREAM.INFO."""
    at = "2026-01-01T00:00:00Z"
    state = {"messages": 3, "first_seq": 1, "last_seq": 3, "first_ts": at, "last_ts": at}
    config = {"name": "S", "retention": "limits"}
    info = {"config": config, "created": at, "state": {**state, "subjects": subjects}}
    return json.dumps({**info, "total": total}).encode()


async def ask(server: NATSServer, call: Callable[[Any], Awaitable[Any]], answer: Answer) -> Any:
    """Make a call on a server whose JetStream is the function `answer`."""
    async with App("server", servers=server.url) as peer, App("asker", servers=server.url) as app:
        outbox = peer.js.api.connection.outbox

        def deliver(size: int, frames: list[Any]) -> None:
            for _, subject, reply, _, body in frames:
                asked = {"api": subject, **json.loads(body or b"{}")}
                for block, content in answer(asked):
                    outbox.post(outbox.frame(reply, content, b"", block))

        connection = peer.js.api.connection
        sid = connection.subscribe_route("$JS.API.>", "", deliver)
        await connection.confirm(5)
        try:
            return await call(app.js)
        finally:
            connection.unsubscribe_route(sid)


@pytest.mark.parametrize(
    "answers",
    [
        [(message(1, 0), b"1"), (message(3, 2), b"3"), (end(3), b"")],
        [(message(2, 0), b"1"), (message(1, 2), b"3"), (end(1), b"")],
        [(message(1, 0), b"1"), (end(2), b"")],
        [(end(1), b"")],
        [(message(1, 0, subject="other"), b"1"), (end(1), b"")],
        [(b"", b"hello")],
        [(b"NATS/1.0 500 Broken\r\n\r\n", b"")],
        [(b"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: s.a\r\n\r\n", b"")],
    ],
    ids=[
        *("a message is missing", "out of order", "the last is missing", "all are missing"),
        *("another subject", "no headers", "a status", "no sequence"),
    ],
)
async def test_an_answer_that_is_cut_or_forged_is_refused(
    plain_server: NATSServer, answers: list[tuple[bytes, bytes]]
) -> None:
    for call in (
        lambda js: js.get_batch("S", 2, subject="s.*"),
        lambda js: js.get_last_for("S", "s.a"),
    ):
        with pytest.raises(JetStreamApiError, match="was answered"):
            await ask(plain_server, call, lambda asked: answers)


async def test_more_messages_than_were_asked_for_are_refused(plain_server: NATSServer) -> None:
    flood = [(message(each, each - 1), b"") for each in range(1, 2_000)]
    with pytest.raises(JetStreamApiError, match="was answered"):
        await ask(plain_server, lambda js: js.get_batch("S", 2), lambda asked: flood)
    with pytest.raises(JetStreamApiError, match="was answered"):
        await ask(plain_server, lambda js: js.get_last_for("S", "s.a"), lambda asked: flood)


async def test_an_answer_that_stops_is_a_timeout(
    plain_server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(js: Any) -> Any:
        monkeypatch.setattr(js.api, "timeout", 0.05)
        return await js.get_batch("S", 5)

    with pytest.raises(RequestTimeoutError):
        await ask(plain_server, call, lambda asked: [(message(1, 0), b"1")])


async def test_a_forged_single_message_is_refused(plain_server: NATSServer) -> None:
    with pytest.raises(JetStreamApiError, match="another message"):
        await ask(plain_server, lambda js: js.get("S", 2), lambda asked: [(message(1, None), b"")])
    with pytest.raises(JetStreamApiError, match="another message"):
        await ask(
            plain_server,
            lambda js: js.get_last("S", "s.b"),
            lambda asked: [(message(1, None), b"")],
        )


async def test_forged_answers_that_lead_nowhere_end(
    plain_server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_get, "MOST_MATCHED", 50)

    def too_many(asked: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        if "DIRECT" in asked["api"]:
            return [(b"NATS/1.0 413 Too Many Results\r\n\r\n", b"")]
        page = {f"s.{asked['offset'] + number}": 1 for number in range(10)}
        return [(b"", info_of(page, total=10**9))]

    with pytest.raises(JetStreamApiError, match="too many results for 2 subjects"):
        await ask(plain_server, lambda js: js.get_last_for("S", ["s.a", "s.b"]), too_many)
    with pytest.raises(JetStreamApiError, match="more than 50 subjects"):
        await ask(plain_server, lambda js: js.get_last_for("S", "s.*"), too_many)

    def backwards(asked: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        if "DIRECT" in asked["api"]:
            return [(message(1, None), b"{}")]  # no batches
        found = {"subject": "s.a", "seq": asked["seq"] - 1, "time": "2026-01-01T00:00:00Z"}
        return [(b"", json.dumps({"message": found}).encode())]

    with pytest.raises(JetStreamApiError, match="another message"):
        await ask(plain_server, lambda js: js.get_batch("S", 100_000, start=5), backwards)


async def test_a_server_without_batches_is_read_one_by_one(plain_server: NATSServer) -> None:
    """nats-server 2.10 ignores what it does not know of a request."""
    stored = {1: "s.a", 2: "s.b", 3: "s.a"}

    def of(sequence: int) -> tuple[bytes, bytes]:
        found = {"subject": stored[sequence], "seq": sequence, "time": "2026-01-01T00:00:00Z"}
        return b"", json.dumps({"message": found}).encode()

    def answer(asked: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        if "DIRECT" in asked["api"]:
            if "multi_last" in asked:
                return [(b"NATS/1.0 408 Empty Request\r\n\r\n", b"")]
            return [(message(1, None), b"{}")]
        if "INFO" in asked["api"]:
            return [
                (
                    b"",
                    info_of({"s.a": 2, "s.b": 1}, total=2),
                )
            ]
        if "last_by_subj" in asked:
            return [of(3 if asked["last_by_subj"] == "s.a" else 2)]
        if "start_time" in asked:
            return [of(1)]
        if asked["seq"] in stored:
            return [of(asked["seq"])]
        return [(b"", b'{"error": {"code": 404, "err_code": 10037}}')]

    batch = await ask(plain_server, lambda js: js.get_batch("S", 5), answer)
    last = await ask(plain_server, lambda js: js.get_last_for("S", ["s.*"]), answer)
    assert [each.sequence for each in batch] == [1, 2, 3]
    assert [each.sequence for each in last] == [2, 3]
    with pytest.raises(ConfigError, match=r"nats-server 2\.11"):
        await ask(
            plain_server,
            lambda js: js.get_batch("S", 5, start=datetime(2026, 2, 1, tzinfo=UTC)),
            answer,
        )


async def test_messages_that_expire_during_a_read_are_not_an_empty_result(
    plain_server: NATSServer,
) -> None:
    gone = [(b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")]
    answers = [gone, gone, [(message(5, 0), b"{}"), (end(5), b"")]]
    found = await ask(
        plain_server, lambda js: js.get_last_for("S", "s.a"), lambda asked: answers.pop(0)
    )
    assert [each.sequence for each in found] == [5]
    with pytest.raises(JetStreamApiError, match="expire while they are read"):
        await ask(plain_server, lambda js: js.get_last_for("S", "s.a"), lambda asked: gone)


async def test_a_batch_fails_at_once_if_the_connection_drops(server: NATSServer) -> None:
    async with App("asker", servers=server.url) as app:
        asked = asyncio.Event()
        connection = app.js.api.connection
        peer = await nats.connect(server.url)

        async def on_request(msg: Any) -> None:
            asked.set()

        await peer.subscribe("$JS.HERE.DIRECT.GET.S", cb=on_request)
        await peer.flush()
        app.js.api.prefix = "$JS.HERE"
        read = asyncio.create_task(app.js.get_batch("S", 5))
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
            await peer.close()
            server.kill()
            with pytest.raises(ConnectionLostError):
                await read
        assert len(connection.exchanges) == 0
