"""Sources: what flags, environment variables and contexts say about a connection."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.checks import check_text
from tidings.errors import ConfigError, MissingExtraError, SubjectError
from tidings.protocol.auth import is_credentials_text, is_seed_text
from tidings.transport.credentials import shown_path
from tidings.transport.options import DEFAULT_URL, ConnectionOptions, has_login, server_urls
from tidings.transport.references import INLINE, VARIABLE, resolve

if TYPE_CHECKING:
    from tidings.transport.contexts import Context, ContextFile

LOGIN = ("user", "password", "token", "credentials", "nkey_seed")
LITERAL = ("user", "password", "token")  # the others are paths
TLS = ("tls_ca", "tls_cert", "tls_key")
PLACE = ("servers", "context")
JETSTREAM = ("js_domain", "js_prefix")

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
    "js_domain": "--js-domain",
    "js_prefix": "--js-prefix",
}
ARGUMENTS = {name: f"{name}=" for name in (*PLACE, *LOGIN, *TLS, "tls", *JETSTREAM)}
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
# The fields for the options that no variable has.
EXTRAS = {
    "inbox_prefix": "inbox_prefix",
    "js_domain": "jetstream_domain",
    "js_prefix": "jetstream_api_prefix",
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
}
# Forms in which `nats` finds a secret elsewhere. Taken literally, they would be wrong secrets.
REFERENCES = (VARIABLE, INLINE)
FOREIGN_SCHEMES = ("op://", "nsc://", *REFERENCES)
REFERABLE = ("password", "token", "credentials", "nkey_seed")
# Whether the value of an option is the secret itself, and not the path of its file.
IS_TEXT = {"credentials": is_credentials_text, "nkey_seed": is_seed_text}


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
        if any(map(has_login, self.urls())):
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
        except (ConfigError, SubjectError) as error:
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
        is_text = IS_TEXT.get(name)
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
    names |= {name: f"{field} of {context}" for name, field in {"servers": "url", **EXTRAS}.items()}
    options: dict[str, Any] = {"servers": file.url or DEFAULT_URL}
    unsupported = _unsupported(context)
    for name, field in FIELDS.items():
        if value := getattr(file, field):
            try:
                options[name] = _value(name, value)
            except ValueError as error:
                options[name] = value
                unsupported["login" if name in LOGIN else "tls"] = f"{names[name]} {error}"
    if file.user:
        options.setdefault("password", "")
    if file.tls_first:
        options["tls_handshake_first"] = True
    for name, field in EXTRAS.items():
        if value := getattr(file, field):
            options[name] = value
    return Source(names=names, options=options, unsupported=unsupported)


def _unsupported(context: Context) -> dict[str, str]:
    """Return the errors for what tidings does not support in a context, by groups of options."""
    file = context.file
    return {
        group: f"{context}: tidings does not support {field}: {fix}"
        for group, fields in UNSUPPORTED.items()
        for field, fix in fields.items()
        if getattr(file, field) and not _is_needless(field, file)
    }


def _is_needless(field: str, file: ContextFile) -> bool:
    """Return whether other fields come before this one, as they do in `nats`."""
    if field == "nsc":
        return bool(file.url and file.creds)
    return field in ("user_jwt", "user_seed") and bool(file.user or file.creds or file.nkey)


def _value(name: str, value: str) -> str:
    """Return the value of an option: a text, a path, or what a reference stands for.

    Raises:
        ValueError: it is a reference that does not work here. The text completes a sentence such
            as "the token ...".
    """
    scheme = next(filter(value.lower().startswith, FOREIGN_SCHEMES), None)
    if scheme is None:
        return value if name in LITERAL else _path(value)
    if scheme not in REFERENCES or name not in REFERABLE:
        raise ValueError(
            f"begins with {scheme}, which tidings does not support: write the value itself, or the "
            f"path of a file"
        )
    text = resolve(value)
    if name in IS_TEXT and not IS_TEXT[name](text):
        raise ValueError(f"begins with {scheme}, and that is not the content of such a file")
    return text


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
