"""Reconnecting: never without a pause, and every attempt counts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Self

import pytest

from support.fake_peer import FakePeer
from support.tcp_proxy import TcpProxy
from support.waits import PATIENCE, until
from tidings import App, Stream
from tidings.errors import ConnectionClosedError, TidingsError
from tidings.server import NATSServer

MakeApp = Callable[..., App]


class Revolver(FakePeer):
    """Accepts every connection, and closes all but the first as soon as they are accepted."""

    async def _take(self, line, reader, writer):  # type: ignore[no-untyped-def]  # as its base
        await super()._take(line, reader, writer)
        if line.startswith(b"PING") and self.connections > 1:
            writer.close()


async def test_a_server_that_accepts_and_closes_is_asked_ever_more_rarely(
    make_app: MakeApp,
) -> None:
    async with Revolver() as peer:
        app = make_app(peer, reconnect_time_wait=0.5)
        async with app:
            begun: list[float] = []
            app.on("reconnected")(lambda event: begun.append(time.monotonic()))
            peer.cut()
            await until(lambda: len(begun) >= 5)
            gaps = [later - earlier for earlier, later in itertools.pairwise(begun)]
            # A busy machine makes a gap longer now and then, and none shorter.
            assert gaps[-1] > min(gaps[:2])
            assert gaps[-1] > 0.2
            app.drain_timeout = 0.5


async def test_connections_that_were_closed_at_once_count_as_attempts(make_app: MakeApp) -> None:
    async with Revolver() as peer:
        app = make_app(peer, reconnect_time_wait=0.02, max_reconnect_attempts=3)
        await app.__aenter__()
        peer.cut()
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(app.wait_stopped(), PATIENCE)
        assert peer.connections == 1 + 3


class Cutter:
    """A TCP proxy that cuts each connection after some chunks from the client, one more each time.

    So that a client loses its connection once in each thing that it does.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for _ in range(10):  # what was accepted in the last moment has begun after a few turns
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        above, below = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._pass(above, writer, None))
        try:
            await self._pass(reader, below, self.connections)
        finally:
            back.cancel()
            for each in (writer, below):
                each.transport.abort()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, most: int | None
    ) -> None:
        passed = 0
        while data := await source.read(65536):
            sink.write(data)
            passed += 1
            if passed == most:
                return


async def test_an_app_that_waits_for_its_server_survives_a_drop_in_every_phase_of_the_start(
    make_app: MakeApp,
) -> None:
    with NATSServer(jetstream=True) as server:
        async with Cutter(server.port) as cutter:
            app = make_app(
                cutter.url,
                wait_for_server=True,
                reconnect_time_wait=0.02,
                streams=[Stream("ST", subjects=["st.>"])],
            )
            for number in range(3):
                app.listen(f"work.{number}")(lambda msg: None)
            app.consume("ST", durable="d")(lambda msg: None)
            app.consume("ST", ordered=True)(lambda msg: None)
            app.js.key_value("kv", type=int)
            app.watch("kv")(lambda entry: None)
            async with asyncio.timeout(20), app:
                assert app.is_running
            assert cutter.connections > 5


async def test_a_drop_in_the_start_of_an_app_that_does_not_wait_is_an_error(
    make_app: MakeApp,
) -> None:
    with NATSServer(jetstream=True) as server:
        async with Cutter(server.port) as cutter:
            cutter.connections = 2  # the next one is cut in the first call of JetStream
            app = make_app(cutter.url, streams=[Stream("ST", subjects=["st.>"])])
            with pytest.raises(TidingsError):
                await app.__aenter__()


async def test_a_slow_network_is_given_the_time_that_an_answer_needs(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.jetstream.consumer.remote.ANSWER", 0.05)
    with NATSServer(jetstream=True) as server:
        async with TcpProxy(server.port, latency=0.05) as proxy:
            app = make_app(proxy, streams=[Stream("ST", subjects=["st.>"])])
            got: list[int] = []

            @app.consume("ST", durable="d", data_type=int)
            async def consume(msg):
                got.append(msg.data)

            async with app:
                assert app._run.connection.round_trip >= 0.1
                await app.js.publish("st.a", 1)
                await until(lambda: got == [1])
                proxy.cut()
                await until(lambda: app.stats().connection.reconnects == 1)
                await app.js.publish("st.a", 2)
                await until(lambda: got == [1, 2])
