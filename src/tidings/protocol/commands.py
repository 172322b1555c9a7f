"""The frames that a client sends, as pure functions. The caller checks all arguments."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

PING = b"PING\r\n"
PONG = b"PONG\r\n"


def publish_frame(subject: bytes, reply: bytes, payload: bytes) -> bytes:
    """Return a PUB frame. The caller has checked subject and reply."""
    if reply:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)
    return b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)


def publish_headers_frame(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> bytes:
    """Return an HPUB frame. `block` is an encoded header block."""
    size = len(block)
    total = size + len(payload)
    if reply:
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject, reply, size, total, block, payload)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, size, total, block, payload)


def subscribe_frame(subject: bytes, queue: bytes, sid: int) -> bytes:
    """Return a SUB frame."""
    if queue:
        return b"SUB %b %b %d\r\n" % (subject, queue, sid)
    return b"SUB %b %d\r\n" % (subject, sid)


def unsubscribe_frame(sid: int) -> bytes:
    """Return an UNSUB frame that takes effect immediately."""
    return b"UNSUB %d\r\n" % sid


def connect_frame(fields: Mapping[str, object]) -> bytes:
    """Return a CONNECT frame."""
    return b"CONNECT %b\r\n" % msgspec.json.encode(fields)
