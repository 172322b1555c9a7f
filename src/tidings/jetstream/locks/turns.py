"""Turns: within a process, one task at a time contends for a lock, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from tidings.errors import ConfigError


class Turn:
    """The turn for one lock.

    Attributes:
        users: how many tasks wait for the turn, or have it.
        holder: who holds the lock, as far as this process knows; "" if it does not.
    """

    def __init__(self) -> None:
        self.users = 0
        self.holder = ""
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[object] | None = None

    async def take(self, task: asyncio.Task[object] | None, name: str) -> None:
        """Wait for the turn.

        Args:
            task: the task that will hold the lock; None if a thread will.
            name: the name of the lock, for the error.

        Raises:
            ConfigError: this task has the turn already, and would wait for itself.
        """
        if task is not None and self._task is task:
            raise ConfigError(
                f"this task holds the lock {name!r} already, and would wait for itself: enter the "
                f"lock once"
            )
        await self._lock.acquire()
        self._task = task

    def give(self) -> None:
        """End the turn. The task that has waited longest is next."""
        self._task = None
        self._lock.release()


class Turns:
    """The turns of one process: however many tasks want a lock, one of them asks the server."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, Turn] = {}

    def join(self, key: Hashable) -> Turn:
        """Return the turn for a lock, for a task that wants it."""
        turn = self._turns.setdefault(key, Turn())
        turn.users += 1
        return turn

    def quit(self, key: Hashable) -> None:
        """Let a task want the lock no longer."""
        turn = self._turns[key]
        turn.users -= 1
        if not turn.users:
            del self._turns[key]
