"""Moving: leaves a server that announces its shutdown, and moves to another known server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidings.concurrency.backoff import is_rare
from tidings.errors import ConnectError
from tidings.log import logger
from tidings.transport.dial import Accepted, dial_any
from tidings.transport.handover import Handover
from tidings.transport.options import ConnectionOptions
from tidings.transport.servers import ServerPool


class Mover:
    """Moves the connection away from servers in lame duck mode.

    Args:
        options: the connection's options.
        servers: the known servers.
        handover: creates the handover from one connection to another.
        on_moved: a function that gets the new connection after each move.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        servers: ServerPool,
        *,
        handover: Callable[[Accepted, Accepted], Handover],
        on_moved: Callable[[Accepted], None],
    ) -> None:
        self._options = options
        self._servers = servers
        self._handover = handover
        self._on_moved = on_moved
        self._lame: Accepted | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_moving(self) -> bool:
        """Whether a move is in progress, including the time for which both connections exist."""
        return self._task is not None

    def leave(self, accepted: Accepted) -> bool:
        """Move away from the server of a connection, which will shut down. Returns False if the
        move has already begun."""
        if self._lame is accepted:
            return False
        self._lame = accepted
        if self._task is None:
            self._task = asyncio.create_task(self._move_on(), name="tidings move")
        return True

    def end(self) -> None:
        """Stop moving, because the connection was lost or closed."""
        self._lame = None
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _move_on(self) -> None:
        tries = 0
        while (lame := self._lame) is not None:
            try:
                handover = await self._move(lame)
            except (ConnectError, TimeoutError, OSError) as error:
                tries += 1
                if is_rare(tries):
                    logger.warning(
                        "no other server accepted the connection in %d attempts: %s", tries, error
                    )
                await asyncio.sleep(self._options.reconnect_time_wait)
            else:
                await handover.finish()
        self._task = None

    async def _move(self, lame: Accepted) -> Handover:
        """Move to another server.

        Raises:
            ConnectError, TimeoutError, OSError: if no other server can be used.
        """
        servers = [server for server in self._servers.in_order() if server is not lame.server]
        if not servers:
            raise ConnectError((lame.server.url,), "no other server is known")
        new = await dial_any(servers, self._options)
        if new.info.get("ldm"):
            new.abort()
            new.server.failures += 1  # try the other servers first next time
            raise ConnectError((new.server.url,), "this server will shut down, too")
        handover = self._handover(lame, new)
        await handover.move()
        logger.info("moved from %s to %s", lame.server.url, new.server.url)
        self._lame = None
        self._on_moved(new)
        return handover
