"""Lookout: a stream notices within milliseconds that its requester left without a word."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from support.ports import free_port
from support.process import Program
from support.waits import PATIENCE, until
from tidings import App
from tidings.flows import channel, lookout
from tidings.flows.lookout import AT_A_TIME, Lookout
from tidings.protocol.parser import Frame
from tidings.server import NATSCluster, NATSServer

RunProgram = Callable[..., Program]

STREAM = """
import asyncio, os
from tidings import App

async def main():
    app = App("asker", servers=os.environ["NATS_URL"])
    async with app, app.stream("rows", response_data_type=int) as rows:
        print("row", await anext(rows), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
PLAIN = """
import asyncio, os
import nats

async def main():
    client = await nats.connect(os.environ["NATS_URL"])
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish("rows", reply=inbox)
    print("row", (await answers.next_msg(20)).data.decode(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def no_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them, only the lookout can notice a departure."""
    monkeypatch.setattr(channel, "PROBE", 600.0)


class Rows:
    """A generator that yields a number of items and then waits until it is closed."""

    def __init__(self, items: int = 1) -> None:
        self._items = items
        self.closed = asyncio.Event()

    async def __call__(self, msg: Any) -> AsyncIterator[int]:
        try:
            for n in range(self._items):
                yield n
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def until_closed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.closed.wait()


def watch(service: App) -> Lookout:
    assert service._run is not None
    found = service._run.link.lookout
    assert found is not None
    return found


async def asked(service: App, times: int = 3) -> None:
    """Wait until the only open stream was asked about that often."""
    found = watch(service)
    outbox = found._connection.outbox
    [question] = await until(lambda: list(found._questions.values()))
    before = outbox.written_bytes
    await until(lambda: outbox.written_bytes >= before + times * len(question))


@pytest.mark.parametrize("requester", [STREAM, PLAIN], ids=["app.stream", "nats-py"])
async def test_the_idle_generator_is_closed_when_the_requesters_process_is_killed(
    server: NATSServer, run_program: RunProgram, requester: str
) -> None:
    rows = Rows()
    service = App("rows", servers=server.url)
    service.listen("rows")(rows)
    async with service:
        program = run_program(requester)
        await asyncio.to_thread(program.wait_for, "row 0")
        program.popen.kill()
        await rows.until_closed()
        await until(lambda: service.stats().listeners[0].handled == 1)


async def test_the_generator_that_waits_for_credit_is_closed_when_the_process_is_killed(
    server: NATSServer, run_program: RunProgram
) -> None:
    rows = Rows(items=100_000)  # more than fit into the window
    service = App("rows", servers=server.url)
    service.listen("rows")(rows)
    async with service:
        program = run_program(STREAM)
        await asyncio.to_thread(program.wait_for, "row 0")
        sent = -1
        while sent != service.stats().listeners[0].items_sent:
            sent = service.stats().listeners[0].items_sent
            await asked(service)
        program.popen.kill()
        await rows.until_closed()
        assert service.stats().listeners[0].items_sent == sent


async def test_the_idle_generator_is_closed_when_a_plain_client_unsubscribes(
    service: App, foreign: Client, subject: str
) -> None:
    rows = Rows()
    service.listen(subject)(rows)
    async with service:
        inbox = foreign.new_inbox()
        answers = await foreign.subscribe(inbox)
        await foreign.publish(subject, reply=inbox)
        await answers.next_msg(PATIENCE)
        await asked(service)
        await answers.unsubscribe()
        await foreign.flush()
        await rows.until_closed()


async def test_a_question_is_no_message_that_may_be_lost(
    server: NATSServer, make_app: Callable[..., App], run_program: RunProgram
) -> None:
    rows = Rows()
    service = make_app(server)
    service.listen("rows")(rows)
    async with service:
        program = run_program(STREAM)
        await asyncio.to_thread(program.wait_for, "row 0")
        await service.flush()
        before = service.stats().connection
        await asked(service, 5)
        after = service.stats().connection
        assert after.sent - before.sent == after.possibly_lost - before.possibly_lost == 0
        await asyncio.to_thread(server.kill)
        await rows.until_closed()
        assert service.stats().connection.possibly_lost == before.possibly_lost


async def test_a_plain_client_gets_items_only_and_its_limit_of_messages_counts_them_only(
    service: App, foreign: Client, subject: str
) -> None:
    release = asyncio.Event()

    @service.listen(subject)
    async def rows(msg: Any) -> AsyncIterator[int]:
        yield 1
        await release.wait()
        yield 2

    async with service:
        got = []
        inbox = foreign.new_inbox()
        answers = await foreign.subscribe(inbox)
        await answers.unsubscribe(limit=3)
        await foreign.publish(subject, reply=inbox)
        got.append(await answers.next_msg(PATIENCE))
        await asked(service)
        release.set()
        got += [await answers.next_msg(PATIENCE) for _ in range(2)]
        assert [(msg.data, msg.headers) for msg in got] == [(b"1", None), (b"2", None), (b"", None)]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, str]]:
    with NATSCluster(2, jetstream=False) as both:
        yield both.urls[0], both.urls[1]


