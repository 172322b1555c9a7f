"""Buffer: holds outgoing frames in order and writes them with one call per loop iteration."""

from __future__ import annotations

import asyncio
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
from tidings.log import logger
from tidings.protocol.commands import PING, publish_frame, publish_headers_frame
from tidings.subject import MAX_SUBJECT_BYTES, check_pattern, check_subject
from tidings.transport.frame_queue import DOLLAR, SERVERS_INBOX, FrameQueue
from tidings.transport.permissions import News
from tidings.transport.tcp import SocketTransport

# With this many bytes the buffer is crowded: it writes in the middle of a loop iteration, and a
# publisher that is able to wait has to wait.
WRITE_THRESHOLD = 128 * 1024
# The number of subjects whose checked and encoded form is remembered.
MAX_KNOWN_SUBJECTS = 4096
# Seconds between two PINGs while the server has not confirmed everything that was written.
CONFIRM_INTERVAL = 0.5


class Buffer(FrameQueue):
    """The frames that wait to be sent, and the counts of those that were sent.

    Every message is counted once: as written, waiting or refused with an error. A PONG confirms all
    messages written before its PING. When a connection drops, the unconfirmed messages are possibly
    lost.

    Args:
        loop: the event loop.
        limit: the largest number of bytes that may wait.

    Attributes:
        is_closed: whether the buffer refuses all messages.
        limit: the largest number of bytes that may wait.
        written: number of messages passed to a socket.
        written_bytes: number of bytes passed to a socket, including control lines.
        possibly_lost: number of messages that were unconfirmed when their connection dropped.
    """

    __slots__ = (
        "_astray",
        "_confirmed",
        "_controls",
        "_held",
        "_last_ping",
        "_pings",
        "_socket",
        "_subjects",
        "is_closed",
        "limit",
        "possibly_lost",
        "written",
        "written_bytes",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        super().__init__(loop, min(WRITE_THRESHOLD, limit))
        self.limit = limit
        self.written = self.written_bytes = self.possibly_lost = 0
        self._astray = News()
        self._subjects: dict[str, bytes] = {}
        self._controls = 0  # the number of frames that are not messages
        self._socket: SocketTransport | None = None
        self._held = False  # whether `hold` stops all writes
        self.is_closed = False
        self._pings: deque[tuple[asyncio.Future[Any] | None, int]] = deque()
        self._last_ping = 0.0
        self._confirmed = 0

    @property
    def waiting(self) -> int:
        """Number of messages that wait to be sent."""
        return len(self._frames) - self._controls

    @property
    def unconfirmed(self) -> int:
        """Number of written messages that the server has not confirmed yet."""
        return self.written - self._confirmed

    @property
    def unsent_bytes(self) -> int:
        """Number of bytes that wait here or in the socket's own buffer."""
        return self.size + (0 if self._socket is None else self._socket.buffered)

    # Messages.

    def frame(self, subject: str, payload: bytes, reply: bytes = b"", block: bytes = b"") -> bytes:
        """Check a message and return its frame. Any thread may call this.

        Args:
            subject: the subject.
            payload: the encoded body.
            reply: the reply subject, already checked; b"" for none.
            block: the encoded headers; b"" for none.

        Raises:
            SubjectError: if NATS does not allow the subject.
            PayloadTooLargeError: if headers and body exceed the server's limit.
        """
        subject_bytes = self._subjects.get(subject) or self._check(subject)
        size = len(payload) + len(block)
        if size > self.max_payload:
            self.refused += 1
            raise PayloadTooLargeError(size, self.max_payload)
        if block:
            return publish_headers_frame(subject_bytes, reply, block, payload)
        return publish_frame(subject_bytes, reply, payload)

    def take_pattern(self, subject: str) -> None:
        """Let the next `frame` accept a subject with wildcards. Some subjects of the JetStream API
        contain a filter.

        Raises:
            SubjectError: if NATS does not allow the pattern.
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
        """Return the beginning of a frame, and remember it for the next message on the subject."""
        begin = b"PUB %b " % (self._subjects.get(subject) or self._check(subject))
        if len(self._begins) >= MAX_KNOWN_SUBJECTS:
            self._begins.clear()
        self._begins[subject] = begin
        return begin

    def reply_frame(self, reply: str, payload: bytes, block: bytes = b"") -> bytes | None:
        """Check an answer and return its frame. Any thread may call this.

        The form of the subject needs no check, because the server has accepted it. But the sender
        of the message chose it. An answer to `$JS.API.STREAM.DELETE.ORDERS` or `$KV.flags.admin`
        would let a stranger act with the permissions of this user. So an answer to a subject that
        starts with `$` must not be sent: this logs it, counts it as refused and returns None.

        Raises:
            SubjectError, PayloadTooLargeError: as `reply`.
        """
        size = len(payload) + len(block)
        if size > self.max_payload:
            self.refused += 1
            raise PayloadTooLargeError(size, self.max_payload)
        subject = reply.encode()
        if subject[0] == DOLLAR and not subject.startswith(SERVERS_INBOX):
            self._refuse_reply(reply)
            return None
        if len(subject) > MAX_SUBJECT_BYTES:
            self.refused += 1
            raise SubjectError(reply, "the reply subject of the request is too long")
        if block:
            return publish_headers_frame(subject, b"", block, payload)
        return publish_frame(subject, b"", payload)

    def _refuse_reply(self, reply: str) -> None:
        self.refused += 1
        if news := self._astray.add():
            logger.warning(
                "no answer was sent to the reply subject %r, because subjects that start with $ "
                "belong to the server (%d since the last warning)",
                *(reply[:100], news),
            )

    def _on_crowded(self) -> bool:
        if not self.is_closed:
            self.write()  # only frames that have to wait count towards the limit
            if self.size <= self.limit:
                return self._socket is not None
        self.size -= len(self._frames.pop())
        self.refused += 1
        if self.is_closed:
            raise ConnectionClosedError("publish")
        raise BufferFullError("publish", self.size, self.limit)

    async def make_room(self) -> None:
        """Wait until the server keeps up with the writes. This takes at least one loop
        iteration."""
        socket = self._socket
        if socket is not None and socket.is_paused:
            await socket.drain()
        else:
            await asyncio.sleep(0)

    def expect(self) -> None:
        """Schedule a write after the tasks that were just woken: they are likely to send something.

        If the first of their messages scheduled the write, it would come a turn later.
        """
        if not self.is_scheduled:
            self.is_scheduled = True
            self._loop.call_soon(self.write)

    def write(self) -> None:
        """Write all waiting frames with one call. If the socket has no room, keep them: the socket
        calls this again when it has."""
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

    # Control lines. They stay in order with the messages.

    def control(self, frame: bytes) -> None:
        """Queue a control line: SUB, UNSUB, PING or PONG.

        Without a connection it is dropped, because the next connection subscribes again to
        everything.
        """
        if self._socket is None:
            return
        self._controls += 1
        self._frames.append(frame)
        self.size += len(frame)
        if not self.is_scheduled:
            self.is_scheduled = True
            self._loop.call_soon(self.write)

    def ping(self, future: asyncio.Future[Any] | None) -> None:
        """Send a PING after everything that was queued so far. Its PONG resolves the future."""
        self._last_ping = self._loop.time()
        self._pings.append((future, self.written + self.waiting))
        self.control(PING)

    def pong(self) -> None:
        """Handle a PONG: it confirms everything that was written before its PING."""
        if self._pings:
            future, self._confirmed = self._pings.popleft()
            if future is not None and not future.done():
                future.set_result(None)

    # The connection below.

    def hold(self, last: asyncio.Future[Any]) -> None:
        """Write all waiting frames and a PING whose PONG resolves the future. Later frames wait
        until `release`."""
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
        """Write to this socket from now on, starting with the waiting frames."""
        self._socket = socket
        self.is_scheduled = self._held = False
        self.write()

    def disconnect(self, error: Callable[[str], TidingsError]) -> int:
        """Handle the loss of the socket: keep the waiting messages, and fail the waits for PONGs.

        Args:
            error: creates the error for a call, from the call's name.

        Returns:
            The number of messages that are possibly lost.
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
        """Refuse all messages from now on."""
        self.is_closed = True
        self._threshold = 0
