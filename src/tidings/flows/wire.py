"""The messages of a flow: what each of them is."""

from __future__ import annotations

import enum

from tidings.headers import Headers
from tidings.protocol.flow import CANCEL_HEADER, CREDIT_HEADER, FLOW_HEADER, credit_of
from tidings.protocol.parser import Frame
from tidings.service_errors import ERROR_HEADER, NO_RESPONDERS


class Kind(enum.Enum):
    """What a message of a flow is."""

    ITEM = "an item"
    END = "the end of the items"  # an empty body without headers (NATS ADR-47)
    CREDIT = "leave to send more items; with a reply subject, a question for a sign of life"
    CANCEL = "the other side has left"
    GONE = "the server reports that nobody listens any more"
    ERROR = "the service failed"


def read(frame: Frame) -> tuple[Kind, int]:
    """Return what a message is, and the credit that it gives.

    Never raises: what cannot be understood is an item, which its reader decodes or refuses.
    """
    block, body = frame[3], frame[4]
    if not block:
        return (Kind.ITEM if body else Kind.END), 0
    headers = Headers.from_block(block)
    if headers.status == NO_RESPONDERS:
        return Kind.GONE, 0
    if (credit := headers.get(CREDIT_HEADER)) is not None:
        return Kind.CREDIT, credit_of(credit)
    if CANCEL_HEADER in headers:
        return Kind.CANCEL, 0
    if ERROR_HEADER in headers:
        return Kind.ERROR, 0
    # Some clients send the headers of the request back with everything that they answer.
    is_end = not body and FLOW_HEADER in headers
    return (Kind.END if is_end else Kind.ITEM), 0
