"""Partitions in several processes: they come, go and die, and each key keeps its order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from jetstream.consumer.partitions.runs import Group
from support.process import Program
from support.streams import MakeApp
from tidings import App, Stream
from tidings.server import NATSServer


@pytest.fixture
async def publisher(make_app: MakeApp, stream: Stream) -> AsyncIterator[App]:
    async with make_app("publisher", streams=[stream]) as app:
        yield app


@pytest.fixture
def group(run_program: Callable[..., Program], stream: Stream, nats_server: NATSServer) -> Group:
    return Group(run_program, stream, nats_server.url)


@contextlib.asynccontextmanager
async def load(group: Group, app: App) -> AsyncIterator[None]:
    """Publish messages all the time."""
    is_over = asyncio.Event()

    async def publish() -> None:
        while not is_over.is_set():
            await group.publish(app, 1)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), 0.02)

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        is_over.set()
        await task


async def test_processes_are_added_and_stopped_without_a_message_handled_twice_or_out_of_order(
    group: Group, publisher: App
) -> None:
    first = group.add()
    await group.has_partitions(first)
    async with load(group, publisher):
        others = [group.add(), group.add()]
        for other in others:
            await group.has_partitions(other)
        await group.has_partitions(first, 2)
        assert {run.process for run in group.runs()} >= {0}
        for other in others:
            assert await asyncio.to_thread(other.stop) == 0
        await asyncio.to_thread(first.wait_for, "handles 16 of the 16", 2)
    await group.has_handled_all()
    assert group.check() == []
    assert {run.process for run in group.runs()} == {0, 1, 2}


async def test_the_messages_of_a_killed_process_are_handled_by_the_others_in_order(
    group: Group, publisher: App
) -> None:
    first = group.add()
    await group.has_partitions(first)
    second = group.add()
    await group.has_partitions(second)
    async with load(group, publisher):
        await asyncio.to_thread(second.wait_for, "begin", 20)
        group.kill(second)
        await asyncio.to_thread(first.wait_for, "handles 16 of the 16", 2)
    await group.publish(publisher, 1)
    await group.has_handled_all()
    again = group.check()
    assert len(again) <= 16, "more messages than the killed process had at work"


async def test_a_rolling_restart_handles_each_message_once_and_in_order(
    group: Group, publisher: App
) -> None:
    running = [group.add(), group.add(), group.add()]
    for program in running:
        await group.has_partitions(program)
    async with load(group, publisher):
        for old in running:
            new = group.add()
            await group.has_partitions(new)
            assert await asyncio.to_thread(old.stop) == 0
    await group.publish(publisher, 1)
    await group.has_handled_all()
    assert group.check() == []


async def test_a_key_that_fails_for_long_stops_no_other_key(group: Group, publisher: App) -> None:
    programs = [group.add(FAILING="k3"), group.add(FAILING="k3")]
    for program in programs:
        await group.has_partitions(program)
    await group.publish(publisher, 60)
    await group.has_handled_all(without=["k3"])
    group.check()
    assert {run.number for run in group.runs() if run.key == "k3"} == {0}


async def test_a_process_that_was_frozen_begins_no_run_of_what_others_have_now(
    group: Group, publisher: App
) -> None:
    first = group.add(WORK="0.03")
    await group.has_partitions(first)
    second = group.add(WORK="0.03")
    await group.has_partitions(second)
    await group.publish(publisher, 10)
    await asyncio.to_thread(second.wait_for, "begin", 5)
    second.signal(signal.SIGSTOP)
    await asyncio.to_thread(first.wait_for, "handles 16 of the 16", 2)
    await group.publish(publisher, 3)
    await group.has_handled_all()
    before = len(group.runs())
    second.signal(signal.SIGCONT)
    await asyncio.to_thread(second.wait_for, "has lost its")
    await group.has_partitions(second, second.count("handles") + 1)
    # It wrote the end of what it was at when it was frozen, and has begun nothing old.
    assert len(group.runs()) == before
    await group.publish(publisher, 3)
    await group.has_handled_all()
