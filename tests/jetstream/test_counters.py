"""Counters: numbers of any size that a stream adds up, counted once, gathered from others."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.streams import MakeApp
from support.waits import PATIENCE
from tidings import App
from tidings.errors import (
    ConfigError,
    DecodeError,
    JetStreamApiError,
    NoStreamError,
    NotStartedError,
    RequestTimeoutError,
    SubjectError,
)
from tidings.jetstream import CounterEntry, Counters, Stream, StreamSource
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.counts import read_count, read_number, read_sources


def counting(stream: Stream, **options: Any) -> Stream:
    """The test's stream, with counters."""
    return Stream(stream.name, subjects=stream.subjects, storage="memory", counters=True, **options)


@pytest.fixture
async def app(make_app: MakeApp, stream: Stream) -> AsyncIterator[App]:
    async with make_app(streams=[counting(stream)]) as app:
        yield app


@pytest.fixture
def counters(app: App, stream: Stream) -> Counters:
    return app.js.counters(stream.name)


async def test_a_counter_begins_at_zero_and_adds_up(counters: Counters, stream: Stream) -> None:
    hits = f"{stream.name}.hits"
    assert await counters.load(hits) == 0
    assert await counters.get(hits) is None
    assert await counters.add(hits) == 1
    assert await counters.add(hits, 41) == 42
    assert await counters.add(hits, -2) == 40
    assert await counters.add(hits, 0) == 40
    assert await counters.load(hits) == 40


async def test_numbers_beyond_64_bits_are_exact(counters: Counters, stream: Stream) -> None:
    big = f"{stream.name}.big"
    for amount in (2**53 + 1, 2**64, 10**30, -(10**300)):
        before = await counters.load(big)
        assert await counters.add(big, amount) == before + amount
    assert await counters.load(big) == 2**53 + 1 + 2**64 + 10**30 - 10**300


async def test_additions_at_the_same_time_are_all_counted(
    counters: Counters, stream: Stream
) -> None:
    values = await asyncio.gather(*(counters.add(f"{stream.name}.a") for _ in range(50)))
    assert sorted(values) == list(range(1, 51))


async def test_a_thread_counts_through_run_sync(
    app: App, counters: Counters, stream: Stream
) -> None:
    def count() -> int:
        app.js.run_sync(counters.add(f"{stream.name}.a", 2))
        return app.js.run_sync(counters.load(f"{stream.name}.a"))

    assert await asyncio.to_thread(count) == 2


async def test_an_entry_has_its_place(counters: Counters, stream: Stream) -> None:
    await counters.add(f"{stream.name}.a", 5)
    entry = await counters.get(f"{stream.name}.a")
    assert isinstance(entry, CounterEntry)
    assert (entry.subject, entry.value, entry.sources) == (f"{stream.name}.a", 5, {})
    assert (entry.sequence, entry.updated.tzinfo is not None) == (1, True)


async def test_many_counters_are_read_by_a_pattern(counters: Counters, stream: Stream) -> None:
    for end, amount in {"a.x": 1, "a.y": 2, "b.x": 3}.items():
        await counters.add(f"{stream.name}.{end}", amount)
    await counters.add(f"{stream.name}.a.x", 10)
    found = await counters.load_many(f"{stream.name}.a.*")
    assert found == {f"{stream.name}.a.x": 11, f"{stream.name}.a.y": 2}
    assert len(await counters.load_many()) == 3
    assert await counters.load_many(f"{stream.name}.none") == {}


async def test_an_addition_with_the_same_id_is_counted_once(
    counters: Counters, stream: Stream
) -> None:
    hits = f"{stream.name}.a"
    assert await counters.add(hits, 5, msg_id="one") == 5
    assert await counters.add(hits, 1) == 6
    assert await counters.add(hits, 5, msg_id="one") == 5  # as it was after this addition
    assert await counters.load(hits) == 6


async def test_a_repeated_addition_that_is_not_kept_returns_the_current_value(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[counting(stream, max_msgs_per_subject=1)]) as app:
        counters, hits = app.js.counters(stream.name), f"{stream.name}.a"
        await counters.add(hits, 5, msg_id="one")
        await counters.add(hits, 1)
        assert await counters.add(hits, 5, msg_id="one") == 6


