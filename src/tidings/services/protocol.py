"""The `micro` protocol of NATS (ADR-32): its subjects, types and names."""

from __future__ import annotations

import enum
import hashlib
import re

# What the protocol allows as a name.
NAME = re.compile(r"[a-zA-Z0-9_-]+")
_UNWANTED = re.compile(r"[^a-zA-Z0-9_-]+")
_LONGEST = 200  # characters of a derived name
SUFFIX_LENGTH = 8  # hexadecimal digits


class Verb(enum.Enum):
    """A question to services."""

    PING = "PING"  # who is there
    INFO = "INFO"  # its endpoints
    STATS = "STATS"  # its statistics

    @property
    def response_type(self) -> str:
        """The type of the answers."""
        return f"io.nats.micro.v1.{self.value.lower()}_response"

    def subject(self, name: str = "", id: str = "") -> str:  # noqa: A002 - the protocol's word
        """Return the subject on which all services, those of one name, or one instance answer."""
        return ".".join(part for part in ("$SRV", self.value, name, id) if part)

    def subjects(self, name: str, id: str) -> tuple[str, str, str]:  # noqa: A002 - see `subject`
        """Return the subjects on which an instance answers."""
        return self.subject(), self.subject(name), self.subject(name, id)


def protocol_name(text: str) -> str:
    """Return a name that the protocol allows: other characters become `-`.

    Example:
        ```python
        from tidings.services.protocol import protocol_name

        assert protocol_name("order service") == "order-service"
        ```
    """
    name = _UNWANTED.sub("-", text).strip("-")[:_LONGEST]
    return name or f"service-{hashlib.sha256(text.encode()).hexdigest()[:SUFFIX_LENGTH]}"
