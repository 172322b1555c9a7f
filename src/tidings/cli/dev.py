"""`tidings run --dev`: a nats-server for one run, apart from the servers of the environment."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from tidings.app import App
from tidings.errors import ServerStartError
from tidings.internals import launch_of
from tidings.server import NATSServer

from .console import mention

PORT = 4222  # the port to which clients connect by default

TOKEN = "NATS_TOKEN"  # noqa: S105 - the name of a variable
# Variables that configure connections to another server. Its credentials must not reach this one.
_CONNECTION = (
    *("NATS_URL", TOKEN, "NATS_CREDS", "NATS_NKEY", "NATS_USER", "NATS_PASSWORD"),
    *("NATS_CA", "NATS_CERT", "NATS_KEY", "NATS_CONTEXT"),
)
# The options of an app that log in to another server, without which it logs in to this one. Its
# JetStream has no domain.
_NO_LOGIN = {
    **dict.fromkeys(("js_domain", "js_prefix")),
    **dict.fromkeys(("user", "password", "token", "credentials", "nkey_seed")),
    **dict.fromkeys(("tls", "tls_hostname", "tls_cert", "tls_key", "tls_ca")),
    "tls_handshake_first": False,
}


@dataclass(frozen=True, kw_only=True)
class DevServer:
    """The server of a run.

    Attributes:
        url: its URL, with the token. Treat it as a secret.
        shown_url: its URL without the token.
        is_default: `tidings req` finds it as it is typed in another terminal.
        has_token: clients need the token in $NATS_TOKEN.
        foreign: variables with the login and TLS files for another server, which this one must not
            get.
    """

    url: str
    shown_url: str
    is_default: bool
    has_token: bool
    foreign: tuple[str, ...] = ()

    def request_line(self, subject: str | None) -> str:
        """Return a command that sends a request to the service.

        Args:
            subject: a subject on which it answers; None if there is none.
        """
        command = f"tidings req {shlex.quote(subject) if subject else 'SUBJECT'} '{{}}'"
        if self.has_token:  # in the environment, where other users cannot read it
            place = self.shown_url.removeprefix("nats://")
            return f'NATS_URL="nats://${TOKEN}@{place}" {command}'
        if self.is_default:
            return command
        without = "".join(f"-u {name} " for name in self.foreign)
        return f"{f'env {without}' if without else ''}{command} -s {self.shown_url}"


@contextlib.contextmanager
def dev_server(port: int = PORT) -> Iterator[DevServer]:
    """Run a nats-server with JetStream, on a free port if this one is taken.

    While it runs, $NATS_URL names it, for other clients of this run: another App, a subprocess, a
    script of a handler. The other variables that configure a connection are removed. If $NATS_TOKEN
    is the only one that was set, the server asks for that token.

    Raises:
        MissingExtraError: nats-server is not installed.
        ServerStartError: the server did not start.
        ConfigError: the server cannot use the token in $NATS_TOKEN.
    """
    kept = {name: os.environ[name] for name in _CONNECTION if os.environ.get(name)}
    # A token by itself is meant for this server. Beside other variables, it belongs to theirs.
    token = kept[TOKEN] if list(kept) == [TOKEN] else None
    ignored = [] if token else [f"${name}" for name in kept]
    with _start(port, token) as server:
        if ignored:
            mention(f"--dev uses its own nats-server and ignores {', '.join(ignored)}")
        mention(f"nats-server for this run, JetStream on: {server.url}")
        for name in _CONNECTION:
            os.environ.pop(name, None)
        os.environ["NATS_URL"] = server.url_with_token
        try:
            yield DevServer(
                url=server.url_with_token,
                shown_url=server.url,
                is_default=server.port == PORT and not ignored,
                has_token=token is not None,
                foreign=() if token else tuple(name for name in kept if name != "NATS_URL"),
            )
        finally:
            os.environ.pop("NATS_URL", None)
            os.environ.update(kept)


def _start(port: int, token: str | None) -> NATSServer:
    try:
        return NATSServer(jetstream=True, token=token, port=port).start()
    except ServerStartError as error:
        if "address already in use" not in error.output:
            raise
        return NATSServer(jetstream=True, token=token).start()


def use_dev_server(app: App, url: str) -> None:
    """Let an app connect to the server of this run, without the credentials for its own servers."""
    app.set_servers(url)
    launch = launch_of(app)
    arguments = msgspec.structs.replace(launch.connection.arguments, **_NO_LOGIN)
    launch.connection = msgspec.structs.replace(launch.connection, arguments=arguments)
