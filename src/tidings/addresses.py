"""ListenAddress: where an HTTP endpoint of this process listens."""

from __future__ import annotations

import contextlib
import socket

import msgspec

from tidings.errors import ConfigError

LOOPBACK = "127.0.0.1"


class ListenAddress(msgspec.Struct, frozen=True):
    """A host and a port to listen on, or to ask.

    Attributes:
        host: an IP address or the name of a host.
        port: the port; 0 for a free one.

    Example:
        ```python
        from tidings.addresses import listen_address

        assert str(listen_address("monitor", ":9464")) == "127.0.0.1:9464"
        ```
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine and reached from nowhere else."""
    with contextlib.suppress(OSError, ValueError):
        return socket.inet_pton(socket.AF_INET, host)[0] == 127
    with contextlib.suppress(OSError, ValueError):
        return socket.inet_pton(socket.AF_INET6, host) == socket.inet_pton(socket.AF_INET6, "::1")
    return host.lower().rstrip(".") == "localhost"


def listen_address(name: str, value: object) -> ListenAddress:
    """Read an address: "127.0.0.1:9464", "[::1]:9464", ":9464", "9464" or 9464.

    Without a host it is one on the loopback interface. To listen on all interfaces, write
    "0.0.0.0:9464".

    Args:
        name: the option, as users write it.
        value: what they wrote.

    Raises:
        ConfigError: this is no address.
    """
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str):
        host, _, port = text.rpartition(":")
        is_quoted = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if is_quoted else host
        fits = (":" in host) == is_quoted and host.isprintable() and not set(host) & set(" /@")
        if fits and port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65_536:
            return ListenAddress(host or LOOPBACK, int(port))
    raise ConfigError(
        f"{name} must be an address such as '127.0.0.1:9464' or ':9464', got {str(value)[:100]!r}"
    )
