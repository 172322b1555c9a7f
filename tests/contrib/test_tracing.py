"""Traces with OpenTelemetry, from one service to the next."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import opentelemetry.trace
import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode, get_current_span

from support.inbox import Inbox
from support.traces import Traces, attributes, is_child, linked, span_ids
from support.waits import until
from tidings import (
    App,
    Message,
    Middleware,
    NoRespondersError,
    Reject,
    ServiceError,
    deadline,
)
from tidings.errors import DecodeError, PayloadTooLargeError, RequestTimeoutError
from tidings.jetstream import Stream, dead_letters
from tidings.jetstream.dead_letters import Wanted
from tidings.server import NATSServer

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

MakeApp = Callable[..., App]


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("shop", servers=nats_server.url)


@pytest.fixture
def other(nats_server: NATSServer) -> App:
    return App("billing", servers=nats_server.url)


@pytest.fixture
def dead() -> Stream:
    return Stream("DEADTRACES", subjects=["deadtraces.>"], storage="memory")


def trace_of(span: Any) -> str:
    return f"{span.context.trace_id:032x}"


# One message.


async def test_a_request_is_a_client_span_and_its_handler_a_child_of_it(
    traces: Traces, app: App, subject: str
) -> None:
    app.listen(f"{subject}.*", queue="desk")(Inbox())
    async with app:
        await app.request(f"{subject}.7", {"n": 1})
    client = await traces.one("request")
    handler = await traces.one("process")
    assert client.name == f"request {subject}.*"
    assert client.kind is SpanKind.CLIENT
    assert handler.name == f"process {subject}.*"
    assert handler.kind is SpanKind.CONSUMER
    assert is_child(handler, client)
    assert client.parent is None


async def test_the_attributes_are_those_of_the_semantic_conventions(
    traces: Traces, app: App, subject: str, nats_server: NATSServer
) -> None:
    @app.listen(f"{subject}.*", queue="desk")
    async def take(msg: Message[dict[str, int]]) -> None: ...

    async with app:
        await app.publish(f"{subject}.7", {"n": 1})
        handler = await traces.one("process")
    producer = await traces.one("publish")
    where = {
        "messaging.system": "nats",
        "messaging.destination.name": f"{subject}.7",
        "messaging.destination.template": f"{subject}.*",
        "server.address": "127.0.0.1",
        "server.port": int(nats_server.url.rpartition(":")[2]),
    }
    assert attributes(producer) == where | {
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    found = attributes(handler)
    assert 0 <= found.pop("tidings.queue_wait") < 20
    assert found == where | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "desk",
        "messaging.message.body.size": 7,
        "tidings.handler": "take",
    }
    assert producer.kind is SpanKind.PRODUCER
    assert is_child(handler, producer)


async def test_a_span_is_never_named_after_a_raw_subject(
    traces: Traces, app: App, subject: str
) -> None:
    async with app:
        await app.publish(f"{subject}.customer-7", b"")
    assert (await traces.one("publish")).name == "publish"


async def test_the_most_specific_of_the_declared_patterns_names_a_span(
    traces: Traces, app: App, subject: str
) -> None:
    app.listen(">", no_reply=True)(Inbox())
    app.listen(f"{subject}.>", no_reply=True)(Inbox())
    app.listen(f"{subject}.*", no_reply=True)(Inbox())
    async with app:
        await app.publish(f"{subject}.7", b"{}")
        await app.publish(f"{subject}.7.8", b"{}")
        await traces.wait("process", 5)
    assert [span.name for span in traces.find("publish")] == [
        f"publish {subject}.*",
        f"publish {subject}.>",
    ]
    assert {span.name for span in traces.find("process")} == {
        "process >",
        f"process {subject}.>",
        f"process {subject}.*",
    }


async def test_the_queue_wait_is_the_time_between_arrival_and_handler(
    traces: Traces, app: App, subject: str
) -> None:
    go = asyncio.Event()
    arrived = asyncio.get_running_loop().time

    @app.listen(subject, concurrency=1, data_type=bytes)
    async def take(msg: Message[bytes]) -> None:
        await go.wait()

    async with app:
        for _ in range(3):
            await app.publish(subject, b"")
        await app.flush()
        await until(lambda: app.stats().listeners[0].received == 3)
        begun = arrived()
        await asyncio.sleep(0.05)
        go.set()
        spans = await traces.wait("process", 3)
        most = arrived() - begun + 20
    first, *later = (attributes(span)["tidings.queue_wait"] for span in spans)
    assert first < min(later)
    assert all(0.05 <= each < most for each in later)


async def test_the_queue_wait_stays_right_behind_a_body_that_does_not_decode(
    traces: Traces, app: App, subject: str
) -> None:
    go = asyncio.Event()

    @app.listen(subject, concurrency=1)
    async def take(msg: Message[dict[str, int]]) -> None:
        await go.wait()

    async with app:
        for body in (b"{}", b"no", b"{}"):
            await app.publish(subject, body)
        await until(lambda: app.stats().listeners[0].received == 3)
        await asyncio.sleep(0.5)
        go.set()
        await traces.wait("process", 3)
        await app.publish(subject, b"{}")
        *_, _last = await traces.wait("process", 4)
    waits = [attributes(span)["tidings.queue_wait"] for span in traces.find("process")]
    assert min(waits[1:3]) >= 0.5
    assert waits[3] < 0.5


# Several services.


async def test_a_trace_goes_through_two_services_and_a_stream(
    traces: Traces, app: App, other: App, stream: Stream, subject: str
) -> None:
    orders = App("orders", servers=app.servers, streams=[stream])
    seen = Inbox()

    @app.listen(subject)
    async def buy(msg: Message[dict[str, int]]) -> dict[str, Any]:
        return await app.request(f"{subject}.store", msg.data)

    @orders.listen(f"{subject}.store")
    async def store(msg: Message[dict[str, int]]) -> dict[str, int]:
        ack = await orders.js.publish(f"{stream.name}.created", msg.data)
        return {"sequence": ack.sequence}

    @other.consume(stream.name, durable="billing")
    async def bill(msg: Message[dict[str, int]]) -> None:
        await seen(msg)
        await other.publish(f"{subject}.done", b"")

    async with orders, app, other:
        with traces.tracer.start_as_current_span("customer") as customer:
            await app.request(subject, {"id": 7})
        await seen.has(1)
        await until(lambda: len(traces.exporter.get_finished_spans()) == 8)
    spans = {span.name: span for span in traces.exporter.get_finished_spans()}
    way = [
        spans["customer"],
        spans[f"request {subject}"],
        spans[f"process {subject}"],
        spans["request"],
        spans[f"process {subject}.store"],
        spans[f"publish {stream.name}.>"],
        spans[f"process {stream.name}"],
        spans["publish"],
    ]
    assert {trace_of(span) for span in way} == {f"{customer.get_span_context().trace_id:032x}"}
    assert all(is_child(child, parent) for parent, child in itertools.pairwise(way))


async def test_baggage_and_trace_state_reach_the_handler_and_what_it_sends(
    traces: Traces, app: App, other: App, subject: str
) -> None:
    found: list[Any] = []

    @app.listen(subject)
    async def first(msg: Message[dict[str, int]]) -> Any:
        return await app.request(f"{subject}.on", {})

    @other.listen(f"{subject}.on")
    async def second(msg: Message[dict[str, int]]) -> dict[str, int]:
        state = get_current_span().get_span_context().trace_state
        found.extend([baggage.get_baggage("user"), state.get("vendor"), msg.headers])
        return {}

    headers = {"traceparent": PARENT, "tracestate": "vendor=7", "baggage": "user=ada"}
    async with app, other:
        # From a program without tracing: the headers are all there is.
        await app._run.link.request(subject, {}, headers=headers)  # type: ignore[union-attr]  # it runs
    assert found[:2] == ["ada", "7"]
    assert found[2]["baggage"] == "user=ada"
    assert found[2]["tracestate"] == "vendor=7"
    assert {trace_of(span) for span in traces.find("process")} == {TRACE_ID}
    assert baggage.get_baggage("user") is None  # it ended with the handler


async def test_the_headers_of_another_message_do_not_override_the_current_trace(
    traces: Traces, app: App, subject: str
) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)
    async with app:
        await app.publish(subject, {}, headers=[("traceparent", PARENT), ("Tag", "a")])
        msg = await inbox.next()
    assert msg.headers.get_all("traceparent") != [PARENT]
    assert len(msg.headers.get_all("traceparent")) == 1
    assert msg.headers["Tag"] == "a"


async def test_headers_from_an_iterator_are_sent_with_the_trace(
    traces: Traces, app: App, subject: str
) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)
    async with app:
        await app.publish(subject, {}, headers=iter([("Tag", "a")]))
        msg = await inbox.next()
    assert [name for name, _ in msg.headers.pairs()] == ["Tag", "traceparent"]


@pytest.mark.parametrize(
    "pairs",
    [
        [("traceparent", "00-0-0-01")],
        [("traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-01")],
        [("traceparent", "ff" + PARENT[2:])],
        [("traceparent", PARENT + "-more")],
        [("traceparent", PARENT.upper())],
        [("traceparent", PARENT), ("traceparent", PARENT.replace("4bf9", "4bf8"))],
        [("traceparent", "01" + PARENT[2:] + "-" + "x" * 9000)],
        [("traceparent", "\u2603" * 600)],
        [("Traceparent", PARENT)],
    ],
    ids=lambda pairs: f"{len(pairs)} {pairs[0][1][:12]!a}",
)
async def test_a_hostile_trace_parent_is_ignored(
    traces: Traces, app: App, subject: str, pairs: list[tuple[str, str]]
) -> None:
    app.listen(subject)(Inbox())
    async with app:
        await app._run.link.request(subject, {}, headers=pairs)  # type: ignore[union-attr]  # it runs
    span = await traces.one("process")
    assert span.parent is None
    assert trace_of(span) != TRACE_ID


@pytest.mark.parametrize(
    "hostile",
    [
        {"tracestate": "a=" + "b" * 100_000},
        {"tracestate": "=;=;,,\x01"},
        {"baggage": "k=" + "v" * 100_000},
        {"baggage": ",".join(f"k{n}=v" for n in range(10_000))},
        {"baggage": "%%%==;;\u2603"},
    ],
    ids=lambda hostile: next(iter(hostile)),
)
async def test_hostile_trace_state_and_baggage_do_not_cost_the_message_or_its_trace(
    traces: Traces, app: App, subject: str, hostile: dict[str, str]
) -> None:
    sizes: list[int] = []

    @app.listen(subject)
    async def take(msg: Message[dict[str, int]]) -> dict[str, int]:
        sizes.append(sum(len(str(value)) for value in baggage.get_all().values()))
        return {}

    async with app:
        pairs = {"traceparent": PARENT, **hostile}
        await app._run.link.request(subject, {}, headers=pairs)  # type: ignore[union-attr]  # it runs
    assert trace_of(await traces.one("process")) == TRACE_ID
    assert sizes[0] <= 8192


# Errors.


async def test_an_error_of_a_handler_is_on_its_span_with_the_id_of_the_log_and_without_its_text(
    traces: Traces, app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen(subject)
    async def fail(msg: Message[dict[str, int]]) -> None:
        raise ValueError("the s3cret")

    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject, {})
    handler, client = await traces.one("process"), await traces.one("request")
    (record,) = [each for each in caplog.records if "error id" in each.message]
    assert attributes(handler)["error.type"] == "ValueError"
    assert attributes(handler)["tidings.error_id"] == record.error_id  # type: ignore[attr-defined]  # extra
    assert handler.status.status_code is StatusCode.ERROR
    assert attributes(client)["error.type"] == "tidings.errors.ServiceError"
    assert attributes(client)["tidings.error_id"] == caught.value.error_id == record.error_id  # type: ignore[attr-defined]  # extra
    assert client.status.status_code is StatusCode.ERROR
    assert record.trace_id == trace_of(handler)  # type: ignore[attr-defined]  # extra
    assert record.span_id == f"{handler.context.span_id:016x}"  # type: ignore[attr-defined]  # extra
    shown = "".join(span.to_json() for span in (handler, client))
    assert "s3cret" not in shown
    assert not handler.events


async def test_a_body_that_does_not_decode_is_a_failed_span_in_the_trace_of_its_sender(
    traces: Traces, app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen(subject)
    async def take(msg: Message[dict[str, int]]) -> None: ...

    async with app:
        with pytest.raises(ServiceError):
            await app.request(subject, b"s3cret")
    handler, client = await traces.one("process"), await traces.one("request")
    assert is_child(handler, client)
    assert attributes(handler)["error.type"] == "tidings.errors.DecodeError"
    assert attributes(handler)["tidings.error_id"] == attributes(client)["tidings.error_id"]
    assert "s3cret" not in handler.to_json()


async def test_a_timeout_is_an_error_of_the_span(traces: Traces, app: App, subject: str) -> None:
    @app.listen(subject, timeout=0.05)
    async def hang(msg: Message[dict[str, int]]) -> None:
        await asyncio.Event().wait()

    async with app:
        with pytest.raises(ServiceError, match="504"):
            await app.request(subject, {})
    handler = await traces.one("process")
    assert attributes(handler)["error.type"] == "tidings.errors.HandlerTimeoutError"


async def test_a_request_whose_deadline_passed_in_the_queue_is_a_failed_span(
    traces: Traces, app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    go = asyncio.Event()

    @app.listen(subject, concurrency=1)
    async def take(msg: Message[dict[str, int]]) -> dict[str, int]:
        await go.wait()
        return {}

    async with app:
        first = asyncio.create_task(app.request(subject, {}))
        await until(lambda: app.stats().listeners[0].running == 1)
        with pytest.raises(RequestTimeoutError), deadline(0.05):
            await app.request(subject, {})
        await asyncio.sleep(0.5)  # far past the deadline, which began when the request arrived
        go.set()
        await first
        spans = await traces.wait("process", 2)
        await app.request(subject, {})
        *_, last = await traces.wait("process", 3)
    failed = next(span for span in spans if "error.type" in attributes(span))
    assert any(is_child(failed, span) for span in traces.find("request"))
    (record,) = [each for each in caplog.records if "its deadline passed" in each.message]
    assert record.trace_id == trace_of(failed)  # type: ignore[attr-defined]  # extra
    assert attributes(failed)["tidings.queue_wait"] >= 0.5 > attributes(last)["tidings.queue_wait"]


async def test_a_handler_that_is_cancelled_at_its_deadline_is_a_failed_span(
    traces: Traces, app: App, subject: str
) -> None:
    @app.listen(subject, cancel_expired=True)
    async def hang(msg: Message[dict[str, int]]) -> None:
        await asyncio.Event().wait()

    async with app:
        with pytest.raises(RequestTimeoutError), deadline(0.1):
            await app.request(subject, {})
        handler = await traces.one("process")
    assert attributes(handler)["error.type"] == "tidings.errors.HandlerTimeoutError"
    assert is_child(handler, await traces.one("request"))


# Several answers.


@pytest.fixture
def rows(app: App, subject: str) -> App:
    """A service that streams three numbers, or fails after two of them."""

    @app.listen(f"{subject}.*")
    async def stream(msg: Message[dict[str, bool]]) -> AsyncIterator[int]:
        yield 1
        yield 2
        if msg.data.get("fails"):
            raise Reject("no more", code=409)
        yield 3

    return app


async def test_the_span_of_a_stream_ends_with_the_stream(
    traces: Traces, rows: App, subject: str
) -> None:
    async with rows, rows.stream(f"{subject}.7", {}, response_data_type=int) as got:
        assert await anext(got) == 1
        await traces.one("process")  # the service has sent everything
        assert traces.find("request") == []
        assert [row async for row in got] == [2, 3]
        client = await traces.one("request")
    assert client.name == f"request {subject}.*"
    assert client.kind is SpanKind.CLIENT
    assert client.status.status_code is StatusCode.UNSET
    assert attributes(client)["tidings.ended"] == "end"
    assert attributes(client)["tidings.answers"] == 3
    assert is_child(await traces.one("process"), client)


async def test_the_error_of_a_stream_is_on_its_span(
    traces: Traces, rows: App, subject: str
) -> None:
    async with rows, rows.stream(f"{subject}.7", {"fails": True}, response_data_type=int) as got:
        with pytest.raises(ServiceError):
            assert [row async for row in got]
    client = await traces.one("request")
    assert client.status.status_code is StatusCode.ERROR
    found = attributes(client)
    assert found["error.type"] == "tidings.errors.ServiceError"
    assert (found["tidings.ended"], found["tidings.answers"]) == ("error", 2)
    assert found["tidings.error_id"]


async def test_leaving_a_stream_ends_its_span_without_an_error(
    traces: Traces, rows: App, subject: str
) -> None:
    async with rows:
        async with rows.stream(f"{subject}.7", {}, response_data_type=int) as got:
            await anext(got)
        client = await traces.one("request")
    assert client.status.status_code is StatusCode.UNSET
    assert attributes(client)["tidings.ended"] == "closed"


async def test_a_stream_that_is_cancelled_is_a_failed_span(
    traces: Traces, app: App, subject: str
) -> None:
    begun = asyncio.Event()

    @app.listen(subject)
    async def stream(msg: Message) -> AsyncIterator[int]:
        yield 1
        begun.set()
        await asyncio.Event().wait()

    async def read() -> None:
        async with app.stream(subject, response_data_type=int) as got:
            async for _ in got:
                pass

    async with app:
        reading = asyncio.create_task(read())
        await begun.wait()
        reading.cancel()
        await asyncio.wait([reading])
        client = await traces.one("request")
    assert attributes(client)["error.type"] == "asyncio.exceptions.CancelledError"
    assert client.status.status_code is StatusCode.ERROR


async def test_a_stream_that_nobody_answers_is_a_failed_span(
    traces: Traces, app: App, subject: str
) -> None:
    async with app, app.stream(subject) as got:
        with pytest.raises(NoRespondersError):
            await anext(got)
    client = await traces.one("request")
    assert attributes(client)["error.type"] == "tidings.errors.NoRespondersError"
    assert attributes(client)["tidings.answers"] == 0


@pytest.mark.parametrize(
    ("options", "ended"),
    [({"count": 2}, "count"), ({"stall": 0.05}, "stall"), ({"timeout": 0.1}, "timeout")],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
async def test_the_span_of_several_answers_says_why_they_ended(
    traces: Traces, app: App, subject: str, options: dict[str, float], ended: str
) -> None:
    @app.listen(subject, no_reply=True)
    async def answer(msg: Message) -> None:
        await msg.respond(1)
        await msg.respond(2)

    async with app:
        answers = app.request_many(subject, response_data_type=int, **options)  # type: ignore[call-overload]  # of several types
        assert await anext(answers) == 1
        assert traces.find("request") == []
        assert [each async for each in answers] == [2]
        client = await traces.one("request")
    assert client.status.status_code is StatusCode.UNSET
    assert attributes(client)["tidings.ended"] == ended
    assert attributes(client)["tidings.answers"] == 2


async def test_an_answer_that_does_not_fit_fails_the_span_and_break_ends_it(
    traces: Traces, app: App, subject: str
) -> None:
    @app.listen(subject, no_reply=True)
    async def answer(msg: Message) -> None:
        await msg.respond(1)
        await msg.respond("text")

    async with app:
        with pytest.raises(DecodeError):
            assert [x async for x in app.request_many(subject, response_data_type=int)]
        failed = await traces.one("request")
        assert attributes(failed)["error.type"] == "tidings.errors.DecodeError"
        async for _ in app.request_many(subject, response_data_type=int, count=2):
            break
        gc.collect()
        _, left = await traces.wait("request", 2)
        assert attributes(left)["tidings.ended"] == "closed"


async def test_a_hook_that_sends_a_stream_again_leaves_no_span_open(
    traces: Traces, rows: App, subject: str
) -> None:
    class Twice(Middleware):
        async def send_request(
            self, subject: str, message: Any, request_func: Any, *args: Any, **kwargs: Any
        ) -> Any:
            await request_func(subject, message, *args, **kwargs)
            return await request_func(subject, message, *args, **kwargs)

    rows.add_middleware(Twice)
    async with rows:
        async with rows.stream(f"{subject}.7", {}, response_data_type=int) as got:
            assert [row async for row in got] == [1, 2, 3]
        ended = {attributes(each)["tidings.ended"] for each in await traces.wait("request", 2)}
    assert ended == {"closed", "end"}


async def test_a_request_that_nobody_answers_is_an_error_of_its_span(
    traces: Traces, app: App, subject: str
) -> None:
    async with app:
        with pytest.raises(NoRespondersError):
            await app.request(subject, {})
    client = await traces.one("request")
    assert attributes(client)["error.type"] == "tidings.errors.NoRespondersError"


async def test_a_message_that_fits_only_without_the_trace_is_sent_without_it(
    traces: Traces, app: App, subject: str
) -> None:
    inbox = Inbox()
    app.listen(subject, data_type=bytes, no_reply=True)(inbox)
    body = b"x" * (1024 * 1024)  # the limit of the server
    async with app:
        await app.publish(subject, body)
        msg = await inbox.next()
        assert (len(msg.body), len(msg.headers)) == (len(body), 0)
        with pytest.raises(PayloadTooLargeError):
            await app.publish(subject, body + b"x")


class Broken(SpanProcessor):
    """A processor that raises."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("broken")


