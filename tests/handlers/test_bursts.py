"""The compiled core handles messages as the Python modules do, whatever the handlers do."""

from __future__ import annotations

import asyncio
import contextvars
import time
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.waits import until
from tidings import Message, core
from tidings.concurrency import work_queue
from tidings.concurrency.durations import Durations
from tidings.concurrency.pool import WorkerPool
from tidings.errors import ServiceError
from tidings.handlers import bursts
from tidings.handlers.bursts import BurstListener
from tidings.handlers.listener import Listener, Sender
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.measured import MeasuredListener
from tidings.handlers.middleware import Middleware
from tidings.protocol.parser import Frame

pytestmark = pytest.mark.skipif(core.NAME != "compiled", reason="the compiled core does not run")

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


# Seconds up to which a message is short, and of one that is longer.
SHORT, LONG = 0.2, 0.22


class Answers:
    """Keeps what a listener answers."""

    service_name = "bursts"

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def reply(self, subject: str, value: Any, headers: Any) -> None:
        if value == "refuse":
            raise ServiceError(400, "this answer cannot be sent")
        code = dict(headers).get("Nats-Service-Error-Code") if headers else None
        self.sent.append((subject, code or value))

    def tell(self, event: str, error: Exception | None) -> None:
        pass


class LegacyAwaitable:
    """Something to await that is no coroutine."""

    def __await__(self) -> Generator[Any, Any, str]:
        yield from asyncio.sleep(0).__await__()
        return "legacy"


@types.coroutine
def bare_yields(count: int) -> Generator[None, None, None]:
    for _ in range(count):
        yield


async def act(kind: str, seen: list[str]) -> Any:
    """What a handler does."""
    seen.append(f"{kind}{variable.get()}")
    match kind:
        case "suspend":
            await asyncio.sleep(0)
        case "yields":
            await bare_yields(3)
        case "waits":
            await asyncio.wait_for(asyncio.sleep(0.001), 10)
        case "raise":
            raise ValueError(kind)
        case "raise-late":
            await asyncio.sleep(0)
            raise ValueError(kind)
        case "exit":
            raise SystemExit(3)
        case "stop":
            raise StopIteration(kind)
        case "context":
            variable.set("!")
        case "context-late":
            await asyncio.sleep(0)
            variable.set("?")
        case "cancel":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        case "cancel-swallowed":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
        case "block" | "block-context" | "block-raise":
            time.sleep(LONG)  # noqa: ASYNC251 - that is the test
            if kind == "block-raise":
                raise ValueError(kind)
            if kind == "block-context":
                variable.set(kind)
        case "sleep":
            await asyncio.sleep(LONG)
        case "refuse" | "none":
            return "refuse" if kind == "refuse" else None
    seen.append(f"{kind} done")
    return kind


KINDS = [
    *("return", "suspend", "yields", "waits", "raise", "raise-late", "exit", "stop", "context"),
    *("context-late", "cancel", "cancel-swallowed", "refuse", "none"),
]


class Hook(Middleware):
    """A hook that is no coroutine function."""

    def listen_any(self, msg: Any, callback: Callable[[Any], Awaitable[Any]]) -> Any:  # type: ignore[override]  # that is the test
        return LegacyAwaitable() if msg.subject == "legacy" else callback(msg)


async def handle_all(
    make: type[Listener],
    frames: list[Frame],
    *,
    concurrency: int,
    hooks: tuple[Middleware, ...],
    is_measured: bool = False,
) -> tuple[Any, ...]:
    """Let a listener handle the frames. Return what it did."""
    seen: list[str] = []
    answers = Answers()

    async def handler(msg: Message[Any]) -> Any:
        return await act(msg.subject, seen)

    pool = WorkerPool()
    spec = ListenerSpec(handler=handler, subjects=(">",), data_type="json")
    listener = make(
        spec, cast(Sender, answers), pool, queue="", concurrency=concurrency, middlewares=hooks
    )
    if is_measured:
        listener.measure()
    listener.deliver(sum(len(frame[3]) + len(frame[4]) for frame in frames), frames)
    await asyncio.wait_for(listener.finish(), 20)
    await until(lambda: not listener._busy)
    await pool.close()
    return seen, answers.sent, listener.snapshot()


