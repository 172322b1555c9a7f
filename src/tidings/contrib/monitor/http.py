"""The HTTP endpoint of the monitor: a thread of its own, so that a blocked event loop is seen."""

from __future__ import annotations

import io
import logging
import selectors
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tidings.addresses import ListenAddress, is_loopback
from tidings.errors import ConfigError, MissingExtraError, ThreadStartError
from tidings.log import logger

from .health import PROBES, Probe, Source
from .places import Places

CONNECTIONS = 16  # clients that are served at the same time
PATIENCE = 5.0  # seconds that a client has for its request, and again to take the answer
TEXT = "text/plain; charset=utf-8"


class MonitorServer:
    """Serves a source over HTTP in threads of its own.

    Args:
        source: what answers.
        address: where to listen.

    Attributes:
        address: where it listens, with the port that the system chose if it was 0.

    Raises:
        ConfigError: the address cannot be used, for example because its port is taken.
        ThreadStartError: the system refuses to start a thread.
    """

    def __init__(self, source: Source, address: ListenAddress) -> None:
        try:
            self._server = _Server(source, address)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "no such host"
            raise ConfigError(
                f"the monitor cannot listen on {address}: {reason}. Choose another address: "
                f"monitor= of App, or --monitor of the command"
            ) from None
        self.address = ListenAddress(address.host, self._server.server_address[1])
        self._waker, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="tidings monitor", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._close_sockets()
            raise ThreadStartError("the monitor", str(error)) from None
        logger.info("the monitor listens on http://%s", self.address)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            selector.register(self._waker, selectors.EVENT_READ)
            while all(key.fileobj is self._server for key, _ in selector.select()):
                self._server.handle_request()

    def close(self) -> None:
        """Stop listening. Answers under way are still sent."""
        self._wake.close()
        self._thread.join(PATIENCE)
        self._close_sockets()

    def forget(self) -> None:
        """Close the copies of the sockets: this is a forked child, and the port is its parent's."""
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._server.socket.close()
        self._waker.close()
        self._wake.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    timeout = 0

    def __init__(self, source: Source, address: ListenAddress) -> None:
        self.source = source
        self.places = Places(CONNECTIONS)
        infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        self.address_family = infos[0][0]
        super().__init__(infos[0][4][:2], _Handler)  # type: ignore[arg-type] # host and port
        self.is_loopback = is_loopback(str(self.server_address[0]))

    def server_bind(self) -> None:
        # Not HTTPServer's: it looks up the name of the host, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.places.take(request):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system refuses another thread
            self.places.leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.log(logging.DEBUG, "a client of the monitor left early", exc_info=True)


class _Timed(io.RawIOBase):
    """Reads from a socket until a deadline, however slowly the client sends."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + PATIENCE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Timed(self.connection))

    def do_GET(self) -> None:
        if not self.server.places.begin(self.connection):
            return
        self.connection.settimeout(PATIENCE)
        if not self._is_trusted():
            self._answer(HTTPStatus.FORBIDDEN, b"forbidden: wrong Host or Origin\n", TEXT)
            return
        path = urlsplit(self.path).path
        if path == "/metrics":
            self._answer_metrics()
        elif path in PROBES:
            self._answer_probe(PROBES[path])
        else:
            known = " ".join(["/metrics", *PROBES])
            self._answer(HTTPStatus.NOT_FOUND, f"not found; there is {known}\n".encode(), TEXT)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _is_trusted(self) -> bool:
        """Whether this is no web page that asks through a name of its own for this machine."""
        if "Origin" in self.headers:
            return False
        if not self.server.is_loopback:
            return True
        try:
            host = urlsplit(f"//{self.headers.get('Host', 'localhost')}").hostname
        except ValueError:
            return False
        return host is not None and is_loopback(host)

    def _answer_probe(self, probe: Probe) -> None:
        health = self.server.source.health(probe)
        status = HTTPStatus.OK if health.is_ok else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, msgspec.json.encode(health) + b"\n", "application/json")

    def _answer_metrics(self) -> None:
        try:
            from .prometheus import encode
        except ImportError:
            error = MissingExtraError("metrics", "/metrics")
            self._answer(HTTPStatus.NOT_IMPLEMENTED, f"{error}\n".encode(), TEXT)
            return
        try:
            body, media_type = encode(self.server.source.families(), self.headers.get("Accept", ""))
        except Exception:
            logger.exception("the monitor could not collect the metrics")
            failed = b"the metrics could not be collected; the log says why\n"
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, failed, TEXT)
            return
        self._answer(HTTPStatus.OK, body, media_type)

    def _answer(self, status: HTTPStatus, body: bytes, media_type: str) -> None:
        self.server.places.end(self.connection)
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "tidings"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        logger.log(logging.DEBUG, "monitor: %r", format % args)
