"""Dead letters: what is kept of a message, how it is read, published again and dropped."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.waits import until
from tidings import App
from tidings.errors import (
    ConfigError,
    JetStreamApiError,
    JetStreamError,
    NoStreamError,
    RedriveError,
    Reject,
)
from tidings.jetstream import Stream, dead_letters
from tidings.jetstream.dead_letters import DeadLetter, Wanted
from tidings.jetstream.get import stored_message
from tidings.server import NATSServer

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    """The name of the test's stream, and the first word of its subjects."""
    return f"living{next(_numbers)}"


@pytest.fixture
def dead(name: str) -> str:
    """The name of the stream of its dead letters, and the first word of their subjects."""
    return f"dead-{name}"


@pytest.fixture
def streams(name: str, dead: str) -> list[Stream]:
    return [
        Stream(name, subjects=[f"{name}.>"], storage="memory"),
        Stream(dead, subjects=[f"{dead}.>"], storage="memory"),
    ]


@pytest.fixture
async def app(make_app: Callable[..., App], streams: list[Stream]) -> AsyncIterator[App]:
    async with make_app(streams=streams) as app:
        yield app


async def bury(app: App, dead: str, subject: str, number: int = 0, **headers: str) -> int:
    """Store a dead letter as a consumer would; returns its sequence."""
    pairs = {
        "Tidings-Dead-Subject": subject,
        "Tidings-Dead-Stream": subject.partition(".")[0],
        "Tidings-Dead-Sequence": str(number),
        "Tidings-Dead-Consumer": "worker",
        "Tidings-Dead-Deliveries": "5",
        "Tidings-Dead-Error": "ValueError",
        "Tidings-Dead-Error-Id": "7f",
        "Tidings-Dead-Reason": "deliveries used up",
        **{f"Tidings-Dead-{name}": value for name, value in headers.items()},
    }
    ack = await app.js.publish(f"{dead}.x", {"number": number}, headers={**pairs, "Trace": "80"})
    return ack.sequence


async def read(app: App, dead: str, **wanted: Any) -> list[DeadLetter]:
    last = await dead_letters.last_sequence(app.js.api, dead)
    found = dead_letters.read_dead_letters(app.js.api, dead, Wanted(**wanted), last)
    return [letter async for letter in found]


async def held(app: App, name: str) -> int:
    info = await app.js.api.call(f"STREAM.INFO.{name}")
    return int(info["state"]["messages"])


# What is kept.


async def test_a_rejected_message_is_kept_as_it_came_with_the_reason(
    make_app: Callable[..., App], streams: list[Stream], name: str, dead: str
) -> None:
    app = make_app(streams=streams)

    @app.consume(name, durable="worker", dead_letter=f"{dead}.worker")
    async def handle(msg: Any) -> None:
        raise Reject("no such\r\nitem " + "x" * 1000)

    async with app:
        headers = {"Trace": ["7f", "80"]}
        await app.js.publish(f"{name}.created", {"id": 7}, headers=headers, msg_id="order-7")
        await until(lambda: app.stats().consumers[0].dead)
        [letter] = await read(app, dead)
    assert (letter.kept_in, letter.sequence) == (dead, 1)
    assert (letter.subject, letter.body) == (f"{name}.created", b'{"id":7}')
    assert letter.headers.pairs() == [("Trace", "7f"), ("Trace", "80")]
    assert (letter.stream, letter.stream_sequence) == (name, 1)
    assert (letter.consumer, letter.deliveries) == ("worker", 1)
    assert letter.error == "Reject"
    assert letter.reason.startswith("no such item xxx")
    assert len(letter.reason) == 500
    assert letter.error_id
    assert datetime.now(UTC) - letter.time < timedelta(seconds=10)


