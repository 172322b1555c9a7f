"""Settings: how an app connects, before and after the sources outside of the program are read.

An option comes from the first source that has it: the argument of `App`, the flag, the variable,
the context. Three groups of options are each taken from one source as a whole, so that parts of two
configurations never mix: the servers, the login, and the TLS files. The login in a server's URL
belongs to the source of that URL. A context is used as a whole: its login and its TLS files go to
its own servers only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from tidings.checks import check_text
from tidings.errors import ConfigError, MissingExtraError, SubjectError
from tidings.log import logger
from tidings.subject import check_subject
from tidings.transport.options import DEFAULT_URL, ConnectionOptions, server_urls
from tidings.transport.sources import (
    ARGUMENTS,
    EXTRAS,
    FLAGS,
    JETSTREAM,
    LOGIN,
    PLACE,
    TLS,
    Source,
    from_context,
    from_variables,
)


class ConnectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect, before the sources outside of the program are read.

    Attributes:
        arguments: the options that the program passes, checked, with the defaults of the others.
        given: those that it passes.
        flags: what the flags of the command say.
        is_alone: whether the arguments are everything, and no other source counts.
        may_use_selected: whether the context that `nats` has selected counts, as the last source.
    """

    arguments: ConnectionOptions
    given: Source
    flags: Source = Source(names=FLAGS)
    is_alone: bool = False
    may_use_selected: bool = False

    def with_servers(self, servers: tuple[str, ...]) -> Self:
        """Return the same arguments for other servers, and without any other source."""
        arguments = msgspec.structs.replace(self.arguments, servers=servers)
        return msgspec.structs.replace(self, arguments=arguments, is_alone=True)

    def without_domain(self) -> Self:
        """Return the same settings for a server whose JetStream is in no domain."""
        arguments = msgspec.structs.replace(self.arguments, js_domain=None, js_prefix=None)
        return msgspec.structs.replace(self, arguments=arguments)

    def with_flags(self, flags: Source, *, may_use_selected: bool = False) -> Self:
        """Return the settings of a command with these flags."""
        return msgspec.structs.replace(self, flags=flags, may_use_selected=may_use_selected)

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
        from tidings.transport.contexts import folder, read_context, selected_context

        namer = self._namer
        if namer is None:
            if self._settings.may_use_selected and (name := selected_context()) is not None:
                self.selected = name
                return from_context(read_context(name, str(folder() / "context.txt")))
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
        self._log(origins)
        try:
            return msgspec.structs.replace(self._settings.arguments, **found)
        except MissingExtraError:
            raise
        except ConfigError as error:
            raise ConfigError(f"{', '.join(filter(None, origins))}: {error}") from None

    def _log(self, origins: Sequence[str | None]) -> None:
        if len(origins) > 1 or self._namer not in (None, self._arguments):
            logger.log(
                logging.DEBUG, "connection options from %s", ", ".join(filter(None, origins))
            )
        if "context" in self._variables.options and self.place is self._namer:
            logger.info(
                "the context in $NATS_CONTEXT is not used, because %s names the servers",
                self.place.names["servers"],
            )

    def _extras(self) -> dict[str, Any]:
        """Return the options that no variable has, unless the code passes them."""
        extras: dict[str, Any] = {
            name: self.place.options[name]
            for name in ("tls_handshake_first", *EXTRAS)
            if name in self.place.options and name not in self._arguments.options
        }
        is_flagged = self._flags.first(JETSTREAM) is not None
        if is_flagged or self._arguments.first(JETSTREAM) is not None:  # the two are one choice
            extras = {name: value for name, value in extras.items() if name not in JETSTREAM}
        for name in extras.keys() & EXTRAS.keys():
            try:
                check_subject(extras[name])
            except SubjectError as error:
                raise ConfigError(f"{self.place.names[name]}: {error}") from None
        if is_flagged:  # a flag says where JetStream is now, and stands above the code
            extras |= dict.fromkeys(JETSTREAM) | self._flags.taken("jetstream", JETSTREAM)
        return extras

    def _check_place(self) -> None:
        if "servers" in self.place.unsupported:
            raise ConfigError(self.place.unsupported["servers"])

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
