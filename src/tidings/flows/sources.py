"""Sources: the generators of handlers, stepped one item at a time and closed at the end."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Protocol

from tidings.concurrency.threads import WorkerThreads
from tidings.log import logger


class Source(Protocol):
    """A generator.

    Attributes:
        can_be_interrupted: whether a step can be cancelled.
    """

    can_be_interrupted: bool

    def step(self) -> Awaitable[Any]:
        """Return the next item.

        Raises:
            StopAsyncIteration: if there is none.
        """
        ...

    async def close(self) -> None:
        """Run the `finally` blocks of the generator."""
        ...


class AsyncSource:
    """An async generator."""

    __slots__ = ("_generator", "step")

    can_be_interrupted = True

    def __init__(self, generator: AsyncGenerator[Any, None]) -> None:
        self._generator = generator
        self.step = generator.__anext__

    async def close(self) -> None:
        """Run the `finally` blocks of the generator."""
        await self._generator.aclose()


class ThreadSource:
    """A `def` generator. Each step runs in a worker thread, in the same context.

    A step cannot be interrupted: the generator is closed when it has ended.

    Args:
        make: makes the generator, in the thread of its first step.
        threads: the threads of the handler.
        name: the handler's name.
    """

    can_be_interrupted = False

    def __init__(
        self, make: Callable[[], Generator[Any, None, None]], threads: WorkerThreads, name: str
    ) -> None:
        self._make = make
        self._threads = threads
        self._name = name
        self._context = contextvars.copy_context()
        self._generator: Generator[Any, None, None] | None = None
        self._lock = threading.Lock()  # held while the generator runs
        self._is_closing = False

    async def step(self) -> Any:
        """Return the next item."""
        is_item, value = await self._threads.run(self._context.run, self._next)
        if not is_item:
            raise StopAsyncIteration
        return value

    def _next(self) -> tuple[bool, Any]:
        with self._lock:
            if self._is_closing:
                return False, None
            if self._generator is None:
                self._generator = self._make()
            try:
                return True, next(self._generator)
            except StopIteration:
                return False, None

    async def close(self) -> None:
        """Run the `finally` blocks of the generator in a thread, after the step that it may be in.

        When the app has given up its work, nobody waits for them.
        """
        self._is_closing = True
        if not self._threads.is_closed:
            await self._threads.run(self._context.copy().run, self._close)
        elif self._generator is not None:
            name = f"tidings-{self._name}-close"
            threading.Thread(target=self._close_and_log, name=name, daemon=True).start()

    def _close_and_log(self) -> None:
        try:
            self._context.copy().run(self._close)
        except Exception:
            logger.exception("the generator of %s failed while it was closed", self._name)

    def _close(self) -> None:
        with self._lock:
            if self._generator is not None:
                self._generator.close()