@pytest.mark.parametrize(("by", "size"), [("the server", 1024 * 1024), ("the stream", 4096)])
async def test_a_message_nearly_as_large_as_is_taken_is_buried_with_the_headers_that_fit(
    make_app: Callable[..., App], name: str, dead: str, by: str, size: int
) -> None:
    bound = None if by == "the server" else size
    kept = Stream(dead, subjects=[f"{dead}.>"], storage="memory", max_msg_size=bound)
    app = make_app(streams=[Stream(name, subjects=[f"{name}.>"], storage="memory"), kept])

    @app.consume(name, durable="worker", data_type=bytes, dead_letter=f"{dead}.worker")
    async def handle(msg: Any) -> None:
        raise Reject("it is not for us")

    body = b"x" * (size - 256)
    async with app:
        await app.js.publish(f"{name}.created", body, headers={"Trace": "7f"})
        await until(lambda: app.stats().consumers[0].dead)
        [letter] = await read(app, dead)
    assert (letter.subject, letter.body) == (f"{name}.created", body)
    assert letter.headers.pairs() == [("Trace", "7f")]
    assert (letter.stream, letter.stream_sequence) == (name, 1)
    assert letter.reason == ""


async def test_headers_that_cannot_be_sent_do_not_keep_a_message_from_its_grave(
    make_app: Callable[..., App], streams: list[Stream], name: str, dead: str
) -> None:
    app = make_app(streams=streams)

    @app.consume(name, durable="worker", data_type=bytes, dead_letter=f"{dead}.worker")
    async def handle(msg: Any) -> None:
        raise Reject("no")

    async with app:
        block = b"NATS/1.0\r\nOdd: a\nb\x00c\r\nBad: \xff\r\n\r\n"
        outbox = app._run.connection.outbox
        outbox.post(outbox.frame(f"{name}.a", b"body", b"", block))
        await until(lambda: app.stats().consumers[0].dead)
        [letter] = await read(app, dead)
        assert letter.headers.pairs() == [("Odd", "a b c"), ("Bad", "\ufffd")]
        await dead_letters.redrive(app.js.api, letter)
        await until(lambda: app.stats().consumers[0].dead == 2)


async def test_the_dead_letters_of_a_stream_made_anew_are_no_duplicates(
    make_app: Callable[..., App], streams: list[Stream], name: str, dead: str
) -> None:
    for _ in range(2):
        app = make_app(streams=streams)

        @app.consume(name, durable="worker", dead_letter=f"{dead}.worker")
        async def handle(msg: Any) -> None:
            raise Reject("no")

        async with app:
            await app.js.publish(f"{name}.created", {"id": 7})
            await until(lambda: app.stats().consumers[0].dead)  # noqa: B023 - ends in this round
            await app.js.api.call(f"STREAM.DELETE.{name}")
    async with make_app(streams=streams) as reader:
        assert len(await read(reader, dead)) == 2


# Reading.


async def test_dead_letters_are_read_oldest_first_by_what_is_wanted(
    app: App, name: str, dead: str
) -> None:
    for number in range(6):
        error = "ValueError" if number % 2 else "KeyError"
        await bury(app, dead, f"{name}.{number % 3}", number, Error=error)
    middle = (await read(app, dead))[3].time
    await app.js.publish(f"{dead}.x", "no dead letter")

    async def numbers(**wanted: Any) -> list[int]:
        return [letter.stream_sequence for letter in await read(app, dead, **wanted)]

    assert await numbers() == [0, 1, 2, 3, 4, 5]
    assert await numbers(subject=f"{name}.1") == [1, 4]
    assert await numbers(subject=f"{name}.*", error="ValueError") == [1, 3, 5]
    assert await numbers(before=middle) == [0, 1, 2]
    assert await numbers(sequences=frozenset([2, 5, 7, 99])) == [1, 4]
    assert await numbers(kept_on=(f"{dead}.x",)) == [0, 1, 2, 3, 4, 5]
    assert await numbers(kept_on=(f"{dead}.y",)) == []
    assert await numbers(kept_on=(f"{dead}.y", f"{dead}.*"), error="KeyError") == [0, 2, 4]


@pytest.mark.parametrize("gone", [[], [1, 2, 3], [20, 21], [39, 40], list(range(2, 40, 2))])
async def test_gaps_do_not_end_the_reading(app: App, name: str, dead: str, gone: list[int]) -> None:
    for number in range(1, 41):
        await bury(app, dead, f"{name}.a", number)
    for sequence in gone:
        await app.js.api.call(f"STREAM.MSG.DELETE.{dead}", {"seq": sequence})
    found = [letter.stream_sequence for letter in await read(app, dead)]
    assert found == [number for number in range(1, 41) if number not in gone]


