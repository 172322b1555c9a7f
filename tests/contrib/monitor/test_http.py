"""The HTTP endpoint of the monitor: its address, its end, its limits and whom it answers."""

from __future__ import annotations

import asyncio
import builtins
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.monitor import ask, ask_in_thread
from support.ports import free_port
from support.process import Program
from support.threads import threads_refused
from support.waits import PATIENCE, until
from tidings import App, ConfigError, ThreadStartError
from tidings.addresses import listen_address
from tidings.contrib.monitor import http, places
from tidings.server import NATSServer


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (9464, "127.0.0.1:9464"),
        ("9464", "127.0.0.1:9464"),
        (":9464", "127.0.0.1:9464"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("[::1]:9464", "[::1]:9464"),
        ("pod.example:80", "pod.example:80"),
    ],
)
def test_an_address_without_a_host_is_loopback(value: str | int, shown: str) -> None:
    assert str(listen_address("monitor", value)) == shown


@pytest.mark.parametrize(
    "value",
    ["", "a", ":", "127.0.0.1", ":65536", ":-1", "::1:80", "http://a:1", True, 1.5, "a b:1"],
)
def test_a_wrong_address_is_refused_where_it_is_written(value: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"monitor must be an address such as '127\.0\.0\.1:9464'"
    ):
        App("wrong", monitor=value)


async def test_the_port_is_free_again_when_the_app_has_ended(
    nats_server: NATSServer, port: int
) -> None:
    app = App("again", servers=nats_server.url, monitor=port)
    for _ in range(2):
        async with app:
            assert (await ask_in_thread(port, "/livez")).status == 200
        with pytest.raises(ConnectionRefusedError):
            ask(port, "/livez")


async def test_a_taken_port_is_one_clear_error_and_the_app_can_start_later(
    nats_server: NATSServer, port: int
) -> None:
    app = App("taken", servers=nats_server.url, monitor=port)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: Address already"),
    ):
        await app.connect()
    async with app:
        assert (await ask_in_thread(port, "/livez")).status == 200


async def test_a_start_that_fails_closes_the_port(port: int) -> None:
    app = App("failing", servers="nats://127.0.0.1:1", monitor=port)
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1"):
        await app.connect()
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/livez")


async def test_no_thread_for_the_monitor_is_a_clear_error(
    nats_server: NATSServer, port: int
) -> None:
    app = App("threads", servers=nats_server.url, monitor=port)
    with threads_refused("monitor"), pytest.raises(ThreadStartError):
        await app.connect()
    async with app:
        pass


def test_it_listens_on_loopback_only(nats_server: NATSServer, port: int) -> None:
    with App("local", servers=nats_server.url, monitor=f":{port}"):
        table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        local = [words[1] for words in table if words[3] == "0A"]
    assert f"0100007F:{port:04X}" in local
    assert f"00000000:{port:04X}" not in local


async def test_web_pages_get_no_answer(nats_server: NATSServer, port: int) -> None:
    async with App("pages", servers=nats_server.url, monitor=port):
        for headers in ({"Host": "rebound.example"}, {"Origin": "http://127.0.0.1"}):
            answer = await ask_in_thread(port, "/metrics", **headers)
            assert answer.status == 403
            assert "tidings_" not in answer.text
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", "[::1]"):
            assert (await ask_in_thread(port, "/livez", Host=host)).status == 200
        assert (await ask_in_thread(port, "/livez", Host="[")).status == 403


async def test_only_what_it_knows_is_answered(nats_server: NATSServer, port: int) -> None:
    async with App("paths", servers=nats_server.url, monitor=port):
        answer = await ask_in_thread(port, "/secret<script>")
        assert answer.status == 404
        assert "script" not in answer.text
        assert "/metrics /livez /readyz /startupz" in answer.text
        assert (await ask_in_thread(port, "/livez?verbose=1")).status == 200
        assert (await ask_in_thread(port, "/livez", method="POST")).status == 501
        head = await ask_in_thread(port, "/livez", method="HEAD")
        assert head.status == 200
        assert head.text == ""
        assert head.headers["Server"] == "tidings"
        assert head.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_client_that_sends_slowly_is_sent_away(
    nats_server: NATSServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "PATIENCE", 0.2)

    def dribble() -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(PATIENCE)
            client.sendall(b"GET /livez HT")
            return client.recv(100)  # b"" when the server closes

    async with App("slow", servers=nats_server.url, monitor=port):
        assert await asyncio.to_thread(dribble) == b""


