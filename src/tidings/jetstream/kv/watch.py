"""Watch: the entries of a key-value bucket, followed by every change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tidings.jetstream.kv.entry import Entry
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.reader import Reader

T = TypeVar("T")


class Watch(Generic[T]):
    """The entries of a bucket, followed by every change. Create it with `KeyValue.watch`.

    Use it in `async for`. An `async with` around the loop lets you decide when the watch starts and
    ends.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[tuple[Reader, int]]],
        entry: Callable[[StreamMessage[Any]], Entry[T] | None],
        *,
        deletes: bool,
    ) -> None:
        self._begin = begin
        self._entry = entry
        self._deletes = deletes
        self._reader: Reader | None = None
        self._current = False
        self._all_read = False  # every entry that existed at the start has been read
        self._ahead: Entry[T] | None = None  # the next entry to yield, if it was read ahead

    def __repr__(self) -> str:
        return f"<Watch {'current' if self._current else 'not current yet'}>"

    @property
    def is_current(self) -> bool:
        """Whether the watch has yielded every entry that existed when it started."""
        return self._current

    async def __aenter__(self) -> Self:
        self._reader, pending = await self._begin()
        self._all_read = not pending
        try:
            self._ahead = await self._look_ahead()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        self._current = self._all_read and self._ahead is None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._reader is not None:
            await self._reader.close()
            self._reader = self._ahead = None

    async def __aiter__(self) -> AsyncIterator[Entry[T]]:
        begins_here = self._reader is None
        if begins_here:
            await self.__aenter__()
        try:
            while (entry := await self._next()) is not None:
                yield entry
        finally:
            if begins_here:
                await self.__aexit__(None, None, None)

    async def _next(self) -> Entry[T] | None:
        if self._ahead is None:
            self._ahead = await self._read()
        following = await self._look_ahead()
        entry, self._ahead = self._ahead, following
        self._current = self._all_read and following is None
        return entry

    async def _look_ahead(self) -> Entry[T] | None:
        """Read ahead in the entries that existed at the start.

        A watch without deletions must look ahead: if only deletions are left, it is current.
        """
        return None if self._deletes else await self._read(only_there=True)

    async def _read(self, only_there: bool = False) -> Entry[T] | None:
        """Return the next entry to yield.

        Returns None if the watch ended or, with `only_there`, after the last entry that existed at
        the start.
        """
        while self._reader is not None and not (only_there and self._all_read):
            message = await self._reader.next()
            if message is None:
                return None
            self._all_read = self._all_read or not message.pending
            entry = self._entry(message)
            if entry is not None and (self._deletes or not entry.is_deleted):
                return entry
        return None
