"""The code that all Python contenders share: options, the clock and the measured loops.

This file imports only the standard library, so that it works in every contender's environment.
A contender passes its own `publish`, `request` and `flush` to the loops.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

LOAD = "load"
"""Prefix of the subjects that receivers subscribe to: load.0, load.1 and so on."""

REPORT = "report.count"
"""Subject on which a receiver reports its count; the load generator waits for the reports."""

STREAM = "BENCH"
"""The stream of the JetStream workloads. It stores load.>."""

DURABLE = "bench"
"""The durable consumer of that stream."""

BUCKET = "bench"
"""The key-value bucket and the object store."""

KEYS = 1_000
"""Keys of that bucket, which are written and read in turn."""

OBJECTS = 4
"""Objects of that store, which are written and read in turn."""

OBJECT_SIZE = 8 << 20
"""Bytes of one object."""

ECHO = "echo.request"
"""Subject of the requests."""

MANY = "echo.many"
"""Subject of the requests with several answers."""

ANSWERS = 10
"""Answers to each of these requests."""

ROWS = "echo.rows"
"""Subject of the requests whose reply is streamed."""

ROWS_IN_STREAM = 10_000
"""Items of each of these replies."""

FIRST_ID = 1_000_000_000
"""Added to every sequence number, so that each has ten digits and all bodies the same size."""

SLEEP = 0.010
"""Seconds that each handler of the sleepers workload waits."""

THREADS = 4

PACE = 2_000
"""Requests that the paced workload sends each second, and sends in all."""

Send = Callable[[str, Any], Awaitable[Any]]
Flush = Callable[[], Awaitable[Any]]
Request = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Options:
    """The command line of a contender."""

    action: str
    url: str
    n: int
    warmup: int
    size: int
    block: int
    subscriptions: int
    in_flight: int
    concurrency: int
    uvloop: bool

    @property
    def subjects(self) -> list[str]:
        return [f"{LOAD}.{i}" for i in range(self.subscriptions)]

    @property
    def payload(self) -> bytes:
        return b"x" * self.size

    @property
    def ordered(self) -> bool:
        """Whether the handlers get the messages in the order in which they were sent."""
        return self.subscriptions == 1 and self.action not in ("sleepers", "js_consume")


def options() -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("action")
    parser.add_argument("url")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--subscriptions", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--uvloop", action="store_true")
    return Options(**vars(parser.parse_args()))


class Meter:
    """Time, CPU seconds and memory of this process between `start` and `stop`."""

    def start(self) -> None:
        self.rss_before = rss()
        self.cpu = cpu_seconds()
        self.clock = time.perf_counter()

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self.clock
        self.cpu = cpu_seconds() - self.cpu
        self.rss_after = rss()

    def result(self, n: int, **more: Any) -> dict[str, Any]:
        return {
            "n": n,
            "seconds": self.seconds,
            "cpu": self.cpu,
            "rss_before": self.rss_before,
            "rss_after": self.rss_after,
            **more,
        }


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def rss() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


class Blocks:
    """Counts received messages by blocks, and checks the last sequence number of each block.

    A handler subtracts one from `left`. At 0 it calls `end` and publishes the result on REPORT.
    The clock starts when the warm-up has arrived.
    """

    def __init__(self, opts: Options) -> None:
        self.left = opts.block
        self.done = asyncio.Event()
        self.error = ""
        self.meter = Meter()
        self._opts = opts
        self._count = 0

    def end(self, sequence: int) -> bytes:
        """Close a block whose last message carries this sequence number."""
        self.left = self._opts.block
        self._count += self._opts.block
        if self._opts.ordered and sequence != self._count:
            self.error = f"sequence {sequence} after {self._count} messages"
        if self._count == self._opts.warmup:
            self.meter.start()
        if self._count == self._opts.warmup + self._opts.n:
            self.meter.stop()
            self.done.set()
        return report(self._count)

    def end_raw(self, body: bytes) -> bytes:
        """Like `end`, for a raw body: ten digits, or a mark if the body is too short for them."""
        if len(body) < 10:
            return self.end(self._count + self._opts.block if body[:1] == b"!" else -1)
        return self.end(int(body[:10]) - FIRST_ID)

    def end_json(self, item_id: int) -> bytes:
        return self.end(item_id - FIRST_ID)

    def result(self, **more: Any) -> dict[str, Any]:
        if self.error:
            more["error"] = self.error
        return self.meter.result(self._opts.n, **more)


def report(count: int) -> bytes:
    return b"count=%d" % count


class Running:
    """Counts the handlers that run at a time, for the sleepers workload."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    async def sleep(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(SLEEP)
        self.now -= 1


