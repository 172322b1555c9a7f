"""TestClient with an app that consumes streams."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidings import App, ConfigError
from tidings.jetstream import Stream, StreamMessage
from tidings.testing import NATSServer, NotAckedError, TestClient


def billing(stream: Stream) -> App:
    app = App("billing", streams=[stream])

    @app.consume(stream.name, durable="bills", data_type=int, backoff=[0.01])
    async def bill(msg: StreamMessage[int]) -> None:
        if msg.data == 1 and msg.delivered == 1:
            raise ValueError

    return app


async def test_a_test_waits_for_acknowledgements_and_counts_redeliveries(stream: Stream) -> None:
    async with TestClient(billing(stream)) as client:  # its own server has JetStream
        for number in range(3):
            await client.publish(f"{stream.name}.n", number)
        stats = await client.wait_for_acked("bills", count=3)
        assert (stats.acked, stats.redelivered, stats.failed) == (3, 1, 1)
        assert client.consumed("billing.<locals>.bill".rpartition(".")[2]).acked == 3


def test_a_synchronous_test_does_the_same(
    test_client: Callable[[App], TestClient], stream: Stream
) -> None:
    with test_client(billing(stream)) as client:
        client.publish(f"{stream.name}.n", 1)
        assert client.wait_for_acked("bills").redelivered == 1


async def test_what_is_not_acknowledged_in_time_is_told_with_the_counts(
    test_client: Callable[[App], TestClient], stream: Stream
) -> None:
    async with test_client(billing(stream)) as client:
        await client.publish(f"{stream.name}.n", 2)
        await client.wait_for_acked("bill")
        with pytest.raises(NotAckedError, match="bills acknowledged 1 of 2 messages") as caught:
            await client.wait_for_acked("bills", count=2, timeout=0.05)
        assert (caught.value.wanted, caught.value.stats.received) == (2, 1)


def test_a_consumer_that_is_none_is_told(
    nats_server: NATSServer, test_client: Callable[[App], TestClient], stream: Stream
) -> None:
    with (
        test_client(billing(stream)) as client,
        pytest.raises(ConfigError, match=r"no consumer 'bil'; its consumers are: bills \(bill\)"),
    ):
        client.wait_for_acked("bil")
