"""A user who may read and write certain subjects of a stream only. (NATS ADR-31, ADR-37)

The server tells what a call is for by the subjects and filters in the API's subjects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from support.inbox import Inbox
from support.waits import PATIENCE
from tidings import App
from tidings.errors import KeyExistsError, SubjectPermissionError
from tidings.server import NATSServer

# Object names are base64 in subjects: this is the one object that the user may read and put.
NAME, META = "a.txt", "YS50eHQ="

CONFIG = f"""
jetstream {{}}
authorization {{ users = [
  {{ user: ops, password: x }}
  {{ user: svc, password: x, permissions: {{
    subscribe: {{ allow: ["_INBOX.>"] }}
    publish: {{ allow: [
      "$KV.rates.eu.>"
      "$JS.API.STREAM.INFO.KV_rates"
      "$JS.API.DIRECT.GET.KV_rates.$KV.rates.eu.>"
      "$JS.API.CONSUMER.CREATE.KV_rates.*.$KV.rates.eu.>"
      "$JS.API.CONSUMER.MSG.NEXT.KV_rates.*"
      "$JS.API.CONSUMER.DELETE.KV_rates.*"
      "$O.files.M.{META}", "$O.files.C.*"
      "$JS.API.STREAM.INFO.OBJ_files", "$JS.API.STREAM.PURGE.OBJ_files"
      "$JS.API.DIRECT.GET.OBJ_files.$O.files.M.{META}"
      "$JS.API.CONSUMER.CREATE.OBJ_files.*.$O.files.C.*"
      "$JS.API.CONSUMER.MSG.NEXT.OBJ_files.*"
      "$JS.API.CONSUMER.DELETE.OBJ_files.*"
    ] }} }} }}
] }}
"""


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[[str], App]]:
    config = tmp_path / "server.conf"
    config.write_text(CONFIG)
    async with NATSServer(config=config, store_dir=tmp_path / "store") as server:
        ops = App("ops", servers=server.url, user="ops", password="x")
        ops.js.key_value("rates", type=int, history=5)
        ops.js.object_store("files")
        async with ops:
            yield lambda user: App(
                user, servers=server.url, user=user, password="x", discoverable=False
            )


async def test_keys_are_read_written_listed_and_watched_with_permissions_for_them_alone(
    make: Callable[[str], App], caplog: pytest.LogCaptureFixture
) -> None:
    app = make("svc")
    rates = app.js.key_value("rates", type=int, create=False)
    seen = Inbox()
    app.watch("rates", "eu.>")(seen)
    async with app, asyncio.timeout(PATIENCE):
        revision = await rates.put("eu.vat", 20)
        assert (await rates.get("eu.vat")).value == 20
        await rates.update("eu.vat", 21, revision)
        with pytest.raises(KeyExistsError):
            await rates.create("eu.vat", 1)
        assert [entry.value for entry in await rates.history("eu.vat")] == [20, 21]
        assert await rates.keys("eu.>") == ["eu.vat"]
        async with rates.watch("eu.*") as watch:
            assert (await anext(aiter(watch))).value == 21
        await rates.delete("eu.vat")
        assert await rates.value("eu.vat") is None
        await rates.create("eu.vat", 22)
        assert [(await seen.next()).value for _ in range(4)] == [20, 21, None, 22]
        assert "denies" not in caplog.text

        with pytest.raises(SubjectPermissionError):
            await rates.put("us.vat", 1)
        with pytest.raises(SubjectPermissionError):
            await rates.keys()


async def test_an_object_is_put_and_read_with_permissions_for_it_alone(
    make: Callable[[str], App], caplog: pytest.LogCaptureFixture
) -> None:
    app = make("svc")
    files = app.js.object_store("files", create=False)
    async with app, asyncio.timeout(PATIENCE):
        for body in (b"one", b"two"):
            await files.put(NAME, body)
            assert await files.get(NAME) == body
        assert (await files.info(NAME)).size == 3
        await files.delete(NAME)
        assert "denies" not in caplog.text