async def receive(blocks: Blocks, publish: Send, **more: Any) -> dict[str, Any]:
    """Report that the subscriptions exist, and wait until every message has arrived."""
    await publish(REPORT, report(0))
    await blocks.done.wait()
    await asyncio.sleep(0.1)  # send the last report before the connection closes
    return blocks.result(**more)


async def publish_many(
    opts: Options, publish: Send, flush: Flush, body: Any = None
) -> dict[str, Any]:
    """Publish messages one by one, await each, and wait until the server has all of them."""
    body = opts.payload if body is None else body
    subject = opts.subjects[0]

    async def send(n: int) -> None:
        for _ in range(n):
            await publish(subject, body)
        await flush()

    return await _measure_sends(opts, send)


async def publish_many_sync(
    opts: Options, publish: Callable[[str, bytes], object], flush: Flush
) -> dict[str, Any]:
    """Publish messages with plain calls, and let the loop run after every 500 of them."""
    body, subject = opts.payload, opts.subjects[0]

    async def send(n: int) -> None:
        for start in range(0, n, 500):
            for _ in range(min(500, n - start)):
                publish(subject, body)
            await asyncio.sleep(0)
        await flush()

    return await _measure_sends(opts, send)


async def _measure_sends(
    opts: Options, send: Callable[[int], Coroutine[Any, Any, None]]
) -> dict[str, Any]:
    meter = Meter()
    await send(opts.warmup)
    meter.start()
    await send(opts.n)
    meter.stop()
    return meter.result(opts.n, sent=opts.n + opts.warmup)


async def consume(blocks: Blocks, flush: Flush, **more: Any) -> dict[str, Any]:
    """Wait until every message of the stream is handled and its acknowledgement has been sent.

    The clock stops at the last message. The harness asks the server how many are acknowledged.
    """
    await blocks.done.wait()
    await asyncio.sleep(0.1)  # the loop sends the last acknowledgements
    await flush()
    return blocks.result(**more)


async def publish_window(opts: Options, publish_all: Callable[[int], Awaitable[int]]) -> Any:
    """Measure `publish_all(n)`. It keeps `in_flight` messages open and returns how many failed."""
    meter = Meter()
    failed = await publish_all(opts.warmup)
    meter.start()
    failed += await publish_all(opts.n)
    meter.stop()
    error = {"error": f"{failed} publishes failed"} if failed else {}
    return meter.result(opts.n, sent=opts.n + opts.warmup, **error)


async def key_value_put(opts: Options, put: Callable[[str, bytes], Awaitable[int]]) -> Any:
    """Keep `in_flight` writes open until all have a revision. Each revision comes once."""

    async def one(i: int) -> int:
        return await put(key(i), opts.payload)

    meter = Meter()
    revisions = await _all(range(opts.warmup), opts.in_flight, one)
    meter.start()
    revisions += await _all(range(opts.n), opts.in_flight, one)
    meter.stop()
    sent = opts.n + opts.warmup
    wrong = sent - len(set(revisions))
    return meter.result(opts.n, sent=sent, **_wrong(wrong))


async def key_value_get(
    opts: Options,
    put: Callable[[str, bytes], Awaitable[int]],
    get: Callable[[str], Awaitable[bytes]],
) -> Any:
    """Keep `in_flight` reads open until all have a value, and check each value."""

    async def one(i: int) -> bool:
        return await get(key(i)) == key(i).encode() + opts.payload

    for i in range(KEYS):
        await put(key(i), key(i).encode() + opts.payload)
    meter = Meter()
    await _all(range(opts.warmup), opts.in_flight, one)
    meter.start()
    right = await _all(range(opts.n), opts.in_flight, one)
    meter.stop()
    return meter.result(opts.n, sent=KEYS, **_wrong(opts.n - sum(right)))


