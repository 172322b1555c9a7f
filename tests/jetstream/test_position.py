"""Position: whether a stream is still the one that was read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tidings.jetstream.position import BEGINNING, Position, server_time

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
NEVER = "0001-01-01T00:00:00Z"


def info(first: int, last: int, stored_at: datetime | str, created: str = "monday") -> Any:
    first_ts = stored_at if isinstance(stored_at, str) else stored_at.isoformat()
    return {
        "created": created,
        "state": {"first_seq": first, "last_seq": last, "first_ts": first_ts},
    }


@pytest.mark.parametrize(
    ("stream", "is_lost", "why"),
    [
        (info(1, 7, NOON - timedelta(hours=1)), False, "it only grew"),
        (info(1, 5, NOON), False, "nothing came"),
        (info(6, 9, NOON + timedelta(hours=1)), False, "what was read is deleted"),
        (info(6, 5, NEVER), False, "it was purged"),
        (info(1, 7, NOON, "tuesday"), True, "another one was created"),
        (info(0, 0, NEVER), True, "it is empty, and was not"),
        (info(1, 3, NOON + timedelta(hours=1)), True, "it has fewer messages than were read"),
        (info(1, 9, NOON + timedelta(seconds=1)), True, "its first message is too young"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_position_is_lost_where_the_stream_has_begun_again(
    stream: dict[str, Any], is_lost: bool, why: str
) -> None:
    assert Position("monday", 5, NOON).is_lost(stream) is is_lost, why


def test_a_position_before_any_message_is_lost_with_the_stream_only() -> None:
    assert not Position("monday", 0, BEGINNING).is_lost(info(1, 9, NOON))
    assert Position("monday", 0, BEGINNING).is_lost(info(1, 9, NOON, "tuesday"))


def test_the_servers_time_is_read_of_its_answers() -> None:
    assert server_time({"ts": "2026-05-04T12:00:00Z"}) == NOON
    assert server_time({}) is None
