"""`tidings exporter`: the metrics of all services, asked for over NATS."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import nats
import nats.micro
import pytest

from support.monitor import Metrics, ask, ask_in_thread
from support.ports import free_port
from support.streams import owes
from support.waits import until, wait_until
from tidings import App, Stream
from tidings.server import NATSServer

if TYPE_CHECKING:
    from support.command import Call, Start


@pytest.fixture
def port() -> int:
    return free_port()


def is_up(port: int) -> bool:
    try:
        return ask(port, "/readyz").status == 200
    except OSError:
        return False


async def test_services_in_any_language_streams_and_consumers_are_shown(
    start: Start, nats_server: NATSServer, subject: str, stream: Stream, port: int
) -> None:
    process = start("exporter", "--listen", str(port), "-s", nats_server.url)
    connection = await nats.connect(nats_server.url)
    foreign = await nats.micro.add_service(connection, name="foreign", version="1.2.3")

    async def answer(request: Any) -> None:
        if request.data == b"bad":
            await request.respond_error("400", "bad")
        await request.respond(b"ok")

    await foreign.add_endpoint(name="pay", subject=f"{subject}.pay", handler=answer)
    app = App("ours", servers=nats_server.url, streams=[stream])
    free = asyncio.Event()

    @app.listen(f"{subject}.ours")
    async def ours(msg: Any) -> dict[str, str]:
        return {}

    @app.consume(stream.name, concurrency=1)
    async def on_order(msg: Any) -> None:
        await free.wait()

    async with app:
        for _ in range(3):
            await connection.request(f"{subject}.pay", b"x")
            await app.request(f"{subject}.ours", {})
        for number in range(4):
            await app.js.publish(f"{stream.name}.x", {"n": number})
        await until(lambda: app.stats().consumers[0].running == 1)
        await owes(app, stream, 4)
        await asyncio.to_thread(wait_until, lambda: is_up(port))
        answer_ = await ask_in_thread(port, "/metrics")
        metrics = Metrics(answer_.text)
        value = metrics.value
        assert value("nats_service_info", service="foreign", version="1.2.3") == 1
        assert value("nats_service_requests_total", service="foreign", endpoint="pay") == 3
        assert value("nats_service_errors_total", service="foreign") == 0
        assert (value("nats_service_processing_seconds_total", service="foreign") or 0) > 0
        assert value("nats_service_requests_total", service="ours", endpoint="ours") == 3
        assert value("nats_service_pending", service="ours") == 0
        assert (value("nats_service_start_time_seconds", service="ours") or 0) > 1e9
        assert value("nats_stream_messages", stream=stream.name) == 4
        assert value("nats_stream_last_sequence_total", stream=stream.name) == 4
        lag = value("nats_consumer_lag_messages", stream=stream.name)
        pending = value("nats_consumer_ack_pending", stream=stream.name)
        assert lag is not None
        assert pending is not None
        assert lag + pending == 4
        assert value("nats_exporter_up") == 1
        assert value("nats_exporter_jetstream_up") == 1
        for family in metrics.families.values():
            assert family.documentation.endswith("."), family.name
        assert value("nats_service_info", service="tidings-exporter") is None
        free.set()
    await foreign.stop()
    await connection.close()
    assert process.stop() == 0


async def test_hostile_answers_cost_only_themselves(
    start: Start, nats_server: NATSServer, port: int
) -> None:
    process = start("exporter", "--listen", str(port), "-s", nats_server.url)
    stats = {
        "type": "io.nats.micro.v1.stats_response",
        "name": "hostile",
        "id": 'a"\n} 1',
        "version": "1.0.0",
        "started": "2026-01-01T00:00:00Z",
        "endpoints": [{"name": "e", "subject": "\x1b[2J", "data": {"pending": "many"}}],
    }
    connection = await nats.connect(nats_server.url)

    async def answer(message: Any) -> None:
        for body in (b"[" * 50_000, b"\xff", b'{"type": 1}', json.dumps(stats).encode()):
            await connection.publish(message.reply, body)

    await connection.subscribe("$SRV.STATS", cb=answer)
    await connection.flush()
    await asyncio.to_thread(wait_until, lambda: is_up(port))
    metrics = Metrics((await ask_in_thread(port, "/metrics")).text)
    assert metrics.value("nats_service_info", service="hostile", id='a"\n} 1') == 1
    assert metrics.value("nats_service_pending", service="hostile") is None
    await connection.close()
    assert process.stop() == 0


def test_a_server_without_jetstream_and_a_lost_one_are_shown_as_such(
    start: Start, port: int
) -> None:
    with NATSServer(jetstream=False) as server:
        process = start("exporter", "--listen", str(port), "-s", server.url)
        wait_until(lambda: is_up(port))
        metrics = Metrics(ask(port, "/metrics").text)
        assert metrics.value("nats_exporter_up") == 1
        assert metrics.value("nats_exporter_jetstream_up") == 0
        server.kill()
        wait_until(lambda: Metrics(ask(port, "/metrics").text).value("nats_exporter_up") == 0)
        assert ask(port, "/livez").status == 200
        assert ask(port, "/readyz").status == 503
        process.stop()


def test_a_lost_server_is_logged_once_however_often_somebody_asks(start: Start, port: int) -> None:
    with NATSServer(jetstream=True) as server:
        process = start("exporter", "--listen", str(port), "-s", server.url)
        wait_until(lambda: is_up(port))
        server.kill()
        wait_until(lambda: Metrics(ask(port, "/metrics").text).value("nats_exporter_up") == 0)
        for _ in range(3):
            ask(port, "/metrics")
        server.restart()
        process.wait_for("reconnected")
        ask(port, "/metrics")
        process.wait_for("can ask JetStream again")
        process.wait_for("can ask the services again")
        assert process.count("cannot ask JetStream") == 1
        assert process.count("cannot ask the services") == 1
        assert process.stop() == 0


def test_without_prometheus_client_the_error_names_the_extra(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    code, _, err = call("exporter")
    assert code == 2
    assert "pip install 'tidings[metrics]'" in err


def test_no_server_is_one_line(call: Call) -> None:
    code, _, err = call("exporter", "--listen", "0", "-s", "nats://127.0.0.1:1")
    assert code == 1
    assert "Traceback" not in err
