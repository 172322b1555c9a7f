"""Servers that let in one login only, and this login in every form of configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.certificates import make_certificates
from support.jwts import Authority, new_user
from tidings.server import NATSServer
from tidings.transport.sources import FIELDS, FLAGS, VARIABLES

SECRET = "s3cr3t-hunter2"
WAYS = ["user and password", "token", "nkey", "credentials", "client certificate"]


class Locked:
    """A server and the login that it lets in.

    Attributes:
        server: the server.
        options: the login, by the names of the options of `App`.
    """

    def __init__(self, server: NATSServer, options: dict[str, str]) -> None:
        self.server = server
        self.options = options

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def environment(self) -> dict[str, str]:
        """The variables to set, with that of the server."""
        login = {VARIABLES[name].removeprefix("$"): v for name, v in self.options.items()}
        return {"NATS_URL": self.url, **login}

    @property
    def flags(self) -> list[str]:
        """The flags to pass, with that of the server."""
        login = [word for name, value in self.options.items() for word in (FLAGS[name], value)]
        return ["--server", self.url, *login]

    @property
    def fields(self) -> dict[str, str]:
        """The fields of a context, with that of the server."""
        return {"url": self.url, **{FIELDS[name]: value for name, value in self.options.items()}}


@pytest.fixture(params=WAYS)
def locked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Locked]:
    """A server for each way to log in."""
    config, options = _LOCKS[request.param](tmp_path)
    path = tmp_path / "locked.conf"
    path.write_text(config)
    with NATSServer(config=path) as server:
        yield Locked(server, options)


def _password(folder: Path) -> tuple[str, dict[str, str]]:
    config = f"authorization {{ user: ada, password: {SECRET} }}\n"
    return config, {"user": "ada", "password": SECRET}


def _token(folder: Path) -> tuple[str, dict[str, str]]:
    return f"authorization {{ token: {SECRET} }}\n", {"token": SECRET}


def _nkey(folder: Path) -> tuple[str, dict[str, str]]:
    seed, public = new_user()
    path = folder / "user.nk"
    path.write_text(seed)
    return f"authorization {{ users: [{{nkey: {public}}}] }}\n", {"nkey_seed": str(path)}


def _credentials(folder: Path) -> tuple[str, dict[str, str]]:
    authority = Authority()
    path = folder / "user.creds"
    path.write_text(authority.credentials())
    return authority.config(), {"credentials": str(path)}


def _certificate(folder: Path) -> tuple[str, dict[str, str]]:
    own = make_certificates(folder, "server")
    files = {"tls_ca": str(own.ca), "tls_cert": str(own.cert), "tls_key": str(own.key)}
    return own.config(f'ca_file: "{own.ca}", verify: true'), files


_LOCKS: dict[str, Callable[[Path], tuple[str, dict[str, str]]]] = dict(
    zip(WAYS, (_password, _token, _nkey, _credentials, _certificate), strict=True)
)
