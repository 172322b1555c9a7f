"""Options are keyword-only, and a wrong one is refused with the one that was meant. Only the
arguments of the interface's table have an order."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import pytest

import tidings
from support.waits import until
from tidings import App, DebugMiddleware, ErrorMiddleware, Group, Message, Stream
from tidings.jetstream import JetStream, KeyValue, ObjectStore, PublishWindow, StreamMessage
from tidings.server import NATSCluster, NATSServer
from tidings.testing import SyncTestClient, TestClient

# What may be given by position and left out. The first rows are the interface's table.
IN_ORDER = {
    "publish": ["message", "reply_to", "force"],
    "publish_sync": ["message", "reply_to", "force"],
    "publish_from_another_thread": ["message", "reply_to", "force"],
    "request": ["message", "timeout", "response_data_type"],
    "request_sync": ["message", "timeout", "response_data_type"],
    "request_from_another_thread": ["message", "timeout", "headers"],
    "request_many": ["message"],
    "request_many_sync": ["message"],
    "stream": ["message"],
    "stream_sync": ["message"],
    "task": ["interval"],
    # The one thing that a call is about.
    "watch": ["keys"],
    "add_watch": ["keys"],
    "keys": ["keys"],
    "entries": ["keys"],
    "value": ["default"],
    "messages": ["subject"],
    "count": ["subject"],
    "respond": ["value"],
    "respond_sync": ["value"],
    "nak": ["delay"],
    "term": ["reason"],
    "NATSCluster": ["size"],
    "TestClient": ["server"],
}
CLASSES = [
    *(App, tidings.Group, DebugMiddleware, JetStream, KeyValue, ObjectStore, PublishWindow),
    *(NATSCluster, NATSServer, TestClient, SyncTestClient),
]
METHODS = [*CLASSES, type(App("any").nats), Message, StreamMessage]


def calls() -> list[tuple[str, Callable[..., Any]]]:
    made = [(kind.__name__, kind) for kind in CLASSES]
    for kind in METHODS:
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                made.append((f"{kind.__name__}.{name}", member))
    return made


@pytest.mark.parametrize(("name", "call"), calls(), ids=[name for name, _ in calls()])
def test_options_are_keyword_only(name: str, call: Callable[..., Any]) -> None:
    by_position = [
        parameter.name
        for parameter in inspect.signature(call).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.default is not parameter.empty
    ]
    allowed = IN_ORDER.get(name.rpartition(".")[2], [])
    assert by_position == allowed[: len(by_position)]


app = App("keywords")


async def handler(msg: Any) -> None:
    pass


MISSPELT: list[tuple[str, Callable[[], Any], str]] = [
    (
        "listen",
        lambda: app.listen("a", queu="q"),
        "listen() has no option 'queu'; did you mean 'queue'?",
    ),
    (
        "consume",
        lambda: app.consume("A", durble="d"),
        "consume() has no option 'durble'; did you mean 'durable'?",
    ),
    (
        "watch",
        lambda: app.watch("a", inital=True),
        "watch() has no option 'inital'; did you mean 'initial'?",
    ),
    (
        "task",
        lambda: app.task(intervall=2),
        "task() has no option 'intervall'; did you mean 'interval'?",
    ),
    ("App", lambda: App("a", quue="q"), "App has no option 'quue'; did you mean 'queue'?"),
    (
        "Group",
        lambda: Group("a", middleware=[]),
        "Group has no option 'middleware'; did you mean 'middlewares'?",
    ),
    (
        "Stream",
        lambda: Stream("A", subject=["a"]),
        "Stream has no option 'subject'; did you mean 'subjects'?",
    ),
    (
        "key_value",
        lambda: app.js.key_value("a", histry=3),
        "key_value() has no option 'histry'; did you mean 'history'?",
    ),
    (
        "object_store",
        lambda: app.js.object_store("a", replica=3),
        "object_store() has no option 'replica'; did you mean 'replicas'?",
    ),
    (
        "subscribe_sync",
        lambda: app.subscribe_new_subject_sync("a", handler, dtype=str),
        "subscribe_new_subject_sync() has no option 'dtype'; did you mean 'data_type'?",
    ),
    (
        "middleware",
        lambda: app.add_middleware(ErrorMiddleware, KeyError, calback=print),
        "ErrorMiddleware has no option 'calback'; did you mean 'callback'?",
    ),
    (
        "another word",
        lambda: app.cron("0 9 * * *", timezone="UTC"),
        "cron() has no option 'timezone'; did you mean 'tz'?",
    ),
    (
        "word of others",
        lambda: app.lock("a", ttl=3),
        "lock() has no option 'ttl'; did you mean 'lease'?",
    ),
    (
        "no such word here",
        lambda: app.listen("a", ttl=3),
        "listen() has no option 'ttl'",
    ),
    ("no guess", lambda: app.listen("a", colour="red"), "listen() has no option 'colour'"),
    (
        "by position",
        lambda: app.listen("a", "q"),
        "listen() takes subject by position, and the rest by name, such as queue=",
    ),
    (
        "twice",
        lambda: app.listen("a", subject="b"),
        "listen() got subject twice: by position and by name",
    ),
    (
        "no subject",
        lambda: app.listen(),
        'listen() needs subject: write @app.listen("some.subject")',
    ),
    (
        "no stream",
        lambda: app.consume(),
        'consume() needs stream: write @app.consume("ORDERS", durable="billing")',
    ),
    ("no name", lambda: App(), 'App needs service_name: write App("billing")'),
    (
        "parentheses",
        lambda: app.on_startup(),
        "on_startup() needs function: write @app.on_startup, without parentheses",
    ),
    (
        "ready",
        lambda: app.on_ready(),
        "on_ready() needs function: write @app.on_ready, without parentheses",
    ),
]


@pytest.mark.parametrize(
    ("call", "text"), [case[1:] for case in MISSPELT], ids=[case[0] for case in MISSPELT]
)
def test_wrong_arguments_are_refused_with_the_fix(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_misspelt_option_of_subscribe_is_refused_with_the_fix() -> None:
    with pytest.raises(
        TypeError, match=r"^subscribe_new_subject\(\) has no option 'queu'; did you"
    ):
        await app.subscribe_new_subject("a", handler, queu="q")  # type: ignore[call-arg]  # the mistake


# The calls that must be quick keep Python's own error. From Python 3.13 on it names the option.

QUICK: list[tuple[Callable[[App], Any], str, str]] = [
    (lambda app: app.publish("a", 1, header={}), "App.publish", "headers"),
    (lambda app: app.nats.publish("a", 1, header={}), "App.publish", "headers"),
    (lambda app: app.request("a", 1, tiemout=3), "App.request", "timeout"),
    (lambda app: app.publish_sync("a", 1, data_typ=str), "App.publish_sync", "data_type"),
    (lambda app: app.request_sync("a", 1, tiemout=3), "App.request_sync", "timeout"),
    (lambda app: app.js.publish("a", 1, msgid="7"), "JetStream.publish", "msg_id"),
    (lambda app: app.js.publish_sync("a", 1, msgid="7"), "JetStream.publish", "msg_id"),
]


@pytest.mark.parametrize(("call", "shown", "meant"), QUICK)
def test_the_error_of_a_quick_call_names_no_internal_class(
    call: Callable[[App], Any], shown: str, meant: str
) -> None:
    with pytest.raises(TypeError) as caught:
        call(app)
    assert str(caught.value).startswith(f"{shown}() got an unexpected keyword argument")


@pytest.mark.parametrize(("call", "shown", "meant"), QUICK)
async def test_inside_the_block_of_an_app_a_note_says_which_option_was_meant(
    nats_server: NATSServer, call: Callable[[App], Any], shown: str, meant: str
) -> None:
    with pytest.raises(TypeError) as caught:
        async with App("keywords", servers=nats_server.url) as running:
            call(running)
    (note,) = caught.value.__notes__
    assert note.startswith(f"{shown}() has no option")
    assert note.endswith(f"did you mean {meant!r}?")


async def test_the_log_of_a_handler_a_task_or_a_hook_says_which_option_was_meant(
    nats_server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = App("keywords", servers=nats_server.url)
    noted = "App.publish() has no option 'header'; did you mean 'headers'?"

    @own.listen(subject)
    async def listener(msg: Any) -> None:
        await own.publish("a", header={})  # type: ignore[call-arg]  # the mistake

    @own.task()
    async def task() -> None:
        await own.publish("a", header={})  # type: ignore[call-arg]  # the mistake

    async with own:
        await own.publish(subject)
        await until(lambda: len(failed(caplog)) == 2)
    assert [record.exc_info[1].__notes__ for record in failed(caplog)] == [[noted], [noted]]

    @own.on_startup
    async def hook() -> None:
        await own.publish("a", header={})  # type: ignore[call-arg]  # the mistake

    with pytest.raises(TypeError) as caught:
        async with own:
            pass
    assert noted in caught.value.__notes__


def failed(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.levelno == logging.ERROR]


def test_a_type_error_of_the_users_own_code_stays_as_it_is() -> None:
    class Broken:
        def __iter__(self) -> Any:
            raise TypeError("listen() got an unexpected keyword argument 'queu'")

    with pytest.raises(TypeError, match=r"^listen.. got an unexpected keyword argument 'queu'$"):
        app.listen(Broken())  # type: ignore[arg-type]  # the user's


def test_wrapped_calls_show_their_signature() -> None:
    assert "queue" in inspect.signature(app.listen).parameters
    assert "subjects" in inspect.signature(Stream).parameters
    assert inspect.iscoroutinefunction(app.subscribe_new_subject)
