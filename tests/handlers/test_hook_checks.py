"""Hook checks: a middleware whose hooks would not run is refused where it is added."""

import functools
import inspect
from typing import Any

import pytest

from support.waits import until
from tidings import App, ConfigError, ErrorMiddleware, Group, Middleware
from tidings.bus import Bus
from tidings.handlers.hook_checks import HOOKS
from tidings.jetstream.context import JetStream
from tidings.testing import NATSServer


def add(cls: type[Middleware], *args: Any) -> None:
    App("checked").add_middleware(cls, *args)


def named(name: str, method: Any) -> type[Middleware]:
    """A middleware with one method of that name."""
    return type("Auth", (Middleware,), {name: method})


async def listen_hook(self, msg, callback):
    return await callback(msg)


async def send_hook(self, subject, message, send_func, *args, **kwargs):
    return await send_func(subject, message, *args, **kwargs)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("listen_reqest", "listen_request"),
        ("listen_requests", "listen_request"),
        ("lisen_any", "listen_any"),
        ("listenAny", "listen_any"),
        ("send_requst", "send_request"),
        ("sendpublish", "send_publish"),
        ("send_message", ""),
        ("listen_message", ""),
        ("listen_all", "listen_any"),
    ],
)
def test_a_misspelt_hook_is_refused_with_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Auth.{name} looks like a hook") as caught:
        add(named(name, listen_hook))
    assert (f"did you mean {meant}?" if meant else "the hooks are send_publish") in str(
        caught.value
    )


def test_it_is_refused_in_a_group_and_where_a_parent_has_it(nats_server: NATSServer) -> None:
    parent = named("listen_reqest", listen_hook)
    child = type("Child", (parent,), {})
    mixin = type("Mixin", (), {"listen_reqest": listen_hook})
    mixed = type("Mixed", (mixin, Middleware), {})
    for cls in (parent, child, mixed):
        with pytest.raises(ConfigError, match="listen_request"):
            add(cls)
        for middleware in (cls, cls()):
            with pytest.raises(ConfigError, match="listen_request"):
                Group("a", middlewares=[middleware])


def test_methods_and_values_of_ones_own_are_allowed() -> None:
    class Own(Middleware):
        listen_port = 4222
        timeout = 2

        def describe(self) -> str:
            return "own"

        async def check(self, token):
            return token

        def _listen_request(self):
            """A helper."""

        async def listen_request(self, msg, callback):
            return await callback(msg)

    add(Own)


@pytest.mark.parametrize("name", [name for name in HOOKS if name.startswith("listen_")])
@pytest.mark.parametrize("hook", ["plain", "generator", "no callback", "a third", "no self"])
def test_a_listen_hook_that_cannot_be_called_or_awaited_is_refused(name: str, hook: str) -> None:
    async def generator(self, msg, callback):
        yield await callback(msg)

    async def no_callback(self, msg):
        return None

    async def a_third(self, msg, callback, third):
        return await callback(msg)

    async def no_self(msg, callback):
        return await callback(msg)

    wrong = {
        "plain": lambda self, msg, callback: callback(msg),
        "generator": generator,
        "no callback": no_callback,
        "a third": a_third,
        "no self": no_self,
    }
    with pytest.raises(ConfigError, match=f"Auth.{name}.*async def"):
        add(named(name, wrong[hook]))


@pytest.mark.parametrize("name", [name for name in HOOKS if name.startswith("send_")])
def test_a_send_hook_takes_every_option_of_the_call(name: str) -> None:
    async def without_options(self, subject, message, send_func):
        return await send_func(subject, message)

    async def few_options(self, subject, message, send_func, *, headers=None):
        return await send_func(subject, message, headers=headers)

    for hook in (without_options, few_options, listen_hook):
        with pytest.raises(ConfigError, match=rf"async def {name}\(self, subject, message"):
            add(named(name, hook))
    add(named(name, send_hook))


def test_hooks_in_other_forms_of_the_language_are_taken() -> None:
    def traced(hook):
        @functools.wraps(hook)
        def call(*args, **kwargs):
            return hook(*args, **kwargs)

        return call

    async def alone(msg, callback):
        return await callback(msg)

    async def of_class(cls, msg, callback):
        return await callback(msg)

    add(named("listen_any", traced(listen_hook)))
    add(named("listen_any", staticmethod(alone)))
    add(named("listen_any", classmethod(of_class)))
    add(ErrorMiddleware, KeyError, print)


async def test_a_hook_that_init_sets_on_the_instance_stops_the_start(
    nats_server: NATSServer,
) -> None:
    class Late(Middleware):
        def __init__(self) -> None:
            self.listen_any = listen_hook  # type: ignore[method-assign, assignment]  # the mistake

    with pytest.raises(ConfigError, match="listen_any is set on the instance"):
        Group("a", middlewares=[Late])
    app = App("checked", servers=nats_server.url)
    app.add_middleware(Late)
    with pytest.raises(ConfigError, match="listen_any is set on the instance"):
        await app.__aenter__()
    await until(lambda: not app.is_running)


def test_the_options_that_hooks_must_take_are_those_of_the_calls() -> None:
    calls = {
        "send_publish": Bus.publish,
        "send_request": Bus.request,
        "send_stream": JetStream.publish,
    }
    for name, call in calls.items():
        ((_, keywords),) = HOOKS[name]
        assert set(keywords) == set(inspect.signature(call).parameters) - {
            *("self", "subject", "message")
        }
    assert set(HOOKS) == {name for name in vars(Middleware) if name[0] != "_"}
