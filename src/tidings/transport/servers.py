"""Servers: those that were given and those that the cluster announces, in the order to try them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

import msgspec

from tidings.protocol.info import member_address
from tidings.transport.options import redact


class Server(msgspec.Struct, eq=False):
    """A server, and what is known of it.

    Attributes:
        scheme: "nats", "tls", "ws" or "wss".
        host: its name or address.
        port: its port.
        resource: path and query of a websocket URL.
        login: the fields of CONNECT that the URL gives: user and pass, or auth_token.
        tls_name: the name expected in its certificate.
        is_discovered: whether another server announced it.
        has_connected: whether it has accepted a connection.
        failures: failed attempts since it last accepted one.
        begins_with_tls: whether it was reached by a TLS handshake before its greeting.
    """

    scheme: str
    host: str
    port: int
    resource: str = "/"
    login: dict[str, str] = {}
    tls_name: str = ""
    is_discovered: bool = False
    has_connected: bool = False
    failures: int = 0
    begins_with_tls: bool = False

    @classmethod
    def from_url(cls, url: str) -> Server:
        """The server of a URL that the options have checked."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        query = f"?{parts.query}" if parts.query else ""
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=parts.port,
            resource=f"{parts.path or '/'}{query}",
            login=_login(parts.username, parts.password),
            tls_name=parts.hostname,
        )

    def __repr__(self) -> str:  # without the login
        return f"<Server {self.url}>"

    @property
    def url(self) -> str:
        """Its URL, without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return redact(f"{self.scheme}://{host}:{self.port}")

    @property
    def is_websocket(self) -> bool:
        """Whether it is reached over a websocket."""
        return self.scheme in ("ws", "wss")

    @property
    def is_secure(self) -> bool:
        """Whether its URL asks for TLS."""
        return self.scheme in ("tls", "wss")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, by which two servers are the same."""
        return self.host.lower(), self.port

    def announce(self, host: str, port: int) -> Server:
        """A server of which this one tells. It takes the same credentials, and its certificate has
        the same name, since what was given are the name and credentials of the cluster."""
        name = host if _is_ip(self.tls_name) else self.tls_name
        return Server(self.scheme, host, port, self.resource, self.login, name, is_discovered=True)


class ServerPool:
    """The servers that a connection may use.

    Args:
        urls: URLs of the servers that were given.
        randomize: whether to try them in random order.
        ignore_discovered: whether to leave out those that the cluster announces.
    """

    def __init__(
        self, urls: Iterable[str], *, randomize: bool = True, ignore_discovered: bool = False
    ) -> None:
        self._randomize = randomize
        self._ignore_discovered = ignore_discovered
        self._servers = [Server.from_url(url) for url in urls]

    def __len__(self) -> int:
        return len(self._servers)

    def in_order(self) -> list[Server]:
        """All servers, in the order to try them.

        What worked last comes first. A server that only was announced may be out of reach from
        here, and one that failed is likely to fail again.
        """
        servers = list(self._servers)
        if self._randomize:
            random.shuffle(servers)
            servers.sort(key=lambda server: (server.failures, not server.has_connected))
        return servers

    def announce(self, names: Iterable[str], by: Server) -> None:
        """Take up the members that a server names, and forget those that it no longer names.

        A server that names none knows of no cluster; that is no news of it.

        Args:
            names: hosts with ports, as an INFO names them.
            by: the server, which is kept in any case.
        """
        if self._ignore_discovered:
            return
        announced = {
            (host.lower(), port): host for host, port in filter(None, map(member_address, names))
        }
        if not announced:
            return
        self._servers = [
            server
            for server in self._servers
            if not server.is_discovered or server is by or server.address in announced
        ]
        known = {server.address for server in self._servers}
        for (key, port), host in announced.items():
            if (key, port) not in known:
                self._servers.append(by.announce(host, port))


def _login(user: str | None, password: str | None) -> dict[str, str]:
    if not user:
        return {}
    if password is None:
        return {"auth_token": unquote(user)}
    return {"user": unquote(user), "pass": unquote(password)}


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
