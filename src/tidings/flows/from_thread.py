"""Several answers for synchronous code: the iterators of `request_many_sync` and `stream_sync`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from tidings.flows.item_stream import Items, ItemStream
from tidings.flows.many import Ended, RequestMany

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# The largest number of answers to take from the event loop at a time.
BATCH = 256

_END = object()


class Answers(Protocol[T_co]):
    """What both asynchronous iterators have."""

    def __anext__(self) -> Coroutine[Any, Any, T_co]: ...

    @property
    def is_ready(self) -> bool: ...


Run = Callable[[Coroutine[Any, Any, Any]], Any]


class _Reader(Generic[T]):
    """Takes answers out of the event loop, as many at a time as have arrived.

    Args:
        run: runs a coroutine in the event loop, and blocks until it ends.
        answers: the asynchronous iterator.
    """

    def __init__(self, run: Run, answers: Answers[T]) -> None:
        self._run = run
        self._answers = answers
        self._taken: deque[T] = deque()
        self._error: Exception | None = None
        self._is_over = False

    def next(self) -> T:
        if not self._taken:
            self._raise_if_over()
            self._run(self._take())
            if not self._taken:
                self._raise_if_over()
        return self._taken.popleft()

    def _raise_if_over(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._is_over:
            raise StopIteration

    async def _take(self) -> None:
        try:
            self._taken.append(await self._answers.__anext__())
            while self._answers.is_ready and len(self._taken) < BATCH:
                self._taken.append(await self._answers.__anext__())
        except StopAsyncIteration:
            self._is_over = True
        except Exception as error:  # raised after the answers before it
            self._error, self._is_over = error, True


class SyncRequestMany(Generic[T]):
    """The answers to one request, for synchronous code: an iterator. `App.request_many_sync`
    returns it.

    Attributes:
        ended: why the answers ended, an `Ended`; None before the end.
        dropped: number of answers that were dropped because too many waited to be read.
    """

    def __init__(self, run: Run, answers: RequestMany[T]) -> None:
        self._run = run
        self._answers = answers
        self._reader = _Reader(run, answers)

    def __repr__(self) -> str:
        return f"<Sync{repr(self._answers)[1:]}"

    @property
    def ended(self) -> Ended | None:
        """Why the answers ended; None before the end."""
        return None if self._reader._taken else self._answers.ended

    @property
    def dropped(self) -> int:
        """Number of answers that were dropped because too many waited to be read."""
        return self._answers.dropped

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return self._reader.next()

    def close(self) -> None:
        """Take no more answers."""
        self._run(self._answers.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class SyncItemStream(Generic[T]):
    """The items of a streamed reply, for synchronous code: a context manager and iterator.
    `App.stream_sync` returns it."""

    def __init__(self, run: Run, stream: ItemStream[T]) -> None:
        self._run = run
        self._stream = stream
        self._reader = _Reader(run, stream)

    def __repr__(self) -> str:
        return f"<Sync{repr(self._stream)[1:]}"

    def __enter__(self) -> Self:
        self._run(self._stream.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._stream.__aexit__(kind, error, trace))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return self._reader.next()

    def one(self) -> T:
        """Return the next item: see `ItemStream.one`."""
        result: T = self._run(self._stream.one())
        return result


def in_thread(items: Items) -> Items:
    """Return items that are read in a thread, so that a blocking iterator blocks no event loop."""
    return items if isinstance(items, AsyncIterable) else _stepped(items)


async def _stepped(items: Iterable[Any]) -> AsyncIterator[Any]:
    iterator: Iterator[Any] = await asyncio.to_thread(iter, items)
    while (item := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield item
