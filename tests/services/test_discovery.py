"""Every app is a service of the `micro` protocol (NATS ADR-32), by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from support.fake_peer import FakePeer, message
from support.process import Process
from support.services import Asker
from support.waits import until, wait_until
from tidings import App, ConfigError, Group, Message, ServiceError
from tidings.jetstream import Stream, StreamMessage
from tidings.server import NATSServer
from tidings.testing import TestClient
from tidings.version import __version__

MakeApp = Callable[..., App]
Call = Callable[..., tuple[int, str, str]]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


# Who answers.


async def test_every_form_of_every_question_is_answered(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str
) -> None:
    app = make_app(nats_server, name, version="1.2.0", description="bills", metadata={"a": "b"})
    async with app:
        for verb in ("PING", "INFO", "STATS"):
            for subject in (f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{app.instance_id}"):
                answer = await asker.ask(subject)
                assert answer["name"] == name
                assert answer["id"] == app.instance_id
                assert answer["version"] == "1.2.0"
                assert answer["metadata"] == {"a": "b", "tidings.version": __version__}
            assert (await asker.ask(f"$SRV.{verb}"))["id"]
        assert (await asker.ask(f"$SRV.INFO.{name}"))["description"] == "bills"


async def test_an_app_without_options_and_listeners_gives_valid_answers(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str
) -> None:
    async with make_app(nats_server, name):
        info = await asker.ask(f"$SRV.INFO.{name}")
        stats = await asker.ask(f"$SRV.STATS.{name}")
    assert (info["description"], info["version"]) == ("", "0.0.0")
    assert info["endpoints"] == stats["endpoints"] == []


async def test_each_instance_answers_for_itself(
    nats_server: Any, make_app: MakeApp, name: str
) -> None:
    first, second = make_app(nats_server, name), make_app(nats_server, name)
    async with first, second:
        found = await first.services.ping(name=name)
    assert sorted(each.id for each in found) == sorted([first.instance_id, second.instance_id])
    assert first.instance_id != second.instance_id


async def test_an_app_that_is_not_discoverable_answers_nothing(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name, discoverable=False, version="any text")
    app.listen(subject)(lambda msg: {"fine": True})
    async with app:
        assert await app.request(subject) == {"fine": True}
        with pytest.raises(nats.errors.NoRespondersError):
            await asker.ask(f"$SRV.PING.{name}")


async def test_the_second_run_of_an_app_is_found_too(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str
) -> None:
    app = make_app(nats_server, name)
    async with app:
        started = (await asker.ask(f"$SRV.STATS.{name}"))["started"]
    async with app:
        assert (await asker.ask(f"$SRV.STATS.{name}"))["started"] > started


async def test_an_app_is_found_again_after_its_server_came_back(
    server: NATSServer, make_app: MakeApp, name: str
) -> None:
    app = make_app(server, name)
    async with app:
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await until(
            lambda: (
                app.stats().connection.state == "connected" and app.stats().connection.reconnects
            )
        )
        assert [each.id for each in await app.services.ping(name=name)] == [app.instance_id]


async def test_an_app_that_drains_is_not_found(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    begun, end = asyncio.Event(), asyncio.Event()

    @app.listen(subject)
    async def slow(msg: Message[Any]) -> dict[str, bool]:
        begun.set()
        await end.wait()
        return {"done": True}

    await app.connect()
    answer = asyncio.create_task(asker.client.request(subject, b"{}", timeout=10))
    await begun.wait()
    assert (await asker.ask(f"$SRV.PING.{name}"))["name"] == name
    ending = asyncio.create_task(app.disconnect())
    await until(lambda: not app.is_running)
    await until(lambda: not app._run or not app._run._discovery._subjects)
    with pytest.raises(nats.errors.NoRespondersError):
        await asker.ask(f"$SRV.PING.{name}")
    end.set()
    assert json.loads((await answer).data) == {"done": True}  # what was taken is still answered
    await ending


async def test_discovery_is_no_listener_and_does_not_count_as_one(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    app.listen(subject)(lambda msg: None)
    async with app:
        await asker.ask(f"$SRV.STATS.{name}")
        assert [each.subjects for each in app.stats().listeners] == [(subject,)]
        assert app.stats().listeners[0].received == 0


async def test_an_app_under_test_is_found_and_the_test_client_is_not(
    nats_server: Any, name: str
) -> None:
    async with TestClient(App(name), nats_server) as client:
        names = {each.name for each in await client.app.services.ping()}
    assert name in names
    assert "test-client" not in names


@pytest.mark.parametrize("reply", ["$SRV.PING", "$JS.API.STREAM.DELETE.ORDERS"])
async def test_a_forged_reply_subject_is_refused(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, reply: str
) -> None:
    app = make_app(nats_server, name)
    async with app:
        await asker.client.publish(f"$SRV.PING.{name}", b"", reply=reply)
        await until(lambda: app.stats().connection.refused)
        assert (await asker.ask(f"$SRV.PING.{name}"))["id"] == app.instance_id


async def test_a_question_without_reply_subject_is_ignored(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str
) -> None:
    app = make_app(nats_server, name)
    async with app:
        await asker.client.publish(f"$SRV.STATS.{name}", b"")
        assert (await asker.ask(f"$SRV.STATS.{name}"))["id"] == app.instance_id


# Consumers.


async def test_the_metadata_names_the_consumers_that_the_instances_share(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, stream: Stream
) -> None:
    app = make_app(nats_server, name, streams=[stream])

    @app.consume(stream.name, durable="bills")
    async def bill(msg: StreamMessage[Any]) -> None:
        """Do nothing."""

    @app.consume(stream.name, subject=f"{stream.name}.mails")
    async def mail(msg: StreamMessage[Any]) -> None:
        """Do nothing."""

    @app.consume(stream.name, ordered=True)
    async def read(msg: StreamMessage[Any]) -> None:
        """Do nothing: the consumer of this handler belongs to one instance."""

    async with app:
        answer = await asker.ask(f"$SRV.PING.{name}")
        listed = answer["metadata"]["tidings.consumers"].split(",")
        infos = [await app.js.api.call(f"CONSUMER.INFO.{path}") for path in listed]
    assert [info["name"] for info in infos] == ["bills", f"tidings-{name}-mail"]


# Names and versions.


async def test_a_name_that_the_protocol_refuses_is_found_under_one_that_it_allows(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str
) -> None:
    async with make_app(nats_server, f"{name} of orders.eu"):
        answer = await asker.ask(f"$SRV.PING.{name}-of-orders-eu")
    assert answer["metadata"]["tidings.service"] == f"{name} of orders.eu"


async def test_a_name_without_any_allowed_character_is_found(
    nats_server: Any, make_app: MakeApp
) -> None:
    app = make_app(nats_server, "заказы")
    async with app:
        found = [each for each in await app.services.ping() if each.id == app.instance_id]
    assert found[0].metadata["tidings.service"] == "заказы"
    assert found[0].name.startswith("service-")


@pytest.mark.parametrize("version", ["1.0.0", "1.2.3-rc.1+build.5", "0.0.0", "10.20.30-alpha"])
def test_a_semantic_version_is_accepted(version: str) -> None:
    assert App("billing", version=version).version == version


@pytest.mark.parametrize(
    "version",
    ["", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.3\n", "1.2.3-", "\u0661.2.3", "1.2.3-01"],
)
def test_another_version_is_refused_with_the_fix(version: str) -> None:
    with pytest.raises(ConfigError, match=r"such as '1\.2\.0'.*discoverable=False"):
        App("billing", version=version)
    assert App("billing", version=version, discoverable=False).version == version


@pytest.mark.parametrize("metadata", [["a"], {"a": 1}, {1: "a"}, {"": "a"}, "ab", {"a": "\ud800"}])
def test_metadata_that_is_not_text_is_refused(metadata: Any) -> None:
    with pytest.raises(ConfigError, match="metadata"):
        App("billing", metadata=metadata)


def test_a_later_change_of_the_metadata_has_no_effect() -> None:
    mine = {"team": "a"}
    app = App("billing", metadata=mine)
    mine["team"] = "b"
    assert app.metadata == {"team": "a"}


# Refusals of the server.


@pytest.fixture
def deny(tmp_path: Path) -> Any:
    """Starts servers with a configuration, as context managers."""

    def start(text: str) -> NATSServer:
        path = tmp_path / "server.conf"
        path.write_text(text)
        return NATSServer(config=path)

    return start


def denying(permissions: str) -> str:
    return (
        f"authorization {{ users = [{{user: ada, password: pw, permissions: {{{permissions}}}}}] }}"
    )


async def test_a_server_that_denies_discovery_causes_one_warning_and_the_app_runs(
    deny: Any, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Any] = []
    with deny(denying('subscribe: {deny: "$SRV.>"}')) as server:
        app = make_app(server, "billing", user="ada", password="pw")
        app.on("error")(lambda event: errors.append(event.error))
        app.listen("add")(lambda msg: {"sum": 3})
        async with app:
            assert await app.request("add") == {"sum": 3}
            assert app.stats().connection.errors == 0
            assert app.stats().connection.refused_subjects == ()
            server.kill()
            server.start()
            await until(lambda: app.stats().connection.reconnects)
            await app.flush()
            assert await app.request("add") == {"sum": 3}
    assert errors == []
    [warning] = [each for each in warnings_of(caplog) if "$SRV" in each]
    assert "discoverable=False" in warning
    assert warning.count("$SRV.PING") == 3
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_the_questions_that_the_server_permits_are_answered(
    deny: Any, make_app: MakeApp
) -> None:
    permissions = 'subscribe: {deny: ["$SRV.PING", "$SRV.INFO", "$SRV.STATS"]}'
    with deny(denying(permissions)) as server:
        app = make_app(server, "billing", user="ada", password="pw")
        async with app:
            assert [each.id for each in await app.services.ping(name="billing")]
            assert await app.services.ping() == ()


async def test_without_room_for_its_subscriptions_discovery_leaves_it_to_the_app(
    deny: Any, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    with deny("max_subscriptions: 5") as server:
        app = make_app(server, "billing")
        app.listen("add")(lambda msg: {"sum": 3})
        async with app:
            # The inbox of requests is subscribed now, after those of discovery.
            assert await app.request("add") == {"sum": 3}
            assert app.stats().connection.refused_subjects == ()
    [warning] = [each for each in warnings_of(caplog) if "discoverable" in each]
    assert "no more subscriptions" in warning


async def test_discovery_makes_room_for_a_later_subscription_of_the_app(
    deny: Any, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    with deny("max_subscriptions: 10") as server:
        app = make_app(server, "billing")
        app.listen("add")(lambda msg: {"sum": 3})
        async with app:
            with pytest.raises(Exception, match="subscriptions"):
                await app.request("add")
            await until(lambda: not app._run or not app._run._discovery._subjects)
            assert await app.request("add") == {"sum": 3}
    assert len([each for each in warnings_of(caplog) if "discoverable" in each]) == 1


# Several processes.


def test_each_process_of_workers_is_an_instance(
    start: Any, write: Any, call: Call, subject: str
) -> None:
    write().with_name("many.py").write_text(
        "from tidings import App\napp = App('many-hands')\n"
        f"@app.listen('{subject}')\nasync def echo(msg):\n    return msg.data\n"
    )
    process: Process = start("run", "many:app", "--workers", "2")
    process.wait_for("many-hands listens", 2)

    def ids() -> set[str]:
        code, out, _ = call("services", "ping", "many-hands", "--json")
        assert code == 0
        return {each["id"] for each in json.loads(out)}

    wait_until(lambda: len(ids()) == 2)  # on a busy machine the second one may answer too late


# Groups are part of the subject: see test_endpoints.


async def test_groups_are_endpoint_groups_by_their_prefix(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str
) -> None:
    app = make_app(nats_server, name)
    group = Group(f"{name}.orders")

    @group.listen("price")
    async def price(msg: Message[Any]) -> dict[str, int]:
        raise ServiceError(409, "sold out")

    app.include(group)
    async with app:
        [endpoint] = (await asker.ask(f"$SRV.INFO.{name}"))["endpoints"]
    assert endpoint["name"] == "price"
    assert endpoint["subject"] == f"{name}.orders.price"
    assert endpoint["queue_group"] == f"{name}.{name}.orders.price"


async def test_a_flood_of_questions_leaves_room_for_the_messages_of_the_app(
    make_app: MakeApp, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakePeer() as peer, make_app(peer, name, description="x" * 1_000) as app:
        assert app._run is not None
        connection = app._run.connection
        assert connection._accepted is not None
        sid = await peer.sid_of("$SRV.INFO")
        transport, outbox = connection._accepted.transport, connection.outbox
        monkeypatch.setattr(outbox, "limit", 100_000)
        transport.pause_writing()  # as if the server did not keep up
        question = message(b"$SRV.INFO", sid, b"", b"_INBOX.a")
        transport.data_received(question * 10_000)
        assert 40_000 < outbox.size < 60_000
        connection.outbox.publish("app.message", b"x" * 40_000)  # does not raise
        transport.resume_writing()
        await peer.until(lambda: any(subject == "app.message" for subject, _ in peer.published))
    assert [text for text in warnings_of(caplog) if "questions on $SRV were not answered" in text]