async def test_a_tracer_that_raises_costs_no_message_and_is_logged_once(
    traces: Traces, app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    traces.provider.add_span_processor(Broken())
    app.listen(subject)(Inbox())
    async with app:
        assert await app.request(subject, {"n": 1}) == {"n": 1}
        assert await app.request(subject, {"n": 2}) == {"n": 2}
    (record,) = [each for each in caplog.records if "the tracing raised" in each.message]
    assert "RuntimeError" in record.message


# Streams.


async def test_a_message_of_a_stream_says_its_delivery_and_its_place(
    traces: Traces, app: App, stream: Stream
) -> None:
    app = App("shop", servers=app.servers, streams=[stream])
    done = asyncio.Event()

    @app.consume(stream.name, subject=f"{stream.name}.new", durable="work", backoff=[0.01])
    async def work(msg: Any) -> None:
        if msg.delivered == 1:
            raise OSError("later")
        done.set()

    async with app:
        await app.js.publish(f"{stream.name}.new", {})
        await asyncio.wait_for(done.wait(), 20)
        first, second = await traces.wait("process", 2)
    producer = await traces.one("publish")
    assert first.name == f"process {stream.name}.new"
    assert attributes(producer)["tidings.stream"] == stream.name
    assert attributes(producer)["tidings.stream_sequence"] == 1
    for span, delivery in ((first, 1), (second, 2)):
        found = attributes(span)
        assert found["tidings.deliveries"] == delivery
        assert found["tidings.stream"] == stream.name
        assert found["tidings.stream_sequence"] == 1
        assert found["messaging.consumer.group.name"] == "work"
        assert 0 <= found["tidings.queue_wait"] < 20
        assert is_child(span, producer)
    assert attributes(first)["error.type"] == "OSError"
    assert "error.type" not in attributes(second)


async def test_a_batch_is_one_span_with_links_to_its_messages(
    traces: Traces, app: App, stream: Stream
) -> None:
    app = App("shop", servers=app.servers, streams=[stream])
    sizes: list[int] = []

    @app.consume(stream.name, durable="work", batch=3, batch_timeout=5)
    async def work(messages: list[Any]) -> None:
        sizes.append(len(messages))

    async with app:
        async with app.js.publish_window(3) as window:
            for number in range(3):
                await window.publish(f"{stream.name}.{number}", {})
        batch = await traces.one("process")
    producers = await traces.wait("publish", 3)
    assert sizes == [3]
    assert batch.name == f"process {stream.name}.>"
    assert batch.parent is None
    assert linked(batch) == span_ids(producers)
    assert attributes(batch)["messaging.batch.message_count"] == 3
    assert attributes(batch)["tidings.deliveries"] == 1


@pytest.mark.parametrize("batched", [False, True])
async def test_each_publish_of_a_window_has_a_span_and_batches_stay_batches(
    traces: Traces, app: App, stream: Stream, batched: bool
) -> None:
    fast = Stream(f"{stream.name}F", subjects=[f"{stream.name}f.>"], batched=True)
    app = App("shop", servers=app.servers, streams=[fast])
    seen = Inbox()
    app.consume(fast.name, durable="work")(seen)
    async with app:
        with traces.tracer.start_as_current_span("import") as whole:
            async with app.js.publish_window(64, batched=batched) as window:
                acks = [
                    await window.publish(f"{stream.name}f.{number}", {}, headers={"Tag": "a"})
                    for number in range(100)
                ]
        await seen.has(100)
        spans = await traces.wait("publish", 100)
        handlers = await traces.wait("process", 100)
        assert (await seen.next()).headers["Tag"] == "a"
    assert (window.acked, window.failed) == (100, [])
    assert {ack.result().sequence == 0 for ack in acks} == {batched}
    assert {span.parent.span_id for span in spans if span.parent} == {
        whole.get_span_context().span_id
    }
    assert {span.parent.span_id for span in handlers if span.parent} == span_ids(spans)


async def test_each_message_of_an_atomic_batch_has_a_span_that_its_handler_follows(
    traces: Traces, app: App, stream: Stream
) -> None:
    whole = Stream(f"{stream.name}A", subjects=[f"{stream.name}a.>"], atomic=True)
    app = App("shop", servers=app.servers, streams=[whole])
    seen = Inbox()
    app.consume(whole.name, durable="work")(seen)
    async with app:
        async with app.js.batch() as batch:
            for number in range(3):
                batch.add(f"{stream.name}a.{number}", {})
        await seen.has(3)
        spans = await traces.wait("publish", 3)
        handlers = await traces.wait("process", 3)
    assert batch.ack is not None
    assert {attributes(span)["tidings.stream_sequence"] for span in spans} == {1, 2, 3}
    assert {span.parent.span_id for span in handlers if span.parent} == span_ids(spans)


async def test_a_publish_of_a_window_that_fails_is_a_failed_span(
    traces: Traces, app: App, subject: str
) -> None:
    async with app, app.js.publish_window(8) as window:
        await window.publish(f"{subject}.nowhere", {})
    span = await traces.one("publish")
    assert len(window.failed) == 1
    assert attributes(span)["error.type"] == "tidings.errors.NoStreamError"


async def test_a_window_within_a_middleware_has_a_span_for_each_publish(
    traces: Traces, app: App, stream: Stream
) -> None:
    app = App("shop", servers=app.servers, streams=[stream])
    app.add_middleware(Renaming)
    async with app, app.js.publish_window(8) as window:
        for number in range(3):
            await window.publish(f"{stream.name}.{number}", {})
    assert window.acked == len(traces.find("publish")) == 3


async def test_an_ordered_consumer_and_a_watch_continue_the_trace(
    traces: Traces, app: App, stream: Stream
) -> None:
    app = App("shop", servers=app.servers, streams=[stream])
    inbox, changes = Inbox(), Inbox()
    app.consume(stream.name, ordered=True)(inbox)
    bucket = app.js.key_value("traced", type=int)
    app.watch("traced", "a.*")(changes)
    async with app:
        await app.js.publish(f"{stream.name}.x", {})
        await inbox.has(1)
        await bucket.put("a.b", 1)
        await changes.has(1)
        ordered = await traces.one(f"process {stream.name}")
        watch = await traces.one("process $KV.traced.a.*")
    assert is_child(ordered, await traces.one("publish"))
    assert attributes(watch)["tidings.stream"] == "KV_traced"
    assert watch.parent is None


async def test_a_dead_letter_keeps_the_trace_and_its_redrive_is_linked_to_it(
    traces: Traces, app: App, stream: Stream, dead: Stream
) -> None:
    app = App("shop", servers=app.servers, streams=[stream, dead])
    is_broken = True
    done, buried = asyncio.Event(), Inbox()

    @app.consume(stream.name, durable="work", dead_letter="deadtraces.work")
    async def work(msg: Any) -> None:
        if is_broken:
            raise Reject("no")
        assert baggage.get_baggage("user") == "ada"
        done.set()

    app.consume(dead.name, durable="look")(buried)
    async with app:
        token = context.attach(baggage.set_baggage("user", "ada"))
        try:
            await app.js.publish(f"{stream.name}.x", {})
        finally:
            context.detach(token)
        msg = await buried.next()
        producer = await traces.one("publish")
        is_broken = False
        api = app.js.api
        last = await dead_letters.last_sequence(api, dead.name)
        async for letter in dead_letters.read_dead_letters(api, dead.name, Wanted(), last):
            await dead_letters.redrive(api, letter)
        await asyncio.wait_for(done.wait(), 20)
        _, redriven = await traces.wait(f"process {stream.name}", 2)
        look = await traces.one("process deadtraces")
    assert f"{producer.context.trace_id:032x}" in msg.headers["traceparent"]
    assert is_child(look, producer)
    assert redriven.parent is None
    assert redriven.context.trace_id != producer.context.trace_id
    assert linked(redriven) == {producer.context.span_id}


async def test_a_stream_body_that_does_not_decode_is_a_failed_span(
    traces: Traces, app: App, stream: Stream, dead: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("shop", servers=app.servers, streams=[stream, dead])
    buried = Inbox()

    @app.consume(stream.name, durable="work", dead_letter="deadtraces.work")
    async def work(msg: Message[dict[str, int]]) -> None: ...

    app.consume(dead.name, durable="look", data_type=bytes)(buried)
    async with app:
        await app.js.publish(f"{stream.name}.x", b"no")
        msg = await buried.next()
        failed = await traces.one(f"process {stream.name}")
    assert attributes(failed)["error.type"] == "tidings.errors.DecodeError"
    assert attributes(failed)["tidings.error_id"] == msg.headers["Tidings-Dead-Error-Id"]
    (record,) = [each for each in caplog.records if "gave up on" in each.message]
    assert record.trace_id == trace_of(failed)  # type: ignore[attr-defined]  # extra


# Threads and tasks.


async def test_a_def_handler_sends_in_its_trace_from_its_thread(
    traces: Traces, app: App, subject: str
) -> None:
    inbox = Inbox()

    @app.listen(subject)
    def first(msg: Message[dict[str, int]]) -> Any:
        app.publish_sync(f"{subject}.told", {})
        return app.request_sync(f"{subject}.asked", {})

    app.listen(f"{subject}.asked")(Inbox())
    app.listen(f"{subject}.told", no_reply=True)(inbox)
    async with app:
        await app.request(subject, {})
        await inbox.has(1)
        asked = await traces.one(f"request {subject}.asked")
        told = await traces.one(f"publish {subject}.told")
    (handler,) = [span for span in traces.find("process") if span.name == f"process {subject}"]
    assert is_child(asked, handler)
    assert is_child(told, handler)


async def test_calls_from_several_threads_keep_their_own_traces(
    traces: Traces, app: App, subject: str
) -> None:
    app.listen(subject)(Inbox())
    barrier = threading.Barrier(4)

    def ask(number: int) -> None:
        with traces.tracer.start_as_current_span(f"thread {number}"):
            barrier.wait(20)
            app.request_sync(subject, {"n": number})

    async with app:
        await asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(4)))
    threads = traces.find("thread")
    requests = traces.find("request")
    assert len(threads) == len(requests) == 4
    assert all(sum(is_child(span, parent) for span in requests) == 1 for parent in threads)


