"""`tidings streams` and `tidings dead`: what they show, ask, do and refuse."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.terminal import answer_on_terminal
from tidings import App
from tidings.cli.dead import parse_age
from tidings.errors import ConfigError
from tidings.jetstream import Stream
from tidings.server import NATSServer

if TYPE_CHECKING:
    from support.command import Call, Start

_numbers = itertools.count(1)

Declare = Callable[..., str]

SOURCE = """
from tidings import App
from tidings.jetstream import Stream

app = App("shop", streams=[{streams}])
"""


@pytest.fixture
def name() -> str:
    """The name of the test's stream, and the first word of its subjects."""
    return f"cli{next(_numbers)}"


@pytest.fixture
def client(nats_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An app of the test's own, to look at the server with, which is in $NATS_URL."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    with App("client", servers=nats_server.url) as app:
        yield app


@pytest.fixture
def declare(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, client: App
) -> Iterator[Declare]:
    """Writes a module with an app, which declares streams; returns what names it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    modules: list[str] = []

    def declare(*streams: str, rest: str = "") -> str:
        modules.append(f"shop_{name}_{len(modules)}")
        source = SOURCE.format(streams=", ".join(streams)) + rest
        (tmp_path / f"{modules[-1]}.py").write_text(source.replace("NAME", name))
        return f"{modules[-1]}:app"

    yield declare
    for module in modules:
        sys.modules.pop(module, None)


def fill(client: App, name: str, count: int) -> None:
    for number in range(count):
        client.js.publish_sync(f"{name}.{number % 3}", {"number": number})


def info(client: App, name: str) -> dict[str, Any]:
    api = client.js.api
    answer: dict[str, Any] = client.js.run_sync(api.call(f"STREAM.INFO.{name}"))
    return answer


def held(client: App, name: str) -> int:
    return int(info(client, name)["state"]["messages"])


def make(client: App, *streams: Stream) -> None:
    for stream in streams:
        work = client.js.api.call(f"STREAM.CREATE.{stream.name}", stream.config())
        client.js.run_sync(work)


# Streams.


def test_a_plan_shows_what_would_be_created_and_creates_nothing(
    call: Call, declare: Declare, name: str, client: App
) -> None:
    target = declare('Stream("NAME", subjects=["NAME.>"])')
    for _ in range(2):
        assert call("streams", "plan", target) == (
            0,
            f"{name}: create with subjects {name}.>\n",
            "",
        )


def test_buckets_are_planned_and_applied_as_streams_are_in_the_words_of_buckets(
    call: Call, declare: Declare, name: str, client: App
) -> None:
    declared = "from tidings import Bucket\napp = App('shop', buckets=[Bucket('NAME', OPTIONS)])\n"
    short = declare(rest=declared.replace("OPTIONS", "history=5"))
    assert call("streams", "plan", short) == (0, f"bucket {name}: create\n", "")
    code, shown, _ = call("streams", "apply", short)
    assert (code, shown) == (0, f"bucket {name}: create\napplied: 1 stream\n")
    for number in range(5):
        client.js.publish_sync(f"$KV.{name}.key", {"number": number})
    changed = declare(rest=declared.replace("OPTIONS", "history=1, ttl=3600"))
    _, shown, _ = call("streams", "plan", changed)
    assert shown.splitlines() == [
        f"bucket {name}: change, holding 5 messages",
        "  ttl no limit -> 3600 s",
        "  history 5 -> 1 (can drop up to 4 of 5 messages)",
    ]
    code, _, failed = call("streams", "apply", changed)
    assert code == 1
    assert "--force" in failed
    assert call("streams", "apply", changed, "--force", "--yes")[0] == 0
    assert info(client, f"KV_{name}")["config"]["max_msgs_per_subject"] == 1
    assert held(client, f"KV_{name}") == 1


PARTITIONED = """
@app.consume("NAME", subject="NAME.*", durable="ledger", partitions=COUNT, key=1)
async def book(msg):
    pass
"""


def test_a_plan_shows_the_work_queue_of_a_consumer_with_partitions_and_creates_nothing(
    call: Call, declare: Declare, name: str, client: App
) -> None:
    stream = 'Stream("NAME", subjects=["NAME.>"])'
    target = declare(stream, rest=PARTITIONED.replace("COUNT", "8"))
    for _ in range(2):
        code, shown, _ = call("streams", "plan", target)
        assert (code, shown.splitlines()) == (
            0,
            [
                f"{name}: create with subjects {name}.>",
                f"{name}-ledger: created from {name} when the app starts, with 8 partitions",
            ],
        )
    assert call("streams", "apply", target)[0] == 0
    app = App("partitioned", servers=os.environ["NATS_URL"])

    @app.consume(name, subject=f"{name}.*", durable="ledger", partitions=8, key=1)
    async def book(msg: Any) -> None: ...

    with app:
        assert info(client, f"{name}-ledger")["config"]["retention"] == "workqueue"
    lines = [f"{name}: as declared", f"{name}-ledger: as declared"]
    assert call("streams", "plan", target)[1].splitlines() == lines
    other = declare(stream, rest=PARTITIONED.replace("COUNT", "4"))
    assert call("streams", "plan", other)[1].splitlines() == [
        f"{name}: as declared",
        f"{name}-ledger: not the work queue of 4 partitions that is declared",
    ]


def test_a_plan_shows_the_work_queue_of_an_app_that_declares_no_streams(
    call: Call, declare: Declare, name: str, client: App
) -> None:
    code, shown, _ = call("streams", "plan", declare(rest=PARTITIONED.replace("COUNT", "2")))
    assert code == 0
    assert shown == f"{name}-ledger: created from {name} when the app starts, with 2 partitions\n"


def test_an_app_is_neither_started_nor_its_streams_created_by_a_plan(
    call: Call, declare: Declare
) -> None:
    rest = "@app.on_startup\nasync def fail():\n    raise SystemExit('started')\n"
    code, shown, _ = call(
        "streams", "plan", declare('Stream("NAME", subjects=["NAME"])', rest=rest)
    )
    assert code == 0
    assert "create" in shown


def test_apply_creates_changes_and_then_has_nothing_to_do(
    call: Call, declare: Declare, name: str, client: App
) -> None:
    target = declare('Stream("NAME", subjects=["NAME.>"])')
    code, shown, _ = call("streams", "apply", target)
    assert (code, shown) == (0, f"{name}: create with subjects {name}.>\napplied: 1 stream\n")
    changed = declare('Stream("NAME", subjects=["NAME.>"], description="all")')
    code, shown, _ = call("streams", "apply", changed)
    assert code == 0
    assert shown.splitlines() == [
        f"{name}: change, holding 0 messages",
        "  description '' -> 'all'",
        "applied: 1 stream",
    ]
    assert info(client, name)["config"]["description"] == "all"
    assert call("streams", "apply", changed) == (0, f"{name}: as declared\nnothing to do\n", "")


def test_a_change_that_drops_messages_is_refused_without_force_with_the_count(
    call: Call, declare: Declare, name: str, client: App
) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"]))
    fill(client, name, 12)
    target = declare('Stream("NAME", subjects=["NAME.>"], max_msgs=5)')
    code, shown, failed = call("streams", "apply", target)
    assert code == 1
    assert shown.splitlines() == [
        f"{name}: change, holding 12 messages",
        "  max_msgs no limit -> 5 (can drop up to 7 of 12 messages)",
    ]
    assert "can lose messages" in failed
    assert held(client, name) == 12


def test_force_asks_where_there_is_a_terminal_and_wants_yes_where_there_is_none(
    call: Call, declare: Declare, name: str, client: App, start: Start
) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"]))
    fill(client, name, 12)
    target = declare('Stream("NAME", subjects=["NAME.>"], max_msgs=5)')
    code, _, failed = call("streams", "apply", target, "--force")
    assert code == 2
    assert "lose up to 7 messages? There is no terminal to ask on; add --yes" in failed
    code, shown = answer_on_terminal(start, "n\n", "streams", "apply", target, "--force")
    assert code == 1
    assert "Apply and lose up to 7 messages? [y/N]" in shown
    assert "nothing was done" in shown
    assert held(client, name) == 12
    code, shown = answer_on_terminal(start, "y\n", "streams", "apply", target, "--force")
    assert code == 0
    assert "applied: 1 stream" in shown
    assert held(client, name) == 5


def test_force_and_yes_drop_messages_without_a_question(
    call: Call, declare: Declare, name: str, client: App
) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"]))
    fill(client, name, 12)
    target = declare('Stream("NAME", subjects=["NAME.0"])', 'Stream("NAME-b", subjects=["NAME-b"])')
    code, shown, _ = call("streams", "apply", target, "--force", "--yes")
    assert code == 0
    assert shown.splitlines() == [
        f"{name}: change, holding 12 messages",
        f"  subjects {name}.> -> {name}.0 (no longer stores all of {name}.>; keeps its messages)",
        f"{name}-b: create with subjects {name}-b",
        "applied: 2 streams",
    ]


def test_what_no_server_changes_is_refused_even_with_force(
    call: Call, declare: Declare, name: str, client: App
) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"]))
    target = declare('Stream("NAME", subjects=["NAME.>"], storage="memory")')
    code, shown, failed = call("streams", "apply", target, "--force", "--yes")
    assert code == 1
    assert "storage file -> memory (no server can change this)" in shown
    assert "cannot be changed to what is declared" in failed


# What the server has.


def test_streams_are_listed_without_those_of_buckets(
    call: Call, client: App, name: str, nats_server: Any
) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"]))
    fill(client, name, 3)
    client.js.run_sync(client.js.key_value(name).put("a", {}))
    code, shown, _ = call("streams", "ls")
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert code == 0
    assert f"KV_{name}" not in lines
    assert lines[name].split()[1:3] == [f"{name}.>", "file"]
    assert lines[name].split()[5:7] == ["0", "3"]
    assert "of buckets not shown: add --all" in shown
    assert f"KV_{name} " in call("streams", "ls", "--all")[1]


def test_streams_are_listed_in_json(call: Call, client: App, name: str) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"], description="all\x1b[2J"))
    fill(client, name, 3)
    code, shown, _ = call("streams", "ls", "--json")
    assert (code, "\x1b" in shown) == (0, False)
    [found] = [each for each in json.loads(shown) if each["name"] == name]
    assert (found["subjects"], found["messages"], found["last_sequence"]) == ([f"{name}.>"], 3, 3)
    assert found["description"] == "all\x1b[2J"


def test_more_streams_than_a_page_are_listed(
    call: Call,
) -> None:
    with NATSServer(jetstream=True) as server, App("many", servers=server.url) as app:
        make(app, *(Stream(f"M{n}", subjects=[f"m.{n}"], storage="memory") for n in range(300)))
        code, shown, _ = call("streams", "ls", "--json", "--servers", server.url)
        assert code == 0
        assert {each["name"] for each in json.loads(shown)} == {f"M{n}" for n in range(300)}


def test_info_shows_what_a_stream_is_and_holds(call: Call, client: App, name: str) -> None:
    make(
        client,
        Stream(name, subjects=[f"{name}.>"], description="all\x1b[2J", max_age=90, max_msgs=5),
    )
    fill(client, name, 7)
    code, shown, _ = call("streams", "info", name)
    facts = dict(line.split(":", 1) for line in shown.splitlines())
    facts = {fact: value.strip() for fact, value in facts.items()}
    assert code == 0
    assert facts["description"] == "all\\x1b[2J"
    assert (facts["max age"], facts["max messages"]) == ("1m 30s", "5")
    assert (facts["messages"], facts["first sequence"][:2]) == ("5", "3,")
    code, shown, _ = call("streams", "info", name, "--json")
    assert json.loads(shown)["config"]["max_age"] == 90_000_000_000


def test_purge_asks_with_the_number_and_leaves_later_messages_alone(
    call: Call, client: App, name: str, start: Start
) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"]))
    fill(client, name, 6)
    code, _, failed = call("streams", "purge", name)
    assert code == 2
    question = f"Delete 6 messages of the stream {name} for good?"
    assert f"{question} There is no terminal to ask on; add --yes" in failed
    code, shown = answer_on_terminal(start, "n\n", "streams", "purge", name)
    assert (code, held(client, name)) == (1, 6)
    assert f"{question} [y/N]" in shown
    code, shown = answer_on_terminal(start, "y\n", "streams", "purge", name)
    assert (code, held(client, name)) == (0, 0)
    assert "deleted: 6 messages" in shown
    assert call("streams", "purge", name)[:2] == (0, "there is nothing to delete\n")


def test_a_message_stored_after_the_question_is_not_purged(
    call: Call, client: App, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"]))
    fill(client, name, 4)
    monkeypatch.setattr("tidings.cli.streams.confirm", lambda *asked: fill(client, name, 3))
    assert call("streams", "purge", name)[:2] == (0, "deleted: 4 messages\n")
    assert held(client, name) == 3


@pytest.mark.parametrize(
    ("options", "question", "left"),
    [
        (["--subject", "NAME.1"], "Delete 4 messages on NAME.1 of", 8),
        (["--subject", "NAME.*", "--keep", "5"], "Delete 7 messages on NAME.* of", 5),
        (["--keep", "2"], "Delete 10 messages of", 2),
        (["--before", "4"], "Delete 3 messages of", 9),
        (["--before", "1000"], "Delete 12 messages of", 0),
        (["--before", "6", "--subject", "NAME.0"], "Delete up to 4 messages on NAME.0 of", 10),
    ],
    ids=str,
)
def test_purge_deletes_a_part(
    call: Call, client: App, name: str, options: list[str], question: str, left: int
) -> None:
    make(client, Stream(name, subjects=[f"{name}.>"]))
    fill(client, name, 12)
    options = [option.replace("NAME", name) for option in options]
    code, _, failed = call("streams", "purge", name, *options)
    assert (code, question.replace("NAME", name) in failed) == (2, True)
    assert call("streams", "purge", name, *options, "--yes")[0] == 0
    assert held(client, name) == left


def test_a_stream_that_refuses_to_be_purged_keeps_its_messages(
    call: Call, client: App, name: str
) -> None:
    config = {"name": name, "subjects": [f"{name}.>"], "deny_purge": True}
    client.js.run_sync(client.js.api.call(f"STREAM.CREATE.{name}", config))
    fill(client, name, 2)
    code, _, failed = call("streams", "purge", name, "--yes")
    assert (code, held(client, name)) == (1, 2)
    assert "JetStream:" in failed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["streams", "apply", "APP", "--yes"], "--yes has no effect without --force"),
        (
            ["streams", "info", "NOWHERE"],
            "there is no stream 'NOWHERE': `tidings streams ls --all`",
        ),
        (["streams", "info", "two words"], "letters, digits"),
        (["streams", "purge", "NOWHERE"], "there is no stream 'NOWHERE'"),
        (["streams", "purge", "A", "--subject", "a..b"], "empty token"),
        (["streams", "purge", "A", "--keep", "1", "--before", "2"], "leave out one of the two"),
        (["streams", "plan", "BARE"], "the app declares no streams"),
        (["streams", "plan", "nowhere:app"], "there is no module 'nowhere'"),
        (["streams", "plan", "APP", "--servers", "http://a"], "the scheme is nats://"),
        (["dead", "list"], "name either the app, such as shop:app, or the stream"),
        (
            ["dead", "list", "APP", "--stream", "DEAD"],
            "name either the app, such as shop:app, or the stream",
        ),
        (["dead", "list", "APP"], "has dead_letter=: name the stream"),
        (["dead", "list", "--stream", "two words"], "letters, digits"),
        (["dead", "list", "--stream", "NOWHERE"], "there is no stream 'NOWHERE'"),
        (["dead", "drop", "--stream", "DEAD", "--older-than", "soon"], "90s, 30m, 12h or 7d"),
        (["dead", "drop", "--stream", "DEAD", "--subject", "a..b"], "empty token"),
        (["dead", "drop", "--stream", "DEAD", "--sequence", "0"], "--sequence"),
    ],
    ids=lambda each: " ".join(each)[:40] if isinstance(each, list) else "",
)
def test_a_wrong_use_is_told(
    call: Call, declare: Declare, arguments: list[str], words: str
) -> None:
    known = {"APP": 'Stream("NAME", subjects=["NAME.>"])', "BARE": ""}
    code, _, failed = call(*(declare(known[each]) if each in known else each for each in arguments))
    assert code == 2
    assert words in failed


def test_a_server_that_is_not_there_is_told(call: Call, declare: Declare) -> None:
    target = declare('Stream("NAME", subjects=["NAME.>"])')
    code, _, failed = call("streams", "plan", target, "--servers", "nats://127.0.0.1:1")
    assert code == 1
    assert "cannot connect to nats://127.0.0.1:1" in failed


# Dead letters.


CONSUMER = """
@app.consume("NAME", durable="worker", dead_letter="NAME-dead.worker")
async def handle(msg):
    raise SystemExit("the app was started")
"""


@pytest.fixture
def dead(client: App, name: str) -> str:
    """The stream of dead letters with six of them; returns its name."""
    make(
        client,
        Stream(name, subjects=[f"{name}.>"], storage="memory"),
        Stream(f"{name}-dead", subjects=[f"{name}-dead.>"], storage="memory"),
    )
    for number in range(1, 7):
        bury(client, name, number)
    client.js.publish_sync(f"{name}-dead.other", b"no dead letter")
    return f"{name}-dead"


def bury(client: App, name: str, number: int, subject: str | None = None) -> None:
    client.js.publish_sync(
        f"{name}-dead.worker",
        {"number": number},
        headers={
            "Tidings-Dead-Subject": subject or f"{name}.{number % 2}",
            "Tidings-Dead-Stream": name,
            "Tidings-Dead-Sequence": str(number),
            "Tidings-Dead-Consumer": "worker",
            "Tidings-Dead-Deliveries": str(number),
            "Tidings-Dead-Error": "KeyError" if number == 2 else "ValueError",
            "Tidings-Dead-Error-Id": "7f",
            "Tidings-Dead-Reason": "used up \x1b[2J",
            "Trace": "80",
        },
    )


def numbers(shown: str) -> list[str]:
    """The sequences in the lines of a list."""
    return [line.split()[1] for line in shown.splitlines() if "-dead " in line]


def test_a_list_has_a_line_a_letter_that_cannot_steer_the_terminal(
    call: Call, name: str, dead: str
) -> None:
    code, shown, _ = call("dead", "list", "--stream", dead)
    assert code == 0
    lines = shown.splitlines()
    assert lines[-1] == "6 dead letters"
    words = lines[1].split("  ")
    assert words[0] == f"{dead} 2"
    assert words[2:] == [f"{name}.0", "KeyError", "used up \\x1b[2J (2 deliveries)"]
    assert lines[0].endswith("(1 delivery)")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--subject", "NAME.1"], ["1", "3", "5"]),
        (["--subject", "NAME.*", "--error", "KeyError"], ["2"]),
        (["--error", "Key"], []),
        (["--older-than", "1h"], []),
        (["--older-than", "0s"], ["1", "2", "3", "4", "5", "6"]),
    ],
    ids=str,
)
def test_a_list_is_narrowed_by_what_is_wanted(
    call: Call, name: str, dead: str, options: list[str], expected: list[str]
) -> None:
    given = [option.replace("NAME", name) for option in options]
    code, shown, _ = call("dead", "list", "--stream", dead, *given)
    assert code == 0
    assert numbers(shown) == expected


def test_an_app_says_where_its_dead_letters_are(
    call: Call, declare: Declare, name: str, dead: str, client: App
) -> None:
    client.js.publish_sync(f"{dead}.else", headers={"Tidings-Dead-Subject": "another's"})
    code, shown, _ = call("dead", "list", declare(rest=CONSUMER))
    assert code == 0
    assert numbers(shown) == ["1", "2", "3", "4", "5", "6"]


def test_an_app_whose_dead_letters_no_stream_takes_is_told(call: Call, declare: Declare) -> None:
    code, _, failed = call("dead", "list", declare(rest=CONSUMER))
    assert code == 2
    assert "no stream takes the dead letters of" in failed


def test_a_letter_is_shown_with_its_reason_its_headers_and_its_body(
    call: Call, name: str, dead: str
) -> None:
    code, shown, _ = call("dead", "show", "3", "--stream", dead)
    assert code == 0
    for line in (
        f"dead letter: {dead} 3",
        f"subject:     {name}.1",
        f"stored as:   {name} 3",
        "deliveries:  3",
        "error:       ValueError",
        "reason:      used up \\x1b[2J",
        "Trace: 80",
        '  "number": 3',
    ):
        assert line in shown.splitlines()
    assert "Nats-Msg-Id" not in shown
    code, _, failed = call("dead", "show", "7", "--stream", dead)
    assert (code, failed) == (
        2,
        "tidings: there is no dead letter 7: find its number with tidings dead list\n",
    )


def test_a_redrive_counts_publishes_again_and_deletes(
    call: Call, name: str, dead: str, client: App
) -> None:
    options = ["--stream", dead, "--subject", f"{name}.1", "--yes"]
    code, shown, _ = call("dead", "redrive", *options)
    assert (code, shown.splitlines()) == (
        0,
        [f"3 dead letters in {dead} (3 ValueError)", "published again: 3 of 3"],
    )
    assert held(client, name) == 3
    assert numbers(call("dead", "list", "--stream", dead)[1]) == ["2", "4", "6"]
    assert call("dead", "redrive", *options)[:2] == (0, "no dead letter matches\n")


def test_what_cannot_be_published_again_is_kept_and_the_rest_is_done(
    call: Call, name: str, dead: str, client: App
) -> None:
    bury(client, name, 8, "nobody.takes.this")
    code, shown, failed = call("dead", "redrive", "--stream", dead, "--yes")
    assert code == 1
    assert shown.splitlines()[-1] == "published again: 6 of 7"
    assert f"tidings: dead letter 8 stays in {dead}: no stream stores 'nobody.takes.this'" in failed
    assert numbers(call("dead", "list", "--stream", dead)[1]) == ["8"]


def test_a_forged_letter_is_named_and_kept_and_does_no_harm(
    call: Call, name: str, dead: str, client: App
) -> None:
    bury(client, name, 8, f"$JS.API.STREAM.DELETE.{name}")
    code, shown, failed = call("dead", "redrive", "--stream", dead, "--yes")
    assert code == 1
    assert shown.splitlines()[-1] == "published again: 6 of 7"
    assert (
        f"tidings: dead letter 8 stays in {dead}: the dead letter 8 of '{dead}' is not published"
        in failed
    )
    assert held(client, name) == 6


def test_a_drop_deletes_what_is_named_and_nothing_else(
    call: Call, declare: Declare, name: str, dead: str, client: App
) -> None:
    target = declare(rest=CONSUMER)
    code, shown, _ = call("dead", "drop", target, "--sequence", "2", "--sequence", "5", "--yes")
    assert (code, shown.splitlines()[-1]) == (0, "dropped: 2 of 2")
    assert numbers(call("dead", "list", target)[1]) == ["1", "3", "4", "6"]
    assert held(client, name) == 0
    assert held(client, dead) == 5  # and the message that is no dead letter is there


def test_a_drop_asks_and_without_a_terminal_wants_yes(
    call: Call, start: Start, name: str, dead: str, client: App
) -> None:
    code, shown, failed = call("dead", "drop", "--stream", dead)
    assert code == 2
    assert shown == f"6 dead letters in {dead} (5 ValueError, 1 KeyError)\n"
    assert "Delete 6 messages for good? There is no terminal to ask on; add --yes" in failed
    assert answer_on_terminal(start, "n\n", "dead", "drop", "--stream", dead)[0] == 1
    assert held(client, dead) == 7
    code, shown = answer_on_terminal(
        start, "y\n", "dead", "drop", "--stream", dead, "--sequence", "1"
    )
    assert code == 0
    assert "Delete 1 message for good? [y/N]" in shown
    assert held(client, dead) == 6


def test_a_sequence_in_several_streams_is_ambiguous(
    call: Call, declare: Declare, name: str, dead: str, client: App
) -> None:
    make(client, Stream(f"{name}-more", subjects=[f"{name}-more.>"]))
    more = CONSUMER.replace("worker", "other").replace("NAME-dead", "NAME-more")
    target = declare(rest=CONSUMER + more)
    code, _, failed = call("dead", "show", "1", target)
    assert code == 2
    assert f"add --stream {dead} or --stream {name}-more" in failed


def test_a_list_ends_when_its_reader_is_gone(start: Start, dead: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("dead", "list", "--stream", dead, stdout=writing)
    os.close(writing)
    assert process.wait() == 0
    assert process.err == []


# Objects.


def test_chunks_without_an_object_are_counted_by_a_dry_run_and_then_deleted(
    call: Call, name: str, client: App
) -> None:
    files = client.js.object_store(name)
    client.js.run_sync(files.put("a", b"1" * 100))
    for _ in range(3):
        client.js.publish_sync(f"$O.{name}.C.left", b"2" * 50)
    for arguments, shown in (
        (["--dry-run"], "deleted: 0 chunks of 0 puts, 0 bytes"),
        (["--dry-run", "--older-than", "0s"], "would delete: 3 chunks of 1 put, 150 bytes"),
        (["--older-than", "0s"], "deleted: 3 chunks of 1 put, 150 bytes"),
        ([], "deleted: 0 chunks of 0 puts, 0 bytes"),
    ):
        code, printed, _ = call("objects", "prune", name, *arguments)
        assert code == 0
        assert shown.removeprefix("deleted: 0") in printed
        if arguments == ["--dry-run"]:
            assert "left alone: 3 chunks, younger than 1h" in printed
    assert client.js.run_sync(files.get("a")) == b"1" * 100


def test_a_store_that_is_not_there_is_an_error_and_a_wrong_age_a_wrong_use(
    call: Call, client: App
) -> None:
    code, _, failed = call("objects", "prune", "nowhere")
    assert (code, "there is no bucket 'nowhere'" in failed) == (1, True)
    assert call("objects", "prune", "nowhere", "--older-than", "soon")[0] == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7_200), ("7d", 604_800)]
)
def test_an_age_has_a_unit(text: str, seconds: float) -> None:
    assert parse_age(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1w", "1 d", "1e3s", "9999999d"])
def test_an_age_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an age or a duration: write 90s"):
        parse_age(text)