async def test_the_oldest_of_too_many_clients_that_send_nothing_is_sent_away(
    nats_server: NATSServer, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with App("crowded", servers=nats_server.url, monitor=port):
        clients = [await asyncio.open_connection("127.0.0.1", port)]
        oldest = asyncio.ensure_future(clients[0][0].read())
        clients += [
            await asyncio.open_connection("127.0.0.1", port) for _ in range(http.CONNECTIONS)
        ]
        reading = [asyncio.ensure_future(reader.read()) for reader, _ in clients[1:]]
        done, _ = await asyncio.wait([oldest, *reading], return_when=asyncio.FIRST_COMPLETED)
        assert done == {oldest}
        assert oldest.result() == b""
        assert f"serves {http.CONNECTIONS} clients already" in caplog.text
        for _, writer in clients:
            writer.close()
        await asyncio.gather(*reading)
        await until(lambda: ask_is_answered(port))


async def test_clients_that_send_or_read_nothing_keep_no_probe_out(
    nats_server: NATSServer,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(http, "PATIENCE", 600.0)
    monkeypatch.setattr(places, "LOG_INTERVAL", 600.0)
    large = b"#" * 32 * 1024 * 1024  # no socket buffer takes it
    monkeypatch.setattr(
        "tidings.contrib.monitor.prometheus.encode", lambda *_: (large, "text/plain")
    )
    async with App("kept", servers=nats_server.url, monitor=port):
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for number, (_, writer) in enumerate(clients):
            writer.write(b"GET /livez" if number % 2 else b"")
        for _ in range(http.CONNECTIONS - 8):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
            await reader.readexactly(100)  # the answer has begun
            clients.append((reader, writer))
        for _ in range(http.CONNECTIONS * 2):
            assert (await ask_in_thread(port, "/livez")).status == 200
        for _, writer in clients:
            writer.transport.abort()
    assert caplog.text.count("clients already") == 1


async def test_a_client_whose_answer_is_being_made_is_not_sent_away(
    nats_server: NATSServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECTIONS", 2)
    asked, free = asyncio.Event(), asyncio.Event()
    app = App("busy", servers=nats_server.url, monitor=port)

    @app.health(timeout=60)
    async def slow() -> None:
        asked.set()
        await free.wait()

    async with app:
        ready = asyncio.create_task(ask_in_thread(port, "/readyz"))
        await asked.wait()
        idle = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(5):
            assert (await ask_in_thread(port, "/livez")).status == 200
        assert await idle[0].read() == b""
        free.set()
        assert (await ready).status == 200
        idle[1].close()


def ask_is_answered(port: int) -> bool:
    try:
        return ask(port, "/startupz").status == 200
    except OSError:
        return False


async def test_health_needs_no_prometheus_client_and_metrics_name_the_extra(
    nats_server: NATSServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if "prometheus" in name]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    async with App("without", servers=nats_server.url, monitor=port):
        assert (await ask_in_thread(port, "/readyz")).status == 200
        answer = await ask_in_thread(port, "/metrics")
    assert answer.status == 501
    assert "pip install 'tidings[metrics]'" in answer.text


# A forked child must not hold the port: it would be taken when its parent starts again.
FORKING = """
import asyncio, os, sys
from tidings import App
from tidings.contrib import monitor

app = App("forking", monitor=int(os.environ["PORT"]))

async def main():
    async with app:
        server = app._run._observers[0]._server
        if not os.fork():
            print("closed" if server._server.socket.fileno() == -1 else "open", flush=True)
            os._exit(0)
        await asyncio.to_thread(os.wait)
        print("parent", "open" if server._server.socket.fileno() != -1 else "closed", flush=True)

asyncio.run(main())
"""


def test_a_forked_child_leaves_the_port_to_its_parent(
    run_program: Callable[..., Program], nats_server: NATSServer, port: int
) -> None:
    program = run_program(FORKING, NATS_URL=nats_server.url, PORT=str(port))
    program.wait_for("^closed$")
    program.wait_for("^parent open$")
    assert program.wait() == 0


def test_the_monitor_can_listen_on_ipv6(nats_server: NATSServer) -> None:
    port = free_port()
    app = App("six", servers=nats_server.url, monitor=f"[::1]:{port}")
    with app, socket.create_connection(("::1", port)) as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 200")
