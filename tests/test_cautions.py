"""Cautions: declarations that do less than they seem to are warnings when the app starts."""

import logging
from typing import Any

import pytest

from support.inbox import Inbox
from tidings import App, DebugMiddleware, Group, Middleware, Stream
from tidings.cautions import warn_of_declarations
from tidings.testing import NATSServer

WORDS = "literally, because"


def warnings_of(app: App, caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.WARNING, "tidings"):
        warn_of_declarations(
            app._listener_specs,
            app._consumer_specs,
            app._watch_specs,
            app.js.streams,
            [spec.cls for spec in app.middlewares],
        )
    return caplog.messages


@pytest.mark.parametrize("pattern", ["foo*", "foo>", "a.*b", "a.b*.c", "a.>b.c", "**"])
def test_a_wildcard_inside_a_word_is_a_warning(
    caplog: pytest.LogCaptureFixture, pattern: str
) -> None:
    app = App("cautious")
    app.listen(pattern)(Inbox())
    (text,) = warnings_of(app, caplog)
    assert WORDS in text
    assert repr(pattern) in text


@pytest.mark.parametrize("pattern", ["foo", "foo.*", "*.foo", ">", "foo.>", "*.*"])
def test_a_whole_wildcard_is_none(caplog: pytest.LogCaptureFixture, pattern: str) -> None:
    app = App("cautious")
    app.listen(pattern)(Inbox())
    assert warnings_of(app, caplog) == []


def test_streams_consumers_watches_and_groups_are_warned_of_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App("cautious", streams=[Stream("S", subjects=["s.a*"])])
    app.consume("S", durable="d", subject="s.b*")(Inbox())
    app.watch("bucket", "user*")(Inbox())
    group = Group("g")
    group.listen("c*")(Inbox())
    app.include(group)
    texts = warnings_of(app, caplog)
    assert [text.partition(":")[0] for text in texts] == [
        "listener Inbox",
        "consumer Inbox",
        "watch Inbox",
        "stream S",
    ]
    assert "'g.c*'" in texts[0]


async def test_it_is_said_once_a_start_and_for_each_subscription_made_meanwhile(
    nats_server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("cautious", servers=nats_server.url)
    app.listen(f"{subject}*")(Inbox())
    with caplog.at_level(logging.WARNING, "tidings"):
        async with app:
            assert [WORDS in text for text in caplog.messages] == [True]
            await app.subscribe_new_subject(f"{subject}.x*", Inbox())
    assert [WORDS in text for text in caplog.messages] == [True, True]


async def test_such_a_subject_is_a_subject_all_the_same(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("cautious", servers=nats_server.url)
    inbox: Any = Inbox()
    app.listen(f"{subject}*")(inbox)
    async with app:
        assert await app.request(f"{subject}*", {"n": 1}) == {"n": 1}


class Silent(Middleware):
    async def listen_request(self, msg, callback):
        await callback(msg)

    async def send_any(self, subject, message, send_func, *args, **kwargs):
        try:
            await send_func(subject, message, *args, **kwargs)
        except ValueError:
            return


class Returning(Middleware):
    async def listen_request(self, msg, callback):
        if msg.data:
            return await callback(msg)
        return None

    async def listen_publish(self, msg, callback):
        await callback(msg)  # nobody needs the result

    async def send_request(self, subject, message, request_func, *args, **kwargs):
        raise PermissionError


def test_a_middleware_that_never_returns_a_value_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App("cautious")
    app.add_middleware(Silent)
    advice = "Return what the awaited function returns"
    lost = "never returns a value, so the calls that it surrounds return None."
    assert warnings_of(app, caplog) == [
        f"Silent.listen_request never returns a value, so requests get no answer. {advice}",
        f"Silent.send_any {lost} {advice}",
    ]


def test_a_middleware_of_a_group_that_never_returns_a_value_is_a_warning_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App("cautious")
    group = Group("g", middlewares=[Silent])
    group.listen("a")(Inbox())
    group.listen("b")(Inbox())
    app.include(group)
    assert len(warnings_of(app, caplog)) == 2


def test_a_middleware_that_may_return_a_value_or_always_raises_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = App("cautious")
    app.add_middleware(Returning)
    app.add_middleware(DebugMiddleware)
    assert warnings_of(app, caplog) == []
