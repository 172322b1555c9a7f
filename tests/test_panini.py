"""Panini's names say what to write instead, and services of both understand each other."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from typing import Any

import nats
import pytest

from support.waits import PATIENCE
from tidings import App, ConfigError, DebugMiddleware, ErrorMiddleware, ServiceError, panini
from tidings.message import make_message
from tidings.server import NATSServer

app = App("moved")
OBJECTS = {"App": app, "app.nats": app.nats, "Message": make_message("a")}
ATTRIBUTES = [(owner, name) for owner, names in panini.ATTRIBUTES.items() for name in names]


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES)
def test_a_name_of_panini_is_an_attribute_error_that_says_what_to_write(
    owner: str, name: str
) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(OBJECTS[owner], name)
    assert str(caught.value) == (
        f"{owner} has no attribute {name!r}: {panini.ATTRIBUTES[owner][name]}"
    )
    assert (caught.value.name, caught.value.obj) == (name, OBJECTS[owner])
    assert not hasattr(OBJECTS[owner], name)
    assert name not in dir(OBJECTS[owner])


def test_a_decorator_of_panini_says_what_to_write() -> None:
    with pytest.raises(AttributeError, match=r"write @app\.task\(interval=2\)"):

        @app.timer_task(interval=2)  # type: ignore[attr-defined]  # Panini's
        async def tick() -> None:
            pass


@pytest.mark.parametrize("name", sorted(panini.OPTIONS["App"]))
def test_an_option_of_panini_is_a_type_error_that_says_what_to_write(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        App("moved", **{name: True})
    advice = panini.OPTIONS["App"][name]
    assert str(caught.value) == f"App has no option {name!r}: {advice}"


@pytest.mark.parametrize("name", sorted(panini.OPTIONS["listen()"]))
def test_an_option_of_paninis_listen_says_what_to_write(name: str) -> None:
    with pytest.raises(TypeError, match=f"listen.. has no option '{name}': "):
        app.listen("a", **{name: True})


def test_an_argument_of_paninis_middlewares_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"DebugMiddleware has no option 'log_level': write level="):
        app.add_middleware(DebugMiddleware, log_level="info")


async def test_an_error_callback_that_wants_paninis_arguments_stops_the_start() -> None:
    own = App("moved")

    def callback(error: Exception, msg: Any) -> None:
        pass

    own.add_middleware(ErrorMiddleware, KeyError, callback)
    with pytest.raises(ConfigError, match=r"callback.* must take one argument, the error"):
        async with own:
            pass


@pytest.mark.parametrize("table", [panini.ATTRIBUTES, panini.OPTIONS])
def test_every_advice_is_about_a_name_that_does_not_exist(
    table: dict[str, dict[str, str]],
) -> None:
    taken = {
        "App": {*dir(app), *inspect.signature(App).parameters},
        "app.nats": {*dir(app.nats)},
        "Message": {*dir(OBJECTS["Message"])},
        "listen()": {*inspect.signature(app.listen).parameters},
        "subscribe_new_subject()": {*inspect.signature(app.subscribe_new_subject).parameters},
        "App.request()": {*inspect.signature(app.request).parameters},
        "DebugMiddleware": {*inspect.signature(DebugMiddleware).parameters},
    }
    for owner, names in table.items():
        assert names.keys() & taken.get(owner, set()) == set()


def test_the_tables_are_not_imported_before_an_error_needs_them() -> None:
    code = "import sys, tidings; sys.exit('tidings.panini' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_message_can_still_be_copied_and_pickled() -> None:
    message = make_message("a", b"1", data={"n": 1})
    assert copy.copy(message).data == {"n": 1}
    assert pickle.loads(pickle.dumps(message)).data == {"n": 1}


# A service of each.


async def test_a_requester_on_panini_reads_an_error_as_success_false(
    nats_server: NATSServer, subject: str
) -> None:
    """Panini's `request` decodes the body of the reply and does not look at the headers."""
    own = App("moved", servers=nats_server.url)

    @own.listen(subject)
    async def price(msg: Any) -> Any:
        if msg.data["item"] == "coffee":
            raise ServiceError(404, "no such item")
        return {"price": {"tea": 4}[msg.data["item"]]}

    foreign = await nats.connect(nats_server.url)

    async def ask(body: bytes) -> Any:
        reply = await foreign.request(subject, body, timeout=PATIENCE)
        return json.loads(reply.data.decode())

    async with own:
        assert await ask(b'{"item": "tea"}') == {"price": 4}
        known = await ask(b'{"item": "coffee"}')
        assert (known["success"], known["error"]) == (False, "no such item")
        unknown = await ask(b'{"item": "cocoa"}')
        assert (unknown["success"], unknown["error"]) == (False, "KeyError")
        malformed = await ask(b"[]")
        assert malformed["success"] is False
        assert malformed["error"] == "DecodeError: Expected `object`, got `array`"
    await foreign.close()


async def test_the_error_reply_of_a_service_on_panini_is_an_ordinary_reply(
    nats_server: NATSServer, subject: str
) -> None:
    """Panini sends no headers with an error, so only the body says that it is one."""
    foreign = await nats.connect(nats_server.url)

    async def answer(msg: Any) -> None:
        await msg.respond(b'{"success": false, "error": "MessageSchemaError"}')

    await foreign.subscribe(subject, cb=answer)
    await foreign.flush()
    async with App("moved", servers=nats_server.url) as own:
        reply = await own.request(subject, {"n": 1})
        assert reply == {"success": False, "error": "MessageSchemaError"}
    await foreign.close()


async def test_instances_on_panini_and_on_tidings_share_the_queue_group_that_both_name(
    nats_server: NATSServer, subject: str
) -> None:
    foreign = await nats.connect(nats_server.url)
    handled: list[str] = []

    async def on_panini(msg: Any) -> None:
        handled.append("panini")
        await msg.respond(b"{}")

    own = App("moved", servers=nats_server.url)

    @own.listen(subject, queue="workers")
    async def on_tidings(msg: Any) -> Any:
        handled.append("tidings")
        return {}

    await foreign.subscribe(subject, queue="workers", cb=on_panini)
    await foreign.flush()
    async with own:
        for _ in range(40):
            await own.request(subject)
    assert len(handled) == 40
    assert set(handled) == {"panini", "tidings"}
    await foreign.close()
