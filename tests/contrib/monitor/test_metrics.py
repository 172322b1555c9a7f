"""/metrics: the statistics of an app, in the text that Prometheus reads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from support.monitor import Metrics, ask_in_thread, scrape
from support.streams import owes
from support.waits import AT_ONCE, until
from tidings import App, NoRespondersError, Reject, RequestTimeoutError, Stream
from tidings.contrib.monitor import AppCollector
from tidings.contrib.monitor.prometheus import encode
from tidings.server import NATSServer

MakeApp = Callable[..., App]


def everything(app: App, subject: str, stream: str) -> asyncio.Event:
    """Declare one of each kind. Returns what lets the handler of `hang` end."""
    end = asyncio.Event()

    @app.listen(f"{subject}.*")
    async def listener(msg: Any) -> dict[str, str]:
        if msg.subject.endswith("fail"):
            raise ValueError("no")
        if msg.subject.endswith("slow"):
            await asyncio.sleep(1.2)
        if msg.subject.endswith("hang"):
            await end.wait()
        return {}

    @app.consume(stream, subject=f"{stream}.orders", dead_letter=f"{stream}.dead", backoff=[0.01])
    async def on_order(msg: Any) -> None:
        if msg.data.get("bad"):
            raise Reject("bad")

    @app.watch("LIMITS")
    async def on_limit(entry: Any) -> None:
        pass

    @app.task()
    async def once() -> None:
        pass

    @app.task(interval=60)
    async def broken() -> None:
        raise ValueError("no")

    return end


async def test_every_number_of_the_statistics_is_a_metric(
    nats_server: NATSServer, subject: str, stream: Stream, port: int
) -> None:
    app = App("metered", servers=nats_server.url, monitor=port, streams=[stream], version="1.2.3")
    limits = app.js.key_value("LIMITS", storage="memory")
    end = everything(app, subject, stream.name)
    async with app:
        await app.request(f"{subject}.ok", {})
        await app.request(f"{subject}.slow", {})
        with pytest.raises(Exception, match="ValueError"):
            await app.request(f"{subject}.fail", {})
        with pytest.raises(RequestTimeoutError):
            await app.request(f"{subject}.hang", {}, timeout=0.05)
        with pytest.raises(NoRespondersError):
            await app.request("nobody.listens", {})
        await app.js.publish(f"{stream.name}.orders", {"id": 1})
        await app.js.publish(f"{stream.name}.orders", {"bad": True})
        await limits.put("a", {"n": 1})
        await until(lambda: app.stats().consumers[0].dead == 1)
        await until(lambda: app.stats().watchers[0].handled == 1)
        await until(lambda: app.stats().tasks[1].runs == 1)
        await owes(app, stream, 0)
        sent = app.stats().connection.sent_bytes
        value = (await scrape(port)).value
        listener = {"listener": "listener", "subject": f"{subject}.*"}
        assert value("tidings_app_info", service="metered", version="1.2.3") == 1
        assert value("tidings_app_running") == 1
        assert value("tidings_messages_received_total", **listener) == 4
        assert value("tidings_messages_total", result="handled", **listener) == 2
        assert value("tidings_messages_total", result="failed", **listener) == 1
        assert value("tidings_messages_total", result="dropped", **listener) == 0
        assert value("tidings_messages_running", **listener) == 1
        assert value("tidings_messages_pending", **listener) == 0
        assert value("tidings_handler_duration_seconds_count", **listener) == 3
        assert value("tidings_handler_duration_seconds_bucket", le="1.0", **listener) == 2
        assert value("tidings_handler_duration_seconds_bucket", le="10.0", **listener) == 3
        assert value("tidings_request_duration_seconds_count", result="ok") == 2
        assert value("tidings_request_duration_seconds_count", result="service_error") == 1
        assert value("tidings_request_duration_seconds_count", result="timeout") == 1
        assert value("tidings_request_duration_seconds_count", result="no_responders") == 1
        consumer = {"handler": "on_order", "stream": stream.name}
        assert value("tidings_consumer_deliveries_total", result="handled", **consumer) == 1
        assert value("tidings_consumer_deliveries_total", result="failed", **consumer) == 1
        assert value("tidings_consumer_acks_total", answer="ack", **consumer) == 1
        assert value("tidings_consumer_dead_letters_total", **consumer) == 1
        assert value("tidings_consumer_redelivered_total", **consumer) == 0
        assert value("tidings_consumer_handler_duration_seconds_count", **consumer) == 2
        assert value("tidings_consumer_lag_messages", **consumer) == 0
        assert value("tidings_consumer_ack_pending", **consumer) == 0
        assert value("tidings_watch_entries_total", handler="on_limit", result="handled") == 1
        assert value("tidings_task_runs_total", task="once", result="returned") == 1
        assert value("tidings_task_runs_total", task="broken", result="failed") == 1
        assert value("tidings_task_last_duration_seconds", task="once") is not None
        assert value("tidings_connection_up") == 1
        assert value("tidings_connection_reconnects_total") == 0
        assert value("tidings_connection_possibly_lost_messages_total") == 0
        sent_then = value("tidings_connection_sent_bytes_total")
        assert sent_then is not None
        assert sent <= sent_then <= app.stats().connection.sent_bytes
        await until(lambda: app._run._observers[0]._source._pulse.stats().lag.count)  # type: ignore[union-attr,attr-defined] # the app runs
        assert (await scrape(port)).value("tidings_event_loop_lag_seconds_count")
        end.set()


async def test_leaders_and_locks_are_metrics(
    nats_server: NATSServer, subject: str, port: int
) -> None:
    app = App("metered", servers=nats_server.url, monitor=port)

    @app.leader(name=subject)
    async def lead() -> None:
        pass

    async with app:
        await until(lambda: app.stats().leaders[0].is_leading)
        async with app.lock(f"{subject}.x"):
            value = (await scrape(port)).value
        assert value("tidings_leader", leader="lead", lock=subject) == 1
        assert value("tidings_leader_terms_total", leader="lead", result="failed") == 0
        assert value("tidings_locks_held") == 2
        assert value("tidings_locks_waiting") == 0
        assert value("tidings_locks_acquired_total") == 2
        assert value("tidings_locks_lost_total") == value("tidings_locks_timed_out_total") == 0


async def test_names_types_and_help_follow_the_conventions_of_prometheus(
    nats_server: NATSServer, subject: str, stream: Stream, port: int
) -> None:
    app = App("conventions", servers=nats_server.url, monitor=port, streams=[stream])
    app.js.key_value("LIMITS", storage="memory")
    everything(app, subject, stream.name)
    async with app:
        metrics = await scrape(port)
    own = {name: each for name, each in metrics.families.items() if name.startswith("tidings_")}
    assert len(own) > 40
    for name, family in own.items():
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", name), name
        assert family.documentation.endswith("."), name
        assert not name.endswith(("_count", "_sum", "_bucket", "_total")), name
        # "milli" and other units are not base units, and a counter's name is its unit in the plural
        assert not re.search("_(ms|millis|minutes|kb|percent)", name), name
        assert ("seconds" in name) == (family.type == "histogram" or "seconds" in name), name
        for sample in family.samples:
            assert set(sample.labels) <= {
                *("le", "listener", "subject", "queue", "result", "handler", "stream", "consumer"),
                *("answer", "task", "bucket", "keys", "service", "version", "tidings"),
            }
        if family.type == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples), name
            assert all(sample.value >= 0 for sample in family.samples), name


async def test_openmetrics_is_served_to_those_who_accept_it(
    nats_server: NATSServer, subject: str, stream: Stream, port: int
) -> None:
    app = App("open", servers=nats_server.url, monitor=port, streams=[stream])
    app.js.key_value("LIMITS", storage="memory")
    everything(app, subject, stream.name)
    async with app:
        plain = await ask_in_thread(port, "/metrics")
        found = await ask_in_thread(
            port, "/metrics", Accept="application/openmetrics-text; version=1.0.0"
        )
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert found.headers["Content-Type"].startswith("application/openmetrics-text")
    assert found.text.endswith("# EOF\n")
    names = {family.name for family in openmetrics_families(found.text)}
    assert "tidings_handler_duration_seconds" in names


async def test_subjects_subscribed_at_run_time_share_one_label(
    nats_server: NATSServer, subject: str, port: int
) -> None:
    app = App("bounded", servers=nats_server.url, monitor=port)

    @app.listen(f"{subject}.declared")
    async def declared(msg: Any) -> None:
        pass

    async def answer(msg: Any) -> None:
        pass

    async with app:
        for number in range(5):
            await app.subscribe_new_subject(f"{subject}.user.{number}", answer)
            await app.publish(f"{subject}.user.{number}", {})
        await app.unsubscribe_subject(f"{subject}.user.0")
        await until(lambda: sum(each.handled for each in app.stats().listeners) == 4)
        await until(lambda: app.stats().ended.handled == 1)
        metrics = await scrape(port)
    received = list(metrics.samples("tidings_messages_received_total"))
    assert {sample.labels["subject"] for sample in received} == {f"{subject}.declared", ""}
    name = "tidings_messages_received_total"
    assert metrics.value(name, listener="(subscribed)") == 5
    assert metrics.value("tidings_handler_duration_seconds_count", listener="(subscribed)") == 5


async def test_no_count_goes_down_when_a_consumer_or_a_watch_is_stopped(
    nats_server: NATSServer, stream: Stream, port: int
) -> None:
    app = App("stopping", servers=nats_server.url, monitor=port, streams=[stream])
    kv = app.js.key_value("STOPPED", type=int)

    async def on_order(msg: Any) -> None:
        pass

    async def on_limit(entry: Any) -> None:
        pass

    async with app:
        await app.js.publish(f"{stream.name}.x", {})
        await kv.put("a", 1)
        for count in (1, 2):
            added = [
                await app.js.add_consumer(on_order, stream.name, ordered=True),
                await app.js.add_watch(on_limit, "STOPPED"),
            ]
            await until(lambda added=added: all(each.stats().handled for each in added))
            for handler in added:
                await handler.stop()
            metrics = await scrape(port)
            for name in ("tidings_consumer_deliveries_total", "tidings_watch_entries_total"):
                assert metrics.value(name, result="handled") == count
            name = "tidings_consumer_handler_duration_seconds_count"
            assert metrics.value(name, stream=stream.name) == count


async def test_two_handlers_with_the_same_labels_are_added_up(
    nats_server: NATSServer, subject: str, port: int
) -> None:
    app = App("twice", servers=nats_server.url, monitor=port)

    async def handler(msg: Any) -> None:
        pass

    app.listen(subject, queue="same")(handler)
    app.listen(subject, queue="same")(handler)
    async with app:
        await app.publish(subject, {})
        await until(lambda: sum(each.handled for each in app.stats().listeners) == 1)
        metrics = await scrape(port)
    assert len(list(metrics.samples("tidings_messages_received_total"))) == 1
    assert metrics.value("tidings_messages_received_total", listener=handler.__name__) == 1


async def test_hostile_names_are_escaped(nats_server: NATSServer, port: int) -> None:
    options: dict[str, Any] = {"version": '"}\n1', "discoverable": False}
    app = App('quote" \\ backslash', servers=nats_server.url, monitor=port, **options)
    async with app:
        metrics = await scrape(port)
    assert metrics.value("tidings_app_info", service='quote" \\ backslash', version='"}\n1') == 1


@pytest.fixture
def own_counter() -> Iterator[prometheus_client.Counter]:
    counter = prometheus_client.Counter("orders_paid", "Orders that were paid.", ["currency"])
    yield counter
    prometheus_client.REGISTRY.unregister(counter)


async def test_metrics_of_the_user_appear_too(
    nats_server: NATSServer, port: int, own_counter: prometheus_client.Counter
) -> None:
    own_counter.labels("EUR").inc(3)
    async with App("own", servers=nats_server.url, monitor=port):
        metrics = await scrape(port)
    assert metrics.value("orders_paid_total", currency="EUR") == 3
    assert metrics.value("python_info") == 1


async def test_a_collector_of_the_user_that_raises_costs_only_its_own_metrics(
    nats_server: NATSServer, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def collect(self) -> Any:
            if started:
                raise ValueError("no")
            return []

    started: list[bool] = []
    broken: Any = Broken()
    prometheus_client.REGISTRY.register(broken)
    try:
        started.append(True)
        async with App("own", servers=nats_server.url, monitor=port):
            metrics = await scrape(port)
    finally:
        prometheus_client.REGISTRY.unregister(broken)
    assert metrics.value("tidings_connection_up") == 1
    assert "default registry" in caplog.text


async def test_a_program_can_serve_the_metrics_itself(
    nats_server: NATSServer, subject: str
) -> None:
    registry = prometheus_client.CollectorRegistry()
    app = App("itself", servers=nats_server.url)

    @app.listen(subject)
    async def handler(msg: Any) -> None:
        pass

    registry.register(AppCollector(app))
    async with app:
        await app.publish(subject, {})
        await until(lambda: app.stats().listeners[0].handled == 1)
        metrics = Metrics(prometheus_client.generate_latest(registry).decode())
    assert metrics.value("tidings_messages_total", result="handled") == 1


async def test_an_app_on_the_default_registry_is_served_once(
    nats_server: NATSServer, port: int
) -> None:
    app = App("once", servers=nats_server.url, monitor=port)
    collector = AppCollector(app)
    prometheus_client.REGISTRY.register(collector)
    try:
        async with app:
            metrics = await scrape(port)
    finally:
        prometheus_client.REGISTRY.unregister(collector)
    assert metrics.value("tidings_connection_up") == 1
    assert len(list(metrics.samples("tidings_connection_up"))) == 1


async def test_without_a_monitor_nothing_is_measured(nats_server: NATSServer, subject: str) -> None:
    app = App("off", servers=nats_server.url)

    @app.listen(subject)
    async def handler(msg: Any) -> dict[str, str]:
        return {}

    async with app:
        assert app._run is not None
        await app.request(subject, {})
        assert app._run.link.send_request is None
        assert app.stats().listeners[0].seconds is None
        assert app.stats().requests == ()


async def test_an_outage_costs_a_scrape_no_time(server: NATSServer, port: int) -> None:
    with NATSServer(jetstream=True) as own:
        name = "OUT"
        stream = Stream(name, subjects=["out.>"], storage="memory")
        app = App("outage", servers=own.url, monitor=port, streams=[stream], drain_timeout=0.5)

        @app.consume(name)
        async def handler(msg: Any) -> None:
            pass

        await app.connect()
        assert (await scrape(port)).value("tidings_consumer_lag_messages") == 0
        own.kill()
        await until(lambda: app.stats().connection.state != "connected")
        began = asyncio.get_running_loop().time()
        metrics = await scrape(port)
        assert asyncio.get_running_loop().time() - began < AT_ONCE  # it asks nobody
        assert metrics.value("tidings_connection_up") == 0
        assert metrics.value("tidings_consumer_lag_messages") == 0  # the last that was known
        await app.disconnect()


async def test_lag_counts_what_the_server_has_not_delivered(
    nats_server: NATSServer, stream: Stream, port: int
) -> None:
    app = App("lagging", servers=nats_server.url, monitor=port, streams=[stream])
    free = asyncio.Event()

    @app.consume(stream.name, concurrency=1)
    async def handler(msg: Any) -> None:
        await free.wait()

    async with app:
        for number in range(5):
            await app.js.publish(f"{stream.name}.x", {"n": number})
        await until(lambda: app.stats().consumers[0].running == 1)
        await owes(app, stream, 5)
        metrics = await scrape(port)
        free.set()
    lag = metrics.value("tidings_consumer_lag_messages")
    pending = metrics.value("tidings_consumer_ack_pending")
    assert lag is not None
    assert pending is not None
    assert lag + pending == 5
    assert pending >= 1


def test_families_without_samples_are_valid() -> None:
    body, media_type = encode([], "")
    assert body == b""
    assert media_type.startswith("text/plain")
