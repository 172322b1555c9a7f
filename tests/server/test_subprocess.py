"""The server's process: its log is read, its end is told, and it dies with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from support.lines import next_line
from support.process import is_alive
from support.waits import wait_until
from tidings.server import NATSServer

if TYPE_CHECKING:
    from collections.abc import Iterator


# -- its end


def test_a_server_that_ends_by_itself_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with NATSServer() as server:
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: bool(caplog.records))
        assert not server.is_running
    assert caplog.messages == ["the embedded nats-server ended unexpectedly (killed by signal 9)"]


def test_no_call_of_ours_is_reported_as_an_end_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    with NATSServer() as server:
        server.kill()
        server.restart()
        server.restart()
    assert caplog.messages == []


# -- the log


def test_a_flood_of_log_lines_neither_blocks_the_server_nor_fills_memory() -> None:
    with (
        NATSServer(args=["-DV"]) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
        connection.makefile("rwb") as lines,
    ):
        assert lines.readline().startswith(b"INFO ")
        lines.write(b'CONNECT {"verbose":false}\r\n')
        lines.write(b"PUB flood 5\r\nhello\r\n" * 20_000)
        lines.write(b"PING\r\n")
        lines.flush()
        assert next_line(lines) == b"PONG\r\n"
        assert len(server.log.splitlines()) == 500


# -- life and death of the parent

PARENT = """
    import os, sys, threading, time
    from tidings.server import NATSServer

    server = NATSServer(jetstream=True)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    {more}
    store = server._folder
    assert os.path.isdir(store)
    print(server.pid, server.port, store, flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def parent(more: str = "pass") -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Another Python that started a server in a thread which has ended since."""
    script = textwrap.dedent(PARENT).format(more=textwrap.dedent(more))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid, _, store = process.stdout.readline().split()
        try:
            yield process, int(pid), Path(store)
        finally:
            process.kill()


def test_the_server_dies_with_a_parent_that_is_killed() -> None:
    with parent() as (process, pid, store):
        assert is_alive(pid)
        process.kill()
        wait_until(lambda: not is_alive(pid))
        wait_until(lambda: not store.exists())


def test_the_server_outlives_the_thread_that_started_it() -> None:
    with parent() as (_, pid, _store):
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(pid).wait(0.2)
        assert is_alive(pid)


def test_the_server_dies_with_its_parent_though_a_forked_child_lives_on() -> None:
    with parent("if not os.fork(): time.sleep(60)") as (process, pid, _):
        children = psutil.Process(process.pid).children()
        process.kill()
        try:
            wait_until(lambda: not is_alive(pid))
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


def test_a_restarted_server_dies_with_its_parent_too() -> None:
    # The end of the first run is reported once more, late, as its log's reader may do.
    restart = "first = server._process; server.kill(); server.restart(); first._ended()"
    with parent(restart) as (process, pid, _):
        process.kill()
        wait_until(lambda: not is_alive(pid))


def test_a_parent_that_ends_without_stopping_takes_the_server_along() -> None:
    script = "from tidings.server import NATSServer; print(NATSServer().start().pid, flush=True)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    wait_until(lambda: not is_alive(int(done.stdout)))
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_end_of_a_forked_child_leaves_the_parents_server_alone() -> None:
    fork = """
    child = os.fork()
    if not child:
        server.stop()
        assert server.url.endswith(str(server.port))
        try:
            server.kill()
        except Exception as error:
            assert "belongs to the parent" in str(error)
        del server
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """
    with parent(fork) as (_, pid, store):
        assert is_alive(pid)
        assert store.exists()
