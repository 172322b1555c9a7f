"""Connection options: one frozen record, checked when the app is written down."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from tidings.errors import ConfigError
from tidings.subject import check_subject

DEFAULT_URL = "nats://127.0.0.1:4222"
_SECRETS = ("password", "token", "nkey_seed")
_NKEY_SEED = re.compile(r"SU[A-Z2-7]{56}")
_CREDENTIAL_PARTS = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """How to reach the server. `App` takes each of these as a keyword argument.

    Attributes:
        servers: URLs, tried in random order.
        name: the client's name in the server's monitoring.
        user: user name, with `password`.
        password: its password.
        token: a token in place of user and password.
        credentials: path of a credentials file (JWT and seed).
        nkey_seed: an nkey seed ("SU...").
        tls: context for TLS; a default one is used for tls:// URLs.
        tls_hostname: the name expected in the server's certificate.
        inbox_prefix: first tokens of the reply subjects.
        connect_timeout: seconds to reach one server and be accepted by it.
        reconnect_time_wait: seconds between two rounds over the servers.
        max_reconnect_attempts: rounds before giving up; -1 never gives up.
        ping_interval: seconds between two PINGs.
        max_outstanding_pings: PINGs unanswered before the connection counts as dead.
        pending_size: bytes that may wait to be sent.
        wait_for_server: wait at start until a server is there.
    """

    servers: tuple[str, ...]
    name: str = ""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials: str | Path | None = None
    nkey_seed: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    tls_hostname: str | None = None
    inbox_prefix: str = "_INBOX"
    connect_timeout: float = 2.0
    reconnect_time_wait: float = 2.0
    max_reconnect_attempts: int = -1
    ping_interval: float = 10.0
    max_outstanding_pings: int = 2
    pending_size: int = 32 * 1024 * 1024
    wait_for_server: bool = False

    def __post_init__(self) -> None:
        for name in ("user", "password", "token", "nkey_seed", "tls_hostname"):
            if getattr(self, name) is not None:
                check_type(name, getattr(self, name), str)
        check_type("wait_for_server", self.wait_for_server, bool)
        for name in ("connect_timeout", "reconnect_time_wait", "ping_interval"):
            _positive(name, getattr(self, name))
        for name in ("max_outstanding_pings", "pending_size"):
            _positive_int(name, getattr(self, name))
        if not isinstance(self.max_reconnect_attempts, int) or self.max_reconnect_attempts < -1:
            raise ConfigError("max_reconnect_attempts is a number of rounds, or -1 for no end")
        if self.tls is not None and not isinstance(self.tls, ssl.SSLContext):
            raise ConfigError("tls is an ssl.SSLContext: ssl.create_default_context(cafile=...)")
        if (self.user is None) != (self.password is None):
            raise ConfigError("user and password go together")
        ways = [self.user, self.token, self.credentials, self.nkey_seed]
        if sum(way is not None for way in ways) > 1:
            raise ConfigError(
                "one of user and password, token, credentials, nkey_seed; not several"
            )
        if self.nkey_seed is not None and not _NKEY_SEED.fullmatch(self.nkey_seed.strip()):
            raise ConfigError("nkey_seed is a user's seed: SU, then 56 letters and digits")
        if self.credentials is not None:
            _check_credentials(self.credentials)
        check_subject(self.inbox_prefix)

    def with_servers(self, servers: tuple[str, ...]) -> ConnectionOptions:
        """The same options for other servers."""
        return replace(self, servers=servers)

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _SECRETS}
        shown["servers"] = tuple(redact(url) for url in self.servers)
        return f"ConnectionOptions({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def server_urls(
    servers: str | Sequence[str] | None, host: str | None = None, port: int | None = None
) -> tuple[str, ...]:
    """The URLs to connect to: `servers`, or `host` and `port`, or $NATS_URL, or the local default.

    Raises:
        ConfigError: both `servers` and `host` or `port`, or a URL that is none.
    """
    if servers is not None and (host is not None or port is not None):
        raise ConfigError("give servers=, or host= and port=, not both")
    if host is not None:
        check_type("host", host, str)
        if "/" in host or "@" in host or host.count(":") == 1:  # it may hold a password: not shown
            raise ConfigError(
                "host= is a name or an address; a port goes to port=, a URL to servers="
            )
    if port is not None and (type(port) is not int or not 0 < port < 65536):
        raise ConfigError(f"port={port!r}: a whole number from 1 to 65535")
    if host is not None or port is not None:
        name = host if host is not None else "127.0.0.1"
        servers = f"nats://{f'[{name}]' if ':' in name else name}:{4222 if port is None else port}"
    if servers is None:
        servers = os.environ.get("NATS_URL") or DEFAULT_URL
    if isinstance(servers, str):
        servers = servers.split(",")
    if not isinstance(servers, Sequence) or not all(isinstance(url, str) for url in servers):
        raise ConfigError("servers is a URL or a list of URLs, as nats://127.0.0.1:4222")
    urls = tuple(_complete(url.strip()) for url in servers if url.strip())
    if not urls:
        raise ConfigError("servers is empty: give a URL, as nats://127.0.0.1:4222")
    return urls


def redact(url: str) -> str:
    """The URL without user, password or token, for logs and errors."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "nats", url
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _split(url: str) -> tuple[SplitResult | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:
        return None, None


def _complete(url: str) -> str:
    if "://" not in url:
        url = f"nats://{url}"
    parts, port = _split(url)
    if parts is None:
        # Not in the parser's words: with a "/" in a password they would show the password.
        scheme, _, place = redact(url).partition("://")
        raise ConfigError(
            f"server {scheme}://{place.partition(':')[0]}: no valid host and port, as in "
            f"nats://127.0.0.1:4222; a password with / ? # [ or ] in it goes to password="
        )
    if parts.scheme not in ("nats", "tls"):
        raise ConfigError(f"server {redact(url)!r}: the scheme is nats:// or tls://")
    if not parts.hostname:
        raise ConfigError(f"server {redact(url)!r}: no host in it")
    return url if port is not None else f"{url.rstrip('/').rstrip(':')}:4222"


def check_type(name: str, value: object, kind: type) -> None:
    """Check the type of an option.

    Raises:
        ConfigError: another type. The value is not shown: it may be a secret.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{name}= is a {kind.__name__}, not a {type(value).__name__}")


def _check_credentials(path: object) -> None:
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"credentials={path!r}: the path of a file")
    try:
        text = Path(path).read_text(errors="replace")
    except OSError as error:
        raise ConfigError(f"credentials={str(path)!r}: {error.strerror}") from None
    for part in _CREDENTIAL_PARTS:  # nats-py would look for a missing one for ever
        if part not in text:
            raise ConfigError(f"credentials={str(path)!r}: there is no {part!r} in the file")


def _positive(name: str, value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:  # type: ignore[operator]  # a number by now
        raise ConfigError(f"{name}={value!r}: a number of seconds above 0")


def _positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigError(f"{name}={value!r}: a whole number above 0")
