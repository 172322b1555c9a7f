"""What a start does while JetStream has no leader: it waits, and for nothing else."""

from __future__ import annotations

import asyncio

import pytest

from support.waits import PATIENCE
from tidings import (
    JetStreamApiError,
    JetStreamUnavailableError,
    RequestTimeoutError,
    TidingsError,
)
from tidings.error_codes import ErrorCode
from tidings.jetstream import election
from tidings.jetstream.election import through_election

PASSING = [
    RequestTimeoutError("$JS.API.STREAM.CREATE.L", 5),
    JetStreamUnavailableError("STREAM.CREATE.L", "no leader", ErrorCode.CLUSTER_NOT_AVAILABLE),
    JetStreamUnavailableError("STREAM.CREATE.L"),
    JetStreamApiError(
        503, ErrorCode.CLUSTER_NOT_LEADER, "JetStream cluster can not handle request"
    ),
    JetStreamApiError(
        400, ErrorCode.NO_SUITABLE_PEERS, "no suitable peers for placement, peer offline"
    ),
]
LASTING = [
    JetStreamUnavailableError(
        "STREAM.CREATE.L", "not enabled for account", ErrorCode.NOT_ENABLED_FOR_ACCOUNT
    ),
    JetStreamApiError(
        400, ErrorCode.NO_SUITABLE_PEERS, "no suitable peers for placement, insufficient storage"
    ),
    JetStreamApiError(400, ErrorCode.STREAM_NAME_IN_USE, "stream name already in use"),
    TidingsError("something else"),
]


class Work:
    """Fails a number of times, then returns how often it was called."""

    def __init__(self, error: TidingsError, times: int) -> None:
        self.calls = 0
        self._error = error
        self._times = times

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return self.calls


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "TRY_MOST", 0.001)


@pytest.mark.parametrize("error", PASSING, ids=str)
async def test_what_an_election_causes_is_tried_again(error: TidingsError) -> None:
    assert await through_election(Work(error, 3)) == 4


@pytest.mark.parametrize("error", LASTING, ids=str)
async def test_what_no_election_causes_is_raised_at_once(error: TidingsError) -> None:
    work = Work(error, 3)
    with pytest.raises(type(error)) as caught:
        await through_election(work)
    assert caught.value is error
    assert work.calls == 1


@pytest.mark.parametrize("error", PASSING, ids=str)
async def test_an_election_without_end_is_not_waited_for_without_end(
    error: TidingsError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election, "ELECTION", 0.05)
    monkeypatch.setattr(election, "OFF_AFTER", 0.05)
    work = Work(error, 1_000_000)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(type(error)):
            await through_election(work)
    assert work.calls > 1
