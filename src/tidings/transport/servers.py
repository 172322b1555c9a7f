"""Servers: the configured and the announced servers, and the order in which to try them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

import msgspec

from tidings.protocol.info import member_address
from tidings.transport.options import redact


class Server(msgspec.Struct, eq=False):
    """A server, and what the connection knows about it.

    Attributes:
        scheme: "nats", "tls", "ws" or "wss".
        host: the server's name or address.
        port: the server's port.
        resource: the path and query of a websocket URL.
        login: the login fields of the URL: user and pass, or auth_token.
        tls_name: the expected name in the server's certificate.
        is_discovered: whether another server announced this one.
        has_connected: whether this server has ever accepted the connection.
        failures: number of failed attempts since it last accepted the connection.
        begins_with_tls: whether the TLS handshake had to come before the greeting.
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
        """Return the server of a URL. The options have already checked the URL."""
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
        """The server's URL, without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return redact(f"{self.scheme}://{host}:{self.port}")

    @property
    def is_websocket(self) -> bool:
        """Whether the connection uses a websocket."""
        return self.scheme in ("ws", "wss")

    @property
    def is_secure(self) -> bool:
        """Whether the URL requires TLS."""
        return self.scheme in ("tls", "wss")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Two servers with the same address are the same server."""
        return self.host.lower(), self.port

    def announce(self, host: str, port: int) -> Server:
        """Return a server that this one announces.

        It gets the same credentials and the same certificate name, because the configured ones are
        those of the cluster.
        """
        name = host if _is_ip(self.tls_name) else self.tls_name
        return Server(self.scheme, host, port, self.resource, self.login, name, is_discovered=True)


class ServerPool:
    """The servers that a connection may use.

    Args:
        urls: the URLs of the configured servers.
        randomize: whether to try the servers in random order.
        ignore_discovered: whether to ignore the servers that the cluster announces.
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
        """Return all servers, in the order in which to try them.

        Servers that worked come first. A server that was only announced may not be reachable from
        here, and a server that failed is likely to fail again.
        """
        servers = list(self._servers)
        if self._randomize:
            random.shuffle(servers)
            servers.sort(key=lambda server: (server.failures, not server.has_connected))
        return servers

    def announce(self, names: Iterable[str], by: Server) -> None:
        """Add the servers that a server announces, and forget those that it no longer announces.

        If the list is empty, nothing changes: the server does not know a cluster.

        Args:
            names: hosts with ports, as in the server's INFO.
            by: the server that announces them. It is always kept.
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