@contextlib.contextmanager
def leaf_node(folder: Path) -> Iterator[tuple[str, str]]:
    port = free_port()
    hub, leaf = folder / "hub.conf", folder / "leaf.conf"
    hub.write_text(f'leafnodes {{ host: "127.0.0.1", port: {port} }}\n')
    leaf.write_text(f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}\n')
    with NATSServer(config=hub) as above, NATSServer(config=leaf) as below:
        yield above.url, below.url


@pytest.mark.parametrize("servers", [cluster, leaf_node])
async def test_a_requester_behind_another_server_is_seen_and_missed(
    tmp_path: Path,
    subject: str,
    servers: Callable[[Path], contextlib.AbstractContextManager[tuple[str, str]]],
) -> None:
    with servers(tmp_path) as (one, other):
        rows = Rows()
        service = App("rows", servers=one, ignore_discovered_servers=True)
        service.listen(subject)(rows)
        requester = await nats.connect(other, allow_reconnect=False)
        async with service:
            inbox = requester.new_inbox()
            answers = await requester.subscribe(inbox)

            async def first() -> bytes:
                while True:  # until the other server knows the listener
                    await requester.publish(subject, reply=inbox)
                    message = await answers.next_msg(PATIENCE)
                    if message.data:
                        return message.data

            assert await first() == b"0"
            await asked(service)
            assert not rows.closed.is_set()
            await requester.close()
            await rows.until_closed()


ACCOUNTS = """
accounts {
  S { users: [{user: s, password: s}], exports: [{service: "rows", response_type: stream}] }
  R { users: [{user: r, password: r}], imports: [{service: {account: S, subject: "rows"}}] }
}
"""


async def test_a_requester_in_another_account_gets_all_items(tmp_path: Path) -> None:
    path = tmp_path / "accounts.conf"
    path.write_text(ACCOUNTS)
    with NATSServer(config=path) as server:
        service = App("rows", servers=server.url, user="s", password="s")
        app = App("asker", servers=server.url, user="r", password="r")

        @service.listen("rows")
        async def rows(msg: Any) -> AsyncIterator[int]:
            yield 0
            for _ in range(3):
                watch(service)._turn()
            yield 1

        async with service, app, app.stream("rows", response_data_type=int) as got:
            assert [row async for row in got] == [0, 1]


RESPONDER = """
authorization {
  users = [
    {user: a, password: a}
    {user: s, password: s, permissions: {
      publish: ["nothing"], subscribe: ["rows", "_INBOX.>", "$SRV.>"]
      allow_responses: {max: 1000, expires: "1m"}
    }}
  ]
}
"""


