"""The class App: what `help`, mocks and subclasses find in it."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any
from unittest import mock

import pytest

from support.inbox import Inbox
from tidings import App
from tidings.server import NATSServer

CALLS = [name for name in dir(App("calls").nats) if not name.startswith("_")]


class Counting(App):
    """An app with calls of its own around two of them."""

    published = asked = 0

    async def publish(self, subject: str, *args: Any, **options: Any) -> None:
        self.published += 1
        await super().publish(subject, *args, **options)

    async def request(self, subject: str, *args: Any, **options: Any) -> Any:
        self.asked += 1
        return await super().request(subject, *args, **options)


@pytest.mark.parametrize("name", CALLS)
def test_each_call_of_app_nats_is_a_documented_method_of_the_class(name: str) -> None:
    method, shown = getattr(App, name), getattr(App("calls").nats, name)
    assert inspect.isfunction(method)
    assert method.__doc__
    parameters = list(inspect.signature(method).parameters.values())
    assert parameters[1:] == list(inspect.signature(shown).parameters.values())


def test_help_shows_the_calls_with_their_arguments() -> None:
    shown = pydoc.plain(pydoc.render_doc(App))
    assert "publish(self, subject: 'str', message: 'Any' = None" in shown
    assert "request_sync(self, subject: 'str'" in shown


def test_a_mock_of_the_class_has_the_calls() -> None:
    app = mock.create_autospec(App, instance=True)
    assert isinstance(app.request, mock.AsyncMock)
    assert isinstance(app.publish_sync, mock.MagicMock)
    with pytest.raises(TypeError, match="unexpected keyword argument 'replyto'"):
        app.publish("orders.created", replyto="x")


async def test_a_subclass_may_have_its_own_form_of_a_call(
    nats_server: NATSServer, subject: str
) -> None:
    inbox = Inbox()
    async with Counting("counting", servers=nats_server.url) as app:
        await app.subscribe_new_subject(subject, inbox, data_type=bytes)
        for body in (b"1", b"2"):  # the first of a turn goes another way than the next ones
            await app.publish(subject, body)
        await app.publish(subject, b"3", force=True)
        assert await inbox.has(3) == [b"1", b"2", b"3"]
        await app.subscribe_new_subject(f"{subject}.echo", lambda msg: msg.data)
        assert await app.request(f"{subject}.echo", {"n": 1}) == {"n": 1}
    assert (app.published, app.asked) == (3, 1)


def test_a_subclass_has_its_own_form_of_a_call_from_threads_too(
    nats_server: NATSServer, subject: str
) -> None:
    with Counting("counting", servers=nats_server.url) as app:
        app.subscribe_new_subject_sync(subject, lambda msg: msg.data)
        app.publish_sync(f"{subject}.other", b"1", force=True)
        assert app.request_sync(subject, {"n": 1}) == {"n": 1}
    assert (app.published, app.asked) == (1, 1)