async def test_a_request_from_another_loop_is_in_the_trace_of_its_caller(
    traces: Traces, app: App, subject: str
) -> None:
    app.listen(subject)(Inbox())

    async def ask() -> None:
        with traces.tracer.start_as_current_span("elsewhere"):
            await app.request_from_another_thread(subject, {})

    async with app:
        await asyncio.to_thread(lambda: asyncio.run(ask()))
    assert is_child(await traces.one("request"), await traces.one("elsewhere"))


async def test_a_publish_of_a_task_is_in_the_span_of_the_task_or_a_trace_of_its_own(
    traces: Traces, app: App, subject: str
) -> None:
    @app.task()
    async def work() -> None:
        await app.publish(f"{subject}.alone", b"")
        with traces.tracer.start_as_current_span("nightly"):
            await app.publish(f"{subject}.within", b"")

    async with app:
        alone, within = await traces.wait("publish", 2)
    assert alone.parent is None
    assert is_child(within, await traces.one("nightly"))


async def test_handlers_do_not_continue_the_trace_in_which_the_app_was_started(
    traces: Traces, app: App, subject: str
) -> None:
    app.listen(subject)(Inbox())
    with traces.tracer.start_as_current_span("deploy"):
        async with app:
            await app._run.link.request(subject, {})  # type: ignore[union-attr]  # it runs
            handler = await traces.one("process")
    assert handler.parent is None