async def test_a_service_that_may_not_ask_streams_and_says_it_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidings")
    path = tmp_path / "permissions.conf"
    path.write_text(RESPONDER)
    with NATSServer(config=path) as server:
        service = App("rows", servers=server.url, user="s", password="s")
        release = asyncio.Event()

        @service.listen("rows")
        async def rows(msg: Any) -> AsyncIterator[int]:
            yield 0
            await release.wait()
            yield 1

        requester = await nats.connect(server.url, user="a", password="a")
        async with service:
            inbox = requester.new_inbox()
            answers = await requester.subscribe(inbox)
            await requester.publish("rows", reply=inbox)
            got = [(await answers.next_msg(PATIENCE)).data]
            await until(lambda: "does not let streams look" in caplog.text)
            assert watch(service)._timer is None or not watch(service)._channels
            release.set()
            got += [(await answers.next_msg(PATIENCE)).data for _ in range(2)]
        await requester.close()
    assert got == [b"0", b"1", b""]
    assert caplog.text.count("does not let streams look") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# The questions, without a server.


class FakeOutbox:
    limit = 1_000
    unsent_bytes = 0

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def control(self, frame: bytes) -> None:
        self.frames.append(frame)


class FakeConnection:
    """What a Lookout uses of a connection."""

    state = "connected"
    server_version = (2, 11)

    def __init__(self) -> None:
        self.outbox = FakeOutbox()
        self.exchanges: set[Any] = set()  # with `add` and `discard`
        self.denials = self
        self._inboxes = iter(("_INBOX.one", "_INBOX.two"))

    def new_inbox(self) -> str:
        return next(self._inboxes)

    def subscribe_route(self, pattern: str, queue: str, deliver: Any) -> int:
        return 1

    def expect(self, subject: str) -> None: ...


class FakeChannel:
    def __init__(self, sid: int) -> None:
        self.sid = sid
        self.target = f"peer.{sid}"
        self.peer = self.target.encode()
        self.heard = 0.0
        self.has_departed = False

    def depart(self) -> None:
        self.has_departed = True


@pytest.fixture
async def quiet() -> AsyncIterator[Any]:
    """A lookout whose turns only the test calls."""
    found: Any = Lookout(FakeConnection())  # type: ignore[arg-type]  # a fake
    yield found
    if found._timer is not None:
        found._timer.cancel()


@pytest.fixture
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "INTERVAL", 600.0)


def frame(subject: str, block: bytes = b"", body: bytes = b"") -> Frame:
    return (1, subject, "", block, body)


GONE = b"NATS/1.0 503\r\n\r\n"


@pytest.mark.usefixtures("long_turns")
async def test_many_streams_take_turns(quiet: Any) -> None:
    for sid in range(2 * AT_A_TIME):
        quiet.add(FakeChannel(sid))
    posted = quiet._connection.outbox.frames
    turns = []
    for _ in range(3):
        posted.clear()
        quiet._turn()
        turns.append([int(each.split()[1].removeprefix(b"peer.")) for each in posted])
    everyone = list(range(2 * AT_A_TIME))
    assert turns == [everyone[:AT_A_TIME], everyone[AT_A_TIME:], everyone[:AT_A_TIME]]


@pytest.mark.usefixtures("long_turns")
async def test_of_many_streams_those_are_asked_whose_requesters_are_silent(quiet: Any) -> None:
    channels = [FakeChannel(sid) for sid in range(4 * AT_A_TIME)]
    for each in channels:
        quiet.add(each)
    silent = [4 * AT_A_TIME - 1, 3, 40]
    for each in channels:
        if each.sid not in silent:
            each.heard = quiet._loop.time() + 1
    quiet._turn()
    posted = quiet._connection.outbox.frames
    asked = {int(line.split()[1].removeprefix(b"peer.")) for line in posted}
    assert asked == set(silent)


@pytest.mark.usefixtures("long_turns")
async def test_a_requester_that_fell_silent_is_asked_for_at_the_next_look(quiet: Any) -> None:
    channels = [FakeChannel(sid) for sid in range(2 * AT_A_TIME)]
    for each in channels:
        quiet.add(each)
        each.heard = quiet._loop.time() + 1e-9
    posted = quiet._connection.outbox.frames
    asked: set[bytes] = set()
    for _ in range(3):
        quiet._turn()
        asked |= {line.split()[1] for line in posted}
    assert asked == {each.peer for each in channels}


