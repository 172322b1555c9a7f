"""The table of requests: tokens, deadlines and what ends a wait."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from support.waits import until
from tidings.errors import (
    ConnectionLostError,
    RequestTimeoutError,
    SubjectPermissionError,
    TidingsError,
)
from tidings.protocol.parser import Frame
from tidings.transport.requests import TOKENS, RequestTable


def reply(token: str, body: bytes = b"") -> Frame:
    return (1, f"in.{token}", "", b"", body)


@pytest.fixture
async def table() -> RequestTable:
    return RequestTable(asyncio.get_running_loop())


async def test_a_reply_ends_the_wait_of_its_request(table: RequestTable) -> None:
    (one, first), (two, second) = table.add("a", 5), table.add("a", 5)
    table.deliver([reply(two, b"2"), reply(one, b"1")], len("in."))
    assert [(await first)[4], (await second)[4]] == [b"1", b"2"]
    assert len(table) == 0


async def test_tokens_are_random_and_of_one_length(table: RequestTable) -> None:
    tokens = [table.add("a", 5)[0] for _ in range(3 * TOKENS)]
    assert len(set(tokens)) == len(tokens)
    assert {len(token) for token in tokens} == {18}
    assert all(token.isdecimal() for token in tokens)
    numbers = [int(token) for token in tokens]
    gaps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    assert len(gaps) == len(tokens) - 1
    table.fail_all(ConnectionLostError)


async def test_a_guessed_token_ends_nothing_and_is_counted(table: RequestTable) -> None:
    token, future = table.add("a", 5)
    guesses = [str(int(token) + 1), str(int(token) - 1), token[:-1], f"{token}0", f" {token}", ""]
    table.deliver([reply(guess) for guess in guesses], len("in."))
    assert not future.done()
    assert table.late == len(guesses)
    table.discard(token)


async def test_each_request_ends_at_its_own_deadline(table: RequestTable) -> None:
    _, late = table.add("late", 0.05)
    _, soon = table.add("soon", 0.01)
    with pytest.raises(RequestTimeoutError, match=r"'soon' within 0\.01"):
        await soon
    assert not late.done()
    with pytest.raises(RequestTimeoutError, match=r"'late' within 0\.05"):
        await late
    assert len(table) == 0


async def test_a_waiter_may_wait_longer_for_the_same_reply(table: RequestTable) -> None:
    class Patient:
        def __init__(self) -> None:
            self.timeouts: list[float] = []
            self.reply: Frame | None = None

        def done(self) -> bool:
            return False

        def set_result(self, result: Frame) -> None:
            self.reply = result

        def set_exception(self, exception: TidingsError) -> None:
            assert isinstance(exception, RequestTimeoutError)
            self.timeouts.append(exception.timeout)
            if len(self.timeouts) < 3:
                table.keep(token, self, "a", 0.01 * (len(self.timeouts) + 1))

    waiter = Patient()
    token = table.add_waiter(waiter, "a", 0.01)
    await until(lambda: len(waiter.timeouts) == 2)
    table.deliver([reply(token, b"late")], len("in."))
    assert waiter.reply is not None
    assert waiter.reply[4] == b"late"
    assert waiter.timeouts == [0.01, 0.02]
    assert len(table) == 0


async def test_a_refused_publish_ends_the_requests_on_its_subject_only(
    table: RequestTable,
) -> None:
    (_, refused), (token, other) = table.add("a", 5), table.add("b", 5)
    error = SubjectPermissionError("publish", "a")
    table.fail_subject("a", error)
    with pytest.raises(SubjectPermissionError):
        await refused
    assert not other.done()
    table.discard(token)


async def test_a_lost_connection_ends_every_wait(table: RequestTable) -> None:
    futures = [table.add("a", 5)[1] for _ in range(3)]
    table.fail_all(ConnectionLostError)
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(result) for result in results} == {ConnectionLostError}
    assert len(table) == 0


class Recorder:
    """A waiter that is no future, and that withdraws its request when it fails."""

    def __init__(self, table: RequestTable) -> None:
        self.table = table
        self.token = ""
        self.outcome: Frame | TidingsError | None = None

    def done(self) -> bool:
        return self.outcome is not None

    def set_result(self, frame: Frame) -> None:
        self.outcome = frame

    def set_exception(self, error: TidingsError) -> None:
        self.table.discard(self.token)
        self.outcome = error


def recorders(table: RequestTable, subject: str, timeout: float) -> list[Recorder]:
    waiters = [Recorder(table) for _ in range(3)]
    for waiter in waiters:
        waiter.token = table.add_waiter(waiter, subject, timeout)
    return waiters


async def test_a_waiter_of_the_callers_own_gets_the_reply(table: RequestTable) -> None:
    waiters = recorders(table, "a", 5)
    frames = [reply(waiter.token) for waiter in waiters]
    table.deliver(frames, len("in."))
    assert [waiter.outcome for waiter in waiters] == frames
    assert len(table) == 0


async def test_a_waiter_of_the_callers_own_gets_every_kind_of_error(table: RequestTable) -> None:
    denied, lost = recorders(table, "denied", 5), recorders(table, "lost", 5)
    late = recorders(table, "late", 0.01)
    table.fail_subject("denied", SubjectPermissionError("publish", "denied"))
    assert all(isinstance(each.outcome, SubjectPermissionError) for each in denied)
    await until(lambda: all(each.done() for each in late))
    assert all(isinstance(each.outcome, RequestTimeoutError) for each in late)
    table.fail_all(ConnectionLostError)
    assert all(isinstance(each.outcome, ConnectionLostError) for each in lost)
    assert len(table) == 0
