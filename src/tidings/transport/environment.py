"""Configuration from outside: command-line flags, environment variables and contexts.

An option comes from the first source that has it: the argument of `App`, the flag, the variable,
the context. Three groups of options are each taken from one source as a whole, so that parts of two
configurations never mix: the servers, the login, and the TLS files. The login in a server's URL
belongs to the source of that URL. A context is used as a whole: its login and its TLS files go to
its own servers only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from tidings.checks import check_text
from tidings.errors import ConfigError, MissingExtraError, SubjectError
from tidings.protocol.auth import is_credentials_text, is_seed_text
from tidings.subject import check_subject
from tidings.transport.contexts import Context, read_context, selected_context
from tidings.transport.credentials import shown_path
from tidings.transport.options import DEFAULT_URL, ConnectionOptions, server_urls
from tidings.transport.servers import Server

LOGIN = ("user", "password", "token", "credentials", "nkey_seed")
LITERAL = ("user", "password", "token")  # the others are paths
TLS = ("tls_ca", "tls_cert", "tls_key")
PLACE = ("servers", "context")

VARIABLES = {
    "servers": "$NATS_URL",
    "user": "$NATS_USER",
    "password": "$NATS_PASSWORD",
    "token": "$NATS_TOKEN",
    "credentials": "$NATS_CREDS",
    "nkey_seed": "$NATS_NKEY",
    "tls_ca": "$NATS_CA",
    "tls_cert": "$NATS_CERT",
    "tls_key": "$NATS_KEY",
    "context": "$NATS_CONTEXT",
}
FLAGS = {
    "servers": "--servers",
    "user": "--user",
    "password": "--password",
    "token": "--token",
    "credentials": "--creds",
    "nkey_seed": "--nkey",
    "tls_ca": "--tlsca",
    "tls_cert": "--tlscert",
    "tls_key": "--tlskey",
    "context": "--context",
}
ARGUMENTS = {name: f"{name}=" for name in (*PLACE, *LOGIN, *TLS, "tls")}
# The fields of a context's file for the options.
FIELDS = {
    "user": "user",
    "password": "password",
    "token": "token",
    "credentials": "creds",
    "nkey_seed": "nkey",
    "tls_ca": "ca",
    "tls_cert": "cert",
    "tls_key": "key",
}
# Fields that tidings does not support, by what they change, and the way to do without them.
UNSUPPORTED = {
    "servers": {
        "nsc": "write the servers to url and a file to creds",
        "socks_proxy": "connect without the proxy, or over a websocket (wss://)",
    },
    "login": {
        "user_jwt": "write JWT and seed to a credentials file, and its path to creds",
        "user_seed": "write JWT and seed to a credentials file, and its path to creds",
    },
    "tls": {"windows_cert_store": "write the paths of files to cert, key and ca"},
    "jetstream": {
        "jetstream_domain": "connect to a server of that domain",
        "jetstream_api_prefix": "connect to the account that owns the streams",
    },
}
# Forms in which `nats` finds a secret elsewhere. Taken literally, they would be wrong secrets.
FOREIGN_SCHEMES = ("op://", "nsc://", "env://", "data:")


class Source(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What one source says about a connection.

    Attributes:
        names: what the user calls each option there: {"credentials": "$NATS_CREDS"}.
        options: the options that it has, by the names of `App`. May contain secrets.
        unsupported: errors to raise if a group of options is taken from this source.
    """

    names: dict[str, str]
    options: dict[str, Any] = {}
    unsupported: dict[str, str] = {}

    def __repr__(self) -> str:  # without the secrets
        return f"<Source {', '.join(self.names.get(name, name) for name in self.options)}>"

    def first(self, group: Iterable[str]) -> str | None:
        """Return the user's name of the first option of a group that this source has, or None."""
        return next((self.names[name] for name in group if name in self.options), None)

    def login_name(self) -> str | None:
        """Return what this source logs in with: the name of an option, or of the URLs."""
        if (found := self.first(LOGIN)) is not None:
            return found
        if any(Server.from_url(url).login for url in self.urls()):
            return f"the login in {self.names['servers']}"
        return None

    def urls(self) -> tuple[str, ...]:
        """Return the servers of this source; none if it names none.

        Raises:
            ConfigError: this is not a URL.
        """
        servers = self.options.get("servers")
        if servers is None:
            return ()
        try:
            return server_urls(servers)
        except ConfigError as error:
            raise ConfigError(f"{self.names['servers']}: {error}") from None

    def taken(self, group: str, names: Sequence[str]) -> dict[str, Any]:
        """Return the options of a group, checked.

        Raises:
            ConfigError: an option cannot work, or tidings does not support one.
        """
        if group in self.unsupported:
            raise ConfigError(self.unsupported[group])
        options = {name: self.options[name] for name in names if name in self.options}
        for name in options.keys() & set(LITERAL):
            check_text(self.names[name], options[name], may_be_empty=True)
        if group == "login":
            self._check_login(options)
        for first, second in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
            if first in options and second not in options:
                raise ConfigError(f"{self.names[first]} needs {self.names[second]}")
        for name, value in options.items():
            self._check_file(name, value)
            if name in TLS:
                options[name] = os.path.expanduser(value)
        try:
            ConnectionOptions(servers=(DEFAULT_URL,), **options)  # checks what is in the files
        except MissingExtraError:
            raise
        except ConfigError as error:
            raise ConfigError(f"{self.first(names)}: {error}") from None
        return options

    def _check_login(self, options: Mapping[str, str]) -> None:
        if "user" in options and "password" not in options:
            raise ConfigError(
                f"{self.names['user']} needs {self.names['password']}; a token goes to "
                f"{self.names['token']}"
            )
        if "password" in options and "user" not in options:
            raise ConfigError(f"{self.names['password']} needs {self.names['user']}")
        ways = [self.names[name] for name in options if name != "password"]
        if len(ways) > 1:
            raise ConfigError(f"{' and '.join(ways)}: keep one way to log in")

    def _check_file(self, name: str, value: str) -> None:
        is_text = {"credentials": is_credentials_text, "nkey_seed": is_seed_text}.get(name)
        if name not in TLS and is_text is None:
            return
        if is_text is not None and is_text(value):
            return
        fault = _fault_of_file(value)
        if fault is not None:
            raise ConfigError(f"{self.names[name]} names a file that {fault}: {shown_path(value)}")