@pytest.mark.usefixtures("long_turns")
async def test_a_few_streams_are_all_asked_even_if_their_requesters_are_heard(quiet: Any) -> None:
    for sid in range(AT_A_TIME):
        channel = FakeChannel(sid)
        quiet.add(channel)
        channel.heard = quiet._loop.time() + 1
    quiet._turn()
    assert len(quiet._connection.outbox.frames) == AT_A_TIME


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize(
    ("what", "value"), [("state", "reconnecting"), ("server_version", (2, 10))]
)
async def test_nothing_is_asked_without_a_server_that_answers(
    quiet: Any, what: str, value: Any
) -> None:
    quiet.add(FakeChannel(7))
    setattr(quiet._connection, what, value)
    quiet._turn()
    assert quiet._connection.outbox.frames == []


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize("target", ["_R_.KWuzs5.vcMuSj", "_GR_.a1b2c3.d4e5f6._INBOX.x.1"])
async def test_no_trace_goes_to_another_account_or_through_a_gateway(
    quiet: Any, target: str
) -> None:
    stream = FakeChannel(7)
    stream.target = target
    quiet.add(stream)
    quiet._turn()
    assert quiet._connection.outbox.frames == []


@pytest.mark.usefixtures("long_turns")
async def test_a_connection_that_does_not_keep_up_is_not_burdened(quiet: Any) -> None:
    quiet.add(FakeChannel(7))
    quiet._connection.outbox.unsent_bytes = 900
    quiet._turn()
    quiet._deliver(0, [frame("_INBOX.one.7", GONE)])
    assert quiet._connection.outbox.frames == []


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize(
    ("events", "has_departed"),
    [
        (b'[{"type":"in"}]', True),
        (b'[{"type":"in"},{"type":"eg","error":"does not support message tracing"}]', False),
        (b'[{"type":"in"},{"type":"si"}]', False),
    ],
)
async def test_a_stream_ends_only_if_its_trace_goes_no_further(
    quiet: Any, events: bytes, has_departed: bool
) -> None:
    stream = FakeChannel(7)
    quiet.add(stream)
    quiet._deliver(0, [frame("_INBOX.one.7", GONE)])
    assert not stream.has_departed
    [question] = quiet._connection.outbox.frames
    assert question.startswith(b"HPUB peer.7 ")
    assert b"Nats-Trace-Dest: _INBOX.one.t7\r\n" in question
    quiet._deliver(0, [frame("_INBOX.one.t7", body=b'{"events":%b}' % events)])
    assert stream.has_departed is has_departed
    quiet._turn()
    assert len(quiet._connection.outbox.frames) == 1  # it is not asked about again


@pytest.mark.usefixtures("long_turns")
@pytest.mark.parametrize(
    "hostile",
    [
        frame("_INBOX.one.t7", body=b"[" * 100_000),
        frame("_INBOX.one.t7", body=b"\xff"),
        frame("_INBOX.one.t7", body=b'{"events":[7]}'),
        frame("_INBOX.one.t", body=b'{"events":[]}'),
        frame("_INBOX.one." + "7" * 5000, GONE),
        frame("_INBOX.one.8", GONE),
        frame("_INBOX.one.7", b"NATS/1.0 409\r\n\r\n"),
        frame("_INBOX.one.\u0667", GONE),
    ],
    ids=range(8),
)
async def test_what_is_no_answer_ends_no_stream(quiet: Any, hostile: Frame) -> None:
    stream = FakeChannel(7)
    quiet.add(stream)
    quiet._deliver(0, [hostile])
    assert not stream.has_departed
    assert quiet._connection.outbox.frames == []
    quiet._turn()
    assert len(quiet._connection.outbox.frames) == 1
