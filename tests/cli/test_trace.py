"""`tidings trace`: the server's trace of a message, on real servers and from forged events."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import nats.micro
import pytest

from support.fake_peer import FakePeer, info_line
from support.inbox import Inbox
from support.ports import free_port
from support.waits import PATIENCE, wait_until
from tidings import App
from tidings.cli.message_trace import MOST_SERVERS, MessageTrace, add_service, drawn, tree
from tidings.jetstream import Stream
from tidings.server import NATSCluster, NATSServer

if TYPE_CHECKING:
    from support.command import Call


@pytest.fixture(autouse=True)
def url(nats_server: NATSServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    return nats_server.url


def lines(shown: str) -> list[str]:
    """The lines of the tree, without the first, which names the server."""
    return [line for line in shown.splitlines()[1:] if line]


# On a real server.


def test_it_shows_the_service_the_subscriber_and_the_stream_that_would_get_a_message(
    call: Call, url: str, subject: str, stream: Stream
) -> None:
    billing, inbox = App("billing", servers=url, streams=[stream]), Inbox()
    billing.listen(f"{stream.name}.*", queue="desk", no_reply=True)(inbox)
    with billing:
        code, shown, errors = call("trace", f"{stream.name}.new", "{}")
        info = billing.js.run_sync(billing.js.api.call(f"STREAM.INFO.{stream.name}"))
    assert info["state"]["messages"] == 0
    assert (code, errors) == (0, "")
    first, *rest = shown.splitlines()
    assert first.startswith("server ")
    assert first.endswith(f": account $G, subject {stream.name}.new")
    assert {line[3:] for line in rest[:-1]} == {  # the server chooses their order
        f"stream {stream.name} would store it as {stream.name}.new",
        f"client billing, subscription {stream.name}.*, queue group desk",
    }
    assert rest[-1] == f"would reach 1 subscriber, stream {stream.name}; it was not delivered"
    assert inbox.got == []


def test_with_deliver_the_message_arrives_and_the_stream_keeps_it(
    call: Call, url: str, stream: Stream
) -> None:
    billing, inbox = App("billing", servers=url, streams=[stream]), Inbox()
    billing.listen(f"{stream.name}.*", no_reply=True)(inbox)
    with billing:
        code, shown, _ = call(
            "trace", f"{stream.name}.new", '{"id": 7}', "-H", "Tag: a", "--deliver"
        )
        msg = inbox.get()
    assert code == 0
    assert msg.data == {"id": 7}
    assert msg.headers["Tag"] == "a"
    assert f"stream {stream.name} stores it" in shown
    assert shown.endswith(f"reached 1 subscriber, stream {stream.name}\n")


def test_a_subject_that_nobody_takes_ends_with_code_1(call: Call, subject: str) -> None:
    code, shown, errors = call("trace", subject)
    assert code == 1
    assert lines(shown) == ["└─ nobody subscribes here, and no stream takes it", "nobody gets it"]
    assert errors == ""


def test_the_events_are_printed_as_json(call: Call, url: str, subject: str) -> None:
    app = App("billing", servers=url)
    app.listen(subject, no_reply=True)(Inbox())
    with app:
        code, shown, _ = call("trace", subject, "--json")
    found = json.loads(shown)
    assert code == 0
    assert (found["subject"], found["missing"]) == (subject, [])
    (part,) = found["events"]
    assert [event["type"] for event in part["events"]] == ["in", "eg"]
    assert part["events"][1]["name"] == "billing"


class Micro:
    """A service that another client library runs, in an event loop of its own."""

    def __init__(self, url: str, name: str, subject: str) -> None:
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(url, name, subject))

    def _run(self, url: str, name: str, subject: str) -> None:
        self._loop.run_until_complete(self._serve(url, name, subject))
        self._loop.close()

    async def _serve(self, url: str, name: str, subject: str) -> None:
        async def answer(request: Any) -> None:
            await request.respond(b"")

        client = await nats.connect(url)
        service = await nats.micro.add_service(client, name=name, version="1.0.0")
        await service.add_endpoint(name="ask", handler=answer, subject=subject)
        await client.flush()
        self._ready.set()
        await self._stop.wait()
        await service.stop()
        await client.close()

    def __enter__(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)


def test_a_service_of_another_library_is_named_by_its_answer_to_srv_info(
    call: Call, url: str, subject: str
) -> None:
    with Micro(url, "weather", subject):
        _, shown, _ = call("trace", subject)
    assert lines(shown)[0] == (
        f"└─ client without a name (service weather), subscription {subject}, queue group q"
    )


def test_a_denied_subject_says_so(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "denied.conf"
    config.write_text(
        "authorization { users: [{user: a, password: a, permissions: "
        '{publish: {deny: ["secret"]}}}] }\n'
    )
    with NATSServer(config=config) as server:
        monkeypatch.setenv("NATS_URL", server.url.replace("//", "//a:a@"))
        code, shown, _ = call("trace", "secret")
    assert code == 1
    assert lines(shown)[0] == '└─ refused: Permissions Violation for Publish to "secret"'


ACCOUNTS = """
accounts {
  A {
    users: [{user: a, password: a}]
    exports: [{service: "svc.ask", allow_trace: true}, {stream: "events.>"}]
    mappings: { "old": "new" }
  }
  B {
    users: [{user: b, password: b}]
    imports: [
      {service: {account: A, subject: "svc.ask"}, to: "ask"}
      {stream: {account: A, subject: "events.>"}, prefix: "from-a", allow_trace: true}
    ]
  }
}
"""


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """The URL of each account of a server with two."""
    config = tmp_path / "accounts.conf"
    config.write_text(ACCOUNTS)
    with NATSServer(config=config) as server:
        yield lambda name: server.url.replace("//", f"//{name}:{name}@")


def test_it_follows_imports_exports_and_mappings_through_accounts(
    call: Call, accounts: Callable[[str], str]
) -> None:
    first, second = App("first", servers=accounts("a")), App("second", servers=accounts("b"))
    for subject in ("svc.ask", "new"):
        first.listen(subject, no_reply=True, queue="")(Inbox())
    second.listen("from-a.events.>", no_reply=True, queue="")(Inbox())
    with first, second:
        _, imported, _ = call("trace", "ask", "-s", accounts("b"))
        _, exported, _ = call("trace", "events.1", "-s", accounts("a"))
        _, mapped, _ = call("trace", "old", "-s", accounts("a"))
    assert lines(imported)[:2] == [
        "├─ service import into account A, as subject svc.ask",
        "└─ client first, subscription svc.ask, account A",
    ]
    assert lines(exported)[:2] == [
        "├─ stream export to account B, as subject from-a.events.1",
        "└─ client second, subscription events.>, account B",
    ]
    assert lines(mapped)[:2] == ["├─ mapped to subject new", "└─ client first, subscription new"]


def test_it_follows_a_message_through_a_cluster_of_three(call: Call) -> None:
    with NATSCluster(3, jetstream=False) as cluster:
        apps = [
            App(f"app{number}", servers=url, ignore_discovered_servers=True)
            for number, url in enumerate(cluster.urls, 1)
        ]
        for app in apps:
            app.listen("orders", no_reply=True, queue="")(Inbox())
        with apps[0], apps[1], apps[2]:

            def spread() -> str:
                _, shown, _ = call("trace", "orders", "-s", cluster.urls[0])
                return shown if shown.count("client app") == 3 else ""

            wait_until(spread)  # the servers tell each other of the subscriptions
            shown = spread()
    place = "of cluster tidings: account $G, subject orders"
    assert shown.splitlines()[0] == f"server server-1 {place}"
    assert sorted(lines(shown)) == sorted(
        [
            "├─ client app1, subscription orders",
            *[
                line
                for number, (fork, bar) in zip((2, 3), _forks(shown), strict=True)
                for line in (
                    f"{fork}route to server server-{number} {place}",
                    f"{bar}└─ client app{number}, subscription orders",
                )
            ],
            "would reach 3 subscribers; it was not delivered",
        ]
    )


def _forks(shown: str) -> list[tuple[str, str]]:
    """How the routes to server-2 and server-3 are drawn: the server chooses their order."""
    last, other = ("└─ ", "   "), ("├─ ", "│  ")
    return [other, last] if shown.index("server-2") < shown.index("server-3") else [last, other]


def test_it_follows_a_message_through_a_leaf_node(call: Call, tmp_path: Path) -> None:
    port = free_port()
    hub, leaf = tmp_path / "hub.conf", tmp_path / "leaf.conf"
    hub.write_text(f'server_name: hub\nleafnodes {{ host: "127.0.0.1", port: {port} }}\n')
    remote = f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}\n'
    leaf.write_text(f"server_name: leaf\n{remote}")
    with NATSServer(config=hub) as above, NATSServer(config=leaf) as below:
        app = App("hub-service", servers=above.url)
        app.listen("ask", no_reply=True, queue="")(Inbox())
        with app:

            def reached() -> str:
                code, shown, _ = call("trace", "ask", "-s", below.url)
                return "" if code else shown

            wait_until(reached)  # the leaf connects
            shown = reached()
    assert shown.splitlines() == [
        "server leaf: account $G, subject ask",
        "└─ leaf node to server hub: account $G, subject ask",
        "   └─ client hub-service, subscription ask",
        "would reach 1 subscriber; it was not delivered",
    ]


# Servers that do not answer.


async def test_an_old_server_gets_no_message(start: Any) -> None:
    async with FakePeer(info_line(version="2.10.29")) as peer:
        process = start("trace", "orders", "-s", peer.url)
        assert await asyncio.to_thread(process.wait) == 2
        assert "needs nats-server 2.11 or newer" in "\n".join(process.err)
        assert peer.published == []


async def test_a_server_that_sends_no_trace_is_an_error(start: Any) -> None:
    async with FakePeer() as peer:
        process = start("trace", "orders", "--timeout", "0.1", "-s", peer.url)
        code = await asyncio.to_thread(process.wait)
    assert code == 1
    assert "sent no trace of a message on 'orders' within 0.1 s" in "\n".join(process.err)


async def test_ctrl_c_ends_the_wait(start: Any) -> None:
    async with FakePeer() as peer:
        process = start("trace", "orders", "--timeout", "60", "-s", peer.url)
        await peer.until(
            lambda: ("orders", b"") in [(s, b.rpartition(b"\n")[2]) for s, b in peer.published]
        )
        process.signal(signal.SIGINT)
        code = await asyncio.to_thread(process.wait)
    assert code == 130
    assert process.out == []


def test_an_output_without_unicode_gets_an_ascii_tree(start: Any, subject: str) -> None:
    process = start("trace", subject, env={"PYTHONIOENCODING": "ascii"})
    assert process.wait() == 1
    assert process.out[1:] == [
        "`- nobody subscribes here, and no stream takes it",
        "nobody gets it",
    ]


@pytest.mark.parametrize(
    "wrong",
    [["orders.*"], ["a b"], ["orders", "--timeout", "0"], ["orders", "-H", "no colon"]],
    ids=lambda wrong: wrong[-1],
)
def test_wrong_use_ends_with_code_2(call: Call, wrong: list[str]) -> None:
    assert call("trace", *wrong)[0] == 2


# Forged events: anybody who knows the inbox can send them.


def part(name: str, hop: str = "", *events: dict[str, Any]) -> bytes:
    header = {"Nats-Trace-Hop": [hop]} if hop else {}
    arrival = {"type": "in", "kind": 0, "name": "x", "acc": "$G", "subj": "orders"}
    return json.dumps(
        {"server": {"name": name}, "request": {"header": header}, "events": [arrival, *events]}
    ).encode()


def egress(hop: str, **more: Any) -> dict[str, Any]:
    return {"type": "eg", "kind": 1, "name": f"s{hop}", "hop": hop, **more}


def draw(trace: MessageTrace, services: Any = None, *, is_ascii: bool = True) -> list[str]:
    root = tree(trace, is_only=True, services=services or {})
    assert root is not None
    return list(drawn(root, is_ascii=is_ascii))


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"\xff", b'{"server": {}, "request": {}, "events": 1}', b"[" * 100_000],
    ids=lambda body: f"{body[:12]!a}",
)
def test_what_is_no_event_is_ignored(body: bytes) -> None:
    trace = MessageTrace()
    trace.take(body)
    assert (trace.parts, trace.is_complete) == ({}, False)


def test_a_trace_that_leads_to_itself_ends() -> None:
    trace = MessageTrace()
    trace.take(part("a", "", egress("1"), egress("1")))
    trace.take(part("b", "1", egress("1"), egress("2")))
    trace.take(part("c", "2", egress("1"), egress("2")))
    assert draw(trace) == [
        "server a: account $G, subject orders",
        "|- route to server b: account $G, subject orders",
        "|  |- route to server s1",
        "|  `- route to server c: account $G, subject orders",
        "|     |- route to server s1",
        "|     `- route to server s2",
        "`- route to server s1",
    ]


def test_a_long_chain_of_servers_is_cut_and_drawn() -> None:
    trace = MessageTrace()
    for number in range(MOST_SERVERS + 50):
        trace.take(part("s", str(number or ""), egress(str(number + 1))))
    assert len(trace.parts) == MOST_SERVERS
    assert len(draw(trace)) == MOST_SERVERS + 2  # and the missing one, with a note


def test_control_characters_of_names_are_escaped() -> None:
    trace = MessageTrace()
    client = {"type": "eg", "kind": 0, "name": "\x1b[2Jx\n", "sub": "orders\r", "queue": "\x07"}
    trace.take(part("\x1b[31m", "", client, {"type": "js", "stream": "\u202e", "error": "\x9b"}))
    services: dict[tuple[str, str], list[str]] = {}
    endpoint = {"subject": "orders\r", "queue_group": "\x07"}
    add_service(services, json.dumps({"name": "\x1b]0;", "endpoints": [endpoint]}).encode())
    shown = draw(trace, services)
    assert all(line.isprintable() and line.isascii() for line in shown)
    assert "\\x1b]0;" in shown[1]


def test_a_server_whose_events_are_missing_is_named() -> None:
    trace = MessageTrace()
    trace.take(part("a", "", egress("1"), egress("2", error="no trace support")))
    assert not trace.is_complete
    assert trace.missing == ["s1"]
    assert draw(trace)[1:] == [
        "|- route to server s1",
        "|  `- the events of this server are missing",
        "`- route to server s2: no trace support",
    ]


def test_a_message_that_a_stream_does_not_keep_reaches_nobody() -> None:
    trace = MessageTrace()
    stream = {"type": "js", "stream": "S", "subject": "orders", "nointerest": True}
    trace.take(part("a", "", stream))
    assert trace.receivers == []
    assert draw(trace)[1] == "`- stream S does not keep it: no consumer wants it"