def key(i: int) -> str:
    return f"key.{i % KEYS}"


async def _all(ids: range, in_flight: int, one: Callable[[int], Awaitable[Any]]) -> list[Any]:
    left, results = iter(ids), []

    async def worker() -> None:
        results.extend([await one(i) for i in left])

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return results


async def object_put(opts: Options, put: Callable[[str, bytes], Awaitable[Any]]) -> Any:
    """Store objects one after another."""
    data = os.urandom(OBJECT_SIZE)
    meter = Meter()
    for i in range(opts.warmup):
        await put(_object(i), data)
    meter.start()
    for i in range(opts.n):
        await put(_object(i), data)
    meter.stop()
    return meter.result(opts.n, bytes=opts.n * OBJECT_SIZE, stored=min(opts.n, OBJECTS))


async def object_get(
    opts: Options,
    put: Callable[[str, bytes], Awaitable[Any]],
    get: Callable[[str], Awaitable[bytes]],
) -> Any:
    """Read objects one after another, and check each."""
    data = os.urandom(OBJECT_SIZE)
    for i in range(OBJECTS):
        await put(_object(i), data)
    meter = Meter()
    for i in range(opts.warmup):
        await get(_object(i))
    meter.start()
    wrong = 0
    for i in range(opts.n):
        wrong += await get(_object(i)) != data
    meter.stop()
    return meter.result(opts.n, bytes=opts.n * OBJECT_SIZE, stored=OBJECTS, **_wrong(wrong))


def _object(i: int) -> str:
    return f"object-{i % OBJECTS}"


async def request_many(opts: Options, request: Request) -> dict[str, Any]:
    """Keep `in_flight` requests open until all have an answer, and check each answer."""
    meter = Meter()
    wrong = await _request_all(range(opts.warmup), opts.in_flight, request)
    meter.start()
    wrong += await _request_all(range(opts.n), opts.in_flight, request)
    meter.stop()
    return meter.result(opts.n, **_wrong(wrong))


async def _request_all(ids: range, in_flight: int, request: Request) -> int:
    left = iter(ids)

    async def worker() -> int:
        wrong = 0
        for i in left:
            reply = await request(ECHO, question(i))
            wrong += not is_answer(reply, i)
        return wrong

    return sum(await asyncio.gather(*(worker() for _ in range(in_flight))))


async def request_one(opts: Options, request: Request) -> dict[str, Any]:
    """Send one request at a time and measure how long each takes."""
    meter = Meter()
    wrong = await _request_all(range(opts.warmup), 1, request)
    meter.start()
    latencies = []
    for i in range(opts.n):
        before = time.perf_counter()
        reply = await request(ECHO, question(i))
        latencies.append(time.perf_counter() - before)
        wrong += not is_answer(reply, i)
    meter.stop()
    return meter.result(opts.n, **percentiles(latencies), **_wrong(wrong))