def without_turns(outcome: tuple[Any, ...]) -> tuple[Any, ...]:
    """What does not depend on which of several suspended handlers goes on first. The order in which
    the handlers start is part of it."""
    seen, answers, stats = outcome
    starts = [text for text in seen if not text.endswith(" done")]
    return starts, sorted(seen), sorted(map(repr, answers)), stats


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([*KINDS, "legacy"]),
        st.sampled_from(["", "re.ply"]),
        st.sampled_from([b"1", b"{}", b"", b"not JSON"]),
    ),
    max_size=12,
)


@given(MESSAGES, st.sampled_from([1, 2, 100]), st.booleans(), st.booleans())
@settings(max_examples=150)
def test_both_forms_handle_any_messages_alike(
    messages: list[tuple[str, str, bytes]], concurrency: int, is_dirty: bool, has_hook: bool
) -> None:
    frames = [(7, kind, reply, b"", body) for kind, reply, body in messages]
    hooks = (Hook(),) if has_hook else ()

    async def run(make: type[Listener]) -> tuple[Any, ...]:
        if is_dirty:
            variable.set("~")  # a variable of the user, set before the start
        return await handle_all(make, frames, concurrency=concurrency, hooks=hooks)

    one, other = asyncio.run(run(BurstListener)), asyncio.run(run(Listener))
    if concurrency > 1:  # handlers at the same time may take turns in another order
        one, other = without_turns(one), without_turns(other)
    assert one == other


@pytest.mark.parametrize("kind", [*KINDS, "legacy"])
@pytest.mark.parametrize("reply", ["", "re.ply"])
async def test_both_forms_handle_a_message_alike(kind: str, reply: str) -> None:
    frames = [(7, kind, reply, b"", b"1"), (7, "return", "re.ply", b"", b"2")] * 2
    forms = [BurstListener, Listener]
    one, other = [await handle_all(form, frames, concurrency=2, hooks=(Hook(),)) for form in forms]
    assert one == other
    assert one[2].received == 4 == one[2].handled + one[2].failed


@pytest.mark.parametrize("make", [MeasuredListener, BurstListener])
@pytest.mark.parametrize(
    ("kinds", "slow"),
    [
        (["return", "block", "return"], 1),
        (["return", "block"], 1),  # the last one of its burst
        (["block", "raise", "block"], 2),
        (["block", "context", "return"], 1),
        (["block-context", "return"], 1),
        (["block", "suspend", "return"], 1),
        (["block", "block-raise", "return"], 2),
        (["sleep", "return", "block"], 2),
        (["return", "suspend", "raise", "legacy"], 0),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
async def test_each_message_of_a_burst_is_measured(
    make: type[Listener], kinds: list[str], slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarse() -> Durations:
        return Durations((SHORT, 60.0))

    monkeypatch.setattr(bursts, "Durations", coarse)
    monkeypatch.setattr(work_queue, "Durations", coarse)
    frames: list[Frame] = [(1, kind, "", b"", b"1") for kind in kinds]
    frames.append((1, "return", "", b"", b"not JSON"))
    _, _, stats = await handle_all(make, frames, concurrency=1, hooks=(Hook(),), is_measured=True)
    assert stats.seconds.counts == (len(frames) - slow, slow, 0)
    assert stats.seconds.total >= slow * LONG


async def test_an_error_thrown_into_a_handler_is_not_the_context_of_its_next_error() -> None:
    caught: list[BaseException] = []

    async def handler(msg: Message[Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task.uncancel()
        try:
            raise KeyError("fresh")
        except KeyError as error:
            caught.append(error)

    pool = WorkerPool()
    spec = ListenerSpec(handler=handler, subjects=("a",), data_type=bytes)
    listener = BurstListener(
        spec, cast(Sender, Answers()), pool, queue="", concurrency=1, middlewares=()
    )
    listener.deliver(0, [(1, "a", "", b"", b"")])
    await asyncio.wait_for(listener.finish(), 20)
    await pool.close()
    assert caught[0].__context__ is None
