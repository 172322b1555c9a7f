"""What a server says on a bare socket."""

from typing import BinaryIO


def next_line(lines: BinaryIO) -> bytes:
    """Return the next line that is no PING: a server asks for a sign of life when it likes."""
    while (line := lines.readline()) == b"PING\r\n":
        pass
    return line
