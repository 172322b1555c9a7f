"""Files of objects: read in parts, written whole or not at all, named so that they stay put."""

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

# Everything in a name that a file system or a shell could take for more than a letter.
_NOT_PLAIN = re.compile(r"[^\w \-.,=+@()]|^\.")


def file_name(name: str) -> str:
    """A file name for an object's name: one file, in whatever folder it is put; never another's.

    Example:
        ```python
        from tidings.jetstream.objects.files import file_name

        assert file_name("report 7.pdf") == "report 7.pdf"
        assert file_name("../../etc/passwd") == "%2E.%2F..%2Fetc%2Fpasswd"
        ```
    """
    return _NOT_PLAIN.sub(lambda found: "".join(f"%{b:02X}" for b in found[0].encode()), name)


async def size_of(source: Source) -> int | None:
    """The bytes of what is put, None where only its end tells.

    Raises:
        ConfigError: nothing that can be put.
        OSError: a file that is not there.
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
    """What is put, in chunks of `size` bytes, the last one shorter."""
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
            raise EncodeError(part, "an object is put as bytes")
        view = memoryview(part).cast("B")
        for begin in range(0, len(view), size):  # so that a large part is not held twice
            rest += view[begin : begin + size]
            while len(rest) >= size:
                yield bytes(rest[:size])
                del rest[:size]
    if rest:
        yield bytes(rest)


async def write_file(target: Path, chunks: AsyncIterator[bytes]) -> None:
    """Write a file that is there when all of it is, and not before.

    Raises:
        OSError: the folder cannot be written to.
        Exception: whatever the chunks raise; no file is left then.
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
        await asyncio.wait([opening])  # the thread goes on, and would leave an open file behind
        if opening.exception() is None:
            opening.result().close()
        raise
