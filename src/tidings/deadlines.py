"""Deadlines: how much time is left for a piece of work. Calls made for it end in time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self, TypeVar

from tidings.checks import Seconds, check_seconds
from tidings.errors import ConfigError, DeadlineExpiredError

T = TypeVar("T")

# When the current work has to end, by the clock `time.monotonic`; None without a deadline. Threads
# and tasks that are started in the block get it with their context.
current: ContextVar[float | None] = ContextVar("tidings_deadline", default=None)


class Deadline:
    """A block of code that has a deadline. Create it with `deadline`."""

    __slots__ = ("_end", "_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None
        self._token: Token[float | None] | None = None

    @property
    def left(self) -> float:
        """Seconds that are left; 0.0 when the deadline has passed."""
        return self._seconds if self._end is None else max(self._end - time.monotonic(), 0.0)

    def __enter__(self) -> Self:
        if self._end is not None:
            raise ConfigError("a deadline() was entered twice: call deadline() for each block")
        end, outer = time.monotonic() + self._seconds, current.get()
        self._end = end if outer is None else min(end, outer)
        self._token = current.set(self._end)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._token is not None
        _reset(self._token)


def deadline(seconds: Seconds) -> Deadline:
    """Give everything in a `with` block a common deadline.

    Each request, stream publish and call of a bucket in the block waits at most until the deadline,
    whatever its own `timeout`. A request tells its service how much time is left, and the service
    passes on what remains with each request of its own. The block itself is not interrupted. Inside
    another deadline, the earlier one counts. Tasks and threads that the block starts keep the
    deadline, even after the block.

    Args:
        seconds: the time for the whole block, in seconds, or a `timedelta`.

    Returns:
        A context manager, to enter once. Its `left` is the time that is left, in seconds.

    Raises:
        ConfigError: `seconds` is not a positive number.

    Example:
        ```python
        from tidings import deadline

        with deadline(2) as budget:
            await app.request("greet", {"name": "Ada"})
            await app.request("greet", {"name": "Bob"}, timeout=5)  # waits 2 seconds at most
            print(f"{budget.left:.1f} s to spare")
        ```
    """
    return Deadline(check_seconds("deadline", seconds))


def time_left() -> float | None:
    """Return the seconds that are left, 0.0 or less if the deadline has passed; None without one.

    Example:
        ```python
        from tidings import deadline
        from tidings.deadlines import time_left

        assert time_left() is None
        with deadline(2):
            assert 0 < time_left() <= 2
        ```
    """
    end = current.get()
    return None if end is None else end - time.monotonic()


def at_most_left(timeout: float, what: str) -> float:
    """Return a timeout, or what is left until the deadline if that is less.

    Args:
        timeout: the timeout in seconds.
        what: the subject or the bucket, for the error.

    Raises:
        DeadlineExpiredError: the deadline has passed.
    """
    left = time_left()
    if left is None:
        return timeout
    if left <= 0:
        raise DeadlineExpiredError(what)
    return min(timeout, left)


@contextlib.contextmanager
def working_until(end: float | None) -> Iterator[None]:
    """Set the deadline of a block: a moment of `time.monotonic`; None for no deadline."""
    if end == current.get():
        yield
        return
    token = current.set(end)
    try:
        yield
    finally:
        _reset(token)


async def in_time(work: Coroutine[Any, Any, T], what: str) -> T:
    """Await a call, and cancel it when the deadline passes.

    Args:
        work: the call, not awaited.
        what: as in `at_most_left`.

    Raises:
        DeadlineExpiredError: the deadline passed before the call had ended.
    """
    left = time_left()
    if left is None:
        return await work
    if left <= 0:
        work.close()
        raise DeadlineExpiredError(what)
    try:
        async with asyncio.timeout(left) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExpiredError(what, has_begun=True) from None


def _reset(token: Token[float | None]) -> None:
    # A coroutine that was never finished is closed in another context, which has no such deadline.
    with contextlib.suppress(ValueError):
        current.reset(token)
