"""Atomic batches: stored as a whole or not at all, through lost answers, hooks and threads."""

# ruff: noqa: PT012 - what a batch raises, its block raises at its end

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.streams import MakeApp, stored
from support.waits import ELECTION
from tidings import App, Middleware
from tidings.deadlines import deadline
from tidings.errors import (
    BatchTimeoutError,
    ConfigError,
    DeadlineExpiredError,
    DuplicateMessageError,
    EncodeError,
    HeaderError,
    JetStreamApiError,
    LoopThreadError,
    NoStreamError,
    NotStartedError,
    PayloadTooLargeError,
    RequestTimeoutError,
    SubjectError,
    SubjectPermissionError,
    WrongSequenceError,
)
from tidings.jetstream import PublishAck, Stream
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import stored_message
from tidings.server import NATSCluster, NATSServer
from tidings.transport.connection import Connection


@pytest.fixture
def atomic(stream: Stream) -> Stream:
    """The test's stream, which takes atomic batches."""
    return Stream(stream.name, subjects=stream.subjects, storage="memory", atomic=True, ttl=True)


@pytest.fixture
async def app(make_app: MakeApp, atomic: Stream) -> AsyncIterator[App]:
    async with make_app(streams=[atomic]) as app:
        yield app


async def subjects(app: App, stream: Stream) -> list[str]:
    """The subjects of the stored messages in order, without the first token."""
    return [each["subject"].partition(".")[2] for each in await stored(app, stream)]


async def test_a_batch_is_stored_at_the_end_of_its_block_in_order(app: App, atomic: Stream) -> None:
    await app.js.publish(f"{atomic.name}.before", 1)
    async with app.js.batch() as batch:
        for end in "abc":
            batch.add(f"{atomic.name}.{end}", {"end": end})
        assert len(batch) == 3
        assert (await subjects(app, atomic), batch.ack) == (["before"], None)
    assert await subjects(app, atomic) == ["before", "a", "b", "c"]
    assert batch.ack is not None
    assert (batch.ack.stream, batch.ack.sequence, batch.ack.count) == (atomic.name, 4, 3)
    assert list(batch.ack.sequences) == [2, 3, 4]


@pytest.mark.parametrize("count", [1, 2, 100, 101, 1000])
async def test_a_batch_of_any_size_is_stored_as_a_whole(
    app: App, atomic: Stream, count: int
) -> None:
    async with app.js.batch() as batch:
        for number in range(count):
            batch.add(f"{atomic.name}.a", number)
    assert batch.ack is not None
    assert (batch.ack.sequence, batch.ack.count) == (count, count)
    bodies = [each["data"] for each in await stored(app, atomic)]
    assert len(set(bodies)) == count


async def test_the_1001st_message_is_refused_before_anything_is_sent(
    app: App, atomic: Stream
) -> None:
    with pytest.raises(ConfigError, match="at most 1000 messages"):
        async with app.js.batch() as batch:
            for number in range(1001):
                batch.add(f"{atomic.name}.a", number)
    assert await subjects(app, atomic) == []


async def test_a_block_that_raises_stores_nothing(app: App, atomic: Stream) -> None:
    with pytest.raises(LookupError):
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1)
            raise LookupError
    assert (await subjects(app, atomic), batch.ack) == ([], None)


async def test_a_batch_that_is_discarded_or_empty_stores_nothing(app: App, atomic: Stream) -> None:
    async with app.js.batch() as batch:
        batch.add(f"{atomic.name}.a", 1)
        batch.discard()
    async with app.js.batch() as empty:
        pass
    assert (await subjects(app, atomic), batch.ack, empty.ack) == ([], None, None)


async def test_messages_keep_their_headers_ids_and_times_to_live(app: App, atomic: Stream) -> None:
    async with app.js.batch() as batch:
        batch.add(f"{atomic.name}.a", 1, headers={"Trace": "7f"}, msg_id="one", ttl=60)
        batch.add(f"{atomic.name}.b", "2", data_type=str)
    api = app.js.api
    first = await stored_message(api, atomic.name, sequence=1)
    assert first is not None
    assert [first.headers[name] for name in ("Trace", "Nats-Msg-Id", "Nats-TTL")] == [
        "7f",
        "one",
        "60s",
    ]


