"""Status: what a message without a body says about a pull or a request. (NATS ADR-13)"""

from __future__ import annotations

import enum

from tidings.headers import Headers


class Status(enum.IntEnum):
    """The number in the first line of a message's headers."""

    NONE = 0  # the message is not a status
    HEARTBEAT = 100  # the pull still waits at the server
    END_OF_BATCH = 204  # every message of a batched read was sent
    NOT_FOUND = 404  # there are no messages, or there is no such message
    TIMEOUT = 408  # the pull has expired
    TOO_MANY_RESULTS = 413  # a batched read matches more subjects than an answer can have
    PIN_ID_MISMATCH = 423  # the server has pinned another instance
    NO_RESPONDERS = 503  # nobody listens on the subject


def ends_pull(headers: Headers) -> bool:
    """Whether a status says that a pull has ended in the ordinary way, with the consumer intact."""
    ended = headers.status in (Status.NOT_FOUND, Status.TIMEOUT)
    return ended or "batch completed" in headers.description.lower() or exceeds_bytes(headers)


def exceeds_bytes(headers: Headers) -> bool:
    """Whether a status says that the next message is larger than what is left of `max_bytes`."""
    return "exceeds maxbytes" in headers.description.lower()
