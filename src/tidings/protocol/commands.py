"""The protocol's frames out, as pure functions. What they are given is checked by the caller."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

PING = b"PING\r\n"
PONG = b"PONG\r\n"


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


def connect_frame(fields: Mapping[str, object]) -> bytes:
    """A CONNECT frame."""
    return b"CONNECT %b\r\n" % msgspec.json.encode(fields)
