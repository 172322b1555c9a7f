"""Contexts: the named connections that the command line `nats` keeps in files. (NATS ADR-21)"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from tidings.errors import ConfigError
from tidings.text import printable

MAX_SIZE = 1024 * 1024
LONGEST_NAME = 200


class ContextFile(msgspec.Struct, frozen=True):
    """The fields of a context's file. Other fields are ignored."""

    description: str | None = None
    url: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    creds: str | None = None
    nkey: str | None = None
    user_jwt: str | None = None
    user_seed: str | None = None
    nsc: str | None = None
    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    tls_first: bool | None = None
    windows_cert_store: str | None = None
    socks_proxy: str | None = None
    inbox_prefix: str | None = None
    jetstream_domain: str | None = None
    jetstream_api_prefix: str | None = None

    def __repr__(self) -> str:  # without the secrets
        return "<ContextFile>"


class Context(msgspec.Struct, frozen=True):
    """A context.

    Attributes:
        name: its name.
        path: the path of its file.
        file: the content of its file.
    """

    name: str
    path: Path
    file: ContextFile

    def __str__(self) -> str:
        return f"context {self.name!r} ({self.path})"


def folder() -> Path:
    """Return the folder of the contexts, which may not exist: `$XDG_CONFIG_HOME/nats`, or
    `~/.config/nats`.

    Raises:
        ConfigError: the user has no home folder.
    """
    if base := os.environ.get("XDG_CONFIG_HOME"):
        return Path(base) / "nats"
    try:
        return Path.home() / ".config" / "nats"
    except RuntimeError:
        raise ConfigError(
            "contexts are kept in the home folder, and this user has none: set $XDG_CONFIG_HOME"
        ) from None


def context_names() -> list[str]:
    """Return the names of all contexts, sorted.

    Raises:
        ConfigError: the folder cannot be read.
    """
    place = folder() / "context"
    try:
        files = [each for each in place.iterdir() if each.suffix == ".json" and each.is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"the contexts in {place} cannot be read: {error.strerror}") from None
    return sorted(file.stem for file in files if _fault_of_name(file.stem) is None)


def selected_context() -> str | None:
    """Return the name of the context that `nats context select` has selected, or None.

    Raises:
        ConfigError: the file that names it cannot be read.
    """
    path = folder() / "context.txt"
    try:
        name = _read(path).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"the selected context cannot be read from {path}: {error.strerror or error}"
        ) from None
    return name or None


def read_context(name: str, named_by: str) -> Context:
    """Read a context.

    Args:
        name: its name.
        named_by: what names it, for errors: "$NATS_CONTEXT".

    Raises:
        ConfigError: this is no name, there is no such context, or its file is not valid. The text
            shows no value of the file.
    """
    if (fault := _fault_of_name(name)) is not None:
        raise ConfigError(
            f"{named_by} is not the name of a context ({fault}): write a name that "
            f"`tidings context ls` shows"
        )
    path = folder() / "context" / f"{name}.json"
    try:
        return Context(name, path, msgspec.json.decode(_read(path), type=ContextFile))
    except FileNotFoundError:
        known = ", ".join(context_names()[:10]) or "none"
        raise ConfigError(
            f"{named_by} names a context that does not exist: {name!r} ({path}). "
            f"Contexts that exist: {printable(known)}"
        ) from None
    except OSError as error:
        fault = f"the file cannot be read: {error.strerror or error}"
    except RecursionError:
        fault = "the file is nested too deep"
    except (msgspec.MsgspecError, ValueError) as error:
        fault = f"the file is not a valid context: {error}"
    raise ConfigError(f"context {name!r} ({path}): {fault}")


def _fault_of_name(name: str) -> str | None:
    """Say what is wrong with the name of a context. It must not lead to another folder."""
    if not name or len(name) > LONGEST_NAME:
        return f"a name has 1 to {LONGEST_NAME} characters"
    if "/" in name or "\\" in name or ".." in name:
        return "a name has no / \\ or .. in it"
    if not name.isprintable():
        return "a name has no control characters in it"
    return None


def _read(path: Path) -> bytes:
    """Read a small regular file. Opening a FIFO must not wait for its writer.

    Raises:
        OSError: it cannot be read, is no regular file, or is too large.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError("it is not a regular file")
        with open(number, "rb", closefd=False) as file:
            data = file.read(MAX_SIZE + 1)
    finally:
        os.close(number)
    if len(data) > MAX_SIZE:
        raise OSError(f"it is larger than {MAX_SIZE} bytes")
    return data
