"""Streams and consumers that others named: by wider rules than tidings keeps for new ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import until
from tidings import App, ConfigError
from tidings.errors import Reject
from tidings.jetstream import dead_letters
from tidings.jetstream.dead_letters import Wanted
from tidings.jetstream.names import check_existing_name, check_new_bucket, check_new_name

_numbers = itertools.count(1)


@pytest.mark.parametrize("name", ["ORDERS:eu", "büro", "a+b", "(x)", "订单", "x" * 255])
def test_a_name_that_a_server_can_have_is_accepted_where_it_exists(name: str) -> None:
    check_existing_name(name, "stream")


@pytest.mark.parametrize(
    "name", ["", "a b", "a.b", "a*", "a>", "a/b", "a\\b", "a\n", "a\x00", "x" * 256, None, 7]
)
def test_a_name_that_no_server_can_have_is_refused(name: Any) -> None:
    for check in (check_existing_name, check_new_name):
        with pytest.raises(ConfigError, match="letters, digits"):
            check(name, "stream")
    with pytest.raises(ConfigError, match="letters, digits"):
        check_new_bucket(name)


async def test_a_stream_and_a_consumer_of_others_are_consumed_and_their_letters_redriven(
    make_app: Callable[..., App],
) -> None:
    number = next(_numbers)
    name, durable = f"ORDERS:eu{number}", "büro"
    app = make_app()
    got = Inbox()
    is_repaired = False

    @app.consume(name, durable=durable, max_deliver=1, dead_letter=f"dead{number}.x")
    async def handle(msg: Any) -> None:
        if not is_repaired:
            raise Reject("not yet")
        await got(msg)

    async with make_app() as ops:
        api = ops.js.api
        for stream, subjects in (
            (name, f"foreign{number}.>"),
            (f"TOTE:{number}", f"dead{number}.>"),
        ):
            await api.call(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [subjects]})
        config = {"durable_name": durable, "ack_policy": "explicit"}
        body = {"stream_name": name, "config": config}
        await api.call(f"CONSUMER.CREATE.{name}.{durable}", body)
        async with app:
            ack = await app.js.publish(f"foreign{number}.a", {"n": 1}, expected_stream=name)
            assert ack.stream == name
            await until(lambda: app.stats().consumers[0].dead == 1)
            is_repaired = True
            last = await dead_letters.last_sequence(api, f"TOTE:{number}")
            found = dead_letters.read_dead_letters(api, f"TOTE:{number}", Wanted(), last)
            for letter in [letter async for letter in found]:
                await dead_letters.redrive(api, letter)
            assert (await got.next()).data == {"n": 1}


async def test_a_new_durable_consumer_has_a_name_that_every_client_accepts(
    make_app: Callable[..., App],
) -> None:
    name = f"plain{next(_numbers)}"
    app = make_app()

    @app.consume(name, durable="büro")
    async def handle(msg: Any) -> None: ...

    async with make_app() as ops:
        await ops.js.api.call(f"STREAM.CREATE.{name}", {"name": name, "subjects": [name]})
        with pytest.raises(
            ConfigError, match=r"durable must be a name of letters, digits.*, got 'büro'"
        ):
            await app.__aenter__()
