"""The server's clock: what counts as old is decided by it, because the local clock may differ."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tidings.errors import JetStreamApiError


def server_time(info: Mapping[str, Any]) -> datetime:
    """Return the server's time in an answer to STREAM.INFO.

    Raises:
        JetStreamApiError: the answer has no valid time.
    """
    try:
        return datetime.fromisoformat(info["ts"])
    except (KeyError, TypeError, ValueError):
        raise JetStreamApiError(
            500, 0, "the answer to STREAM.INFO has no valid time (ts)"
        ) from None
