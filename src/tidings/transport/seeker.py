"""Seeker: finds a server that accepts the connection, at the start and after every loss."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidings.concurrency.backoff import is_rare
from tidings.errors import AuthError, ConnectError, TlsError
from tidings.log import logger
from tidings.transport.backoff import ConnectBackoff
from tidings.transport.dial import Accepted, dial_any
from tidings.transport.options import ConnectionOptions
from tidings.transport.servers import ServerPool


class Seeker:
    """Tries the known servers round after round, with a pause before each round.

    Args:
        options: the connection's options.
        servers: the known servers.
        on_error: a function that gets the error of each failed round after a loss.

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
            ConnectError: if no server accepted the connection and `wait_for_server` is False.
            AuthError: if the server refused the credentials; waiting would not help.
            TlsError: if TLS failed; waiting would not help.
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
        """Count a lost connection that lasted `lived` seconds."""
        self.cause = cause
        self._backoff.lost(lived)

    async def again(self) -> Accepted | None:
        """Find a server after a loss. Returns None when there are no attempts left."""
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
                    logger.warning("still disconnected after %d attempts: %s", rounds, error)
        attempts = self._backoff.attempts
        logger.error("giving up after %d attempts to reconnect: %s", attempts, self.cause)
        return None

    def _is_hopeless(self) -> bool:
        """Return whether no attempts are left. A connection that soon closed counts as one."""
        attempts, most = self._backoff.attempts, self._options.max_reconnect_attempts
        return attempts > 0 and 0 <= most <= attempts