async def test_an_addition_whose_acknowledgement_is_lost_is_counted_once(
    counters: Counters, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, lost = JetStreamApi.request, []

    async def losing(
        self: JetStreamApi, subject: str, body: bytes, block: bytes, timeout: float, **more: Any
    ) -> Any:
        answer = await request(self, subject, body, block, timeout, **more)
        if subject.startswith(stream.name) and len(lost) < 2:
            lost.append(subject)
            raise RequestTimeoutError(subject, timeout)
        return answer

    monkeypatch.setattr(JetStreamApi, "request", losing)
    assert await counters.add(f"{stream.name}.a", 5) == 5
    assert len(lost) == 2
    assert await counters.load(f"{stream.name}.a") == 5


async def test_the_counters_of_several_streams_are_gathered(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    total = Stream(
        f"{stream.name}-all",
        storage="memory",
        counters=True,
        sources=[
            StreamSource(each.name, subject_transforms=[(f"{each.name}.>", f"{stream.name}.all.>")])
            for each in (stream, dead)
        ],
    )
    eu = Stream(stream.name, subjects=[f"{stream.name}.>"], storage="memory", counters=True)
    streams = [eu, counting(dead), total]
    async with make_app(streams=streams) as app:
        await app.js.counters(stream.name).add(f"{stream.name}.hits", 2**60)
        await app.js.counters(dead.name).add(f"{dead.name}.hits", 5)
        counters, subject = app.js.counters(total.name), f"{stream.name}.all.hits"
        async with asyncio.timeout(PATIENCE):
            while await counters.load(subject) != 2**60 + 5:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.02)
        entry = await counters.get(subject)
        assert entry is not None
        assert entry.sources == {
            stream.name: {f"{stream.name}.hits": 2**60},
            dead.name: {f"{dead.name}.hits": 5},
        }


async def test_a_publish_with_the_header_of_a_counter_returns_its_value(
    app: App, stream: Stream
) -> None:
    ack = await app.js.publish(f"{stream.name}.a", b"", headers={"Nats-Incr": "+7"})
    assert ack.value == 7
    assert (await app.js.publish(f"{stream.name}.a", b"", headers={"Nats-Incr": "1"})).value == 8


async def test_a_batch_counts_as_a_whole(make_app: MakeApp, stream: Stream) -> None:
    async with make_app(streams=[counting(stream, atomic=True)]) as app:
        async with app.js.batch() as batch:
            for amount in ("+1", "+2"):
                batch.add(f"{stream.name}.a", b"", headers={"Nats-Incr": amount})
        assert await app.js.counters(stream.name).load(f"{stream.name}.a") == 3


# What cannot be.


@pytest.mark.parametrize("amount", [1.0, "1", True, None, 10**1000])
async def test_an_amount_that_is_no_whole_number_is_refused(
    counters: Counters, stream: Stream, amount: Any
) -> None:
    with pytest.raises(ConfigError, match="amount must"):
        await counters.add(f"{stream.name}.a", amount)
    assert await counters.load(f"{stream.name}.a") == 0


@pytest.mark.parametrize("subject", ["", "a b", "a.*", None])
async def test_a_subject_that_nats_does_not_allow_is_refused(
    counters: Counters, subject: Any
) -> None:
    for call in (counters.add, counters.load, counters.get):
        with pytest.raises(SubjectError):
            await call(subject)


@pytest.mark.parametrize("name", ["", "a.b", "a b", None])
async def test_a_stream_has_a_name(app: App, name: Any) -> None:
    with pytest.raises(ConfigError):
        app.js.counters(name)


async def test_a_stream_without_counters_is_an_error_that_says_what_to_declare(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[stream]) as app:
        counters = app.js.counters(stream.name)
        with pytest.raises(ConfigError, match=rf"Stream\('{stream.name}', ..., counters=True\)"):
            await counters.add(f"{stream.name}.a")
        await app.js.publish(f"{stream.name}.a", {"val": 5})
        with pytest.raises(DecodeError, match="is no count"):
            await counters.load(f"{stream.name}.a")


async def test_a_subject_of_another_stream_or_of_none_is_told(
    make_app: MakeApp, stream: Stream, dead: Stream, subject: str
) -> None:
    async with make_app(streams=[counting(stream), counting(dead)]) as app:
        counters = app.js.counters(stream.name)
        with pytest.raises(ConfigError, match=f"a counter of the stream {dead.name}, which"):
            await counters.add(f"{dead.name}.a")
        with pytest.raises(NoStreamError):
            await counters.add(subject)
        with pytest.raises(JetStreamApiError, match="stream not found"):
            await app.js.counters("nowhere").load("a")
        assert await app.js.counters(dead.name).load(f"{dead.name}.a") == 1


async def test_a_server_that_would_store_an_empty_message_is_too_old(
    counters: Counters, app: App, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(app.js.api.connection, "server_version", (2, 11))
        with pytest.raises(ConfigError, match=r"counters needs nats-server 2\.12"):
            await counters.add(f"{stream.name}.a")
    assert await counters.load(f"{stream.name}.a") == 0


async def test_counters_need_a_running_app(make_app: MakeApp) -> None:
    with pytest.raises(NotStartedError):
        await make_app().js.counters("HITS").add("hits.a")


@pytest.mark.parametrize("text", ["", "1.5", "x", "+", "1" * 1001, "1\n", "\u0661", 5, None])
def test_what_is_no_number_is_not_read_as_one(text: Any) -> None:
    with pytest.raises(DecodeError):
        read_number(text)


@pytest.mark.parametrize("body", [b"", b"{}", b"5", b'{"val": 5}', b'{"val":"x"}', b"[" * 10_000])
def test_what_is_no_count_is_not_read_as_one(body: bytes) -> None:
    with pytest.raises(DecodeError, match="is no count"):
        read_count(body, "hits.a")


@pytest.mark.parametrize("text", ["", "[]", '{"C": 5}', '{"C": {"a": "x"}}', '{"C": {"a": 5}}'])
def test_sources_that_are_none_are_not_read(text: str) -> None:
    with pytest.raises(DecodeError):
        read_sources(text)


async def test_the_header_of_a_count_has_its_sign(
    app: App, counters: Counters, stream: Stream
) -> None:
    await counters.add(f"{stream.name}.a", 5)
    answer = await app.js.api.call(f"STREAM.MSG.GET.{stream.name}", {"seq": 1})
    assert b"Nats-Incr: +5\r\n" in base64.b64decode(answer["message"]["hdrs"])
