"""Watch: the entries of a key-value bucket, as they are and as they change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tidings.jetstream.entries import Entry
from tidings.jetstream.messages import StreamMessage
from tidings.jetstream.readers import Reader

T = TypeVar("T")


class Watch(Generic[T]):
    """The entries of a bucket as they are and as they change: see `KeyValue.watch`.

    Use it in `async for`. `async with` around it makes plain when it begins and ends.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[tuple[Reader, int]]],
        entry: Callable[[StreamMessage[Any]], Entry[T]],
        *,
        deletes: bool,
    ) -> None:
        self._begin = begin
        self._entry = entry
        self._deletes = deletes
        self._reader: Reader | None = None
        self._current = False

    @property
    def is_current(self) -> bool:
        """Whether everything that was there when it began has been told."""
        return self._current

    async def __aenter__(self) -> Self:
        self._reader, pending = await self._begin()
        self._current = not pending
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._reader is not None:
            await self._reader.close()
            self._reader = None

    async def __aiter__(self) -> AsyncIterator[Entry[T]]:
        begins_here = self._reader is None
        if begins_here:
            await self.__aenter__()
        try:
            while (entry := await self._next()) is not None:
                if self._deletes or not entry.is_deleted:
                    yield entry
        finally:
            if begins_here:
                await self.__aexit__(None, None, None)

    async def _next(self) -> Entry[T] | None:
        message = None if self._reader is None else await self._reader.next()
        if message is None:
            return None
        self._current = self._current or message.pending == 0
        return self._entry(message)