async def test_each_of_many_handlers_at_work_at_once_has_its_own_span(
    traces: Traces, app: App, subject: str
) -> None:
    @app.listen(subject)
    async def on(msg: Message[dict[str, int]]) -> Any:
        await asyncio.sleep(0.01)
        return await app.request(f"{subject}.on", msg.data)

    app.listen(f"{subject}.on")(Inbox())
    async with app:
        await asyncio.gather(*(app.request(subject, {"n": n}) for n in range(30)))
        handlers = await traces.wait(f"process {subject}", 60)
    requests = traces.find("request")
    for span in handlers:
        assert sum(is_child(span, parent) for parent in requests) == 1
    assert len({trace_of(span) for span in handlers}) == 30


class Renaming(Middleware):
    """A middleware that replaces all headers."""

    async def send_any(
        self, subject: str, message: Any, send_func: Any, *args: Any, **kwargs: Any
    ) -> Any:
        kwargs["headers"] = {"Own": "1"}
        return await send_func(subject, message, *args, **kwargs)

    async def listen_any(self, msg: Any, callback: Any) -> Any:
        logging.getLogger("middleware").warning("in the middleware")
        assert get_current_span().get_span_context().is_valid
        return await callback(msg)


async def test_middlewares_run_inside_the_span_and_cannot_lose_the_trace(
    traces: Traces, app: App, subject: str
) -> None:
    app.add_middleware(Renaming)
    inbox = Inbox()
    app.listen(subject)(inbox)
    async with app:
        await app.request(subject, {})
        msg = await inbox.next()
    assert msg.headers["Own"] == "1"
    assert is_child(await traces.one("process"), await traces.one("request"))


