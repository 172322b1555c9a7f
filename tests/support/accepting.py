"""The end of a server of asyncio's."""

from __future__ import annotations

import asyncio


async def close_accepting(server: asyncio.Server) -> None:
    """Close a server so that every connection that it has accepted has begun.

    asyncio forgets a connection that was accepted in the turn in which the server is closed: its
    socket stays open, and warns when it is collected.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    for _ in range(10):  # what was accepted in the last moment has begun after a few turns
        await asyncio.sleep(0)
    server.close()
