"""`tidings health`: exit codes for probes and scripts."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.ports import free_port
from tidings import App
from tidings.server import NATSServer

if TYPE_CHECKING:
    from support.command import Call


async def test_the_exit_code_follows_the_monitor(nats_server: NATSServer, call: Call) -> None:
    port = free_port()
    app = App("asked", servers=nats_server.url, monitor=port)
    state = {"ok": True}

    @app.health
    async def database() -> bool:
        return state["ok"]

    async with app:
        address = f"127.0.0.1:{port}"
        code, out, _ = await asyncio.to_thread(call, "health", "--monitor", address)
        assert code == 0
        assert "database: ok" in out
        state["ok"] = False
        code, out, _ = await asyncio.to_thread(call, "health", "--monitor", f"0.0.0.0:{port}")
        assert code == 1
        assert "database: returned False" in out
        options = ("--monitor", address, "--probe", "live")
        assert (await asyncio.to_thread(call, "health", *options))[0] == 0
    code, out, _ = await asyncio.to_thread(call, "health", "--monitor", address)
    assert code == 1
    assert f"no answer from {address}" in out


def test_the_exit_code_follows_the_file(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "health"
    assert call("health", "--file", str(path))[0] == 1
    path.write_text('{"status":"ok","checks":{"running":"ok"}}')
    assert call("health", "--file", str(path)) == (0, "running: ok\n", "")
    path.write_text('{"status":"failed","checks":{"running":"ok","connected":"reconnecting"}}')
    code, out, _ = call("health", "--file", str(path))
    assert (code, out) == (1, "running: ok\nconnected: reconnecting\n")
    assert call("health", "--file", str(path), "--probe", "live")[0] == 0
    assert call("health", "--file", str(path), "--probe", "started")[0] == 0
    os.utime(path, (0, 0))
    for probe in ("live", "ready", "started"):
        code, out, _ = call("health", "--file", str(path), "--probe", probe)
        assert code == 1
        assert "older than 10 s" in out


def test_what_is_no_monitor_is_not_healthy(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n\x1b[2Jhello")

        thread = threading.Thread(target=answer)
        thread.start()
        code, out, _ = call("health", "--monitor", str(server.getsockname()[1]))
        thread.join()
    assert code == 1
    assert "is no monitor of tidings" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("options", [(), ("--monitor", ":1", "--file", "x"), ("--monitor", "x")])
def test_wrong_options_end_with_2(call: Call, options: tuple[str, ...]) -> None:
    assert call("health", *options)[0] == 2
