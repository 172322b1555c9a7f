"""app.services finds services, and does not believe everything that answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from support.services import Asker
from support.waits import PATIENCE
from tidings import (
    App,
    ConfigError,
    ConnectionLostError,
    LoopThreadError,
    NotStartedError,
    SubjectPermissionError,
)
from tidings.server import NATSServer
from tidings.services import EndpointStats, ServicePing, answers

MakeApp = Callable[..., App]

PING = {"type": "io.nats.micro.v1.ping_response", "id": "I", "version": "1.0.0", "metadata": {}}
INFO = {**PING, "type": "io.nats.micro.v1.info_response", "description": "", "endpoints": []}
STATS = {
    **PING,
    "type": "io.nats.micro.v1.stats_response",
    "started": "2026-01-02T03:04:05.123456111Z",
    "endpoints": [],
}


@pytest.fixture
async def app(nats_server: Any, make_app: MakeApp) -> AsyncIterator[App]:
    async with make_app(nats_server, "finder") as running:
        yield running


@pytest.fixture
def pretend(asker: Asker) -> Callable[..., Any]:
    """Answers a question as a foreign service does, with these bodies."""

    async def pretend(subject: str, *bodies: Any) -> None:
        async def answer(message: Any) -> None:
            for body in bodies:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                await message.respond(raw)

        await asker.client.subscribe(subject, cb=answer)
        await asker.settle()

    return pretend


async def test_a_service_that_does_not_exist_is_not_found_at_once(app: App, name: str) -> None:
    async with asyncio.timeout(PATIENCE):
        assert await app.services.ping(name=name, timeout=60) == ()
        assert await app.services.info(name=name, id="X", timeout=60) == ()


async def test_an_instance_is_found_without_waiting_for_others(app: App) -> None:
    async with asyncio.timeout(PATIENCE):
        [ping] = await app.services.ping(name="finder", id=app.instance_id, timeout=60, stall=60)
    assert ping.id == app.instance_id
    assert ping.round_trip > 0


async def test_instances_are_sorted_by_name_and_id(app: App, pretend: Any, name: str) -> None:
    await pretend(f"$SRV.PING.{name}", *({**PING, "name": name, "id": each} for each in "BCA"))
    assert [each.id for each in await app.services.ping(name=name)] == ["A", "B", "C"]


async def test_records_are_frozen_and_know_their_fields(app: App, pretend: Any, name: str) -> None:
    endpoint = {"name": "pay", "subject": "pay", "num_requests": 3, "data": {"any": 1}}
    await pretend(f"$SRV.STATS.{name}", {**STATS, "name": name, "endpoints": [endpoint]})
    [stats] = await app.services.stats(name=name)
    assert stats.endpoints == (
        EndpointStats(name="pay", subject="pay", num_requests=3, data={"any": 1}),
    )
    assert stats.started.isoformat().startswith("2026-01-02T03:04:05.123456")
    with pytest.raises(AttributeError):
        stats.name = "other"  # type: ignore[misc] # it is frozen


async def test_null_in_place_of_a_text_or_an_object_is_accepted(
    app: App, pretend: Any, name: str
) -> None:
    endpoint = {"name": "pay", "subject": "pay", "metadata": None, "queue_group": None}
    answer = {**INFO, "name": name, "description": None, "metadata": None, "endpoints": [endpoint]}
    await pretend(f"$SRV.INFO.{name}", answer)
    [info] = await app.services.info(name=name)
    assert (info.description, info.metadata) == ("", {})
    assert (info.endpoints[0].metadata, info.endpoints[0].queue_group) == ({}, "")


async def test_an_error_that_is_no_text_becomes_one(app: App, pretend: Any, name: str) -> None:
    endpoint = {"name": "pay", "subject": "pay", "last_error": {"code": 400}}
    await pretend(f"$SRV.STATS.{name}", {**STATS, "name": name, "endpoints": [endpoint]})
    [stats] = await app.services.stats(name=name)
    assert stats.endpoints[0].last_error == '{"code":400}'


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"no json",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        {},
        {"type": "io.nats.micro.v1.info_response"},
        {"name": "another"},
        {"name": "a b"},
        {"name": 7},
        {"id": ""},
        {"id": None},
        {"id": "x" * 10_000},
        {"version": 1},
        {"metadata": {"a": 1}},
        {"metadata": []},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
async def test_answers_that_are_not_valid_are_skipped_and_counted_in_one_warning(
    app: App, pretend: Any, name: str, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good = {**PING, "name": name}
    bad = wrong if isinstance(wrong, bytes) else {**PING, "name": name, "id": "J", **wrong}
    bad = wrong if wrong == {} else bad
    await pretend(f"$SRV.PING.{name}", bad, bad, good)
    assert [each.id for each in await app.services.ping(name=name)] == ["I"]
    assert [text for text in caplog.messages if "skipped 2 answers" in text]


@pytest.mark.parametrize(
    "wrong",
    [
        {"started": "0001-01-01T00:00:00+14:00"},
        {"started": "yesterday"},
        {"endpoints": [{"name": "e", "subject": "e", "num_requests": 10**400}]},
        {"endpoints": [{"name": "e", "subject": "e", "processing_time": -(2**63) - 1}]},
    ],
    ids=lambda wrong: str(wrong)[:60],
)
async def test_times_and_numbers_that_cannot_be_shown_are_not_valid(
    app: App, pretend: Any, name: str, wrong: Any
) -> None:
    good = {**STATS, "name": name}
    await pretend(f"$SRV.STATS.{name}", {**good, "id": "J", **wrong}, good)
    assert [each.id for each in await app.services.stats(name=name)] == ["I"]


@pytest.mark.parametrize("started", ["0001-01-01T00:00:00", "0001-01-01T02:00:00+02:00"])
async def test_the_start_of_an_instance_is_in_utc(
    app: App, pretend: Any, name: str, started: str
) -> None:
    await pretend(f"$SRV.STATS.{name}", {**STATS, "name": name, "started": started})
    [stats] = await app.services.stats(name=name)
    assert stats.started.isoformat() == "0001-01-01T00:00:00+00:00"


async def test_an_instance_that_answers_twice_is_found_once(
    app: App, pretend: Any, name: str
) -> None:
    good, again = {**PING, "name": name}, {**PING, "name": name, "version": "9.9.9"}
    await pretend(f"$SRV.PING.{name}", good, again)
    [found] = await app.services.ping(name=name)
    assert found.version == "1.0.0"


async def test_endless_answers_are_cut_off(
    app: App, pretend: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MOST_ANSWERS", 10)
    monkeypatch.setattr(answers, "MOST_BYTES", 5_000)
    many = [{**PING, "name": name, "id": f"I{number}"} for number in range(100)]
    await pretend(f"$SRV.PING.{name}", *many)
    async with asyncio.timeout(PATIENCE):
        assert len(await app.services.ping(name=name, timeout=60, stall=60)) == 10
        await pretend(f"$SRV.PING.{name}.X", b"x" * 3_000, b"x" * 3_000, *many)
        assert await app.services.ping(name=name, id="X", timeout=60, stall=60) == ()


async def test_a_service_that_never_answers_is_awaited_for_the_timeout_only(
    app: App, pretend: Any, name: str
) -> None:
    await pretend(f"$SRV.PING.{name}")
    async with asyncio.timeout(PATIENCE):
        assert await app.services.ping(name=name, timeout=0.05) == ()


async def test_a_question_leaves_no_subscription_behind(app: App) -> None:
    await app.services.ping(name="finder")
    connection = app._run.connection  # type: ignore[union-attr] # it runs
    before = len(connection._interest.frames())
    await app.services.ping(name="finder")
    assert len(connection._interest.frames()) == before


def test_synchronous_code_finds_services(nats_server: Any, make_app: MakeApp, name: str) -> None:
    app = make_app(nats_server, name)
    app.listen("add")(lambda msg: {})
    with app:
        [ping] = app.services.ping_sync(name=name)
        [info] = app.services.info_sync(name=name, id=ping.id)
        [stats] = app.services.stats_sync(name=name, id=ping.id)
    assert ping.id == info.id == stats.id == app.instance_id
    assert info.endpoints[0].subject == stats.endpoints[0].subject == "add"


async def test_a_blocking_call_on_the_loops_own_thread_is_an_error(app: App) -> None:
    with pytest.raises(LoopThreadError, match=r"await app\.services\.ping\(\)"):
        app.services.ping_sync()


# Errors.


async def test_a_name_with_other_characters_is_an_error_that_says_what_to_ask_for(app: App) -> None:
    with pytest.raises(ConfigError, match="found as 'order-service'"):
        await app.services.ping(name="order service")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"id": "I"}, "id requires name"),
        ({"name": ""}, "name must be a str that is not empty"),
        ({"name": 7}, "name must be a str"),
        ({"timeout": 0}, "timeout must be a positive number"),
        ({"stall": "1"}, "stall must be a positive number.*leave out the quotes"),
        ({"name": "a", "id": "*"}, "without wildcards"),
    ],
)
async def test_a_wrong_argument_is_an_error(app: App, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        await app.services.stats(**options)


async def test_an_app_that_does_not_run_finds_nothing() -> None:
    with pytest.raises(NotStartedError, match=r"services\.ping"):
        await App("finder").services.ping()


@pytest.mark.parametrize(
    "permissions", ['publish: {deny: "$SRV.>"}', 'subscribe: {deny: "_INBOX.>"}']
)
async def test_a_question_that_the_server_denies_is_an_error(
    tmp_path: Path, make_app: MakeApp, permissions: str
) -> None:
    path = tmp_path / "server.conf"
    user = f"{{user: ada, password: pw, permissions: {{{permissions}}}}}"
    path.write_text(f"authorization {{ users = [{user}] }}")
    with NATSServer(config=path) as server:
        async with make_app(server, user="ada", password="pw") as app:
            with pytest.raises(SubjectPermissionError):
                await app.services.ping(timeout=5)


async def test_a_lost_connection_is_an_error_at_once(
    server: NATSServer, make_app: MakeApp, name: str
) -> None:
    async with make_app(server, name) as app:
        question = asyncio.create_task(app.services.ping(name=name, timeout=600, stall=600))
        await asyncio.sleep(0)
        await app.services.ping(name=name, id=app.instance_id)  # the first question is out, too
        server.kill()
        with pytest.raises(ConnectionLostError):
            await question
        server.start()


def test_a_record_can_be_made_for_a_test() -> None:
    assert ServicePing(name="a", id="b", version="1.0.0").metadata == {}
