"""Buffer: what waits to be sent. One joined write a loop turn, in order, bounded, counted."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from tidings.errors import (
    BufferFullError,
    ConnectionClosedError,
    PayloadTooLargeError,
    SubjectError,
    TidingsError,
)
from tidings.protocol.commands import PING, publish_frame, publish_headers_frame
from tidings.subject import MAX_SUBJECT_BYTES, check_pattern, check_subject
from tidings.transport.permissions import News
from tidings.transport.tcp import SocketTransport

logger = logging.getLogger("tidings")

# Bytes that gather before they are written in the middle of a loop turn, and before a publisher
# that can wait is made to.
WRITE_THRESHOLD = 128 * 1024
# Subjects checked and encoded before.
MAX_KNOWN_SUBJECTS = 4096
# The ends of the first lines of messages, by the size of the body.
SIZES = tuple(b"%d\r\n" % size for size in range(1024))
# Seconds between two PINGs that confirm what was written, while something is unconfirmed.
CONFIRM_INTERVAL = 0.5
# Where a reply to `$...` may go all the same: the server's own requests, those of an authentication
# callout, are answered there.
SERVERS_INBOX = b"$SYS._INBOX."
DOLLAR = ord("$")


class Buffer:
    """The frames that wait to be sent, and what is known of those that were.

    Every message is counted once: written, waiting, or refused with an error. Of the written ones
    those before the last PONG are confirmed; when a connection drops, the others are possibly lost.

    Args:
        loop: the event loop.
        limit: bytes that may wait.

    Attributes:
        max_payload: bytes of headers and body that the server takes.
        limit: bytes that may wait.
        size: bytes that wait now.
        is_scheduled: whether the loop is going to write, or there is no connection to write to.
        written: messages handed to a socket.
        written_bytes: bytes handed to a socket, control lines included.
        possibly_lost: messages written and not confirmed when their connection dropped.
        refused: messages not taken, with an error to the caller.
    """

    __slots__ = (
        "_astray",
        "_begins",
        "_closed",
        "_confirmed",
        "_controls",
        "_frames",
        "_held",
        "_last_ping",
        "_loop",
        "_pings",
        "_socket",
        "_subjects",
        "_threshold",
        "is_scheduled",
        "limit",
        "max_payload",
        "possibly_lost",
        "refused",
        "size",
        "written",
        "written_bytes",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self.limit = limit
        self.max_payload = 1024 * 1024
        self.size = self.written = self.written_bytes = self.possibly_lost = self.refused = 0
        self._loop = loop
        self._astray = News()
        self._subjects: dict[str, bytes] = {}
        self._begins: dict[str, bytes] = {}
        self._frames: list[bytes] = []
        self._controls = 0  # of the frames, those that are no message
        self._threshold = min(WRITE_THRESHOLD, limit)
        self._socket: SocketTransport | None = None
        self.is_scheduled = True  # also while there is no socket: nothing is written then
        self._held = False  # nothing is written, though there is a socket
        self._closed = False
        self._pings: deque[tuple[asyncio.Future[Any] | None, int]] = deque()
        self._last_ping = 0.0
        self._confirmed = 0

    @property
    def is_closed(self) -> bool:
        """Whether everything is refused from now on."""
        return self._closed

    @property
    def waiting(self) -> int:
        """Messages that wait to be sent."""
        return len(self._frames) - self._controls

    @property
    def unconfirmed(self) -> int:
        """Messages written that the server has not confirmed yet."""
        return self.written - self._confirmed

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait here or in the socket's own buffer."""
        return self.size + (0 if self._socket is None else self._socket.buffered)

    # Messages.

    def frame(self, subject: str, payload: bytes, reply: bytes = b"", block: bytes = b"") -> bytes:
        """Check a message and make its frame; `reply` is checked already. Safe from any thread.

        Raises:
            SubjectError: a bad subject.
            PayloadTooLargeError: more than the server takes.
        """
        subject_bytes = self._subjects.get(subject) or self._check(subject)
        size = len(payload) + len(block)
        if size > self.max_payload:
            self.refused += 1
            raise PayloadTooLargeError(size, self.max_payload)
        if block:
            return publish_headers_frame(subject_bytes, reply, block, payload)
        if reply:  # a request: one call less
            return b"PUB %b %b %d\r\n%b\r\n" % (subject_bytes, reply, size, payload)
        return publish_frame(subject_bytes, reply, payload)

    def take_pattern(self, subject: str) -> None:
        """Let the next `frame` take a subject with wildcards: some of the API have a filter in it.

        Raises:
            SubjectError: a bad pattern.
        """
        self._keep(subject, check_pattern(subject))

    def _check(self, subject: str) -> bytes:
        return self._keep(subject, check_subject(subject))

    def _keep(self, subject: str, checked: bytes) -> bytes:
        if len(self._subjects) >= MAX_KNOWN_SUBJECTS:
            self._subjects.clear()
        self._subjects[subject] = checked
        return checked

    def _begin(self, subject: str) -> bytes:
        """The beginning of a message's frame, kept for the next one on the subject."""
        begin = b"PUB %b " % (self._subjects.get(subject) or self._check(subject))
        if len(self._begins) >= MAX_KNOWN_SUBJECTS:
            self._begins.clear()
        self._begins[subject] = begin
        return begin

    def publish(self, subject: str, payload: bytes) -> bool:
        """`post(frame(subject, payload))` without the calls: most messages have no more to them."""
        try:
            begin = self._begins[subject]
        except KeyError:
            begin = self._begin(subject)
        size = len(payload)
        if size > self.max_payload:
            self.refused += 1
            raise PayloadTooLargeError(size, self.max_payload)
        if size < len(SIZES):  # much the quickest way to put such a line together
            frame = b"".join((begin, SIZES[size], payload, b"\r\n"))
        else:
            frame = b"%b%d\r\n%b\r\n" % (begin, size, payload)
        self._frames.append(frame)
        self.size = size = self.size + len(frame)
        if size >= self._threshold:
            return self._on_crowded()
        if not self.is_scheduled:
            self.is_scheduled = True
            self._loop.call_soon(self.write)
        return False

    def reply(self, reply: str, payload: bytes, block: bytes = b"") -> bool:
        """Send an answer to the reply subject of a message. The subject needs no check of its form,
        since the server sent it, and is not used again.

        The sender of the message chose it. An answer to `$JS.API.STREAM.DELETE.ORDERS` or
        `$KV.flags.admin` would act with this user's permissions for a stranger, so nothing is sent
        to a subject that begins with `$`: it is counted as refused, and logged.

        Raises:
            SubjectError: so long that the server would close this connection over it.
            PayloadTooLargeError: more than the server takes.
        """
        size = len(payload) + len(block)
        if size > self.max_payload:
            self.refused += 1
            raise PayloadTooLargeError(size, self.max_payload)
        subject = reply.encode()
        if subject[0] == DOLLAR and not subject.startswith(SERVERS_INBOX):
            self._refuse_reply(reply)
            return False
        if len(subject) > MAX_SUBJECT_BYTES:
            self.refused += 1
            raise SubjectError(reply, "the reply subject of the request is too long")
        if block:
            return self.post(publish_headers_frame(subject, b"", block, payload))
        return self.post(b"PUB %b %d\r\n%b\r\n" % (subject, size, payload))

    def ack(self, reply: str, payload: bytes) -> bool:
        """Acknowledge a message of a stream, at the subject that the server gave it."""
        return self.post(b"PUB %b %d\r\n%b\r\n" % (reply.encode(), len(payload), payload))

    def _refuse_reply(self, reply: str) -> None:
        self.refused += 1
        if news := self._astray.add():
            logger.warning(
                "no answer is sent to the reply subject %r: subjects with $ belong to the server "
                "(%d since this was last logged)",
                *(reply[:100], news),
            )

    def post(self, frame: bytes) -> bool:
        """Take a message's frame; it goes out with the loop's next turn.

        Returns:
            Whether it is crowded here, so that a caller who can should await `make_room()`.

        Raises:
            BufferFullError: the bound is reached; the frame was not taken.
            ConnectionClosedError: closed for good.
        """
        self._frames.append(frame)
        self.size += len(frame)
        if self.size >= self._threshold:
            return self._on_crowded()
        if not self.is_scheduled:
            self.is_scheduled = True
            self._loop.call_soon(self.write)
        return False

    def _on_crowded(self) -> bool:
        if not self._closed:
            self.write()  # what goes out at once does not wait, and is not bounded
            if self.size <= self.limit:
                return self._socket is not None
        self.size -= len(self._frames.pop())
        self.refused += 1
        if self._closed:
            raise ConnectionClosedError("publish")
        raise BufferFullError("publish", self.size, self.limit)

    async def make_room(self) -> None:
        """Wait until the server keeps up. Costs one loop turn where it does already."""
        socket = self._socket
        if socket is not None and socket.is_paused:
            await socket.drain()
        else:
            await asyncio.sleep(0)

    def write(self) -> None:
        """Write everything that waits, as one. While the socket has no room it is left waiting:
        the socket calls again."""
        socket = self._socket
        if socket is None or self._held:
            return
        self.is_scheduled = False
        if not self._frames or socket.is_paused:
            return
        if not self._pings and self._loop.time() - self._last_ping > CONFIRM_INTERVAL:
            self.ping(None)
        frames, self._frames = self._frames, []
        self.written += len(frames) - self._controls
        self.written_bytes += self.size
        self.size = self._controls = 0
        socket.write(b"".join(frames))

    # Control lines. They keep their place among the messages.

    def control(self, frame: bytes) -> None:
        """Take a frame that is no message: SUB, UNSUB, PING, PONG. Dropped without a connection:
        subscriptions are replayed to the next one."""
        if self._socket is None:
            return
        self._controls += 1
        self._frames.append(frame)
        self.size += len(frame)
        if not self.is_scheduled:
            self.is_scheduled = True
            self._loop.call_soon(self.write)

    def ping(self, future: asyncio.Future[Any] | None) -> None:
        """Send a PING behind everything taken so far; its PONG ends the future."""
        self._last_ping = self._loop.time()
        self._pings.append((future, self.written + self.waiting))
        self.control(PING)

    def pong(self) -> None:
        """The server has everything up to its PING."""
        if self._pings:
            future, self._confirmed = self._pings.popleft()
            if future is not None and not future.done():
                future.set_result(None)

    # The connection below.

    def hold(self, last: asyncio.Future[Any]) -> None:
        """Write what waits and a PING, whose PONG ends the future. What comes after it waits."""
        self.ping(last)
        self.write()
        self._held = True
        self.is_scheduled = True

    def release(self) -> None:
        """Write again, after `hold`."""
        if self._held:
            self._held = self.is_scheduled = False
            self.write()

    def connect(self, socket: SocketTransport) -> None:
        """Write to this socket from now on, what waits first."""
        self._socket = socket
        self.is_scheduled = self._held = False
        self.write()

    def disconnect(self, error: Callable[[str], TidingsError]) -> int:
        """The socket is gone: keep the messages, end waits for PONGs with an error.

        Returns:
            How many messages are possibly lost with it.
        """
        self._socket = None
        self.is_scheduled = True
        self._held = False
        self._frames = [f for f in self._frames if f.startswith((b"PUB ", b"HPUB "))]
        self.size = sum(map(len, self._frames))
        self._controls = 0
        lost = self.unconfirmed
        self.possibly_lost += lost
        self._confirmed = self.written
        pings, self._pings = self._pings, deque()
        for future, _ in pings:
            if future is not None and not future.done():
                future.set_exception(error("flush"))
        return lost

    def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True
        self._threshold = 0
