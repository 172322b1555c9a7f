"""Seeker: looks for a server that accepts the connection, at the start and after every loss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tidings.concurrency.backoff import is_rare
from tidings.errors import AuthError, ConnectError, TlsError
from tidings.transport.backoff import ConnectBackoff
from tidings.transport.dial import Accepted, dial_any
from tidings.transport.options import ConnectionOptions
from tidings.transport.servers import ServerPool

logger = logging.getLogger("tidings")


class Seeker:
    """Tries the servers that are known, round after round, with a pause before each.

    Args:
        options: how to connect, and how often to try.
        servers: the servers.
        on_error: takes the error of each round after a loss in which no server accepted.

    Attributes:
        cause: the last error.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        servers: ServerPool,
        on_error: Callable[[ConnectError], None],
    ) -> None:
        self.cause: Exception | None = None
        self._options = options
        self._servers = servers
        self._on_error = on_error
        self._backoff = ConnectBackoff(options.reconnect_time_wait)

    async def first(self) -> Accepted:
        """Find a server at the start.

        Raises:
            ConnectError: none accepted, and `wait_for_server` is off; or AuthError or TlsError,
                which no waiting changes.
        """
        while True:
            try:
                return await dial_any(self._servers.in_order(), self._options)
            except ConnectError as error:
                final = isinstance(error, (AuthError, TlsError))
                if final or not self._options.wait_for_server:
                    raise
                self._backoff.refused()
                if is_rare(self._backoff.attempts):
                    logger.warning("waiting for a server: %s", error)
            await asyncio.sleep(self._backoff.pause())

    def lost(self, lived: float, cause: Exception | None) -> None:
        """A connection was lost, after that many seconds."""
        self.cause = cause
        self._backoff.lost(lived)

    async def again(self) -> Accepted | None:
        """Find a server after a loss. Returns None when the attempts are used up."""
        rounds = 0
        while not self._is_hopeless():
            await asyncio.sleep(self._backoff.pause())
            try:
                return await dial_any(self._servers.in_order(), self._options)
            except ConnectError as error:
                self.cause = error
                self._backoff.refused()
                self._on_error(error)
                rounds += 1
                if is_rare(rounds):
                    logger.warning("still disconnected, %d tries: %s", rounds, error)
        attempts = self._backoff.attempts
        logger.error("giving up after %d attempts to reconnect: %s", attempts, self.cause)
        return None

    def _is_hopeless(self) -> bool:
        """Whether the attempts are used up. A connection that was soon closed is one of them."""
        attempts, most = self._backoff.attempts, self._options.max_reconnect_attempts
        return attempts > 0 and 0 <= most <= attempts