async def test_an_expectation_that_is_not_met_stores_nothing(app: App, atomic: Stream) -> None:
    seen = await app.js.publish(f"{atomic.name}.ada", 100)
    await app.js.publish(f"{atomic.name}.ada", 90)
    with pytest.raises(WrongSequenceError):
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.bob", 10, expected_subject_sequence=0)
            batch.add(f"{atomic.name}.ada", 80, expected_subject_sequence=seen.sequence)
    assert (await subjects(app, atomic), batch.ack) == (["ada", "ada"], None)


async def test_expectations_that_are_met_store_the_batch(app: App, atomic: Stream) -> None:
    seen = await app.js.publish(f"{atomic.name}.ada", 100)
    async with app.js.batch() as batch:
        batch.add(
            f"{atomic.name}.ada",
            90,
            expected_sequence=seen.sequence,
            expected_subject_sequence=seen.sequence,
            expected_stream=atomic.name,
        )
        batch.add(f"{atomic.name}.bob", 10, expected_subject_sequence=0)
        batch.add(f"{atomic.name}.bob", 11)
    assert await subjects(app, atomic) == ["ada", "ada", "bob", "bob"]


async def test_of_batches_that_expect_the_same_one_is_stored(app: App, atomic: Stream) -> None:
    async def write(name: str) -> bool:
        try:
            async with app.js.batch() as batch:
                batch.add(f"{atomic.name}.lock", name, expected_subject_sequence=0)
                batch.add(f"{atomic.name}.{name}", name)
        except WrongSequenceError:
            return False
        return True

    won = await asyncio.gather(*(write(f"w{number}") for number in range(8)))
    assert sum(won) == 1
    assert await subjects(app, atomic) == ["lock", f"w{won.index(True)}"]


async def test_a_message_id_that_the_stream_knows_stores_nothing(app: App, atomic: Stream) -> None:
    await app.js.publish(f"{atomic.name}.a", 1, msg_id="known")
    with pytest.raises(DuplicateMessageError) as raised:
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.b", 1)
            batch.add(f"{atomic.name}.c", 1, msg_id="known")
    assert raised.value.err_code == 10201
    assert await subjects(app, atomic) == ["a"]


# What is refused where it is written.


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"expected_sequence": 1}, ConfigError, "belongs to the first message"),
        ({"expected_subject_sequence": 1}, ConfigError, "expect the sequence of a subject with"),
        ({"msg_id": "first"}, ConfigError, "two messages of the batch have msg_id='first'"),
        ({"headers": {"Nats-Batch-Id": "x"}}, ConfigError, "belong to the batch"),
        ({"headers": {"nats-batch-commit": "1"}}, ConfigError, "belong to the batch"),
        ({"ttl": 0}, ConfigError, "ttl must be"),
        ({"headers": {"A": "b\r\nC: d"}}, HeaderError, "bad header 'A'"),
        ({"data_type": int}, EncodeError, "cannot encode"),
    ],
)
async def test_a_message_that_cannot_be_in_the_batch_is_refused_where_it_is_added(
    app: App, atomic: Stream, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1, msg_id="first")
            batch.add(f"{atomic.name}.a", "text", **options)
            pytest.fail("it was added")
    assert await subjects(app, atomic) == []


@pytest.mark.parametrize("subject", ["", "a b", "a.*", "a..b", "a\r\nPUB b 0", None, 5])
async def test_a_bad_subject_is_refused_where_it_is_added(app: App, subject: Any) -> None:
    with pytest.raises(SubjectError):
        async with app.js.batch() as batch:
            batch.add(subject, 1)
            pytest.fail("it was added")


@pytest.mark.parametrize("option", ["delay", "expected_msg_id", "expected_seq"])
async def test_an_option_that_a_batch_does_not_have_is_no_argument(app: App, option: str) -> None:
    async with app.js.batch() as batch:
        with pytest.raises(TypeError, match=option):
            batch.add("a", 1, **{option: 1})  # type: ignore[arg-type]  # the test's mistake


