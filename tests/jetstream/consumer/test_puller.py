"""The puller without a server: what it asks for, what it is owed, and when it begins again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from support.waits import until
from tidings.errors import BufferFullError, ConnectionClosedError, RequestTimeoutError
from tidings.jetstream.consumer import pull as pull_module
from tidings.jetstream.consumer.priority import Pinned
from tidings.jetstream.consumer.pull import GRACE, HEARTBEAT, Puller
from tidings.jetstream.consumer.terms import Terms
from tidings.protocol.parser import Frame

PREFIX = "$JS.ACK.S.d."
CAPACITY = 10


class FakeConnection:
    """Keeps what a puller sends and subscribes to."""

    def __init__(self) -> None:
        self.state = "connected"
        self.reconnects = 0
        self.outbox = self
        self.pulls: list[dict[str, Any]] = []
        self.routes: dict[int, Callable[[int, list[Frame]], None]] = {}
        self.kept: list[int] = []
        self.confirmed = 0
        self.is_full = False
        self.is_closed = False

    def post(self, frame: bytes) -> None:
        if self.is_full:
            raise BufferFullError("publish", 1, 1)
        head, body, _ = frame.split(b"\r\n")
        _, subject, inbox, _ = head.decode().split(" ")
        assert subject == "$JS.API.CONSUMER.MSG.NEXT.S.d"
        self.pulls.append({**json.loads(body), "inbox": inbox})

    def new_inbox(self) -> str:
        return f"_INBOX.{len(self.routes)}"

    def subscribe_route(self, inbox: str, queue: str, deliver: Any, *, any_subject: bool) -> int:
        assert any_subject
        sid = len(self.routes) + 1
        self.routes[sid] = deliver
        return sid

    def unsubscribe_route(self, sid: int, *, keep_route: bool = False) -> None:
        if keep_route:
            self.kept.append(sid)
        else:
            self.routes[sid] = self.dropped

    def drop_route(self, sid: int) -> None:
        self.routes[sid] = self.dropped

    @staticmethod
    def dropped(size: int, frames: list[Frame]) -> None:
        raise AssertionError(frames)

    async def confirm(self, timeout: float) -> None:
        self.confirmed += 1

    async def connected(self) -> None:
        if self.is_closed:
            raise ConnectionClosedError("waiting for a connection")
        await until(lambda: self.state == "connected")

    @property
    def open(self) -> list[int]:
        """The IDs of the subscriptions that deliver to a puller."""
        return [sid for sid, deliver in self.routes.items() if deliver != self.dropped]


class FakeRemote:
    """A consumer on a server that answers as it is told."""

    name = "d"
    unchecked: tuple[str, ...] = ()
    prefixes = (PREFIX,)
    last_reply = ""

    def __init__(self, **declared: Any) -> None:
        options = {"priority": None, "rate_limit": None, **declared}
        self.spec = SimpleNamespace(name="handler", stream="S", **options)
        self.terms = Terms()
        self.restored = self.refreshed = 0
        self.errors: list[Exception] = []

    def is_own(self, reply: str) -> bool:
        return False

    async def restore(self) -> None:
        self.restored += 1
        if self.errors:
            raise self.errors.pop(0)

    async def refresh(self) -> None:
        self.refreshed += 1


class Rig:
    """A puller and what stands around it."""

    def __init__(self, **declared: Any) -> None:
        self.connection = FakeConnection()
        self.remote = FakeRemote(**declared)
        self.room, self.seconds = CAPACITY, 30.0
        self.taken: list[Frame] = []
        self.ends = 0
        api: Any = SimpleNamespace(connection=self.connection, timeout=1.0, prefix="$JS.API")
        remote: Any = self.remote
        self.puller = Puller(
            remote,
            api,
            wanted=lambda: (self.room, self.seconds),
            take=self.taken.extend,
            ended=self.end,
            capacity=CAPACITY,
        )

    def end(self) -> None:
        self.ends += 1

    def deliver(self, count: int, sid: int = 0) -> None:
        """So many messages come."""
        frames = [(1, "a", f"{PREFIX}1.1.1.1.0", b"", b"") for _ in range(count)]
        self.frames(frames, sid)

    def status(self, line: str, left: int | None = None, sid: int = 0) -> None:
        """A status comes, which leaves out so many messages of its pull."""
        pending = "" if left is None else f"Nats-Pending-Messages: {left}\r\n"
        block = f"NATS/1.0 {line}\r\n{pending}\r\n".encode()
        self.frames([(1, "_INBOX.0", "", block, b"")], sid)

    def frames(self, frames: list[Frame], sid: int = 0) -> None:
        self.connection.routes[sid or max(self.connection.routes)](1, frames)

    @property
    def asked(self) -> list[int]:
        return [pull["batch"] for pull in self.connection.pulls]

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(pull_module, "LOOK", 3600)  # the tests say when it looks, and at what time
    monkeypatch.setattr(pull_module, "RECOVERY_FIRST", 0.001)
    monkeypatch.setattr(pull_module, "RECOVERY_MOST", 0.005)
    rig = Rig()
    rig.puller.start()
    yield rig
    rig.puller.close()


async def turn() -> None:
    await asyncio.sleep(0)


# What it asks for, and what it is owed.


async def test_it_asks_for_what_is_wanted_and_is_owed_that_much(rig: Rig) -> None:
    assert (rig.asked, rig.puller.owed) == ([CAPACITY], CAPACITY)
    assert rig.connection.pulls[0]["expires"] == 30_000_000_000
    assert rig.connection.pulls[0]["idle_heartbeat"] == HEARTBEAT * 1e9


async def test_what_is_owed_is_not_asked_for_twice(rig: Rig) -> None:
    rig.puller.pull()
    assert rig.asked == [CAPACITY]


async def test_a_message_that_came_is_not_owed_any_more(rig: Rig) -> None:
    rig.room = 0
    rig.deliver(4)
    assert (len(rig.taken), rig.puller.owed) == (4, CAPACITY - 4)


async def test_a_few_more_messages_are_not_worth_a_request_while_some_are_owed(rig: Rig) -> None:
    rig.deliver(4)
    rig.room = CAPACITY  # 6 are owed, so that 4 could be asked for
    await turn()
    assert rig.asked == [CAPACITY]
    rig.deliver(1)
    await turn()
    assert rig.asked == [CAPACITY, 5]


async def test_one_message_is_worth_a_request_if_none_is_owed(rig: Rig) -> None:
    rig.deliver(CAPACITY)
    rig.room = 1
    await turn()
    assert rig.asked == [CAPACITY, 1]


async def test_a_pull_keeps_to_the_limits_of_the_consumer(rig: Rig) -> None:
    rig.deliver(CAPACITY)
    rig.remote.terms = Terms(max_batch=3, max_expires=2.0)
    await turn()
    assert rig.asked[-1] == 3
    assert rig.connection.pulls[-1]["expires"] == 2_000_000_000
    assert "idle_heartbeat" not in rig.connection.pulls[-1]  # it is too short for one


async def test_messages_beyond_what_was_owed_leave_no_debt(rig: Rig) -> None:
    rig.room = 0
    rig.deliver(CAPACITY + 3)
    assert rig.puller.owed == 0


async def test_a_pull_that_the_buffer_does_not_take_is_not_owed(rig: Rig) -> None:
    rig.deliver(CAPACITY)
    rig.connection.is_full = True
    await turn()
    assert rig.puller.owed == 0
    rig.connection.is_full = False
    rig.puller.look(rig.now)
    assert rig.puller.owed == CAPACITY


@pytest.mark.parametrize("state", ["reconnecting", "closed"])
async def test_nothing_is_asked_for_without_a_connection(rig: Rig, state: str) -> None:
    rig.deliver(CAPACITY)
    rig.connection.state = state
    await turn()
    rig.puller.look(rig.now + 3600)
    assert rig.asked == [CAPACITY]


async def test_a_pull_that_is_taken_back_is_not_owed_and_what_was_sent_is_still_taken(
    rig: Rig,
) -> None:
    rig.puller.withdraw()
    assert (rig.connection.kept, rig.puller.owed) == ([1], 0)
    rig.deliver(2, sid=1)
    assert len(rig.taken) == 2
    rig.puller.look(rig.now)
    assert rig.connection.open == [2]
    assert rig.connection.pulls[-1]["inbox"] != rig.connection.pulls[0]["inbox"]


# Statuses.


@pytest.mark.parametrize("line", ["404 No Messages", "408 Request Timeout", "409 Batch Completed"])
async def test_a_pull_that_ends_says_how_many_messages_it_leaves_out(rig: Rig, line: str) -> None:
    rig.room = 0
    rig.deliver(3)
    rig.status(line, left=5)
    assert (rig.puller.owed, rig.ends) == (2, 1)
    assert rig.remote.restored == 0


@pytest.mark.parametrize("left", [None, 99_999_999_999])
async def test_a_pull_that_ends_without_a_number_leaves_no_debt(rig: Rig, left: int | None) -> None:
    rig.room = 0
    rig.status("408 Request Timeout", left=left)
    assert rig.puller.owed == 0


async def test_after_the_end_of_a_pull_the_next_one_is_sent(rig: Rig) -> None:
    rig.status("408 Request Timeout", left=CAPACITY)
    await turn()
    assert rig.asked == [CAPACITY, CAPACITY]


async def test_a_heartbeat_changes_nothing(rig: Rig) -> None:
    rig.status("100 Idle Heartbeat")
    assert (rig.puller.owed, rig.ends, rig.puller.recovered) == (CAPACITY, 0, 0)


async def test_a_message_of_somebody_else_is_counted_and_not_taken(rig: Rig) -> None:
    rig.frames([(1, "a", "$JS.ACK.S.other.1.1.1.1.0", b"", b""), (1, "a", "", b"", b"x")])
    assert (rig.taken, rig.puller.foreign, rig.puller.owed) == ([], 2, CAPACITY)


# When it begins again.


@pytest.mark.parametrize(
    "line",
    [
        "409 Consumer Deleted",
        "409 Leadership Change",
        "409 Server Shutdown",
        "409 Exceeded MaxRequestBatch of 3",
        "503 No Responders",
    ],
)
async def test_a_status_that_ends_every_pull_is_followed_by_a_recovery(rig: Rig, line: str) -> None:
    rig.status(line, left=CAPACITY)
    await until(lambda: rig.puller.recovered == 1)
    assert rig.remote.restored == 1
    assert rig.connection.kept == [1]  # the server forgot the pulls, and confirmed it
    assert rig.connection.confirmed == 1
    assert rig.connection.open == [2]
    assert (rig.asked, rig.puller.owed) == ([CAPACITY, CAPACITY], CAPACITY)
    assert rig.connection.pulls[-1]["inbox"] != rig.connection.pulls[0]["inbox"]


async def test_several_statuses_of_one_fault_are_one_recovery(rig: Rig) -> None:
    rig.status("409 Leadership Change")
    rig.status("409 Server Shutdown")
    await until(lambda: rig.puller.recovered == 1)
    await turn()
    assert (rig.puller.recovered, rig.remote.restored) == (1, 1)


async def test_a_recovery_that_fails_is_tried_again(rig: Rig) -> None:
    rig.remote.errors = [RequestTimeoutError("CONSUMER.INFO", 1), OSError("no")]
    rig.status("409 Consumer Deleted")
    await until(lambda: rig.puller.recovered == 1)
    assert rig.remote.restored == 3
    assert rig.connection.open == [2]


async def test_a_recovery_waits_for_the_connection(rig: Rig) -> None:
    rig.connection.state = "reconnecting"
    rig.status("409 Server Shutdown")
    await asyncio.sleep(0.02)
    assert rig.remote.restored == 0
    rig.connection.state = "connected"
    await until(lambda: rig.puller.recovered == 1)


async def test_a_recovery_ends_with_a_connection_that_is_closed_for_good(rig: Rig) -> None:
    rig.connection.state, rig.connection.is_closed = "closed", True
    rig.status("409 Server Shutdown")
    await until(lambda: rig.puller._recovering is None)
    assert (rig.remote.restored, rig.puller.recovered) == (0, 0)


async def test_a_new_connection_needs_new_pulls(rig: Rig) -> None:
    rig.connection.reconnects += 1
    rig.puller.look(rig.now)
    await until(lambda: rig.puller.recovered == 1)
    rig.puller.look(rig.now)
    assert rig.puller.recovered == rig.remote.restored == 1


async def test_silence_while_messages_are_owed_is_followed_by_a_recovery(rig: Rig) -> None:
    rig.puller.look(rig.now + 2 * HEARTBEAT)
    assert rig.puller._recovering is None
    rig.puller.look(rig.now + 2 * HEARTBEAT + 1.5)
    await until(lambda: rig.puller.recovered == 1)


async def test_silence_is_fine_if_no_message_is_owed(rig: Rig) -> None:
    rig.room = 0
    rig.deliver(CAPACITY)
    rig.puller.look(rig.now + 3600)
    assert rig.puller._recovering is None


# The life of an inbox.


async def test_an_old_inbox_is_replaced_and_closed_when_it_owes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "INBOX_LIFE", 3.0)
    later = rig.now + 4
    rig.puller.look(later)
    assert rig.connection.open == [1, 2]
    assert rig.puller.owed == CAPACITY  # to the old one, which stays open for it
    rig.deliver(CAPACITY, sid=1)
    await turn()
    assert rig.connection.pulls[-1]["inbox"] != rig.connection.pulls[0]["inbox"]
    rig.puller.look(rig.now)
    assert rig.connection.open == [2]


async def test_what_an_inbox_owes_after_its_last_pull_is_lost(rig: Rig) -> None:
    rig.deliver(4)
    over = rig.now + 30 + GRACE + 0.1
    rig.room = 0
    rig.puller._heard_at = over
    rig.puller.look(over)
    assert rig.puller.owed == 0


async def test_the_floor_is_asked_for_now_and_then(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.room = 0
    rig.deliver(CAPACITY)
    assert not rig.puller.look(rig.now)
    monkeypatch.setattr(pull_module, "FLOOR_INTERVAL", 5.0)
    now = rig.now + 6
    assert rig.puller.look(now)
    assert not rig.puller.look(now + 1)


# The end.


async def test_after_a_stop_nothing_is_asked_for_and_nothing_recovers(rig: Rig) -> None:
    await rig.puller.stop(1.0)
    assert (rig.connection.kept, rig.connection.confirmed, rig.connection.open) == ([1], 1, [])
    rig.puller.pull()
    rig.puller.recover("late")
    assert (rig.asked, rig.puller._recovering, rig.puller.owed) == ([CAPACITY], None, 0)


async def test_a_stop_takes_what_the_server_had_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def confirm(timeout: float) -> None:
        rig.deliver(2, sid=1)

    monkeypatch.setattr(rig.connection, "confirm", confirm)
    await rig.puller.stop(1.0)
    assert len(rig.taken) == 2


# Priority groups, a limit of messages per second, and filters that nobody could check.


@pytest.fixture
async def make_rig(rig: Rig) -> AsyncIterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**declared: Any) -> Rig:
        rigs.append(Rig(**declared))
        rigs[-1].puller.start()
        return rigs[-1]

    yield make
    for each in rigs:
        each.puller.close()


async def test_a_pull_names_the_group_and_the_pin_until_the_server_pins_another(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(priority=Pinned(group="g"))
    block = b"NATS/1.0\r\nNats-Pin-Id: first\r\n\r\n"
    rig.frames([(1, "a", f"{PREFIX}1.1.1.1.0", block, b"")] * CAPACITY)
    await turn()
    rig.status("423 Nats-Pin-Id mismatch", CAPACITY)
    await turn()
    pulls = [(pull["group"], pull.get("id")) for pull in rig.connection.pulls]
    assert pulls == [("g", None), ("g", "first"), ("g", None)]
    assert rig.remote.restored == 0


async def test_a_wrong_pin_is_a_fault_of_a_consumer_without_groups(rig: Rig) -> None:
    rig.status("423 Nats-Pin-Id mismatch")
    await until(lambda: rig.remote.restored == 1)


async def test_no_more_is_asked_for_than_the_rate_allows_and_more_after_a_while(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(rate_limit=50)
    assert rig.asked == [5]
    rig.deliver(5)
    await until(lambda: sum(rig.asked) == 10)  # in two pulls, or more on a busy machine
    assert max(rig.asked) == 5


async def test_messages_beyond_unchecked_filters_are_counted_and_not_taken(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.remote.unchecked = ("a", "b.*")
    subjects = ("a", "c", "b.x", "b.x.y")
    rig.frames([(1, subject, f"{PREFIX}1.1.1.1.0", b"", b"") for subject in subjects])
    assert [frame[1] for frame in rig.taken] == ["a", "b.x"]
    assert (rig.puller.foreign, rig.puller.owed) == (2, CAPACITY - 4)
    assert caplog.text.count("delivers other messages than subject= declares (a, b.*)") == 1