# Off.


@pytest.mark.parametrize("provider", [None, NoOpTracerProvider()], ids=["none", "no-op"])
async def test_without_a_tracer_provider_there_is_no_hook(
    app: App, subject: str, monkeypatch: pytest.MonkeyPatch, provider: Any
) -> None:
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", provider)
    inbox = Inbox()
    app.listen(subject)(inbox)
    async with app:
        assert app._run is not None
        link = app._run.link
        assert (link.send_publish, link.send_request) == (None, None)
        (listener,) = link.subscriptions.listeners
        assert listener.traced(listener.deliver) == listener.deliver
        assert listener._trace is None
        await app.publish(subject, {})
        assert (await inbox.next()).headers.pairs() == []


async def test_the_sdk_is_off_with_its_own_variable(
    traces: Traces, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", TracerProvider())
    async with app:
        assert app._run is not None
        assert app._run.link.send_publish is None


PLAIN = """
import asyncio, sys
from tidings import App

app = App("plain")


async def main():
    async with app:
        await app.publish("x", b"")
    print(sorted(name for name in sys.modules if "opentelemetry" in name or "contrib" in name))


asyncio.run(main())
"""


def test_a_program_that_only_imports_opentelemetry_looks_for_no_propagators(
    nats_server: NATSServer,
) -> None:
    environment = {**os.environ, "NATS_URL": nats_server.url}
    source = "import opentelemetry.trace\n" + PLAIN
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=30
    )
    assert "tidings.contrib.tracing.setup" in done.stdout
    assert "opentelemetry.propagate'" not in done.stdout
    assert done.stderr == ""


def test_a_program_without_opentelemetry_loads_nothing_of_it(nats_server: NATSServer) -> None:
    environment = {**os.environ, "NATS_URL": nats_server.url}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN], env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
