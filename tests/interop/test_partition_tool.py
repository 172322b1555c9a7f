"""`cg`, the tool for the partitioned consumer groups of Synadia's orbit libraries, joins ours."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.process import Process
from support.waits import until
from tidings import App, Stream
from tidings.jetstream import StreamMessage

MakeApp = Callable[..., App]
Run = Callable[..., Awaitable[str]]

KEYS = 20


@pytest.fixture
def cg(run: Run) -> Run:
    """Runs `cg elastic`, and returns what it printed."""

    async def call(*arguments: str) -> str:
        return await run("cg", "elastic", *arguments)

    return call


@pytest.fixture
def join(start: Callable[..., Process]) -> Callable[..., Process]:
    """Starts `cg` as a member of a group."""

    def call(stream: str, group: str, member: str) -> Process:
        # It ends each line of its output by one on standard error.
        command = ("cg", "elastic", "consume", stream, group, member)
        return start(*command, stderr=subprocess.STDOUT)

    return call


def _subjects(process: Process) -> list[str]:
    return re.findall(r"subject=([^,]+),", process.text)


async def test_it_lists_our_group_joins_it_and_hands_its_partitions_back(
    nats_server: Any, make_app: MakeApp, cg: Run, join: Callable[..., Process], stream: Stream
) -> None:
    app = make_app(nats_server, streams=[stream])
    ours: list[str] = []

    @app.consume(
        stream.name,
        durable="group",
        subject=f"{stream.name}.*",
        partitions=8,
        key=1,
        inactive_threshold=2,
    )
    async def take(msg: StreamMessage[int]) -> None:
        ours.append(msg.subject)

    def partitions() -> int:
        return app.stats().consumers[0].partitions

    async def publish() -> list[str]:
        subjects = [f"{stream.name}.k{number}" for number in range(KEYS)]
        for subject in subjects:
            await app.js.publish(subject, 1)
        return subjects

    async with app:
        assert await cg("ls", stream.name) == "elastic consumer groups: [group]"
        shown = await cg("info", stream.name, "group")
        assert f"filter={stream.name}.*, partitioning wildcards [1]" in shown
        [member] = re.findall(r"currently active members: \[(\S+)\]", shown)
        assert member == app.stats().consumers[0].member
        await cg("add", stream.name, "group", "guest")
        guest = join(stream.name, "group", "guest")
        await until(lambda: partitions() == 4)
        subjects = await publish()
        await until(lambda: len(ours) + len(_subjects(guest)) >= KEYS)
        assert Counter(ours + _subjects(guest)) == Counter(subjects)
        assert ours
        assert _subjects(guest)
        await cg("drop", stream.name, "group", "guest")
        await asyncio.to_thread(guest.stop)
        await until(lambda: partitions() == 8)
        ours.clear()
        await publish()
        await until(lambda: len(ours) >= KEYS)
        assert Counter(ours) == Counter(subjects)


async def test_we_join_a_group_that_it_created(
    nats_server: Any, make_app: MakeApp, cg: Run, stream: Stream
) -> None:
    app = make_app(nats_server, streams=[stream])
    async with app:
        await cg(
            "create", stream.name, "theirs", "6"
        )  # asks for filters, and reads that there are none
    taken: list[str] = []

    @app.consume(stream.name, durable="theirs", partitions=6)
    async def take(msg: StreamMessage[int]) -> None:
        taken.append(msg.subject)

    async with app:
        await until(lambda: app.stats().consumers[0].partitions == 6)
        await app.js.publish(f"{stream.name}.a.b", 1)
        await until(lambda: taken == [f"{stream.name}.a.b"])
        shown = await cg("info", stream.name, "theirs")
    assert "no partitioning filters defined" in shown
