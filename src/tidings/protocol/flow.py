"""The headers and addresses of a flow: a request or a reply that consists of many items.

docs/request-many.md describes them for clients in other languages.
"""

from __future__ import annotations

from tidings.protocol.headers import header_block

FLOW_HEADER, FLOW_VERSION = "Tidings-Flow", "1"
CREDIT_HEADER = "Tidings-Credit"
CANCEL_HEADER = "Tidings-Cancel"
ITEM_HEADER = "Tidings-Item"
# The token before the number in an address, such as `_INBOX.2fa1.items.7`.
ADDRESS_TOKEN = "items"  # noqa: S105 - a token of a subject
# A larger credit is not from a client that counts its messages.
MAX_CREDIT = 1_000_000

# In a request: the requester counts credit. The value is the version of these rules.
REQUEST_HEADERS = ((FLOW_HEADER, FLOW_VERSION),)
CANCEL_BLOCK = header_block([(CANCEL_HEADER, "1")])
# An empty body without headers is the end, so an item with an empty body needs a header.
EMPTY_ITEM_BLOCK = header_block([(ITEM_HEADER, "empty")])


def credit_block(credit: int) -> bytes:
    """Return the headers that let the other side send so many items more."""
    return header_block([(CREDIT_HEADER, str(credit))])


def credit_of(value: str) -> int:
    """Return the number in a header; 0 if it is none."""
    is_number = value.isascii() and value.isdigit() and len(value) < 10
    return min(int(value), MAX_CREDIT) if is_number else 0


def is_address(subject: str) -> bool:
    """Return whether a reply subject belongs to a flow."""
    return subject.rpartition(".")[0].endswith(f".{ADDRESS_TOKEN}")


def prefix_of(subject: str) -> str:
    """Return an address without its number; any other subject unchanged."""
    return subject.rpartition(".")[0] if is_address(subject) else subject


def number_of(subject: str) -> int | None:
    """Return the number of items that the sender counts in an address; None if it has none."""
    digits = subject.rpartition(".")[2]
    is_number = digits.isascii() and digits.isdigit() and len(digits) < 19
    return int(digits) if is_number and is_address(subject) else None
