"""Turns: within a process, one task at a time contends for a lock, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from tidings.errors import ConfigError


class _Turn:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0  # tasks that wait or have their turn
        self.owner: asyncio.Task[object] | None = None


class Turns:
    """The turns of one process: however many tasks want a lock, one of them asks the server."""

    def __init__(self) -> None:
        self._turns: dict[Hashable, _Turn] = {}

    async def take(self, key: Hashable, task: asyncio.Task[object] | None, name: str) -> None:
        """Wait for a turn.

        Args:
            key: what the turn is for.
            task: the task that will hold the lock; None if a thread will.
            name: the name of the lock, for the error.

        Raises:
            ConfigError: this task has its turn already, and would wait for itself.
        """
        turn = self._turns.setdefault(key, _Turn())
        if task is not None and turn.owner is task:
            raise ConfigError(
                f"this task holds the lock {name!r} already, and would wait for itself: enter the "
                f"lock once"
            )
        turn.users += 1
        try:
            await turn.lock.acquire()
        except BaseException:
            self._leave(key, turn)
            raise
        turn.owner = task

    def give(self, key: Hashable) -> None:
        """End a turn. The task that has waited longest is next."""
        turn = self._turns[key]
        turn.owner = None
        turn.lock.release()
        self._leave(key, turn)

    def _leave(self, key: Hashable, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[key]
