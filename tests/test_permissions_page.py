"""docs/permissions.md: with exactly the permissions that it lists, each feature works.

Without one of them it does not, so that the lists have nothing that is not needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import App, Stream, TidingsError
from tidings.server import NATSServer

PAGE = Path(__file__).parents[1] / "docs" / "permissions.md"
KINDS = ("publish", "subscribe", "allow_responses")


class Grant(NamedTuple):
    """One line of a list."""

    kind: str
    subject: str


def lists() -> Iterator[tuple[str, list[Grant]]]:
    """The list of each section of the page that has one."""
    for section in PAGE.read_text().split("\n## ")[1:]:
        title, _, rest = section.partition("\n")
        for block in re.findall(r"```text\n(.*?)```", rest, re.DOTALL):
            kind, grants = "", []
            for line in block.splitlines():
                name, colon, subject = line.partition(":")
                kind = name if colon else kind
                grants.append(Grant(kind, (subject if colon else line).strip()))
            yield title, grants


LISTS = dict(lists())
# A dead letter needs its permission in addition to those of its consumer.
LISTS["Dead letters"] += LISTS["Consume without creating the consumer"]
CASES = [
    pytest.param(title, missing, id=f"{title}-{missing.subject if missing else 'all'}")
    for title, grants in LISTS.items()
    for missing in (None, *grants)
]


def user_of(title: str, missing: Grant | None) -> str:
    number = list(LISTS).index(title)
    return f"u{number}-{LISTS[title].index(missing) if missing else 'all'}"


def user_lines() -> Iterator[str]:
    for title, grants in LISTS.items():
        for missing in (None, *grants):
            held = [grant for grant in grants if grant != missing]
            parts = []
            for kind in ("publish", "subscribe"):
                allowed = [f'"{each.subject}"' for each in held if each.kind == kind]
                parts.append(f"{kind}: {{ allow: [{', '.join(allowed) or 'nothing'}] }}")
            if any(each.kind == "allow_responses" for each in held):
                parts.append("allow_responses: true")
            permissions = ", ".join(parts)
            name = user_of(title, missing)
            yield f"{{ user: {name}, password: x, permissions: {{ {permissions} }} }}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NATSServer]:
    folder = tmp_path_factory.mktemp("permissions")
    users = "\n".join(['{ user: ops, password: "x" }', *user_lines()])
    config = folder / "server.conf"
    config.write_text(f"jetstream {{}}\nauthorization {{ users = [\n{users}\n] }}\n")
    with NATSServer(config=config, store_dir=folder / "store") as server:
        yield server


@pytest.fixture
async def ops(server: NATSServer) -> AsyncIterator[App]:
    """An app that may do everything, and has made what exists before the service comes."""
    app = App(
        "ops",
        servers=server.url,
        user="ops",
        password="x",
        streams=[
            Stream("ORDERS", subjects=["orders.>"]),
            Stream("DEAD", subjects=["dead.>"]),
            Stream("VISITS", subjects=["visits.>"], counters=True),
            Stream("MAILS", subjects=["mails.>"], schedules=True),
        ],
    )
    app.js.key_value("rates", type=int, atomic=True, marker_ttl=60)
    app.js.object_store("files")
    async with app, app.lock("any"):  # it creates the bucket of the locks
        names = await app.js.api.call("STREAM.NAMES")
        kept = {"DEAD", "VISITS", "MAILS", "KV_rates", "KV_tidings-locks", "OBJ_files"}
        for stream in set(names["streams"]) - kept:
            await app.js.api.call(f"STREAM.DELETE.{stream}")
        await app.js.apply()
        yield app


async def make_consumer(ops: App) -> None:
    config = {"name": "billing", "durable_name": "billing", "ack_policy": "explicit"}
    config["filter_subject"] = "orders.created"
    payload = {"stream_name": "ORDERS", "config": config}
    await ops.js.api.call("CONSUMER.CREATE.ORDERS.billing.orders.created", payload)


async def is_acked(ops: App, consumer: str = "ORDERS.billing") -> None:
    while (await ops.js.api.call(f"CONSUMER.INFO.{consumer}"))["ack_floor"]["stream_seq"] < 1:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)


# What each section of the page is about. `app` has the permissions of the section.


async def listen(app: App, ops: App) -> None:
    app.listen("prices.get")(Inbox())
    async with app:
        assert await ops.request("prices.get", {"a": 1}, timeout=PATIENCE) == {"a": 1}


async def stream_a_reply(app: App, ops: App) -> None:
    @app.listen("prices.all")
    async def prices(msg: Any) -> AsyncIterator[int]:
        yield 1
        yield 2

    async with app, ops.stream("prices.all", response_data_type=int, timeout=PATIENCE) as got:
        assert [price async for price in got] == [1, 2]


async def publish_and_request(app: App, ops: App) -> None:
    async def answer(msg: Any) -> Any:
        return msg.data

    await ops.subscribe_new_subject("prices.get", answer)
    async with app:
        await app.publish("audit.price", {}, force=True)
        assert await app.request("prices.get", {"a": 1}, timeout=PATIENCE) == {"a": 1}
        await ops.unsubscribe_subject("prices.get")


async def publish_to_a_stream(app: App, ops: App) -> None:
    async with app:
        assert (await app.js.publish("orders.created", 1)).sequence == 1


async def deliver_later(app: App, ops: App) -> None:
    async with app:
        reminder = await app.js.publish("mails.reminder", 1, delay=3600)
        assert await app.js.cancel(reminder.schedule)


async def count(app: App, ops: App) -> None:
    counters = app.js.counters("VISITS")
    async with app:
        before = await counters.load("visits.eu.home")
        assert await counters.add("visits.eu.home", 2) == before + 2


async def consume(app: App, ops: App, **options: Any) -> None:
    seen = Inbox()
    app.consume("ORDERS", durable="billing", subject="orders.created", data_type=int, **options)(
        seen
    )
    async with app:
        await ops.js.publish("orders.created", 1)
        await is_acked(ops)
        assert seen.got == [1]


async def consume_only(app: App, ops: App) -> None:
    await make_consumer(ops)
    await consume(app, ops, create=False)


async def partitions(app: App, ops: App) -> None:
    seen = Inbox()
    app.consume(
        "ORDERS", durable="billing", subject="orders.*", data_type=int, partitions=16, key=1
    )(seen)
    async with app:
        await ops.js.publish("orders.created", 1)
        assert await seen.has(1) == [1]


async def dead_letter(app: App, ops: App) -> None:
    await make_consumer(ops)
    before = (await ops.js.api.call("STREAM.INFO.DEAD"))["state"]["last_seq"]
    app.consume(
        "ORDERS", durable="billing", data_type=int, create=False, dead_letter="dead.billing"
    )(Inbox())
    async with app:
        await ops.js.publish("orders.created", "no number")
        await is_acked(ops)
    after = (await ops.js.api.call("STREAM.INFO.DEAD"))["state"]["last_seq"]
    assert after == before + 1


async def follow(app: App, ops: App) -> None:
    seen = Inbox()
    app.consume("ORDERS", ordered=True, subject="orders.created", data_type=int)(seen)
    async with app:
        await ops.js.publish("orders.created", 1)
        assert await seen.has(1) == [1]
        async with app.js.messages("ORDERS", subject="orders.created", data_type=int) as messages:
            assert (await anext(messages)).data == 1


async def read(app: App, ops: App) -> None:
    await ops.js.publish("orders.created", {"id": 1})
    async with app:
        assert (await app.js.get("ORDERS", 1)).sequence == 1
        assert (await app.js.get_last("ORDERS", "orders.created")).sequence == 1
        assert len(await app.js.get_batch("ORDERS", 5)) == 1
        assert len(await app.js.get_last_for("ORDERS", "orders.*")) == 1


async def declare(app: App, ops: App) -> None:
    for size in (10, 20):
        app.js._host.streams = (Stream("INVOICES", subjects=["invoices.>"], max_msgs=size),)
        async with app:
            pass


async def pause(app: App, ops: App) -> None:
    await make_consumer(ops)
    async with app:
        await app.js.pause("ORDERS", "billing", duration=60)
        await app.js.resume("ORDERS", "billing")


async def jobs(app: App, ops: App) -> None:
    ran = asyncio.Event()

    @app.cron("@every 1s")
    async def report() -> None:
        ran.set()

    async with app:
        await ran.wait()
        await is_acked(ops, "CRON_billing.report")


async def keys(app: App, ops: App) -> None:
    seen = Inbox()
    app.watch("rates", "eu.>", data_type=int, initial=False)(seen)
    rates = app.js.key_value("rates", type=int, create=False)
    async with app:
        revision = await rates.put("eu.vat", 20)
        await rates.update("eu.vat", 21, revision)
        assert (await rates.get("eu.vat")).value == 21
        assert await rates.keys("eu.>") == ["eu.vat"]
        assert [entry.value for entry in await rates.entries("eu.>")] == [21]
        assert await seen.has(2) == [20, 21]
        async with rates.transaction() as changes:
            changes.delete("eu.vat")
            changes.put("eu.duty", 5, ttl=60)


async def locks(app: App, ops: App) -> None:
    @app.leader(name="billing.leader")
    async def lead() -> None:
        leads.set()

    async def wait() -> None:
        async with app.lock("billing.report"):
            pass

    leads = asyncio.Event()
    async with app:
        await leads.wait()
        async with ops.lock("billing.report"):
            waiting = asyncio.create_task(wait())
            # A case that is denied something ends before it awaits the task.
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            await until(lambda: app.stats().locks.waiting or waiting.done())
            consumers = "STREAM.INFO.KV_tidings-locks"
            while not (await ops.js.api.call(consumers))["state"]["consumer_count"]:  # noqa: ASYNC110 - of another app
                await asyncio.sleep(0.01)
        await waiting


async def objects(app: App, ops: App) -> None:
    files = app.js.object_store("files", create=False)
    async with app:
        for body in (b"one", b"two"):
            await files.put("a", body)
            assert await files.get("a") == body
        assert [info.name for info in await files.list()] == ["a"]
        await files.delete("a")


FEATURES: dict[str, Callable[[App, App], Awaitable[None]]] = {
    "Listen and answer": listen,
    "Stream a reply": stream_a_reply,
    "Publish and request": publish_and_request,
    "Publish to a stream": publish_to_a_stream,
    "Deliver a message later": deliver_later,
    "Count": count,
    "Consume a stream": consume,
    "Consume without creating the consumer": consume_only,
    "Partitions": partitions,
    "Dead letters": dead_letter,
    "Follow a stream in order": follow,
    "Read messages": read,
    "Declare a stream": declare,
    "Pause and resume a consumer": pause,
    "Scheduled jobs": jobs,
    "Keys of a bucket": keys,
    "Locks and leaders": locks,
    "Objects of a store": objects,
}


def test_each_list_of_the_page_is_tried() -> None:
    assert list(LISTS) == list(FEATURES)
    assert {grant.kind for grants in LISTS.values() for grant in grants} == set(KINDS)


@pytest.mark.parametrize(("title", "missing"), CASES)
async def test_a_feature_needs_the_permissions_of_its_list_and_no_others(
    title: str,
    missing: Grant | None,
    server: NATSServer,
    ops: App,
    caplog: pytest.LogCaptureFixture,
) -> None:
    user = user_of(title, missing)
    options: dict[str, Any] = {"drain_timeout": 0.5, "discoverable": False}
    app = App("billing", servers=server.url, user=user, password="x", **options)
    use = asyncio.ensure_future(FEATURES[title](app, ops))
    if missing is None:
        async with asyncio.timeout(20):
            await use
        assert "denies" not in caplog.text
        return
    # A start that is denied something fails by itself.
    await until(lambda: use.done() or (app.is_running and "denies" in caplog.text))
    use.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await use
    with contextlib.suppress(TidingsError):
        await app.disconnect()  # the cancelled end of the app goes on
    assert "denies" in caplog.text
