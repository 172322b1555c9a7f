"""FrameQueue: the frames that wait to be sent, and what adds a frame for every message."""

from __future__ import annotations

import asyncio

from tidings.core import replaceable
from tidings.errors import PayloadTooLargeError, SubjectError
from tidings.protocol.commands import publish_headers_frame
from tidings.subject import MAX_SUBJECT_BYTES

# The ends of the first lines of messages, by the size of the body.
SIZES = tuple(b"%d\r\n" % size for size in range(1024))
# The only subjects with `$` that may get a reply: the server sends requests from there, such as
# those of an authentication callout.
SERVERS_INBOX = b"$SYS._INBOX."
DOLLAR = ord("$")


@replaceable
class FrameQueue:
    """The frames that wait to be sent: the part of `Buffer` that runs for every message.

    The compiled form calls the methods of this one for everything out of the ordinary: a new
    subject, an answer with headers, a body that is too large.

    Args:
        loop: the event loop.
        threshold: the number of waiting bytes that makes the queue crowded.

    Attributes:
        max_payload: the server's limit for headers and body together, in bytes.
        size: number of bytes that wait now.
        is_scheduled: whether a write is scheduled, or there is no connection to write to.
        refused: number of messages that were refused with an error.
        direct_thread: the number of the thread in which the compiled `app.publish` may add messages
            without further checks; 0 for none.
    """

    __slots__ = (
        "_begins",
        "_frames",
        "_loop",
        "_threshold",
        "direct_thread",
        "is_scheduled",
        "max_payload",
        "refused",
        "size",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, threshold: int) -> None:
        self.max_payload = 1024 * 1024
        self.size = self.refused = self.direct_thread = 0
        self.is_scheduled = True  # also while there is no socket, so that nothing schedules a write
        self._loop = loop
        self._threshold = threshold
        self._frames: list[bytes] = []
        self._begins: dict[str, bytes] = {}  # the beginning of the frame, by subject

    def publish(self, subject: str, payload: bytes) -> bool:
        """Send a message without headers and reply subject.

        This is `post(frame(subject, payload))` with the calls written out, since most messages come
        this way.
        """
        try:
            begin = self._begins[subject]
        except KeyError:
            begin = self._begin(subject)
        size = len(payload)
        if size > self.max_payload:
            self.refused += 1
            raise PayloadTooLargeError(size, self.max_payload)
        if size < len(SIZES):  # by far the fastest way to build the line
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

    def request(
        self, subject: str, payload: bytes, prefix: bytes, token: str, block: bytes = b""
    ) -> bool:
        """Send a request. Returns, raises: as `post`, and as `Buffer.frame`.

        Args:
            subject: the subject.
            payload: the encoded body.
            prefix: the beginning of the reply subject, up to the last point.
            token: its last token.
            block: the encoded headers; b"" for none.
        """
        begin = self._begins.get(subject) or self._begin(subject)
        size = len(payload) + len(block)
        if size > self.max_payload:
            self.refused += 1
            raise PayloadTooLargeError(size, self.max_payload)
        end = token.encode()
        if block:
            sizes = len(block), size
            return self.post(
                b"H%b%b%b %d %d\r\n%b%b\r\n" % (begin, prefix, end, *sizes, block, payload)
            )
        return self.post(b"%b%b%b %d\r\n%b\r\n" % (begin, prefix, end, size, payload))

    def reply(self, reply: str, payload: bytes, block: bytes = b"") -> bool:
        """Send an answer to the reply subject of a message.

        The answer is checked as by `Buffer.reply_frame`.

        Raises:
            SubjectError: if the subject is so long that the server would close the connection.
            PayloadTooLargeError: if headers and body exceed the server's limit.
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
        """Acknowledge a message of a stream. The server chose the reply subject."""
        return self.post(b"PUB %b %d\r\n%b\r\n" % (reply.encode(), len(payload), payload))

    def post(self, frame: bytes) -> bool:
        """Queue the frame of a message. It is written in the next loop iteration.

        Returns:
            Whether the buffer is crowded. If it is, the caller should await `make_room()`.

        Raises:
            BufferFullError: if the buffer is full. The frame was not queued.
            ConnectionClosedError: if the connection is closed.
        """
        self._frames.append(frame)
        self.size += len(frame)
        if self.size >= self._threshold:
            return self._on_crowded()
        if not self.is_scheduled:
            self.is_scheduled = True
            self._loop.call_soon(self.write)
        return False

    # What a subclass does.

    def _begin(self, subject: str) -> bytes:
        """Check a subject, and return and remember the beginning of its frame."""
        raise NotImplementedError

    def _refuse_reply(self, reply: str) -> None:
        """Count an answer that is not sent because its subject belongs to the server."""
        raise NotImplementedError

    def _on_crowded(self) -> bool:
        """Make room, or refuse the last frame. Returns what `post` returns."""
        raise NotImplementedError

    def write(self) -> None:
        """Write all waiting frames with one call."""
        raise NotImplementedError
