"""Parser: turns the bytes of the server into frames.

A frame is a plain tuple, because every message needs one: see `Frame`. The parser never raises.
Input that it does not understand is dropped and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tidings.core import replaceable
from tidings.protocol.deadlines import MARK, read_deadline
from tidings.protocol.headers import CRLF, HEADER_VERSION

# The largest max_payload that a server allows. A larger size is not from a message.
MAX_PAYLOAD = 64 * 1024 * 1024
# The only long line of a server is INFO, with the URLs of a large cluster.
MAX_LINE = 1024 * 1024
# The number of parsed control lines to remember: most lines repeat.
MAX_KNOWN_LINES = 4096

# (sid, subject, reply, header block, body).
# A control line has sid 0: (0, operation, "", argument, b"").
Frame = tuple[int, str, str, bytes, bytes]
CONTROL = 0
# Consecutive frames of one subscription: (sid, bytes of headers and bodies, frames).
# The sid is negative if `admit` refused the subject: see Parser.
Batch = tuple[int, int, list[Frame]]

# (sid, subject, reply, header size, size of header and body)
_Line = tuple[int, str, str, int, int]

_SPACES = re.compile(rb"[ \t]+")
_CONTROL_OPS = {b"PING": "PING", b"PONG": "PONG", b"INFO": "INFO", b"-ERR": "-ERR", b"+OK": "+OK"}


def _admit_all(sid: int, subject: str) -> bool:
    return True


@replaceable
class Parser:
    """Turns bytes into frames. The frames do not depend on how the bytes are split into chunks.

    `feed`, `reset`, `expect_new_subjects` and `malformed` are all that others use, so another
    implementation can take the place of this one. It has to return equal batches and count the
    same lines for any bytes, split in any way. It also has to copy all bytes that it returns or
    keeps, and it must never raise.

    Most subscriptions receive the same control line over and over. So the parser remembers each
    parsed line, and it does not even look up a line that equals the previous one.

    If a message is split, its bytes are joined once, when the last of them arrive. What follows
    the message in the same chunk is not copied.

    Args:
        admit: returns whether a subject matches the subscription with this sid. Called once for
            each new line.

    Attributes:
        malformed: number of lines and messages that were dropped because they are not valid.
    """

    __slots__ = (
        "_admit",
        "_have",
        "_heads",
        "_known",
        "_need",
        "_parts",
        "_sizes",
        "_split",
        "_transient",
        "malformed",
    )

    def __init__(self, admit: Callable[[int, str], bool] = _admit_all) -> None:
        self.malformed = 0
        self._admit = admit
        self._known: dict[bytes, _Line] = {}  # by the line with its line end
        self._heads: dict[bytes, tuple[int, str]] = {}  # b"MSG subject sid" of lines with a reply
        self._sizes: dict[bytes, int] = {}  # the size at the end of a line, by its digits
        self._transient: dict[bytes, tuple[int, bytes]] = {}
        self.reset()

    def expect_new_subjects(self, sid: int, prefix: bytes) -> None:
        """Do not remember the lines of this subscription: each message has a new subject that
        starts with `prefix`."""
        self._transient[b"%d" % sid] = (sid, b"MSG " + prefix)

    def reset(self) -> None:
        """Forget an incomplete frame, for a new connection."""
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        # The line of the incomplete message whose bytes are in `_parts`. If there is None, `_parts`
        # holds the beginning of a line.
        self._split: _Line | None = None

    def feed(self, data: bytes) -> list[Batch]:
        """Parse a chunk and return the frames that it completes, in order."""
        batches: list[Batch] = []
        frames: list[Frame] = []  # of the current batch
        batch_sid = batch_size = sid = start = 0
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            if self._split is None:
                if b"\n" not in data and self._have <= MAX_LINE:
                    return []  # joined once, or many small chunks of a long line would take forever
                data = b"".join(self._parts)
            else:
                start = len(data) - (self._have - self._need)
                # If only the last byte of the line end is new, an earlier part has the first one.
                self._parts[-1] = data[: max(start - 2, 0)]
                if frame := self._joined(self._split):
                    batch_sid, batch_size = frame[0], self._split[4]
                    frames.append(frame)
            self.reset()
        # The previous line with its line end. At first it is empty, with sizes that are malformed.
        last = CRLF
        line_size = len(last)
        subject = reply = ""
        header_size, size = 1, -2
        end, need = len(data), 1
        split: _Line | None = None
        while start < end:
            body = start + line_size
            if data[start:body] != last:  # `startswith` with a start is slower
                stop = data.find(CRLF, start)
                if stop < 0:
                    start = self._skip_endless(start, end)
                    break
                body = stop + 2
                last = data[start:body]
                line_size = body - start
                parsed = self._known.get(last) or self._parse_line(last[:-2])
                if parsed is None:
                    last, line_size, header_size, size = CRLF, 2, 1, -2
                    control = _parse_control(data[start:stop])
                    if control is None:
                        self.malformed += 1
                    else:
                        if frames:
                            batches.append((batch_sid, batch_size, frames))
                            frames, batch_size = [], 0
                        batches.append((CONTROL, 0, [control]))
                        batch_sid = CONTROL
                    start = body
                    continue
                sid, subject, reply, header_size, size = parsed
            stop = body + size
            if stop + 2 > end:
                start, need = body, size + 2
                split = sid, subject, reply, header_size, size
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
                    if MARK in block:
                        block = read_deadline(block)
                    frames.append((sid, subject, reply, block, data[after:stop]))
                    batch_size += size
                else:
                    self.malformed += 1
            start = stop + 2
        if frames:
            batches.append((batch_sid, batch_size, frames))
        if start < end or split is not None:
            self._parts = [data[start:]]
            self._have = end - start
            self._need = need
            self._split = split
        return batches

    def _joined(self, line: _Line) -> Frame | None:
        """Return the frame of a message that was split; None if its headers are malformed."""
        sid, subject, reply, header_size, size = line
        content = b"".join(self._parts)[:size]
        if not header_size:
            return sid, subject, reply, b"", content
        block = content[:header_size]
        if header_size <= size and _is_header_block(block):
            if MARK in block:
                block = read_deadline(block)
            return sid, subject, reply, block, content[header_size:]
        self.malformed += 1
        return None

    def _parse_line(self, line: bytes) -> _Line | None:
        """Parse a new control line of a message. Return None if it is malformed or something
        else."""
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
            if operation == b"HMSG" and (answer := self._parse_answer(line)):
                return answer
            parsed = _message_line(line, headers=operation == b"HMSG")
        except ValueError:  # UnicodeDecodeError is one
            return None
        sid, subject, reply, header_size, size = parsed
        if not self._admit(sid, subject):
            parsed = (-sid, subject, reply, header_size, size)
        self._remember(line, parsed)
        return parsed

    def _parse_answer(self, line: bytes) -> _Line | None:
        """Parse the line of an answer with headers, whose subject comes only once.

        None if it is something else, or not in the form that servers write.

        Raises:
            ValueError: it is malformed.
        """
        words = line.split(b" ")
        transient = self._transient.get(words[2]) if len(words) == 5 else None
        if transient is None or b"\t" in line or not words[1].startswith(transient[1][4:]):
            return None
        header_size, size = _number(words[3]), _number(words[4])
        if not header_size or size > MAX_PAYLOAD:
            return None
        return transient[0], words[1].decode(), "", header_size, size

    def _remember(self, line: bytes, parsed: _Line) -> None:
        # Each request has a new reply subject. Of such a line, remember only the part before it.
        if len(self._known) + len(self._heads) >= MAX_KNOWN_LINES:
            self._known.clear()
            self._heads.clear()
            self._sizes.clear()
        words = line.rsplit(b" ", 2)
        # More spaces than a server writes would split such a line into the wrong words.
        if words[-1].isdigit() and len(self._sizes) < MAX_KNOWN_LINES:
            self._sizes[words[-1]] = parsed[4]
        if not parsed[2]:
            self._known[line + CRLF] = parsed
        elif not parsed[3] and words[0].count(b" ") == 2:
            self._heads[words[0]] = parsed[:2]

    def _skip_endless(self, start: int, end: int) -> int:
        if end - start <= MAX_LINE:
            return start
        self.malformed += 1
        return end


def parse_line(line: bytes) -> _Line | Frame | None:
    """Parse any line, without remembering it. Return None if it is malformed.

    The compiled parser passes the lines to it that are not plain.
    """
    operation = line[:4]
    if operation == b"MSG " or operation == b"HMSG":
        try:
            return _message_line(line, headers=operation == b"HMSG")
        except ValueError:
            return None
    return _parse_control(line)


def _parse_control(line: bytes) -> Frame | None:
    word, _, argument = line.replace(b"\t", b" ").partition(b" ")
    operation = _CONTROL_OPS.get(word.upper())
    if operation is None:
        return None
    return CONTROL, operation, "", argument.strip(), b""


def _message_line(line: bytes, *, headers: bool) -> _Line:
    """Parse a MSG or HMSG line. Raises ValueError if it is malformed."""
    # Split at spaces and tabs only: the server allows other white space in a subject.
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
    # int() also accepts signs, underscores and spaces, and it is slow for very long strings.
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
