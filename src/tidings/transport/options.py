"""Connection options: the keywords that users write, and one frozen record, checked at once."""

from __future__ import annotations

import importlib.util
import re
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict
from urllib.parse import SplitResult, urlsplit

import msgspec

from tidings.checks import (
    Seconds,
    check_flag,
    check_name,
    check_seconds,
    check_text,
    check_whole,
)
from tidings.errors import ConfigError, MissingExtraError
from tidings.protocol.auth import (
    find_seed,
    is_credentials_text,
    is_seed_text,
    require_nkeys,
    split_credentials,
)
from tidings.subject import check_subject
from tidings.transport.credentials import Secret, SecretFile, read_secret_file
from tidings.transport.tls import load_context

DEFAULT_URL = "nats://127.0.0.1:4222"
SCHEMES = ("nats", "tls", "ws", "wss")
# The prefix of the JetStream API's subjects, without a domain.
JS_API = "$JS.API"
DEFAULT_PORTS = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}

_DOMAIN = re.compile(r"[^\s\x00-\x1f\x7f.*>]{1,255}")

# Options that are never shown. Even the path of a file may be the secret itself by mistake.
_SECRETS = ("password", "token", "credentials", "nkey_seed", "tls_key")


class ConnectionKeywords(TypedDict, total=False):
    """The options of a connection that `App` takes as keyword arguments, described there."""

    user: str | None
    password: Secret | None
    token: Secret | None
    credentials: SecretFile | None
    nkey_seed: SecretFile | None
    tls: ssl.SSLContext | None
    tls_hostname: str | None
    tls_cert: str | Path | None
    tls_key: str | Path | None
    tls_ca: str | Path | None
    tls_handshake_first: bool
    ignore_discovered_servers: bool
    randomize_servers: bool
    inbox_prefix: str
    js_domain: str | None
    js_prefix: str | None
    connect_timeout: Seconds
    reconnect_time_wait: Seconds
    max_reconnect_attempts: int
    ping_interval: Seconds
    max_outstanding_pings: int
    pending_size: int
    wait_for_server: bool


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the server: `ConnectionKeywords` with their defaults, checked.

    Attributes: as the arguments of `App`, and:
        servers: URLs of the servers.
        name: the client's name in the server's monitoring.

    Raises:
        ConfigError: an option that cannot work.
        MissingExtraError: an option needs a package that is not installed.
    """

    servers: tuple[str, ...]
    name: str = ""
    user: str | None = None
    password: Secret | None = None
    token: Secret | None = None
    credentials: SecretFile | None = None
    nkey_seed: SecretFile | None = None
    tls: ssl.SSLContext | None = None
    tls_hostname: str | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    tls_ca: str | Path | None = None
    tls_handshake_first: bool = False
    ignore_discovered_servers: bool = False
    randomize_servers: bool = True
    inbox_prefix: str = "_INBOX"
    js_domain: str | None = None
    js_prefix: str | None = None
    connect_timeout: float = 5.0
    reconnect_time_wait: float = 2.0
    max_reconnect_attempts: int = -1
    ping_interval: float = 10.0
    max_outstanding_pings: int = 2
    pending_size: int = 32 * 1024 * 1024
    wait_for_server: bool = False

    def __post_init__(self) -> None:
        self._check_login()
        self._check_tls()
        for name in ("ignore_discovered_servers", "randomize_servers", "wait_for_server"):
            check_flag(name, getattr(self, name))
        for name in ("connect_timeout", "reconnect_time_wait", "ping_interval"):
            seconds = check_seconds(name, getattr(self, name))
            msgspec.structs.force_setattr(self, name, seconds)  # a timedelta becomes a number
        for name in ("max_outstanding_pings", "pending_size"):
            check_whole(name, getattr(self, name))
        check_whole(
            "max_reconnect_attempts",
            self.max_reconnect_attempts,
            least=-1,
            hint="where -1 never gives up",
        )
        check_subject(self.inbox_prefix)
        self._check_jetstream()
        if any(url.startswith(("ws://", "wss://")) for url in self.servers):
            _require_websockets()

    @property
    def is_tls_required(self) -> bool:
        """Whether an option requires TLS, regardless of the URL's scheme."""
        asked = (self.tls, self.tls_cert, self.tls_ca)
        return self.tls_handshake_first or any(each is not None for each in asked)

    @property
    def js_api(self) -> str:
        """The prefix of the subjects of the JetStream API."""
        if self.js_domain is not None:
            return f"$JS.{self.js_domain}.API"
        return JS_API if self.js_prefix is None else self.js_prefix

    def _check_jetstream(self) -> None:
        if self.js_domain is not None:
            check_name("js_domain", self.js_domain, _DOMAIN, "signs other than . * >, in one word")
        if self.js_prefix is not None:
            check_subject(self.js_prefix)
        if self.js_domain is not None and self.js_prefix is not None:
            raise ConfigError(
                "js_domain and js_prefix exclude each other: a domain has the prefix "
                f"{self.js_api!r}"
            )

    def _check_login(self) -> None:
        if self.user is not None:
            check_text("user", self.user, may_be_empty=True)
        for name in ("password", "token"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                check_text(name, value, may_be_empty=True)
        if (self.user is None) != (self.password is None):
            given, missing = ("user", "password") if self.password is None else ("password", "user")
            raise ConfigError(f"{given}= requires {missing}=")
        ways = [self.user, self.token, self.credentials, self.nkey_seed]
        if sum(way is not None for way in ways) > 1:
            raise ConfigError(
                "one of user and password, token, credentials, nkey_seed; not several"
            )
        if self.credentials is not None:
            _check_secret_file("credentials", self.credentials, is_credentials_text)
        if self.nkey_seed is not None:
            _check_secret_file("nkey_seed", self.nkey_seed, is_seed_text)

    def _check_tls(self) -> None:
        if self.tls is not None and not isinstance(self.tls, ssl.SSLContext):
            raise ConfigError(
                "tls must be an ssl.SSLContext, such as ssl.create_default_context(), got "
                f"{type(self.tls).__name__}; for the authorities of the system, a URL with tls:// "
                "is enough"
            )
        check_flag("tls_handshake_first", self.tls_handshake_first)
        if self.tls_hostname is not None:
            check_text("tls_hostname", self.tls_hostname)
        paths = (self.tls_cert, self.tls_key, self.tls_ca)
        if self.tls is not None and any(path is not None for path in paths):
            raise ConfigError("give a context as tls=, or files as tls_cert, tls_key, tls_ca")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key go together")
        if any(path is not None for path in paths):
            load_context(*paths)
        if self.is_tls_required and any(url.startswith("ws://") for url in self.servers):
            raise ConfigError("TLS was asked for, and ws:// is clear text: write wss://")

    def __repr__(self) -> str:
        names = [name for name in self.__struct_fields__ if name not in _SECRETS]
        shown = {name: getattr(self, name) for name in names}
        shown["servers"] = tuple(redact(url) for url in self.servers)
        return f"ConnectionOptions({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def has_login(url: str) -> bool:
    """Whether a URL of a server has a user or a token."""
    return bool(urlsplit(url).username)


def server_urls(
    servers: str | Sequence[str] | None, host: str | None = None, port: int | None = None
) -> tuple[str, ...]:
    """Return the URLs to connect to: `servers`, else `host` and `port`, else the local default.

    Raises:
        ConfigError: if `servers` is combined with `host` or `port`, or if a value is not valid.
    """
    if servers is not None and (host is not None or port is not None):
        raise ConfigError("give servers=, or host= and port=, not both")
    if host is not None:
        check_text("host", host, may_be_empty=True)
        if "/" in host or "@" in host or host.count(":") == 1:  # it may hold a password: not shown
            raise ConfigError(
                "host= is a name or an address; a port goes to port=, a URL to servers="
            )
    if port is not None:
        check_whole("port", port, most=65_535)
    if host is not None or port is not None:
        name = host if host is not None else "127.0.0.1"
        servers = f"nats://{f'[{name}]' if ':' in name else name}:{4222 if port is None else port}"
    if servers is None:
        servers = DEFAULT_URL
    if isinstance(servers, str):
        servers = servers.split(",")
    if not isinstance(servers, Sequence) or not all(isinstance(url, str) for url in servers):
        raise ConfigError("servers must be a URL such as nats://127.0.0.1:4222, or a list of URLs")
    urls = tuple(_complete(url.strip()) for url in servers if url.strip())
    if not urls:
        raise ConfigError("servers is empty: give a URL such as nats://127.0.0.1:4222")
    return urls


def redact(url: str) -> str:
    """Return a URL without user, password, token, path and query, for logs and errors."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "nats", url
    place = rest.rpartition("@")[2]
    return f"{scheme}://{re.split('[/?#]', place, maxsplit=1)[0]}"


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
            f"server {scheme}://{place.partition(':')[0]}: no valid host and port. Write "
            f"nats://127.0.0.1:4222, with a port from 1 to 65535, and pass a password that "
            f"contains / ? # [ or ] as password="
        )
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"server {redact(url)!r}: the scheme is nats://, tls://, ws:// or wss://")
    if not parts.hostname:
        raise ConfigError(f"server {redact(url)!r}: no host in it")
    if port is not None:
        return url
    place = f"{parts.netloc.rstrip(':')}:{DEFAULT_PORTS[parts.scheme]}"
    return parts._replace(netloc=place).geturl().rstrip("/")


def _check_secret_file(name: str, value: object, is_text: Callable[[str], bool]) -> None:
    require_nkeys(f"{name}=")
    if callable(value):
        return
    find = split_credentials if name == "credentials" else find_seed
    try:
        text = read_secret_file(name, value, is_text)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    try:
        find(text)
    except ValueError as error:
        raise ConfigError(f"{name}= cannot be used: {error}") from None


def _require_websockets() -> None:
    if importlib.util.find_spec("websockets") is None:
        raise MissingExtraError("websocket", "a ws:// or wss:// server")
