"""Queue groups: every message reaches each handler, in one instance of the service."""

import functools
import logging
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from support.waits import PATIENCE, until
from tidings import App, Group
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.queue_groups import queue_groups
from tidings.testing import NATSServer


async def on_order(msg):
    """A handler by whose name queue groups are called."""


async def on_price(msg):
    """Another one."""


def spec(handler: Any = on_order, *subjects: str, **options: Any) -> ListenerSpec:
    return ListenerSpec(handler=handler, subjects=subjects or ("orders.created",), **options)


def groups_of(*specs: ListenerSpec, service: str = "billing", queue: str | None = None) -> Any:
    return queue_groups(service, queue, specs)


def counting(counts: Counter[str], name: str) -> Any:
    async def count(msg):
        counts[name] += 1

    count.__qualname__ = name
    return count


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("queue", [None, "shared"])
async def test_each_message_reaches_every_handler_once_however_many_instances_run(
    nats_server: NATSServer, subject: str, instances: int, queue: str | None
) -> None:
    counts: Counter[str] = Counter()
    apps = [App("orders", servers=nats_server.url, queue=queue) for _ in range(instances)]
    async with AsyncExitStack() as stack:
        for app in apps:
            group = Group(subject)
            group.listen("created")(counting(counts, "exact"))
            group.listen("*")(counting(counts, "audit"))
            app.include(group)
            app.listen(f"{subject}.>", queue="")(counting(counts, "every"))
            await stack.enter_async_context(app)
        for _ in range(20):
            await apps[0].publish(f"{subject}.created")
        for app in apps:
            await app.flush()
        await until(lambda: counts.total() >= 40 + 20 * instances)
    assert counts == {"exact": 20, "audit": 20, "every": 20 * instances}


@pytest.mark.parametrize("instances", [1, 3])
async def test_an_observer_beside_a_service_takes_no_request_from_it(
    nats_server: NATSServer, subject: str, instances: int
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(instances):
            app = App("my shop", servers=nats_server.url)
            app.listen(subject)(lambda msg: {"total": 12})
            app.listen(f"{subject[:4]}.>", no_reply=True)(lambda msg: None)
            await stack.enter_async_context(app)
        answers = [await app.request(subject, timeout=PATIENCE) for _ in range(10)]
    assert answers == [{"total": 12}] * 10


async def test_what_an_instance_subscribes_while_it_runs_is_its_own(
    nats_server: NATSServer, subject: str
) -> None:
    counts: Counter[str] = Counter()
    apps = [App("orders", servers=nats_server.url, queue="q") for _ in range(2)]
    async with apps[0], apps[1]:
        for number, app in enumerate(apps):
            await app.subscribe_new_subject(subject, counting(counts, f"own {number}"))
            await app.subscribe_new_subject(subject, counting(counts, "shared"), queue="shared")
        for _ in range(5):
            await apps[0].publish(subject)
        for app in apps:
            await app.flush()
        await until(lambda: counts.total() >= 15)
        assert [one.queue for one in apps[0].stats().listeners] == ["", "shared"]
    assert counts == {"own 0": 5, "own 1": 5, "shared": 5}


async def test_a_listener_with_overlapping_subjects_handles_a_message_once(
    nats_server: NATSServer, subject: str
) -> None:
    counts: Counter[str] = Counter()
    app = App("orders", servers=nats_server.url)
    app.listen([f"{subject}.*", f"{subject}.a"])(counting(counts, "own"))
    app.listen([f"{subject}.*", f"{subject}.a"], queue="")(counting(counts, "none"))
    async with app:
        await app.publish(f"{subject}.a", force=True)
    assert counts == {"own": 1, "none": 2}


def test_a_listener_that_names_no_group_has_one_of_its_own() -> None:
    assert groups_of(spec(), spec(on_price)) == ["billing.on_order", "billing.on_price"]
    assert groups_of(spec(queue="x"), spec(on_price, queue="x")) == ["x", "x"]
    assert groups_of(spec(queue=""), spec(on_price)) == ["", "billing.on_price"]


def test_the_queue_of_an_app_or_a_group_is_the_first_word_and_empty_means_none() -> None:
    assert groups_of(spec(), spec(on_price), queue="a.b") == ["a.b.on_order", "a.b.on_price"]
    assert groups_of(spec(), spec(on_price, queue="x"), queue="") == ["", "x"]
    assert groups_of(spec(group_queue="g", prefix="eu")) == ["g.eu.on_order"]
    assert groups_of(spec(group_queue=""), spec(on_price)) == ["", "billing.on_price"]
    assert groups_of(spec(group_queue="g", prefix="eu"), queue="") == ["g.eu.on_order"]


def test_the_name_has_the_prefix_of_the_group_in_it() -> None:
    assert groups_of(spec(prefix="eu"), spec(prefix="us")) == [
        "billing.eu.on_order",
        "billing.us.on_order",
    ]


def test_a_name_holds_nothing_that_nats_refuses() -> None:
    one, two = spec(lambda msg: None), spec(prefix="*.eu")
    assert groups_of(one, two, service=" my\tshop ") == [
        "my-shop.lambda",
        "my-shop.eu.on_order",
    ]
    assert groups_of(spec(), service="shop.eu") == ["shop-eu.on_order"]


def test_a_handler_made_by_partial_is_called_like_its_function() -> None:
    async def handle(region, msg):
        pass

    assert groups_of(spec(functools.partial(handle, "eu"))) == ["billing.handle"]


def test_of_handlers_of_one_name_the_first_keeps_it_and_the_others_are_known_by_subject() -> None:
    first, second, third = spec(on_order, "a"), spec(on_order, "b"), spec(on_order, "b")
    names = groups_of(first, second, third)
    assert names[0] == "billing.on_order"
    assert names[1].startswith("billing.on_order-")
    assert names[2] == f"{names[1]}-2"
    assert groups_of(first, spec(on_price), second) == [names[0], "billing.on_price", names[1]]


def test_a_derived_name_is_never_one_that_another_listener_names() -> None:
    own, named = groups_of(spec(), spec(on_price, queue="billing.on_order"))
    assert named == "billing.on_order"
    assert own != named


def test_a_long_name_is_cut_to_what_a_subscription_takes() -> None:
    (group,) = groups_of(spec(prefix="x" * 1500), service="y" * 1500)
    assert len(group) < 500


async def test_two_listeners_that_name_one_group_and_overlap_are_a_warning_with_both_names(
    nats_server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("orders", servers=nats_server.url)
    app.listen(f"{subject}.created", queue="q")(on_order)
    app.listen(f"{subject}.*", queue="q")(on_price)
    app.listen(f"{subject}.created")(on_price)
    app.listen(f"{subject}.a.b", queue="q")(counting(Counter(), "elsewhere"))
    with caplog.at_level(logging.WARNING, "tidings"):
        async with app:
            pass
    (text,) = caplog.messages
    for function in (on_order, on_price):
        code = function.__code__
        assert f"{function.__name__} (test_queue_groups.py:{code.co_firstlineno})" in text
    assert "'q'" in text
