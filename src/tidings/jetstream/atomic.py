"""Atomic: what is collected in a `with` block, and stored as a whole at its end."""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, Self

from tidings.checks import Seconds, check_seconds
from tidings.deadlines import at_most_left
from tidings.errors import ConfigError

# Seconds that a thread waits past the timeout, so that the call itself can say why it failed.
LATE = 0.5


class State(enum.Enum):
    """How far a block has come."""

    NEW = "new"  # it has not begun
    OPEN = "open"  # it collects
    DISCARDED = "discarded"  # it stores nothing at its end
    ENDED = "ended"


class RunSync(Protocol):
    """Runs a coroutine in the app's event loop: see `CurrentLink.run`."""

    def __call__(
        self, work: Coroutine[Any, Any, None], call: str, instead: str, timeout: float | None
    ) -> None: ...


class Atomic(abc.ABC):
    """The base of batches and transactions.

    `async with` is for the event loop of the app, `with` for other threads. The end of the block
    stores what was collected. If the block raises, nothing is stored.

    Args:
        call: the call that made this, for errors.
        check: raises unless the app runs in this event loop.
        run_sync: runs a coroutine in the app's event loop, and blocks this thread.
        timeout: seconds for storing it.

    Raises:
        ConfigError: the timeout is no positive number of seconds.
    """

    def __init__(
        self, call: str, check: Callable[[str], object], run_sync: RunSync, timeout: Seconds
    ) -> None:
        self._call = call
        self._check = check
        self._run_sync = run_sync
        self._timeout = check_seconds("timeout", timeout)
        self._state = State.NEW

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.value}, length {len(self)}>"

    @abc.abstractmethod
    async def _commit(self, timeout: float) -> None:
        """Store what was collected."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return how much was collected."""

    def discard(self) -> None:
        """Store nothing at the end of the block."""
        self._must_be_open()
        self._state = State.DISCARDED

    def _must_be_open(self) -> None:
        """Raise unless the block goes on.

        Raises:
            ConfigError: it has not begun, it has ended, or `discard` was called.
        """
        if self._state is State.OPEN:
            return
        if self._state is State.NEW:
            raise ConfigError(
                f"{self._call}() collects in a block: `async with {self._call}() ...`"
            )
        raise ConfigError(f"{self._call}() has ended: begin another one")

    def _begin(self) -> None:
        if self._state is not State.NEW:
            raise ConfigError(f"{self._call}() can be entered once: begin another one")
        self._state = State.OPEN

    def _is_due(self, error: BaseException | None) -> bool:
        """End the block. Returns whether there is something to store."""
        is_open, self._state = self._state is State.OPEN, State.ENDED
        return is_open and error is None and len(self) > 0

    async def __aenter__(self) -> Self:
        self._check(self._call)
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._is_due(error):
            await self._commit(self._timeout)

    def __enter__(self) -> Self:
        self._block(_nothing(), None)  # raises on the event loop's own thread
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._is_due(error):
            limit = at_most_left(self._timeout, self._call)
            self._block(self._commit(limit), limit + LATE)

    def _block(self, work: Coroutine[Any, Any, None], timeout: float | None) -> None:
        self._run_sync(work, self._call, f"async with {self._call}() ...", timeout)


async def _nothing() -> None:
    pass