@pytest.mark.parametrize("timeout", [0, -1, "5", True])
async def test_a_batch_has_a_positive_timeout(app: App, timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout must be"):
        app.js.batch(timeout=timeout)


async def test_a_batch_collects_in_its_block_only_and_has_one(app: App, atomic: Stream) -> None:
    batch = app.js.batch()
    with pytest.raises(ConfigError, match=r"`async with app\.js\.batch\(\)"):
        batch.add(f"{atomic.name}.a", 1)
    async with batch:
        pass
    for again in (lambda: batch.add(f"{atomic.name}.a", 1), batch.discard):
        with pytest.raises(ConfigError, match="has ended"):
            again()
    with pytest.raises(ConfigError, match="entered once"):
        async with batch:
            pass


async def test_a_message_that_is_too_large_sends_nothing(app: App, atomic: Stream) -> None:
    with pytest.raises(PayloadTooLargeError):
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1)
            batch.add(f"{atomic.name}.b", b"x" * app.js.api.connection.outbox.max_payload)
    before = app.stats().connection.sent
    assert await subjects(app, atomic) == []
    assert before == app.stats().connection.sent - 1


# What the stream or the server cannot do.


async def test_a_stream_that_takes_no_batches_is_an_error_that_says_what_to_declare(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[stream]) as app:
        for count in (1, 3):
            words = rf"takes no atomic batches: .*Stream\('{stream.name}', ..., atomic=True\)"
            with pytest.raises(ConfigError, match=words):
                async with app.js.batch() as batch:
                    for number in range(count):
                        batch.add(f"{stream.name}.a", number)
        assert await subjects(app, stream) == []