def from_variables() -> Source:
    """Return what the environment says. An empty variable counts as not set."""
    found = {name: os.environ.get(variable[1:]) for name, variable in VARIABLES.items()}
    return Source(names=VARIABLES, options={name: value for name, value in found.items() if value})


def from_flags(options: Mapping[str, str]) -> Source:
    """Return what the flags of a command say. An empty flag counts as not given."""
    return Source(names=FLAGS, options={name: value for name, value in options.items() if value})


def from_context(context: Context) -> Source:
    """Return what a context says."""
    file = context.file
    names = {name: f"{field} of {context}" for name, field in FIELDS.items()}
    names |= {"servers": f"url of {context}", "inbox_prefix": f"inbox_prefix of {context}"}
    options: dict[str, Any] = {"servers": file.url or DEFAULT_URL}
    for name, field in FIELDS.items():
        if value := getattr(file, field):
            options[name] = value if name in LITERAL else _path(value)
    if file.user:
        options.setdefault("password", "")
    if file.tls_first:
        options["tls_handshake_first"] = True
    if file.inbox_prefix:
        options["inbox_prefix"] = file.inbox_prefix
    return Source(names=names, options=options, unsupported=_unsupported(context))


def _unsupported(context: Context) -> dict[str, str]:
    """Return the errors for what tidings does not support in a context, by groups of options."""
    file = context.file
    errors = {
        group: f"{context}: tidings does not support {field}: {fix}"
        for group, fields in UNSUPPORTED.items()
        for field, fix in fields.items()
        # An explicit URL and credentials make the look-up needless.
        if getattr(file, field) and not (field == "nsc" and file.url and file.creds)
    }
    for name, field in FIELDS.items():
        value = (getattr(file, field) or "").lower()
        for scheme in filter(value.startswith, FOREIGN_SCHEMES):
            errors["login" if name in LOGIN else "tls"] = (
                f"{field} of {context} begins with {scheme}, which tidings does not support: write "
                f"the value itself, or the path of a file"
            )
    return errors