async def test_what_dies_after_the_last_sequence_is_not_read(
    app: App, name: str, dead: str
) -> None:
    await bury(app, dead, f"{name}.a", 1)
    last = await dead_letters.last_sequence(app.js.api, dead)
    await bury(app, dead, f"{name}.a", 2)
    found = dead_letters.read_dead_letters(app.js.api, dead, Wanted(), last)
    assert [letter.stream_sequence async for letter in found] == [1]
    found = dead_letters.read_dead_letters(app.js.api, dead, Wanted(sequences=frozenset([2])), last)
    assert [letter async for letter in found] == []


async def test_headers_of_another_making_are_read_all_the_same(
    app: App, name: str, dead: str
) -> None:
    await app.js.publish(f"{dead}.x", headers={"Tidings-Dead-Subject": "a", "X": "y"})
    await app.js.publish(
        f"{dead}.x", headers={"Tidings-Dead-Subject": "a", "Tidings-Dead-Deliveries": "many"}
    )
    first, second = await read(app, dead)
    assert (first.subject, first.error, first.deliveries, first.stream_sequence) == ("a", "", 0, 0)
    assert second.deliveries == 0


async def test_thousands_of_dead_letters_are_read_without_holding_them(
    app: App, name: str, dead: str
) -> None:
    headers = {"Tidings-Dead-Subject": f"{name}.a", "Tidings-Dead-Error": "ValueError"}
    async with app.js.publish_window(128) as window:
        for _ in range(3_000):
            await window.publish(f"{dead}.x", b"x" * 4096, headers=headers)
    last = await dead_letters.last_sequence(app.js.api, dead)
    count = 0
    tracemalloc.start()
    async for letter in dead_letters.read_dead_letters(app.js.api, dead, Wanted(), last):
        count += letter.error == "ValueError"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 3_000
    assert peak < 3_000_000  # all of them have 12 MB


async def test_an_unknown_stream_and_one_that_deletes_nothing_are_refused(
    app: App, dead: str
) -> None:
    with pytest.raises(ConfigError, match="there is no stream 'NOWHERE'"):
        await dead_letters.last_sequence(app.js.api, "NOWHERE")
    config = {"name": f"{dead}-kept", "subjects": [f"{dead}-kept"], "deny_delete": True}
    await app.js.api.call(f"STREAM.CREATE.{dead}-kept", config)
    assert await dead_letters.last_sequence(app.js.api, f"{dead}-kept") == 0
    with pytest.raises(ConfigError, match="messages cannot be deleted from the stream"):
        await dead_letters.last_sequence(app.js.api, f"{dead}-kept", to_delete=True)


async def test_the_streams_of_dead_letter_subjects_are_found(app: App, dead: str) -> None:
    found = await dead_letters.streams_of(app.js.api, [f"{dead}.a", f"{dead}.b"])
    assert found == {dead: (f"{dead}.a", f"{dead}.b")}
    with pytest.raises(ConfigError, match="no stream takes the dead letters of 'nowhere'"):
        await dead_letters.streams_of(app.js.api, ["nowhere"])


# Published again.


async def test_a_redriven_message_is_as_it_was_and_its_dead_letter_is_gone(
    app: App, name: str, dead: str
) -> None:
    await bury(app, dead, f"{name}.created", 7)
    [letter] = await read(app, dead)
    ack = await dead_letters.redrive(app.js.api, letter)
    assert (ack.stream, ack.sequence, ack.duplicate) == (name, 1, False)
    message = await stored_message(app.js.api, name, sequence=1)
    assert message is not None
    assert (message.subject, message.body) == (f"{name}.created", b'{"number":7}')
    assert message.headers.pairs() == [("Trace", "80"), ("Nats-Msg-Id", letter.redrive_id)]
    assert await held(app, dead) == 0


async def test_a_message_that_is_redriven_twice_is_stored_once(
    app: App, name: str, dead: str
) -> None:
    await bury(app, dead, f"{name}.created", 7)
    [letter] = await read(app, dead)
    assert not (await dead_letters.redrive(app.js.api, letter)).duplicate
    assert (await dead_letters.redrive(app.js.api, letter)).duplicate
    assert await held(app, name) == 1


