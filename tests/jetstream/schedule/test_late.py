"""Which runs of a job are skipped, decided without a server."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tidings.errors import JetStreamApiError
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.schedule.late import Late


class Api:
    """Takes calls, and refuses them if it has no permission."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.calls: list[tuple[str, Any]] = []
        self._refuses = refuses

    async def call(self, operation: str, payload: Any, timeout: float) -> dict[str, Any]:
        self.calls.append((operation, payload))
        if self._refuses:
            raise JetStreamApiError(403, 0, "no permission")
        return {}


def run(*, pending: int = 0, age: float = 0.0) -> StreamMessage[bytes]:
    """A run that was stored some seconds ago, with others behind it."""
    stored = int((time.time() - age) * 1e9)
    reply = f"$JS.ACK.CRON_a.job.1.7.1.{stored}.{pending}"
    nobody: Any = None
    return StreamMessage("_cron.a.run.job", b"", b"", reply, 1, b"", None, _settler=nobody)


@pytest.mark.parametrize(
    ("pending", "age", "ttl", "is_late"),
    [
        (0, 0, None, False),
        (0, 3600, None, False),
        (0, 3600, 60, True),
        (0, 5, 60, False),
        (1, 0, None, True),
    ],
)
async def test_a_run_is_skipped_if_it_is_too_late_or_another_waits(
    pending: int, age: float, ttl: float | None, is_late: bool
) -> None:
    api: Any = Api()
    late = Late("job", overlap=False, ttl=ttl)
    assert await late(api, run(pending=pending, age=age)) is is_late
    assert api.calls == []


async def test_many_waiting_runs_are_removed_at_once_but_for_the_last() -> None:
    api: Any = Api()
    assert await Late("job", overlap=False, ttl=None)(api, run(pending=500))
    assert api.calls == [("STREAM.PURGE.CRON_a", {"filter": "_cron.a.run.job", "keep": 1})]


async def test_runs_that_may_overlap_are_not_removed_while_they_go_on() -> None:
    api: Any = Api()
    assert await Late("job", overlap=True, ttl=None)(api, run(pending=500))
    assert api.calls == []


async def test_without_the_permission_to_remove_them_they_are_skipped_one_by_one() -> None:
    api: Any = Api(refuses=True)
    late = Late("job", overlap=False, ttl=None)
    assert await late(api, run(pending=500))
    assert await late(api, run(pending=499))
    assert len(api.calls) == 1  # not tried again
