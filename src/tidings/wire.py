"""The protocol's fast path: frames out as pure functions, frames in by one parser.

A frame in is a plain tuple, because one is made for every message: see `Frame`. Nothing here raises
on what a server sends; what cannot be understood is dropped and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

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
# Frames of one subscription that came in a row: (sid, bytes of headers and bodies, frames).
# The sid is negative where the message is not for the subscription: see Parser.admit.
Batch = tuple[int, int, list[Frame]]

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
    status = int(code) if len(code) == 3 and code.isascii() and code.isdigit() else 0
    pairs = []
    for line in rest.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and _HEADER_NAME.fullmatch(name):
            pairs.append((name, value.strip(" \t")))
    return status, description.strip(), pairs


def _admit_all(sid: int, subject: str) -> bool:
    return True


class Parser:
    """Bytes from the server in, frames out. Any split of the bytes gives the same frames.

    Most subscriptions see the same control line again and again, so a line is parsed once and
    remembered, and a line that equals the one before it is not even looked up.

    Args:
        admit: whether a subject is for the subscription with that sid. Asked once a line.

    Attributes:
        malformed: lines and messages dropped because they could not be understood.
    """

    __slots__ = (
        "_admit",
        "_have",
        "_heads",
        "_known",
        "_need",
        "_parts",
        "_sizes",
        "_transient",
        "malformed",
    )

    def __init__(self, admit: Callable[[int, str], bool] = _admit_all) -> None:
        self.malformed = 0
        self._admit = admit
        self._known: dict[bytes, _Line] = {}
        self._heads: dict[bytes, tuple[int, str]] = {}  # b"MSG subject sid" of lines with a reply
        self._sizes: dict[bytes, int] = {}  # the last word of those lines
        self._transient: dict[bytes, tuple[int, bytes]] = {}
        self.reset()

    def expect_new_subjects(self, sid: int, prefix: bytes) -> None:
        """Each message of this subscription has another subject under `prefix`: its lines are not
        remembered."""
        self._transient[b"%d" % sid] = (sid, b"MSG " + prefix)

    def reset(self) -> None:
        """Forget a half-received frame, as a new connection does."""
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0

    def feed(self, data: bytes) -> list[Batch]:
        """Take a chunk; return the frames that it completes, in order."""
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._parts)
            self.reset()
        batches: list[Batch] = []
        frames: list[Frame] = []  # of the batch being filled
        batch_sid = batch_size = sid = 0
        # The line before, with its line end: at first an empty one, whose sizes make it malformed.
        last = CRLF
        subject = reply = ""
        header_size, size = 1, -2
        start, end, need = 0, len(data), 1
        while start < end:
            if data.startswith(last, start):
                body = start + len(last)
            else:
                stop = data.find(CRLF, start)
                if stop < 0:
                    start = self._skip_endless(start, end)
                    break
                line = data[start:stop]
                parsed = self._known.get(line) or self._parse_line(line)
                body = stop + 2
                if parsed is None:
                    if control := self._parse_control(line):
                        if frames:
                            batches.append((batch_sid, batch_size, frames))
                            frames, batch_size = [], 0
                        batches.append((CONTROL, 0, [control]))
                        batch_sid = CONTROL
                    start = body
                    continue
                sid, subject, reply, header_size, size = parsed
                last = data[start:body]
            stop = body + size
            if stop + 2 > end:
                need = stop + 2 - start
                break
            if sid != batch_sid:
                if frames:
                    batches.append((batch_sid, batch_size, frames))
                    frames, batch_size = [], 0
                batch_sid = sid
            if not header_size:
                frames.append((sid, subject, reply, b"", data[body:stop]))
                batch_size += size
            else:
                after = body + header_size
                block = data[body:after]
                if header_size <= size and _is_header_block(block):
                    frames.append((sid, subject, reply, block, data[after:stop]))
                    batch_size += size
                else:
                    self.malformed += 1
            start = stop + 2
        if frames:
            batches.append((batch_sid, batch_size, frames))
        if start < end:
            self._parts = [data[start:]]
            self._have = end - start
            self._need = need
        return batches

    def _parse_line(self, line: bytes) -> _Line | None:
        """Parse a message's control line that is not known. None: it is none, or malformed."""
        words = line.rsplit(b" ", 2)
        length = self._sizes.get(words[-1])
        if length is not None and len(words) == 3 and b"\t" not in line:
            first, middle, _ = words
            try:
                if head := self._heads.get(first):
                    return head[0], head[1], middle.decode(), 0, length
                transient = self._transient.get(middle)
                if transient and first.startswith(transient[1]) and first.count(b" ") == 1:
                    return transient[0], first[4:].decode(), "", 0, length
            except UnicodeDecodeError:
                return None
        operation = line[:4]
        if operation != b"MSG " and operation != b"HMSG":
            return None
        try:
            parsed = _message_line(line, headers=operation == b"HMSG")
        except ValueError:  # UnicodeDecodeError is one
            return None
        sid, subject, reply, header_size, size = parsed
        if not self._admit(sid, subject):
            parsed = (-sid, subject, reply, header_size, size)
        self._remember(line, parsed)
        return parsed

    def _remember(self, line: bytes, parsed: _Line) -> None:
        # A reply subject is new each time, so of such a line what stands before it is kept.
        if len(self._known) + len(self._heads) >= MAX_KNOWN_LINES:
            self._known.clear()
            self._heads.clear()
            self._sizes.clear()
        words = line.rsplit(b" ", 2)
        # A line with more spaces than a server writes is another with them taken for words.
        if words[-1].isdigit() and len(self._sizes) < MAX_KNOWN_LINES:
            self._sizes[words[-1]] = parsed[4]
        if not parsed[2]:
            self._known[line] = parsed
        elif not parsed[3] and words[0].count(b" ") == 2:
            self._heads[words[0]] = parsed[:2]

    def _parse_control(self, line: bytes) -> Frame | None:
        word, _, argument = line.replace(b"\t", b" ").partition(b" ")
        operation = _CONTROL_OPS.get(word.upper())
        if operation is None:
            self.malformed += 1
            return None
        return CONTROL, operation, "", argument.strip(), b""

    def _skip_endless(self, start: int, end: int) -> int:
        if end - start <= MAX_LINE:
            return start
        self.malformed += 1
        return end