async def test_a_dead_letter_stays_until_its_message_is_stored(app: App, dead: str) -> None:
    await bury(app, dead, "nobody.takes.this", 7)
    [letter] = await read(app, dead)
    with pytest.raises(NoStreamError):
        await dead_letters.redrive(app.js.api, letter)
    assert await held(app, dead) == 1


async def test_a_redrive_that_was_cut_off_before_the_deletion_can_be_repeated(
    app: App, name: str, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_off(api: Any, letter: DeadLetter) -> None:
        raise JetStreamApiError(500, 0, "cut off")

    await bury(app, dead, f"{name}.created", 7)
    [letter] = await read(app, dead)
    with monkeypatch.context() as patched:
        patched.setattr(dead_letters, "drop", cut_off)
        with pytest.raises(JetStreamError, match="cut off"):
            await dead_letters.redrive(app.js.api, letter)
    [letter] = await read(app, dead)
    assert (await dead_letters.redrive(app.js.api, letter)).duplicate
    assert (await held(app, name), await held(app, dead)) == (1, 0)


async def test_a_dead_letter_stream_made_anew_does_not_hide_its_letters(
    app: App, streams: list[Stream], name: str, dead: str
) -> None:
    for _ in range(2):
        await bury(app, dead, f"{name}.created", 7)
        [letter] = await read(app, dead)
        assert letter.sequence == 1
        assert not (await dead_letters.redrive(app.js.api, letter)).duplicate
        await app.js.api.call(f"STREAM.DELETE.{dead}")
        await app.js.apply()
    assert await held(app, name) == 2


async def test_a_redriven_message_is_handled_again(
    make_app: Callable[..., App], streams: list[Stream], name: str, dead: str
) -> None:
    app = make_app(streams=streams)
    is_repaired = asyncio.Event()
    seen: list[Any] = []

    @app.consume(
        name, durable="worker", max_deliver=2, backoff=[0.01], dead_letter=f"{dead}.worker"
    )
    async def handle(msg: Any) -> None:
        seen.append(msg.data["id"])
        if not is_repaired.is_set():
            raise ValueError(msg.data)

    async with app:
        await app.js.publish(f"{name}.created", {"id": 7})
        await until(lambda: app.stats().consumers[0].dead)
        [letter] = await read(app, dead)
        assert (letter.error, letter.deliveries) == ("ValueError", 2)
        is_repaired.set()
        await dead_letters.redrive(app.js.api, letter)
        await until(lambda: app.stats().consumers[0].acked)
    assert seen == [7, 7, 7]


# Published again only where a dead letter tells the truth.


async def forge(app: App, dead: str, body: Any = b"{}", **headers: str) -> DeadLetter:
    """Write a dead letter as whoever may publish there can."""
    named = {f"Tidings-Dead-{name}": value for name, value in headers.items()}
    await app.js.publish(f"{dead}.x", body, headers=named)
    return (await read(app, dead))[-1]


@pytest.mark.parametrize(
    "subject",
    ["$JS.API.STREAM.DELETE.NAME", "$JS.API.STREAM.PURGE.NAME", "$KV.flags.admin", "$SYS.REQ.x"],
)
async def test_a_letter_for_a_subject_of_the_server_is_refused_and_kept(
    app: App, name: str, dead: str, subject: str
) -> None:
    await app.js.publish(f"{name}.a", {})
    letter = await forge(app, dead, Subject=subject.replace("NAME", name), Stream=name)
    with pytest.raises(RedriveError, match="belongs to the server") as refused:
        await dead_letters.redrive(app.js.api, letter)
    assert (refused.value.stream, refused.value.sequence) == (dead, letter.sequence)
    assert (await held(app, name), await held(app, dead)) == (1, 1)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Stream": ""}, "does not name the stream"),
        ({"Stream": "a b"}, "names a stream that cannot exist"),
        ({"Stream": "DELETE.x"}, "names a stream that cannot exist"),
        ({"Stream": "NOWHERE"}, "'NOWHERE' does not take"),
        ({"Stream": "DEAD"}, "does not take its subject"),
        ({"Stream": "NAME", "Subject": "DEAD.elsewhere"}, "does not take its subject"),
    ],
    ids=str,
)
async def test_a_letter_whose_stream_does_not_take_its_subject_is_refused(
    app: App, name: str, dead: str, headers: dict[str, str], words: str
) -> None:
    named = {
        key: value.replace("NAME", name).replace("DEAD", dead)
        for key, value in {"Subject": "NAME.a", **headers}.items()
    }
    letter = await forge(app, dead, **named)
    with pytest.raises(RedriveError, match=words):
        await dead_letters.redrive(app.js.api, letter)
    assert (await held(app, name), await held(app, dead)) == (0, 1)


