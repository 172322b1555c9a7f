"""Files: read a file in chunks, write a complete file or none, and choose safe file names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from pathlib import Path
from typing import IO, Any

from tidings.errors import ConfigError, EncodeError

Source = bytes | bytearray | memoryview | Path | AsyncIterable[bytes]

# Characters of a name that can have a special meaning in a file system or a shell.
_NOT_PLAIN = re.compile(r"[^\w \-.,=+@()]|^\.")


def file_name(name: str) -> str:
    """Return the file name for an object.

    The name never leads out of a folder, and two objects never get the same one. Special characters
    are percent-encoded.

    Example:
        ```python
        from tidings.jetstream.objects.files import file_name

        assert file_name("report 7.pdf") == "report 7.pdf"
        assert file_name("../../etc/passwd") == "%2E.%2F..%2Fetc%2Fpasswd"
        ```
    """
    return _NOT_PLAIN.sub(lambda found: "".join(f"%{b:02X}" for b in found[0].encode()), name)


async def size_of(source: Source) -> int | None:
    """Return the number of bytes of a source, or None for an iterator.

    Raises:
        ConfigError: if the source has a type that cannot be put.
        OSError: if the file cannot be read.
    """
    if isinstance(source, Path):
        return (await asyncio.to_thread(source.stat)).st_size
    if isinstance(source, (bytes, bytearray, memoryview)):
        return memoryview(source).nbytes
    if isinstance(source, AsyncIterable):
        return None
    raise ConfigError(
        f"put takes bytes, a pathlib.Path or an async iterator of bytes, not "
        f"{type(source).__name__}"
    )


def chunks_of(source: Source, size: int) -> AsyncGenerator[bytes, None]:
    """Yield a source in chunks of `size` bytes. The last chunk can be shorter."""
    if isinstance(source, Path):
        return _read_file(source, size)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _slices(memoryview(source).cast("B"), size)
    return _regroup(source, size)


async def _slices(view: memoryview, size: int) -> AsyncGenerator[bytes, None]:
    for begin in range(0, len(view), size):
        yield bytes(view[begin : begin + size])


async def _read_file(path: Path, size: int) -> AsyncGenerator[bytes, None]:
    file = await _open(path, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, size):
            yield chunk
    finally:
        await asyncio.to_thread(file.close)


async def _regroup(parts: AsyncIterable[Any], size: int) -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    async for part in parts:
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise EncodeError(part, "the parts of an object must be bytes")
        view = memoryview(part).cast("B")
        # One chunk at a time, so that no second copy of a large part is in memory.
        for begin in range(0, len(view), size):
            rest += view[begin : begin + size]
            while len(rest) >= size:
                yield bytes(rest[:size])
                del rest[:size]
    if rest:
        yield bytes(rest)


async def write_file(target: Path, chunks: AsyncIterator[bytes]) -> None:
    """Write a file that appears only when it is complete.

    Raises:
        OSError: if the file cannot be written.
        Exception: any exception that `chunks` raises. The incomplete file is removed.
    """
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        file = await _open(temporary, "xb")
        try:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)
        await asyncio.to_thread(os.replace, temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


async def _open(path: Path, mode: str) -> IO[bytes]:
    opening = asyncio.ensure_future(asyncio.to_thread(path.open, mode))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await asyncio.wait([opening])  # the thread continues and would leave the file open
        if opening.exception() is None:
            opening.result().close()
        raise