async def request_paced(opts: Options, request: Request) -> dict[str, Any]:
    """Send requests at a fixed rate, whether the earlier ones are answered or not.

    Timers are late by up to a millisecond, so some requests leave together.
    """
    meter, latencies, wrong = Meter(), [], 0

    async def one(i: int) -> None:
        nonlocal wrong
        before = time.perf_counter()
        reply = await request(ECHO, question(i))
        latencies.append(time.perf_counter() - before)
        wrong += not is_answer(reply, i)

    await _request_all(range(opts.warmup), 1, request)
    meter.start()
    async with asyncio.TaskGroup() as group:
        for i in range(opts.n):
            if (early := meter.clock + i / PACE - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            group.create_task(one(i))
    meter.stop()
    return meter.result(opts.n, **percentiles(latencies), **_wrong(wrong))


async def request_answers(opts: Options, ask: Callable[[str, Any], Awaitable[list[Any]]]) -> Any:
    """Send one request at a time, each with several answers, and check every answer."""
    meter = Meter()
    wrong = await _ask_all(range(opts.warmup), ask)
    meter.start()
    wrong += await _ask_all(range(opts.n), ask)
    meter.stop()
    return meter.result(opts.n, **_wrong(wrong))


async def _ask_all(ids: range, ask: Callable[[str, Any], Awaitable[list[Any]]]) -> int:
    wrong = 0
    for i in ids:
        replies = await ask(MANY, question(i))
        wrong += len(replies) != ANSWERS or not all(is_answer(reply, i) for reply in replies)
    return wrong


async def read_rows(opts: Options, read: Callable[[str], Awaitable[list[bytes]]]) -> Any:
    """Read streamed replies one after another, and check the number and the order of the items."""
    meter = Meter()
    wrong = await _read_all(opts.warmup, read)
    meter.start()
    wrong += await _read_all(opts.n, read)
    meter.stop()
    return meter.result(opts.n, **_wrong(wrong))


async def _read_all(n: int, read: Callable[[str], Awaitable[list[bytes]]]) -> int:
    wanted = list(rows())
    replies = [await read(ROWS) for _ in range(n // ROWS_IN_STREAM)]
    return sum(reply != wanted for reply in replies)


def rows() -> Iterator[bytes]:
    """The items of a streamed reply, of 128 B each."""
    return (b"%0128d" % number for number in range(ROWS_IN_STREAM))


def percentiles(latencies: list[float]) -> dict[str, float]:
    ranked = sorted(latencies)
    return {"p50": ranked[len(ranked) // 2], "p99": ranked[len(ranked) * 99 // 100]}


def question(i: int) -> dict[str, Any]:
    return {"id": FIRST_ID + i, "name": "Ada"}


def answer(data: dict[str, Any]) -> dict[str, Any]:
    """The reply of every responder."""
    return {"id": data["id"], "ok": True}


def is_answer(reply: dict[str, Any], i: int) -> bool:
    return reply == {"id": FIRST_ID + i, "ok": True}


def _wrong(count: int) -> dict[str, Any]:
    return {"error": f"{count} wrong answers"} if count else {}


async def respond(publish: Send) -> dict[str, Any]:
    """Report that the responder listens, and wait until the harness ends this process."""
    await publish(REPORT, report(0))
    await asyncio.Event().wait()
    return {}


async def start(publish: Send, flush: Flush) -> dict[str, Any]:
    """Report that the program is ready. The harness knows when it started the process."""
    meter = Meter()
    meter.start()
    await publish(REPORT, report(0))
    await flush()
    meter.stop()
    meter.cpu = cpu_seconds()
    return meter.result(1)


async def publish_from_threads(
    opts: Options, publish: Callable[[str, bytes], object], flush: Flush
) -> dict[str, Any]:
    """Call `publish` from several threads at once."""
    each = opts.n // THREADS
    meter = Meter()
    meter.start()
    threads = [
        threading.Thread(target=_publish_numbered, args=(number, each, opts.size, publish))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await flush()
    meter.stop()
    # The harness measures until the last message arrives. Both processes read the same clock.
    return meter.result(each * THREADS, started=meter.clock)


def _publish_numbered(
    number: int, n: int, size: int, publish: Callable[[str, bytes], object]
) -> None:
    padding = b"x" * (size - 14)
    for i in range(n):
        publish(f"{LOAD}.0", b"t%d %d %s" % (number, FIRST_ID + i, padding))


class ThreadBridge:
    """The only safe way from a thread into an asyncio client that has no call for threads.

    Each call schedules a coroutine on the loop. Every 500th call waits for its coroutine, which
    limits how many are scheduled at a time.
    """

    def __init__(self, send: Callable[[str, bytes], Coroutine[Any, Any, Any]]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._calls = itertools.count(1)

    def publish(self, subject: str, body: bytes) -> None:
        future = asyncio.run_coroutine_threadsafe(self._send(subject, body), self._loop)
        if next(self._calls) % 500 == 0:
            future.result()


def _loop_name() -> str:
    """The event loop that really runs: `uvloop` or `asyncio`."""
    return type(asyncio.get_running_loop()).__module__.split(".")[0]


def emit(result: dict[str, Any], version: str) -> None:
    """Write the line of JSON that the harness reads. Call it on the loop that did the work."""
    facts = {"version": version, "python": platform.python_version(), "loop": _loop_name()}
    line = json.dumps({**facts, **result})
    os.write(1, b"\n" + line.encode() + b"\n")
