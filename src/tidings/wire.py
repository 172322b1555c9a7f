"""The protocol's fast path: frames out as pure functions, frames in by one parser.

A frame in is a plain tuple, because one is made for every message: see `Frame`. Nothing here raises
on what a server sends; what cannot be understood is dropped and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

CRLF = b"\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"
HEADER_VERSION = b"NATS/1.0"

# The server's own upper bound for max_payload; a size above it is garbage, not a message.
MAX_PAYLOAD = 64 * 1024 * 1024
# INFO is the only long line a server sends: the URLs of a large cluster.
MAX_LINE = 1024 * 1024
# Control lines seen before, parsed: most subscriptions see the same line again and again.
MAX_KNOWN_LINES = 4096

# (sid, subject, reply, header block, body).
# sid 0 marks a control line: (0, operation, "", argument, b"").
Frame = tuple[int, str, str, bytes, bytes]
CONTROL = 0

# (sid, subject, reply, header size, size of header and body)
_Line = tuple[int, str, str, int, int]

_HEADER_NAME = re.compile(r"[!-9;-~]+")  # printable ASCII but the colon
_SPACES = re.compile(rb"[ \t]+")
_CONTROL_OPS = {b"PING": "PING", b"PONG": "PONG", b"INFO": "INFO", b"-ERR": "-ERR", b"+OK": "+OK"}


def publish_frame(subject: bytes, reply: bytes, payload: bytes) -> bytes:
    """A PUB frame. Subject and reply are checked by the caller."""
    if reply:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)


def publish_headers_frame(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> bytes:
    """An HPUB frame, `block` being an encoded header block."""
    size = len(block)
    total = size + len(payload)
    if reply:
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, size, total, block, payload)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, size, total, block, payload)


def subscribe_frame(subject: bytes, queue: bytes, sid: int) -> bytes:
    """A SUB frame."""
    if queue:
        return b"SUB %b %b %d\r\n" % (subject, queue, sid)
    return b"SUB %b %d\r\n" % (subject, sid)


def unsubscribe_frame(sid: int) -> bytes:
    """An UNSUB frame that takes effect at once."""
    return b"UNSUB %d\r\n" % sid


def header_problem(name: object, value: object) -> str:
    """What keeps a header off the wire, or "" where nothing does."""
    if not isinstance(name, str) or not isinstance(value, str):
        return "name and value are str"
    if not _HEADER_NAME.fullmatch(name):
        return "a name is printable ASCII without colon or space"
    if "\r" in value or "\n" in value or "\0" in value:
        return "the value has a line break or NUL"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "the value is not encodable as UTF-8"
    return ""


def header_block(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Encode checked header pairs. (NATS ADR-4)"""
    lines = "".join([f"{name}: {value}\r\n" for name, value in pairs])
    return b"%b\r\n%b\r\n" % (HEADER_VERSION, lines.encode())


def parse_header_block(block: bytes) -> tuple[int, str, list[tuple[str, str]]]:
    """Read a header block into (status, description, pairs); status 0 where there is none.

    A line that is no header is left out, and bytes that are not UTF-8 become U+FFFD: headers come
    from other programs, and one bad one must not cost the message.
    """
    first, _, rest = block.partition(CRLF)
    code, _, description = (
        first[len(HEADER_VERSION) :].decode("utf-8", "replace").strip().partition(" ")
    )
    status = int(code) if code.isascii() and code.isdigit() else 0
    pairs = []
    for line in rest.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and _HEADER_NAME.fullmatch(name):
            pairs.append((name, value.strip(" \t")))
    return status, description.strip(), pairs


