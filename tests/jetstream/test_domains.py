"""Streams, consumers and buckets of another domain, or behind the API of another account."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.inbox import Inbox
from support.ports import free_port
from support.waits import PATIENCE
from tidings import (
    App,
    Bucket,
    ConfigError,
    KeyNotFoundError,
    LockTimeoutError,
    NoStreamError,
    Stream,
    SubjectError,
)
from tidings.errors import JetStreamUnavailableError, RequestTimeoutError
from tidings.jetstream import StreamSource
from tidings.server import NATSServer

if TYPE_CHECKING:
    from support.command import Call

_numbers = itertools.count(1)

MakeApp = Callable[..., App]


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[tuple[NATSServer, NATSServer]]:
    """A hub and its leaf node, each with a JetStream domain of its own."""
    port = free_port()
    texts = {
        "hub": f'leafnodes {{ host: "127.0.0.1", port: {port} }}\n',
        "leaf": f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}\n',
    }
    for domain, text in texts.items():
        jetstream = f'jetstream {{ domain: {domain}, store_dir: "{tmp_path / domain}" }}\n'
        (tmp_path / f"{domain}.conf").write_text(f"server_name: {domain}\n{text}{jetstream}")
    async with (
        NATSServer(config=tmp_path / "hub.conf") as hub,
        NATSServer(config=tmp_path / "leaf.conf") as leaf,
    ):
        async with App("probe", servers=hub.url) as probe, asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(JetStreamUnavailableError, RequestTimeoutError):
                    await probe.js.api.request("$JS.leaf.API.INFO", b"", b"", 1)
                    break
                await asyncio.sleep(0.02)
        yield hub, leaf


# An account that owns the streams, and one that imports their API under another prefix.
ACCOUNTS = """
jetstream {}
accounts {
  OWNER {
    jetstream: enabled
    users: [{ user: owner, password: x }]
    exports: [
      { service: "$JS.API.>", response: stream }
      { service: "$KV.>" }
      { service: "$JS.ACK.>" }
      { service: "$O.>" }
      { service: "from.>" }
      { service: "dead.>" }
    ]
  }
  USER {
    users: [{ user: user, password: x }]
    imports: [
      { service: { account: OWNER, subject: "$JS.API.>" }, to: "owner.API.>" }
      { service: { account: OWNER, subject: "$KV.>" }, to: "owner.API.$KV.>" }
      { service: { account: OWNER, subject: "$JS.ACK.>" } }
      { service: { account: OWNER, subject: "$O.>" } }
      { service: { account: OWNER, subject: "from.>" } }
      { service: { account: OWNER, subject: "dead.>" } }
    ]
  }
}
"""


@pytest.fixture
async def accounts(tmp_path: Path) -> AsyncIterator[NATSServer]:
    config = tmp_path / "accounts.conf"
    config.write_text(ACCOUNTS)
    async with NATSServer(config=config, store_dir=tmp_path / "store") as server:
        yield server


async def uses_everything(app: App, owner: App) -> None:
    """Use an app with a stream, a consumer, an ordered one, keys and objects, and see with another
    app that they are in the right place."""
    got, followed, watched = Inbox(), Inbox(), Inbox()
    app.consume("SENSORS", durable="d", data_type=int, dead_letter="dead.from")(got)
    app.consume("SENSORS", ordered=True, subject="from.a", data_type=int)(followed)
    settings = app.js.key_value("settings", type=int, history=3)
    app.watch("settings")(watched)
    files = app.js.object_store("files")
    async with app, owner, asyncio.timeout(PATIENCE):
        ack = await app.js.publish("from.a", 20)
        assert (ack.stream, ack.sequence) == ("SENSORS", 1)
        assert (await got.has(1), await followed.has(1)) == ([20], [20])
        revision = await settings.put("limit", 1)
        await settings.update("limit", 2, revision)
        assert await settings.value("limit") == 2
        assert await settings.keys() == ["limit"]
        assert [entry.value for entry in await settings.history("limit")] == [1, 2]
        assert await watched.has(2) == [1, 2]
        await settings.delete("limit")
        with pytest.raises(KeyNotFoundError):
            await settings.get("limit")
        await files.put("a", b"1" * 300_000)
        assert await files.get("a") == b"1" * 300_000
        assert [info.name for info in await files.list()] == ["a"]
        assert (await app.js.plan())[0].is_done
        await app.js.publish("from.b", "no number")  # becomes a dead letter
        async with asyncio.timeout(PATIENCE):
            while not app.stats().consumers[0].dead:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        for stream in ("SENSORS", "DEAD", "KV_settings", "OBJ_files"):
            info = await owner.js.api.call(f"STREAM.INFO.{stream}")
            assert info["state"]["messages"] > 0
        with pytest.raises(NoStreamError):
            await app.js.publish("nobody.takes.this", 1, timeout=2)


SENSORS = Stream("SENSORS", subjects=["from.>"])
DEAD = Stream("DEAD", subjects=["dead.>"])


@pytest.mark.parametrize("option", [{"js_domain": "leaf"}, {"js_prefix": "$JS.leaf.API"}], ids=str)
async def test_an_app_on_the_hub_uses_the_domain_of_a_leaf(
    hub: tuple[NATSServer, NATSServer], option: dict[str, Any]
) -> None:
    here, leaf = hub
    app = App("svc", servers=here.url, streams=[SENSORS, DEAD], **option)
    await uses_everything(app, App("owner", servers=leaf.url))
    async with App("plain", servers=here.url) as plain:  # the hub's own domain has none of them
        assert (await plain.js.api.call("STREAM.NAMES"))["total"] == 0


async def test_an_app_uses_the_api_that_another_account_exports(accounts: NATSServer) -> None:
    app = App(
        "svc",
        servers=accounts.url,
        user="user",
        password="x",
        js_prefix="owner.API",
        streams=[SENSORS, DEAD],
    )
    await uses_everything(app, App("owner", servers=accounts.url, user="owner", password="x"))


async def test_a_bucket_that_its_domain_lost_is_made_again_there(
    hub: tuple[NATSServer, NATSServer],
) -> None:
    here, leaf = hub
    app = App("svc", servers=here.url, js_domain="leaf")
    limits = app.js.key_value("limits", type=int)
    async with app, App("owner", servers=leaf.url) as owner, asyncio.timeout(PATIENCE):
        await limits.put("a", 1)
        await owner.js.api.call("STREAM.DELETE.KV_limits")
        await limits.put("a", 2)
        assert await owner.js.key_value("limits", type=int).value("a") == 2


async def test_a_lock_in_another_domain_is_the_lock_of_those_there(
    hub: tuple[NATSServer, NATSServer],
) -> None:
    there = App("there", servers=hub[1].url)
    here = App("here", servers=hub[0].url, js_domain="leaf")

    async def wait() -> int:
        async with here.lock("x", lease=600) as lock:
            return lock.token

    async with there, here, asyncio.timeout(PATIENCE):
        async with there.lock("x", lease=600) as lock:
            with pytest.raises(LockTimeoutError, match="there/"):
                async with here.lock("x", timeout=0.2):
                    pass
            token, waiting = lock.token, asyncio.create_task(wait())
        assert await waiting > token
        async with here.lock("x", lease=3) as lock:
            await asyncio.sleep(3.5)  # longer than the lease: it was renewed
            assert lock.is_held


async def test_a_stream_is_sourced_from_another_domain(
    hub: tuple[NATSServer, NATSServer],
) -> None:
    here, leaf = hub
    copy = Stream("COPY", sources=[StreamSource("SENSORS", domain="leaf", subject="from.a")])
    got = Inbox()
    app = App("svc", servers=here.url, streams=[copy])
    app.consume("COPY", durable="d", data_type=int)(got)
    async with App("owner", servers=leaf.url, streams=[SENSORS]) as owner, app:
        for number, subject in enumerate(("from.b", "from.a")):
            await owner.js.publish(subject, number)
        assert await got.has(1) == [1]
        assert (await app.js.plan())[0].is_done


async def test_a_command_uses_the_domain_of_the_app_and_of_a_context(
    hub: tuple[NATSServer, NATSServer],
    call: Call,
    write_context: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, leaf = hub
    write_context("leaf", url=here.url, jetstream_domain="leaf")
    async with App("owner", servers=leaf.url, streams=[SENSORS]) as owner:
        made = {"name": "d", "durable_name": "d", "ack_policy": "explicit"}
        await owner.js.api.call(
            "CONSUMER.CREATE.SENSORS.d", {"stream_name": "SENSORS", "config": made}
        )
        arguments = ("consumers", "pause", "SENSORS", "d", "--for", "1h", "--context", "leaf")
        code, _, failed = await asyncio.to_thread(call, *arguments)
        assert (code, failed) == (0, "")
        assert (await owner.js.api.call("CONSUMER.INFO.SENSORS.d"))["paused"]
        async with App("ctx", context="leaf") as app:  # an app with the context, too
            await app.js.resume("SENSORS", "d")
        assert not (await owner.js.api.call("CONSUMER.INFO.SENSORS.d")).get("paused")
        source = "from tidings import App, Stream\napp = App('svc', js_domain='leaf', "
        source += "streams=[Stream('SENSORS', subjects=['from.>'])])\n"
        (tmp_path / "in_a_domain.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        target = ("streams", "plan", "in_a_domain:app", "--servers", here.url)
        code, shown, _ = await asyncio.to_thread(call, *target)
        assert (code, shown) == (0, "SENSORS: as declared\n")


async def test_a_declared_mirror_copies_a_bucket_of_another_domain(
    hub: tuple[NATSServer, NATSServer],
) -> None:
    here, there = hub
    origin = App("origin", servers=here.url, buckets=[Bucket("rates", history=3)])
    rates = origin.js.key_value("rates", type=int)
    copy = Bucket("rates-edge", mirror=StreamSource("KV_rates", domain="hub"))
    local = App("edge", servers=there.url, buckets=[copy])
    remote = App("ops", servers=here.url, js_domain="leaf", buckets=[copy])  # over the hub
    async with origin, asyncio.timeout(PATIENCE):
        await rates.put("eur", 1)
        for number, app in enumerate((local, remote), start=2):
            edge = app.js.key_value("rates-edge", type=int)
            async with app:
                while await edge.value("eur") != number - 1:  # noqa: ASYNC110 - nothing announces it
                    await asyncio.sleep(0.01)
                await edge.put("eur", number)
                assert (await rates.get("eur")).value == number
                while await edge.value("eur") != number:  # noqa: ASYNC110 - nothing announces it
                    await asyncio.sleep(0.01)
                assert [plan.is_done for plan in await app.js.plan()] == [True]


@pytest.mark.parametrize(
    "flag", [("--js-domain", "leaf"), ("--js-prefix", "$JS.leaf.API")], ids=str
)
async def test_a_flag_names_the_domain_of_a_command(
    hub: tuple[NATSServer, NATSServer], call: Call, flag: tuple[str, str]
) -> None:
    here, leaf = hub
    async with App("owner", servers=leaf.url) as owner:
        files = owner.js.object_store("far")
        await files.put("a", b"1")
    arguments = ("objects", "prune", "far", "--servers", here.url)
    code, shown, failed = await asyncio.to_thread(call, *arguments, *flag)
    assert (code, failed) == (0, "")
    assert shown == "deleted: 0 chunks of 0 puts, 0 bytes\n"
    code, _, failed = await asyncio.to_thread(call, *arguments)
    assert (code, "there is no bucket 'far'" in failed) == (1, True)


async def test_an_argument_stands_above_the_domain_of_a_context(
    write_context: Callable[..., Path],
) -> None:
    write_context("leaf", url="nats://127.0.0.1:1", jetstream_domain="leaf")
    for options, prefix in (
        ({}, "$JS.leaf.API"),
        ({"js_domain": "hub"}, "$JS.hub.API"),
        ({"js_prefix": "owner.API"}, "owner.API"),
    ):
        app = App("svc", context="leaf", **options)
        assert app._launch.connection.resolve().js_api == prefix


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"js_domain": "a.b"}, ConfigError, "js_domain must be a name"),
        ({"js_domain": ""}, ConfigError, "js_domain must be a name"),
        ({"js_prefix": "a.*"}, SubjectError, "without wildcards"),
        ({"js_prefix": "a."}, SubjectError, "empty token"),
        ({"js_prefix": "a", "js_domain": "b"}, ConfigError, "exclude each other"),
    ],
    ids=str,
)
def test_a_domain_or_prefix_that_cannot_be_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        App("svc", **options)