def _path(value: str) -> str:
    """Return a path without `~`, variables and file://."""
    if value.lower().startswith("file://"):
        value = value[len("file://") :]
    return os.path.expanduser(os.path.expandvars(value))


def _fault_of_file(path: str) -> str | None:
    """Say why a file cannot be read, as in "a file that ...", or None."""
    try:
        with Path(path).expanduser().open("rb"):
            return None
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except (ValueError, RuntimeError):  # it contains a NUL, or the home of an unknown user
        return "has no valid path"


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect, before the sources outside of the program are read.

    Attributes:
        arguments: the options that the program passes, checked, with the defaults of the others.
        given: those that it passes.
        flags: what the flags of the command say.
        is_alone: whether the arguments are everything, and no other source counts.
        may_use_selected: whether the context that `nats` has selected counts, as the last source.
        uses_jetstream: whether the connection will use JetStream.
    """

    arguments: ConnectionOptions
    given: Source
    flags: Source = Source(names=FLAGS)
    is_alone: bool = False
    may_use_selected: bool = False
    uses_jetstream: bool = True

    def with_servers(self, servers: tuple[str, ...]) -> Self:
        """Return the same arguments for other servers, and without any other source."""
        arguments = msgspec.structs.replace(self.arguments, servers=servers)
        return msgspec.structs.replace(self, arguments=arguments, is_alone=True)

    def with_flags(
        self, flags: Source, *, may_use_selected: bool = False, uses_jetstream: bool = True
    ) -> Self:
        """Return the settings of a command with these flags."""
        return msgspec.structs.replace(
            self, flags=flags, may_use_selected=may_use_selected, uses_jetstream=uses_jetstream
        )

    @property
    def servers(self) -> tuple[str, ...]:
        """The URLs of the servers.

        Raises:
            ConfigError: as for `resolve`.
        """
        return self.arguments.servers if self.is_alone else _Sources(self).place.urls()

    def resolve(self) -> ConnectionOptions:
        """Read the sources, and return the options to connect with.

        Raises:
            ConfigError: a source has a value that cannot work. The text names the source.
            MissingExtraError: an option needs a package that is not installed.
        """
        return self.arguments if self.is_alone else _Sources(self).resolve()

    def selected(self) -> str | None:
        """Return the name of the selected context if the connection uses it, otherwise None.

        Raises:
            ConfigError: the selection cannot be read.
        """
        return None if self.is_alone else _Sources(self).selected


class _Sources:
    """The sources of one connection, read once.

    Attributes:
        selected: the name of the selected context, if it is where the servers come from.
        place: the source of the servers.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._arguments, self._flags = settings.given, settings.flags
        self._variables = from_variables()
        # A flag says where to connect now. In this it stands above the code.
        order = (self._flags, self._arguments, self._variables)
        self._namer = next((each for each in order if each.first(PLACE) is not None), None)
        self.selected: str | None = None
        self.place = self._find_place()

    def _find_place(self) -> Source:
        namer = self._namer
        if namer is None:
            if self._settings.may_use_selected and (name := selected_context()) is not None:
                self.selected = name
                return from_context(read_context(name, "`nats context select`"))
            return Source(names=ARGUMENTS, options={"servers": DEFAULT_URL})
        if "servers" not in namer.options:
            return from_context(read_context(namer.options["context"], namer.names["context"]))
        if "context" in namer.options and namer is not self._variables:
            both = " and ".join(namer.names[name] for name in PLACE)
            raise ConfigError(f"{both} both name the servers: leave out one of the two")
        return namer

    def resolve(self) -> ConnectionOptions:
        """Return the options to connect with."""
        self._check_place()
        self._check_flags("log in", LOGIN)
        self._check_flags("use TLS", ("tls", *TLS))
        found: dict[str, Any] = {"servers": self.place.urls(), **self._extras()}
        origins: list[str | None] = [self.place.first(PLACE) or self.place.names["servers"]]
        for group, names, source in (
            ("login", LOGIN, self._source_of_login()),
            ("tls", TLS, self._source_of_tls()),
        ):
            if source is not None:
                found |= source.taken(group, names)
                origins.append(source.first(names))
        try:
            return msgspec.structs.replace(self._settings.arguments, **found)
        except MissingExtraError:
            raise
        except ConfigError as error:
            raise ConfigError(f"{', '.join(filter(None, origins))}: {error}") from None

    def _extras(self) -> dict[str, Any]:
        """Return the options that only a context has, unless the code passes them."""
        extras: dict[str, Any] = {
            name: self.place.options[name]
            for name in ("tls_handshake_first", "inbox_prefix")
            if name in self.place.options and name not in self._arguments.options
        }
        if "inbox_prefix" in extras:
            try:
                check_subject(extras["inbox_prefix"])
            except SubjectError as error:
                raise ConfigError(f"{self.place.names['inbox_prefix']}: {error}") from None
        return extras

    def _check_place(self) -> None:
        groups = ["servers", "jetstream"] if self._settings.uses_jetstream else ["servers"]
        for group in groups:
            if group in self.place.unsupported:
                raise ConfigError(self.place.unsupported[group])

    def _check_flags(self, verb: str, group: Sequence[str]) -> None:
        """Refuse a flag that the code would override: it would have no effect."""
        typed, passed = self._flags.first(group), self._arguments.first(group)
        if self._namer is self._flags:
            typed = typed or self._of_place(group)
        if self.place is self._arguments:
            passed = passed or self._of_place(group)
        if typed is not None and passed is not None:
            raise ConfigError(
                f"{typed} has no effect, because the app itself passes {passed} to {verb}: leave "
                f"out one of the two"
            )

    def _of_place(self, group: Sequence[str]) -> str | None:
        return self.place.login_name() if group is LOGIN else self.place.first(group)

    def _chain(self) -> list[Source]:
        """Return the sources that count, the highest first."""
        if self.place is self._arguments or self.place is self._flags:
            return [self._arguments, self._flags, self._variables]
        if self._namer is self._arguments or self._namer is self._flags:  # they name a context
            return [self._arguments, self._flags, self.place]
        return list(dict.fromkeys([self._arguments, self._flags, self._variables, self.place]))

    def _source_of_login(self) -> Source | None:
        """Return the source of the login, or None for the code's, for that in the URLs, or none."""
        for source in self._chain():
            if source.first(LOGIN) is not None or "login" in source.unsupported:
                return None if source is self._arguments else source
            if source is self.place and source.login_name() is not None:
                return None
        return None

    def _source_of_tls(self) -> Source | None:
        for source in self._chain():
            if source.first(("tls", *TLS)) is not None or "tls" in source.unsupported:
                return None if source is self._arguments else source
        return None


def settings_of(
    name: str,
    *,
    host: str | None = None,
    port: int | None = None,
    servers: str | Sequence[str] | None = None,
    context: str | None = None,
    options: Mapping[str, Any],
) -> ConnectionSettings:
    """Return the settings of a program that passes these arguments, which are checked.

    Raises:
        ConfigError: an argument that cannot work.
        MissingExtraError: an option needs a package that is not installed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    is_placed = not (servers is None and host is None and port is None)
    urls = server_urls(servers, host, port)
    if context is not None:
        check_text("context", context)
        if is_placed:
            raise ConfigError("give context=, or servers= (or host= and port=), not both")
        given["context"] = context
    if is_placed:
        given["servers"] = urls
    arguments = ConnectionOptions(servers=urls, name=name, **options)
    return ConnectionSettings(arguments=arguments, given=Source(names=ARGUMENTS, options=given))