@pytest.mark.parametrize(
    ("subject", "body", "more", "words"),
    [
        ("NAME.b", b"mine", {"Trace": "80"}, "another subject"),
        ("NAME.a", b"forged", {"Trace": "80"}, "another body"),
        ("NAME.a", b"mine", {"Trace": "80", "Role": "admin"}, "other headers"),
        ("NAME.a", b"mine", {}, "other headers"),
    ],
    ids=str,
)
async def test_a_letter_that_differs_from_the_stored_message_is_refused(
    app: App, name: str, dead: str, subject: str, body: bytes, more: dict[str, str], words: str
) -> None:
    await app.js.publish(f"{name}.a", b"mine", headers={"Trace": "80"})
    named = {"Subject": subject.replace("NAME", name), "Stream": name, "Sequence": "1"}
    headers = {f"Tidings-Dead-{key}": value for key, value in named.items()}
    await app.js.publish(f"{dead}.x", body, headers={**headers, **more})
    with pytest.raises(RedriveError, match=words):
        await dead_letters.redrive(app.js.api, (await read(app, dead))[0])
    assert (await held(app, name), await held(app, dead)) == (1, 1)


async def test_a_message_of_a_stream_made_again_is_not_taken_for_the_one_that_died(
    app: App, name: str, dead: str
) -> None:
    await bury(app, dead, f"{name}.a", 1)
    await app.js.publish(f"{name}.a", b"another message with the sequence 1")
    [letter] = await read(app, dead)
    assert letter.stream_sequence == 1
    assert (await dead_letters.redrive(app.js.api, letter)).sequence == 2


async def test_a_message_of_a_stream_that_copies_another_goes_to_that_one(
    app: App, name: str, dead: str
) -> None:
    api = app.js.api
    mirror = {"name": f"{name}m", "mirror": {"name": name}}
    await api.call(f"STREAM.CREATE.{name}m", mirror)
    collected = {"name": f"{name}s", "sources": [{"name": f"{name}m"}]}
    await api.call(f"STREAM.CREATE.{name}s", collected)
    letter = await forge(app, dead, Subject=f"{name}.a", Stream=f"{name}s")
    assert (await dead_letters.redrive(api, letter)).stream == name


async def test_numbers_without_end_in_a_letter_are_no_numbers(app: App, dead: str) -> None:
    letter = await forge(app, dead, Subject="a", Sequence="9" * 5_000)
    assert letter.stream_sequence == 0


# Dropped.


async def test_a_dropped_dead_letter_is_gone_and_dropping_it_twice_is_no_error(
    app: App, name: str, dead: str
) -> None:
    for number in range(3):
        await bury(app, dead, f"{name}.created", number)
    second = (await read(app, dead))[1]
    for _ in range(2):
        await dead_letters.drop(app.js.api, second)
    assert [letter.stream_sequence for letter in await read(app, dead)] == [0, 2]
    assert await held(app, name) == 0


async def test_a_dead_letter_that_cannot_be_deleted_is_an_error(dead: str) -> None:
    async with NATSServer(jetstream=True) as server, App("app", servers=server.url) as app:
        config = {"name": dead, "subjects": [f"{dead}.>"], "deny_delete": True}
        await app.js.api.call(f"STREAM.CREATE.{dead}", config)
        await bury(app, dead, "a")
        [letter] = await read(app, dead)
        with pytest.raises(JetStreamError, match="not permitted"):
            await dead_letters.drop(app.js.api, letter)