def _message_line(line: bytes, *, headers: bool) -> _Line:
    """Parse a MSG or HMSG line; ValueError where it is malformed."""
    # Space and tab only: other white space can be part of a subject, as the server sees it.
    words = line.split(b" ") if b"\t" not in line else _SPACES.split(line)
    if b"" in words:
        words = _SPACES.split(line.strip(b" \t"))
    sizes = 2 if headers else 1
    if not 3 + sizes <= len(words) <= 4 + sizes:
        raise ValueError(words)
    reply = words[3].decode() if len(words) == 4 + sizes else ""
    size = _number(words[-1])
    header_size = _number(words[-2]) if headers else 0
    sid = _number(words[2])
    if size > MAX_PAYLOAD or sid == CONTROL or (headers and not header_size):
        raise ValueError(words)
    return sid, words[1].decode(), reply, header_size, size


def _number(digits: bytes) -> int:
    # int() takes signs, underscores and spaces, and very long strings slowly.
    if not digits.isdigit() or len(digits) > 18:
        raise ValueError(digits)
    return int(digits)


def _is_header_block(block: bytes) -> bool:
    if not block.startswith(HEADER_VERSION) or not block.endswith(b"\r\n\r\n"):
        return False
    mark = block[len(HEADER_VERSION) : len(HEADER_VERSION) + 1]
    if mark == b"\r":
        return True
    code = block[len(HEADER_VERSION) :].split(CRLF, 1)[0].split(maxsplit=1)
    return mark == b" " and bool(code) and len(code[0]) == 3 and code[0].isdigit()
