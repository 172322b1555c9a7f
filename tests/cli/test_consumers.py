"""`tidings consumers`: what it lists, shows, pauses, resets and refuses."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import nats
import pytest

from support.terminal import answer_on_terminal
from tidings import App, ConfigError
from tidings.jetstream.resets import reset_consumer

if TYPE_CHECKING:
    from support.command import Call, Start

_numbers = itertools.count(1)

Make = Callable[..., None]


@pytest.fixture
def name() -> str:
    """The name of the test's stream, and the first word of its subjects."""
    return f"clicons{next(_numbers)}"


@pytest.fixture
def client(nats_server: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An app to look at the server with, which is in $NATS_URL. The stream has six messages."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    with App("client", servers=nats_server.url) as app:
        config = {"name": name, "subjects": [f"{name}.>"], "storage": "memory"}
        app.js.run_sync(app.js.api.call(f"STREAM.CREATE.{name}", config))
        for number in range(6):
            app.js.publish_sync(f"{name}.{number % 3}", {"number": number})
        yield app


@pytest.fixture
def make(client: App, name: str) -> Make:
    """Creates a consumer of the stream."""

    def make(consumer: str, **config: Any) -> None:
        config = {
            "name": consumer,
            "durable_name": consumer,
            "ack_policy": "explicit",
            **config,
        }
        body = {"stream_name": name, "config": config}
        client.js.run_sync(client.js.api.call(f"CONSUMER.CREATE.{name}.{consumer}", body))

    return make


def info(client: App, name: str, consumer: str) -> dict[str, Any]:
    work = client.js.api.call(f"CONSUMER.INFO.{name}.{consumer}")
    answer: dict[str, Any] = client.js.run_sync(work)
    return answer


def take(client: App, name: str, consumer: str, count: int, *, ack: bool) -> None:
    """Take messages of a consumer, and acknowledge them, or leave them in progress."""

    async def pull() -> None:
        other = await nats.connect(client.servers[0])
        bound = await other.jetstream().pull_subscribe_bind(consumer, stream=name)
        for message in await bound.fetch(count):
            if ack:
                await message.ack_sync()
        await other.close()

    asyncio.run(pull())


def rows(shown: str, name: str) -> dict[str, list[str]]:
    """The cells of the lines of a stream, by the names of its consumers."""
    lines = [line.split() for line in shown.splitlines()]
    return {line[1]: line[2:] for line in lines if line[0] == name}


def test_consumers_are_listed_with_what_is_left_to_do(
    call: Call, client: App, make: Make, name: str
) -> None:
    make("bill")
    make("mail", filter_subjects=[f"{name}.1", f"{name}.2"])
    take(client, name, "bill", 2, ack=False)
    code, shown, _ = call("consumers", "ls", name)
    assert code == 0
    assert rows(shown, name) == {
        "bill": [">", "idle", "4", "2", "0"],
        "mail": [f"{name}.1,", f"{name}.2", "idle", "4", "0", "0"],
    }
    assert rows(call("consumers", "ls")[1], name).keys() == {"bill", "mail"}
    code, shown, _ = call("consumers", "ls", name, "--json")
    bill, mail = json.loads(shown)
    assert (bill["name"], bill["pending"], bill["unacked"], bill["durable"]) == ("bill", 4, 2, True)
    assert mail["subjects"] == [f"{name}.1", f"{name}.2"]


def test_a_stream_without_consumers_is_no_error(call: Call, client: App, name: str) -> None:
    assert call("consumers", "ls", name) == (0, "no consumers\n", "")
    assert call("consumers", "ls", name, "--json") == (0, "[]\n", "")


def test_info_shows_where_a_consumer_is(call: Call, client: App, make: Make, name: str) -> None:
    make("bill", description="bills\x1b[2J", max_deliver=4)
    take(client, name, "bill", 1, ack=True)
    code, shown, _ = call("consumers", "info", name, "bill")
    facts = dict(line.split(":", 1) for line in shown.splitlines())
    assert code == 0
    assert facts["description"].strip() == "bills\\x1b[2J"
    assert facts["acknowledged up to"].strip().startswith("sequence 1")
    assert (facts["pending"].strip(), facts["max deliver"].strip()) == ("5", "4")
    answer = json.loads(call("consumers", "info", name, "bill", "--json")[1])
    assert answer["ack_floor"]["stream_seq"] == 1


def test_lag_shows_the_farthest_first_with_the_age_of_its_oldest_message(
    call: Call, client: App, make: Make, name: str
) -> None:
    make("done", deliver_policy="new")
    make("far")
    make("near", filter_subject=f"{name}.1")
    code, shown, _ = call("consumers", "lag", name)
    assert code == 0
    assert list(rows(shown, name)) == ["far", "near", "done"]
    assert rows(shown, name)["done"] == ["-", "0", "0", "0"]
    far, near, done = json.loads(call("consumers", "lag", name, "--json")[1])
    first, second = (
        client.js.run_sync(client.js.api.call(f"STREAM.MSG.GET.{name}", {"seq": sequence}))
        for sequence in (1, 2)
    )
    assert far["oldest"][:23] == first["message"]["time"][:23]
    assert near["oldest"][:23] == second["message"]["time"][:23]
    assert (done["oldest"], done["oldest_age"]) == (None, None)
    assert far["oldest_age"] >= near["oldest_age"] >= 0


def test_a_message_in_progress_counts_as_lag(
    call: Call, client: App, make: Make, name: str
) -> None:
    make("bill")
    take(client, name, "bill", 6, ack=False)
    code, shown, _ = call("consumers", "lag", name, "bill", "--json")
    [bill] = json.loads(shown)
    assert (code, bill["pending"], bill["unacked"], bill["oldest"] is not None) == (0, 0, 6, True)


def test_lag_above_a_limit_is_an_exit_code(call: Call, client: App, make: Make, name: str) -> None:
    make("far")
    make("near", filter_subject=f"{name}.1")
    code, shown, _ = call("consumers", "lag", name, "--above", "2")
    assert (code, list(rows(shown, name))) == (1, ["far"])
    code, shown, _ = call("consumers", "lag", name, "--above", "6")
    assert (code, shown) == (0, "no consumer lags more than 6\n")


def test_a_paused_consumer_is_shown_and_resumed(
    call: Call, client: App, make: Make, name: str
) -> None:
    make("bill")
    assert call("consumers", "pause", name, "bill", "--for", "2h")[0] == 0
    assert re.search("paused for (2h|1h 59m) ", call("consumers", "ls", name)[1])
    assert call("consumers", "resume", name, "bill")[:2] == (0, "resumed\n")
    assert not info(client, name, "bill").get("paused")


def test_reset_asks_and_delivers_again(
    call: Call, client: App, make: Make, name: str, start: Start
) -> None:
    make("bill")
    take(client, name, "bill", 4, ack=False)
    command = ("consumers", "reset", name, "bill", "--sequence", "3")
    code, _, failed = call(*command)
    assert code == 2
    assert f"Reset bill of the stream {name} to sequence 3?" in failed
    assert "It skips messages that are not acknowledged, from 1 to 2." in failed
    assert "Acknowledgements of 4 messages in progress no longer count." in failed
    code, shown = answer_on_terminal(start, "n\n", *command)
    assert (code, "nothing was done" in shown) == (1, True)
    assert info(client, name, "bill")["delivered"]["stream_seq"] == 4
    code, shown = answer_on_terminal(start, "y\n", *command)
    assert (code, "the next message is that with sequence 3" in shown) == (0, True)
    found = info(client, name, "bill")
    assert (found["num_pending"], found["num_ack_pending"]) == (4, 0)


def test_reset_without_a_sequence_begins_after_the_last_acknowledged_message(
    call: Call, client: App, make: Make, name: str
) -> None:
    make("bill")
    take(client, name, "bill", 1, ack=True)
    take(client, name, "bill", 3, ack=False)
    code, shown, _ = call("consumers", "reset", name, "bill", "--yes")
    assert (code, "sequence 2" in shown) == (0, True)
    assert info(client, name, "bill")["num_pending"] == 5


def test_a_reset_back_says_which_messages_come_again(
    call: Call, client: App, make: Make, name: str
) -> None:
    make("bill")
    take(client, name, "bill", 1, ack=True)
    _, _, failed = call("consumers", "reset", name, "bill", "--sequence", "1")
    assert "It delivers acknowledged messages again, from 1 to 1." in failed


def test_a_server_that_is_too_old_to_reset_is_named(
    client: App, make: Make, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("bill")
    api = client.js.api
    monkeypatch.setattr(api.connection, "server_version", (2, 12))
    with pytest.raises(ConfigError, match=r"reset of a consumer needs nats-server 2\.14"):
        client.js.run_sync(reset_consumer(api, name, "bill", sequence=None))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls", "NOWHERE"], "there is no stream 'NOWHERE'"),
        (["info", "NAME", "nobody"], "has no consumer 'nobody': `tidings consumers ls NAME`"),
        (["lag", "NAME", "nobody"], "has no consumer 'nobody'"),
        (["lag", "NAME", "--above", "-1"], "--above"),
        (["pause", "NAME", "nobody", "--for", "1h"], "has no consumer 'nobody'"),
        (["resume", "NAME", "nobody"], "has no consumer 'nobody'"),
        (["reset", "NAME", "nobody", "--yes"], "has no consumer 'nobody'"),
        (["reset", "NAME", "a.b"], "letters, digits"),
        (["reset", "NAME", "a", "--sequence", "0"], "--sequence"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_wrong_use(
    call: Call, client: App, name: str, arguments: list[str], words: str
) -> None:
    code, _, failed = call("consumers", *(word.replace("NAME", name) for word in arguments))
    assert code == 2
    assert words.replace("NAME", name) in failed