class Parser:
    """Bytes from the server in, frames out. Any split of the bytes gives the same frames.

    Attributes:
        malformed: lines and messages dropped because they could not be understood.
    """

    __slots__ = ("_have", "_known", "_need", "_parts", "malformed")

    def __init__(self) -> None:
        self.malformed = 0
        self._known: dict[bytes, _Line] = {}
        self.reset()

    def reset(self) -> None:
        """Forget a half-received frame, as a new connection does."""
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take a chunk; return the frames that it completes, in order."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._parts)
            self.reset()
        frames: list[Frame] = []
        known = self._known
        find = data.find
        start, end, need = 0, len(data), 1
        while start < end:
            stop = find(CRLF, start)
            if stop < 0:
                start = self._skip_endless(start, end)
                break
            line = data[start:stop]
            parsed = known.get(line) or self._parse_line(line, frames)
            if parsed is None:  # a control line, or not understood
                start = stop + 2
                continue
            sid, subject, reply, header_size, size = parsed
            body = stop + 2
            stop = body + size
            if stop + 2 > end:
                need = stop + 2 - start
                break
            if not header_size:
                frames.append((sid, subject, reply, b"", data[body:stop]))
            else:
                after = body + header_size
                block = data[body:after]
                if header_size <= size and _is_header_block(block):
                    frames.append((sid, subject, reply, block, data[after:stop]))
                else:
                    self.malformed += 1
            start = stop + 2
        if start < end:
            self._parts = [data[start:]]
            self._have = end - start
            self._need = need
        return frames

    def _parse_line(self, line: bytes, frames: list[Frame]) -> _Line | None:
        """Parse a message's control line; a control operation goes into frames instead."""
        operation = line[:4]
        try:
            if operation == b"MSG ":
                parsed = _message_line(_words(line, 4), headers=False)
            elif operation == b"HMSG":
                parsed = _message_line(_words(line, 5), headers=True)
            else:
                frames.append(_control_frame(line))
                return None
        except ValueError:  # UnicodeDecodeError is one
            self.malformed += 1
            return None
        if not parsed[2]:  # a reply subject is new each time, and would only fill the table
            if len(self._known) >= MAX_KNOWN_LINES:
                self._known.clear()
            self._known[line] = parsed
        return parsed

    def _skip_endless(self, start: int, end: int) -> int:
        if end - start <= MAX_LINE:
            return start
        self.malformed += 1
        return end


def _words(line: bytes, start: int) -> list[bytes]:
    # Space and tab only: other white space can be part of a subject, as the server sees it.
    words = line[start:].split(b" ")
    if b"" in words or b"\t" in line:
        words = _SPACES.split(line[start:].strip(b" \t"))
    return words


def _message_line(words: list[bytes], *, headers: bool) -> _Line:
    sizes = 2 if headers else 1
    if not 2 + sizes <= len(words) <= 3 + sizes:
        raise ValueError(words)
    reply = words[2].decode() if len(words) == 3 + sizes else ""
    size = _number(words[-1])
    header_size = _number(words[-2]) if headers else 0
    if size > MAX_PAYLOAD or (headers and not header_size):
        raise ValueError(words)
    sid = _number(words[1])
    if sid == CONTROL:
        raise ValueError(words)
    return sid, words[0].decode(), reply, header_size, size


def _number(digits: bytes) -> int:
    # int() takes signs, underscores and spaces, and very long strings slowly.
    if not digits.isdigit() or len(digits) > 18:
        raise ValueError(digits)
    return int(digits)


def _control_frame(line: bytes) -> Frame:
    word, _, argument = line.replace(b"\t", b" ").partition(b" ")
    operation = _CONTROL_OPS.get(word.upper())
    if operation is None:
        raise ValueError(line)
    return CONTROL, operation, "", argument.strip(), b""


def _is_header_block(block: bytes) -> bool:
    if not block.startswith(HEADER_VERSION) or not block.endswith(b"\r\n\r\n"):
        return False
    mark = block[len(HEADER_VERSION) : len(HEADER_VERSION) + 1]
    if mark == b"\r":
        return True
    code = block[len(HEADER_VERSION) :].split(CRLF, 1)[0].split(maxsplit=1)
    return mark == b" " and bool(code) and len(code[0]) == 3 and code[0].isdigit()