async def test_a_server_that_would_store_the_messages_one_by_one_is_too_old(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(app.js.api.connection, "server_version", (2, 11))
        with pytest.raises(ConfigError, match=r"batch needs nats-server 2\.12 .* to 2\.11"):
            async with app.js.batch() as batch:
                batch.add(f"{atomic.name}.a", 1)
    assert await subjects(app, atomic) == []


async def test_an_older_server_that_leads_the_stream_is_noticed_at_the_first_message(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Connection.request_patiently

    async def older(
        self: Connection, subject: str, body: bytes, block: bytes, timeout: float, limit: float
    ) -> Any:
        if subject.startswith(atomic.name):
            return 1, "_INBOX.1", "", b"", b'{"stream":"%b","seq":1}' % atomic.name.encode()
        return await request(self, subject, body, block, timeout, limit)

    monkeypatch.setattr(Connection, "request_patiently", older)
    with pytest.raises(
        ConfigError, match=r"one by one: the server .* older than nats-server 2\.12"
    ):
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1)
            batch.add(f"{atomic.name}.b", 1)


@pytest.mark.parametrize("order", ["last", "middle"])
async def test_messages_for_two_streams_are_an_error_that_names_both(
    make_app: MakeApp, atomic: Stream, dead: Stream, order: str
) -> None:
    other = Stream(dead.name, subjects=dead.subjects, storage="memory", atomic=True)
    async with make_app(streams=[atomic, other]) as app:
        with pytest.raises(ConfigError, match=rf"stored in {atomic.name}, .* in {other.name}"):
            async with app.js.batch() as batch:
                batch.add(f"{atomic.name}.a", 1)
                batch.add(f"{other.name}.b", 1)
                if order == "middle":
                    batch.add(f"{atomic.name}.c", 1)
        assert await subjects(app, atomic) == []
        assert await subjects(app, other) == []


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_subject_that_no_stream_takes_is_named(
    app: App, atomic: Stream, subject: str, place: int
) -> None:
    where = [f"{atomic.name}.a", f"{atomic.name}.b"]
    where.insert(place, subject)
    with pytest.raises(NoStreamError, match=subject):
        async with app.js.batch() as batch:
            for each in where:
                batch.add(each, 1)
    assert await subjects(app, atomic) == []


async def test_a_message_that_the_stream_refuses_refuses_the_batch(
    make_app: MakeApp, stream: Stream
) -> None:
    full = Stream(
        stream.name,
        subjects=stream.subjects,
        storage="memory",
        atomic=True,
        max_msgs=2,
        discard="new",
    )
    async with make_app(streams=[full]) as app:
        with pytest.raises(JetStreamApiError, match="maximum messages exceeded"):
            async with app.js.batch() as batch:
                for number in range(3):
                    batch.add(f"{stream.name}.a", number)
        assert await subjects(app, full) == []


@pytest.fixture
def restricted(tmp_path: Path) -> Iterator[NATSServer]:
    """A server whose user "app" may publish to two subjects of the streams B and C only, and whose
    user "api" may also use the API."""
    config = tmp_path / "server.conf"
    users = ['{ user: ops, password: "x" }']
    for name, more in (("app", ""), ("api", '"$JS.API.>"')):
        allowed = f'publish: {{ allow: ["b.ok", "c.ok", {more}] }}'
        users.append(f'{{ user: {name}, password: "x", permissions: {{ {allowed} }} }}')
    lines = "\n".join(users)
    config.write_text(f"jetstream {{}}\nauthorization {{ users = [\n{lines}\n] }}\n")
    with NATSServer(config=config, store_dir=tmp_path / "store") as server:
        yield server


async def declare_in(server: NATSServer) -> None:
    streams = [Stream(name.upper(), subjects=[f"{name}.>"], atomic=True) for name in "bc"]
    async with App("ops", servers=server.url, user="ops", password="x", streams=streams):
        pass


@pytest.mark.parametrize("user", ["app", "api"])
async def test_a_subject_that_the_user_may_not_publish_is_named(
    restricted: NATSServer, user: str
) -> None:
    await declare_in(restricted)
    async with App("app", servers=restricted.url, user=user, password="x") as app:
        with pytest.raises(SubjectPermissionError, match=r"b\.no"):
            async with app.js.batch() as batch:
                for end in ("ok", "no", "ok"):
                    batch.add(f"b.{end}", 1)
        async with app.js.batch() as batch:
            batch.add("b.ok", 1)
        assert batch.ack is not None
        assert batch.ack.sequence == 1


async def test_a_user_who_may_not_ask_for_streams_learns_that_the_batch_was_incomplete(
    restricted: NATSServer,
) -> None:
    await declare_in(restricted)
    async with App("app", servers=restricted.url, user="app", password="x") as app:
        with pytest.raises(BatchTimeoutError) as raised:
            async with app.js.batch(timeout=2) as batch:
                batch.add("b.ok", 1)
                batch.add("c.ok", 1)
        assert "incomplete" in str(raised.value.__cause__)


# Answers that are lost.


def lose_answers(
    monkeypatch: pytest.MonkeyPatch, stream: Stream, count: int, *, arrives: bool
) -> list[bytes]:
    """Lose the answers to the first commits, or the commits themselves. Returns their headers."""
    request, lost = Connection.request_patiently, []

    async def losing(
        self: Connection, subject: str, body: bytes, block: bytes, timeout: float, limit: float
    ) -> Any:
        is_commit = subject.startswith(stream.name) and b"Nats-Batch-Commit" in block
        if not is_commit or len(lost) == count:
            return await request(self, subject, body, block, timeout, limit)
        lost.append(block)
        if arrives:
            await request(self, subject, body, block, timeout, limit)
        raise RequestTimeoutError(subject, timeout)

    monkeypatch.setattr(Connection, "request_patiently", losing)
    return lost


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("expected", [None, 0])
async def test_a_batch_whose_answer_is_lost_is_stored_once(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch, arrives: bool, expected: int | None
) -> None:
    lost = lose_answers(monkeypatch, atomic, 2, arrives=arrives)
    async with app.js.batch() as batch:
        batch.add(f"{atomic.name}.a", 1, expected_subject_sequence=expected)
        batch.add(f"{atomic.name}.b", 1)
    assert lost
    assert await subjects(app, atomic) == ["a", "b"]
    assert batch.ack is not None
    assert (batch.ack.stream, batch.ack.sequence, batch.ack.count) == (atomic.name, 2, 2)


async def test_a_batch_that_was_overwritten_after_its_answer_was_lost_is_acknowledged(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answers(monkeypatch, atomic, 1, arrives=True)
    own = JetStreamApi.streams_taking

    async def overwrite(self: JetStreamApi, subject: str, timeout: float | None = None) -> Any:
        await app.js.publish(f"{atomic.name}.a", "newer")
        return await own(self, subject, timeout)

    monkeypatch.setattr(JetStreamApi, "streams_taking", overwrite)
    async with app.js.batch() as batch:
        batch.add(f"{atomic.name}.a", 1)
    assert await subjects(app, atomic) == ["a", "a"]
    assert batch.ack is not None
    assert (batch.ack.stream, batch.ack.sequence) == (atomic.name, 0)
    assert list(batch.ack.sequences) == []


async def test_a_batch_with_ids_of_the_caller_whose_answer_is_lost_is_found_again(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answers(monkeypatch, atomic, 1, arrives=True)
    async with app.js.batch() as batch:
        batch.add(f"{atomic.name}.a", 1, msg_id="one")
        batch.add(f"{atomic.name}.b", 1)
    assert await subjects(app, atomic) == ["a", "b"]
    assert batch.ack is not None
    assert batch.ack.sequence == 2


async def test_an_id_that_somebody_else_used_is_not_taken_for_a_stored_batch(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await app.js.publish(f"{atomic.name}.c", 1, msg_id="one")
    lose_answers(monkeypatch, atomic, 1, arrives=False)
    with pytest.raises(BatchTimeoutError) as raised:
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1, msg_id="one")
            batch.add(f"{atomic.name}.b", 1)
    assert isinstance(raised.value.__cause__, DuplicateMessageError)
    assert (await subjects(app, atomic), batch.ack) == (["c"], None)


async def test_somebody_else_who_wrote_first_is_told_after_a_lost_request(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answers(monkeypatch, atomic, 1, arrives=False)
    own = JetStreamApi.streams_taking

    async def write(self: JetStreamApi, subject: str, timeout: float | None = None) -> Any:
        await app.js.publish(f"{atomic.name}.a", "mine")
        return await own(self, subject, timeout)

    monkeypatch.setattr(JetStreamApi, "streams_taking", write)
    with pytest.raises(WrongSequenceError):
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1, expected_subject_sequence=0)
            batch.add(f"{atomic.name}.b", 1)
    assert await subjects(app, atomic) == ["a"]


async def test_without_an_answer_the_timeout_says_that_all_may_be_stored(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answers(monkeypatch, atomic, 1000, arrives=False)
    with pytest.raises(BatchTimeoutError, match="Either all of them are stored, or none") as raised:
        async with app.js.batch(timeout=0.3) as batch:
            batch.add(f"{atomic.name}.a", 1, msg_id="one")
            batch.add(f"{atomic.name}.b", 1)
    assert (raised.value.count, raised.value.msg_id) == (2, "one")
    assert raised.value.subject == f"{atomic.name}.a"


async def test_a_deadline_limits_a_batch(
    app: App, atomic: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_answers(monkeypatch, atomic, 1000, arrives=False)
    with pytest.raises(BatchTimeoutError), deadline(1):
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1)
    with pytest.raises(DeadlineExpiredError) as raised, deadline(0.01):
        async with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1)
            await asyncio.sleep(0.02)  # past the deadline
    assert not raised.value.has_begun


async def test_batches_outlive_the_restart_of_their_server() -> None:
    streams = [Stream("B", subjects=["b.>"], atomic=True)]
    with NATSServer(jetstream=True) as server:
        async with App("batches", servers=server.url, streams=streams) as app:
            done = asyncio.Event()
            acked = 0

            async def write() -> None:
                nonlocal acked
                while not done.is_set():
                    async with app.js.batch(timeout=ELECTION) as batch:
                        for number in range(20):
                            batch.add(f"b.{number}", acked)
                    acked += 1

            writer = asyncio.ensure_future(write())
            while acked < 3:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.restart)
            before = acked
            while acked < before + 3:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
            done.set()
            await writer
            info = await app.js.api.call("STREAM.INFO.B")
            assert info["state"]["messages"] == acked * 20


async def test_acknowledged_batches_are_stored_as_a_whole_through_the_loss_of_a_server() -> None:
    streams = [Stream("B", subjects=["b.>"], atomic=True, replicas=3)]
    async with NATSCluster(3, jetstream=True) as cluster:
        app = App("batches", servers=cluster.urls, reconnect_time_wait=0.1, streams=streams)
        async with app:
            for written in range(30):
                if written == 10:
                    await app.js.api.call("STREAM.LEADER.STEPDOWN.B", timeout=10)
                if written == 20:
                    here = next(each for each in cluster.servers if each.url == app.connected_url)
                    await asyncio.to_thread(here.kill)
                async with app.js.batch(timeout=ELECTION) as batch:
                    for number in range(10):
                        batch.add(f"b.{number}", written)
            info = await app.js.api.call("STREAM.INFO.B", timeout=10)
            assert info["state"]["messages"] == 300


# Hooks and threads.


async def test_send_hooks_are_around_each_message_of_a_batch(
    make_app: MakeApp, atomic: Stream
) -> None:
    acks: list[PublishAck] = []

    class Stamp(Middleware):
        async def send_stream(self, subject: str, message: Any, send: Any, **options: Any) -> Any:
            await asyncio.sleep(0)
            if message == "dropped":
                return None
            ack = await send(f"{subject}.stamped", message, **options)
            acks.append(ack)
            return ack

    app = make_app(streams=[atomic])
    app.add_middleware(Stamp)
    async with app:
        async with app.js.batch() as batch:
            for message in (1, "dropped", 2):
                batch.add(f"{atomic.name}.a", message)
        assert await subjects(app, atomic) == ["a.stamped", "a.stamped"]
    assert batch.ack is not None
    assert batch.ack.count == 2
    assert [ack.sequence for ack in acks] == [1, 2]


async def test_a_send_hook_that_raises_stores_nothing(make_app: MakeApp, atomic: Stream) -> None:
    class Refusing(Middleware):
        async def send_stream(self, subject: str, message: Any, send: Any, **options: Any) -> Any:
            if message == "bad":
                raise LookupError
            return await send(subject, message, **options)

    app = make_app(streams=[atomic])
    app.add_middleware(Refusing)
    async with app:
        with pytest.raises(LookupError):
            async with app.js.batch() as batch:
                for message in ("good", "bad", "good"):
                    batch.add(f"{atomic.name}.a", message)
        assert await subjects(app, atomic) == []


async def test_a_send_hook_cannot_send_a_message_of_a_batch_again(
    make_app: MakeApp, atomic: Stream
) -> None:
    class Twice(Middleware):
        async def send_stream(self, subject: str, message: Any, send: Any, **options: Any) -> Any:
            await send(subject, message, **options)
            return await send(subject, message, **options)

    app = make_app(streams=[atomic])
    app.add_middleware(Twice)
    async with app:
        with pytest.raises(ConfigError, match="later, or again"):
            async with app.js.batch() as batch:
                batch.add(f"{atomic.name}.a", 1)
        assert await subjects(app, atomic) == ["a"]
        assert batch.ack is not None  # stored, before the hook went on


async def test_send_hooks_get_the_error_of_the_batch(make_app: MakeApp, atomic: Stream) -> None:
    errors: list[type[BaseException]] = []

    class Watching(Middleware):
        async def send_stream(self, subject: str, message: Any, send: Any, **options: Any) -> Any:
            try:
                return await send(subject, message, **options)
            except Exception as error:
                errors.append(type(error))
                raise

    app = make_app(streams=[atomic])
    app.add_middleware(Watching)
    async with app:
        with pytest.raises(WrongSequenceError):
            async with app.js.batch() as batch:
                batch.add(f"{atomic.name}.a", 1, expected_sequence=77)
                batch.add(f"{atomic.name}.b", 1)
    assert errors == [WrongSequenceError, WrongSequenceError]


async def test_a_thread_makes_a_batch_in_a_plain_with_block(app: App, atomic: Stream) -> None:
    def write() -> int:
        with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1)
            batch.add(f"{atomic.name}.b", 1)
        assert batch.ack is not None
        return batch.ack.count

    assert await asyncio.to_thread(write) == 2
    assert await subjects(app, atomic) == ["a", "b"]

    def conflict() -> None:
        with app.js.batch() as batch:
            batch.add(f"{atomic.name}.a", 1, expected_sequence=0)

    with pytest.raises(WrongSequenceError):
        await asyncio.to_thread(conflict)


async def test_a_plain_with_block_on_the_loops_own_thread_is_refused(
    app: App, atomic: Stream
) -> None:
    with pytest.raises(LoopThreadError, match=r"async with app\.js\.batch"), app.js.batch():
        pytest.fail("the block has begun")


async def test_a_batch_needs_a_running_app(make_app: MakeApp) -> None:
    with pytest.raises(NotStartedError, match="batch"):
        async with make_app().js.batch():
            pytest.fail("the block has begun")
