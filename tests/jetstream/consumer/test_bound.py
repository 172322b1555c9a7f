"""`create=False`: a consumer that others made is used as it is, with hardly any permission."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import until
from tidings import DROP, App, ConfigError, Stream, SubjectPermissionError
from tidings.jetstream.consumer import bound as bound_module
from tidings.server import NATSServer

SECOND = 1_000_000_000

PULL = ("$JS.API.CONSUMER.MSG.NEXT.ORDERS.billing", "$JS.ACK.ORDERS.billing.>")
INFO = ("$JS.API.CONSUMER.INFO.ORDERS.billing",)
STREAM_INFO = ("$JS.API.STREAM.INFO.ORDERS",)
USERS = {"pull": PULL, "info": PULL + INFO, "both": PULL + INFO + STREAM_INFO, "none": ("x",)}


class Place:
    """A server with users of different permissions, and an app that may do everything."""

    def __init__(self, server: NATSServer, ops: App) -> None:
        self.server = server
        self.ops = ops

    def app(self, user: str) -> App:
        options: dict[str, Any] = {"drain_timeout": 2, "discoverable": False}
        return App("billing", servers=self.server.url, user=user, password="x", **options)

    async def make_consumer(self, **options: Any) -> None:
        config = {"name": "billing", "durable_name": "billing", "ack_policy": "explicit"}
        payload = {"stream_name": "ORDERS", "config": {**config, **options}}
        await self.ops.js.api.call("CONSUMER.CREATE.ORDERS.billing", payload)

    async def info(self) -> dict[str, Any]:
        return await self.ops.js.api.call("CONSUMER.INFO.ORDERS.billing")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    users = [
        f"{{ user: {name}, password: x, permissions: {{ subscribe: {{ allow: ['_INBOX.>'] }}, "
        f"publish: {{ allow: {list(subjects)} }} }} }}"
        for name, subjects in USERS.items()
    ]
    config = tmp_path / "server.conf"
    text = "\n".join(["{ user: ops, password: x }", *users])
    config.write_text(f"jetstream {{}}\nauthorization {{ users = [\n{text}\n] }}\n")
    async with NATSServer(config=config, store_dir=tmp_path / "store") as server:
        orders = Stream("ORDERS", subjects=["orders.>"])
        ops = App("ops", servers=server.url, user="ops", password="x", streams=[orders])
        async with ops:
            yield Place(server, ops)


def consumes(app: App, **options: Any) -> Inbox:
    seen = Inbox()
    app.consume("ORDERS", durable="billing", data_type=int, **options)(seen)
    return seen


@pytest.mark.parametrize("user", ["pull", "info", "ops"])
async def test_the_consumer_is_used_and_nothing_about_it_is_changed(
    place: Place, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    await place.make_consumer(filter_subject="orders.created", ack_wait=7 * SECOND)
    before = (await place.info())["config"]
    app = place.app(user)
    seen = consumes(app, subject="orders.created", create=False)
    async with app:
        await place.ops.js.publish("orders.created", 1)
        assert await seen.has(1) == [1]
        await until(lambda: app.stats().consumers[0].acked)
    assert (await place.info())["config"] == before
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("user", ["pull", "both"])
async def test_without_create_false_such_a_user_is_served_with_a_warning_or_without_need_for_one(
    place: Place, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    await place.make_consumer(filter_subject="orders.created")
    app = place.app(user)
    seen = consumes(app, subject="orders.created")
    async with app:
        await place.ops.js.publish("orders.created", 1)
        assert await seen.has(1) == [1]
    assert ("Declare create=False" in caplog.text) == (user == "pull")
    assert "the server reported" not in caplog.text


@pytest.mark.parametrize("user", ["info", "both", "ops"])
async def test_a_consumer_that_differs_from_what_is_declared_is_refused(
    place: Place, user: str
) -> None:
    await place.make_consumer(filter_subject="orders.created", ack_wait=7 * SECOND)
    app = place.app(user)
    consumes(app, subject="orders.paid", ack_wait=8, create=False)
    words = "ack_wait 7 s -> 8 s, filter_subject orders.created -> orders.paid. Declare it as it is"
    with pytest.raises(ConfigError, match=words):
        async with app:
            pass


async def test_the_limit_of_deliveries_on_the_server_stays_and_counts(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.make_consumer(max_deliver=2)
    app = place.app("info")
    deliveries: list[int] = []

    @app.consume(
        "ORDERS", durable="billing", create=False, max_deliver=5, dead_letter=DROP, backoff=[0.01]
    )
    async def fails(msg: Any) -> None:
        deliveries.append(msg.delivered)
        raise ValueError("no")

    async with app:
        await place.ops.js.publish("orders.created", {})
        await until(lambda: app.stats().consumers[0].dead)
    assert deliveries == [1, 2]
    assert "has max_deliver=2 on the server" in caplog.text
    assert (await place.info())["config"]["max_deliver"] == 2


async def test_a_message_that_the_declared_subject_does_not_match_is_not_handled(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.make_consumer()
    app = place.app("pull")
    seen = consumes(app, subject=["orders.created", "orders.paid"], create=False)
    async with app:
        for number, word in enumerate(("created", "deleted", "paid")):
            await place.ops.js.publish(f"orders.{word}", number)
        assert await seen.has(2) == [0, 2]
        await until(lambda: app.stats().consumers[0].foreign == 1)
        info = await place.info()
        assert info["ack_floor"]["stream_seq"] <= 1  # it stays for somebody else
    assert "delivers other messages than subject= declares (orders.created, orders.paid)" in (
        caplog.text
    )


@pytest.mark.parametrize("user", ["pull", "info"])
async def test_a_consumer_that_does_not_exist_is_an_error_at_the_start(
    place: Place, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound_module, "LEADERLESS", 0.3)
    app = place.app(user)
    consumes(app, create=False)
    with pytest.raises(ConfigError, match=r"there is no consumer 'billing' of ORDERS\. Create it"):
        async with app:
            pass


async def test_a_consumer_whose_leader_is_elected_at_the_start_is_waited_for(place: Place) -> None:
    app = place.app("pull")
    seen = consumes(app, create=False)
    start = asyncio.create_task(app.connect())
    await until(lambda: app._run is not None and app._run.connection.state == "connected")
    await place.make_consumer()
    await start
    await place.ops.js.publish("orders.created", 1)
    assert await seen.has(1) == [1]
    await app.disconnect()


async def test_a_user_who_may_not_even_pull_does_not_start(place: Place) -> None:
    await place.make_consumer()
    app = place.app("none")
    consumes(app, create=False)
    with pytest.raises(SubjectPermissionError, match=r"MSG\.NEXT"):
        async with app:
            pass


@pytest.mark.parametrize("user", ["pull", "info"])
async def test_what_the_app_cannot_apply_is_refused_and_not_forgotten(
    place: Place, user: str
) -> None:
    await place.make_consumer()
    app = place.app(user)
    consumes(app, max_ack_pending=7)
    words = {"pull": "the declared max_ack_pending", "info": "max_ack_pending 1000 -> 7"}[user]
    with pytest.raises(ConfigError, match=words):
        async with app:
            pass


async def test_a_user_who_may_read_but_not_change_is_told_which_permission_is_missing(
    place: Place,
) -> None:
    await place.make_consumer()
    app = place.app("both")
    consumes(app, max_ack_pending=7)
    with pytest.raises(SubjectPermissionError, match=r"CONSUMER\.CREATE\.ORDERS\.billing"):
        async with app:
            pass


@pytest.mark.parametrize("user", ["pull", "info"])
async def test_a_consumer_that_is_deleted_and_made_again_is_used_again(
    place: Place, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    await place.make_consumer()
    app = place.app(user)
    seen = consumes(app, create=False)
    async with app, asyncio.timeout(30):
        await place.ops.js.publish("orders.created", 1)
        await seen.has(1)
        await until(lambda: app.stats().consumers[0].acked)
        await place.ops.js.api.call("CONSUMER.DELETE.ORDERS.billing")
        await until(lambda: "does not answer" in caplog.text)
        names = await place.ops.js.api.call("CONSUMER.NAMES.ORDERS")
        assert not names["consumers"]  # the app has not created it
        await place.make_consumer(deliver_policy="new")
        while 2 not in seen.got:
            await place.ops.js.publish("orders.created", 2)
            await asyncio.sleep(0.05)


async def test_a_handler_keeps_its_message_although_its_ack_wait_is_not_known(
    place: Place,
) -> None:
    await place.make_consumer(ack_wait=2 * SECOND)
    app = place.app("pull")
    deliveries: list[int] = []

    @app.consume("ORDERS", durable="billing", create=False)
    async def slow(msg: Any) -> None:
        deliveries.append(msg.delivered)
        await asyncio.sleep(5)  # longer than ack_wait

    async with app:
        await place.ops.js.publish("orders.created", {})
        await until(lambda: app.stats().consumers[0].handled)
    assert deliveries == [1]


async def test_a_declared_ack_wait_decides_how_often_progress_is_reported(place: Place) -> None:
    await place.make_consumer()
    for ack_wait, seconds in ((None, 1.0), (9, 3.0)):
        app = place.app("pull")
        consumes(app, ack_wait=ack_wait, create=False)
        async with app:
            (consumer,) = app._run.consumers._consumers  # type: ignore[union-attr]  # it runs
            assert consumer._remote.heartbeat == seconds  # type: ignore[union-attr]  # not ordered


async def test_a_dead_letter_needs_no_permission_to_ask_for_streams(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    # What works is in test_permissions_page. Here no stream takes the dead letters.
    caplog.set_level(logging.INFO, logger="tidings")
    await place.make_consumer()
    app = place.app("pull")
    app.consume(
        "ORDERS", durable="billing", data_type=int, create=False, dead_letter="dead.billing"
    )(Inbox())
    async with app:
        await place.ops.js.publish("orders.created", "no number")
        await until(lambda: "no dead letter on 'dead.billing' was stored" in caplog.text)
        assert app.stats().consumers[0].dead == 0
    assert "may not ask which stream takes dead_letter='dead.billing'" in caplog.text
