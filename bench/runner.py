"""One run: a fresh server, a contender in its own process, and a check that nothing was lost."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from .contenders.probe import LOAD, OBJECT_SIZE, REPORT, ROWS_IN_STREAM, THREADS
from .load import (
    Block,
    Collector,
    Feeder,
    LoadError,
    Wire,
    encode_block,
    json_bodies,
    raw_bodies,
    wait_for_report,
)
from .server import Server, fresh_server
from .streams import Streams
from .workloads import Contender, Workload

QUIET = 20.0  # seconds without a message or report after which a run fails
LONGEST = 180.0  # seconds that one run may take at most

Result = dict[str, Any]


class RunError(Exception):
    """A contender did not complete its task, so its number does not count."""


@dataclass(frozen=True)
class Task:
    """The task of one run."""

    contender: Contender
    command: tuple[str, ...]
    workload: Workload
    n: int
    warmup: int

    def arguments(self, action: str, url: str) -> list[str]:
        workload = self.workload
        values = {
            "--n": self.n,
            "--warmup": self.warmup,
            "--size": workload.size,
            "--block": workload.block,
            "--subscriptions": workload.subscriptions,
            "--in-flight": workload.in_flight,
        }
        if workload.concurrency:
            values["--concurrency"] = workload.concurrency
        options = [str(word) for pair in values.items() for word in pair]
        return [*self.command, action, url, *options, *["--uvloop"] * self.contender.uvloop]

    def environment(self) -> dict[str, str]:
        """Variables of the contender's process, besides those of this one."""
        return {"TIDINGS_CORE": self.contender.core} if self.contender.core else {}


def plan(contender: Contender, command: list[str], workload: Workload, n: int) -> Task:
    """Plan a run of `n` messages, rounded up to whole blocks, after a warm-up of a tenth."""
    steps = {
        "receive": workload.block,
        "js_consume": workload.block,
        "stream": ROWS_IN_STREAM,
        "threads": THREADS,
    }
    step = steps.get(workload.kind, 1)
    warmup = _round_up(n // 10 or 1, step)
    return Task(contender, tuple(command), workload, _round_up(n, step), warmup)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


def run(task: Task) -> Result:
    """Run a task and check its result.

    Raises:
        RunError: the contender failed, lost a message or ran on the wrong event loop.
    """
    with fresh_server(jetstream=task.workload.kind.startswith("js_")) as server:
        result = _KINDS[task.workload.kind](task, server)
        result["server"] = server.facts()["version"]
    _check(task, result)
    return result


def _check(task: Task, result: Result) -> None:
    if "error" in result:
        raise RunError(result["error"])
    if result["n"] != task.n:
        raise RunError(f"{result['n']} messages instead of {task.n}")
    expected = "uvloop" if task.contender.uvloop else "asyncio"
    if result["loop"] not in (expected, "C", "node"):
        raise RunError(f"ran on {result['loop']} instead of {expected}")
    if task.contender.core and result["core"] != task.contender.core:
        raise RunError(f"ran on the {result['core']} core instead of {task.contender.core}")


class Process:
    """A contender that is running. Its output goes to files, because a pipe could fill up."""

    def __init__(
        self, command: list[str], environment: dict[str, str], out: IO[bytes], err: IO[bytes]
    ) -> None:
        self._out, self._err = out, err
        self._popen = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )

    def alive(self) -> bool:
        return self._popen.poll() is None

    def result(self) -> Result:
        """Wait until the contender ends, and return the result that it wrote."""
        try:
            code = self._popen.wait(LONGEST)
        except subprocess.TimeoutExpired:
            raise RunError(f"it did not end within {LONGEST:.0f} s") from None
        lines = [line for line in self._lines(self._out) if line.startswith("{")]
        if code or not lines:
            raise RunError(f"it ended with exit code {code}{self.complaint()}")
        result: Result = json.loads(lines[-1])
        return result

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def complaint(self) -> str:
        """The last line of the contender's stderr, to append to the text of an error."""
        lines = [line for line in self._lines(self._err) if line.strip()]
        return f": {lines[-1].strip()}" if lines else ""

    def _lines(self, stream: IO[bytes]) -> list[str]:
        stream.seek(0)
        return stream.read().decode(errors="replace").splitlines()


@contextmanager
def _process(task: Task, action: str, server: Server) -> Iterator[Process]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = Process(task.arguments(action, server.url), task.environment(), out, err)
        try:
            yield process
        except LoadError as error:
            process.end()
            raise RunError(f"{error}{process.complaint()}") from None
        finally:
            process.end()


def _publish(task: Task, server: Server) -> Result:
    with _process(task, task.workload.action, server) as process:
        result = process.result()
    arrived = int(server.facts()["in_msgs"])
    # A framework may publish a few messages of its own when it starts.
    if not 0 <= arrived - result["sent"] <= 5:
        raise RunError(f"the server got {arrived} of {result['sent']} messages")
    return result


def _receive(task: Task, server: Server) -> Result:
    workload = task.workload
    with _wire(server, REPORT) as wire, _process(task, workload.action, server) as process:
        wire.alive = process.alive
        Feeder(wire, _block(task), workload.window, QUIET).feed(task.warmup + task.n)
        return process.result()


def _block(task: Task) -> Block:
    workload = task.workload
    if workload.body == "json":
        bodies = json_bodies(workload.block, task.contender.json_rpc)
    else:
        bodies = raw_bodies(workload.block, workload.size)
    subjects = [f"{LOAD}.{i}" for i in range(workload.subscriptions)]
    return encode_block(bodies, subjects, workload.headers)


def _request(task: Task, server: Server) -> Result:
    with _wire(server, REPORT) as wire, _process(task, "respond", server) as responder:
        wire.alive = responder.alive
        wait_for_report(wire, QUIET)
        with _process(task, task.workload.action, server) as requester:
            return requester.result()


def _start(task: Task, server: Server) -> Result:
    with _wire(server, REPORT) as wire:
        started = time.perf_counter()
        with _process(task, "start", server) as process:
            wire.alive = process.alive
            wait_for_report(wire, QUIET)
            seconds = time.perf_counter() - started
            return {**process.result(), "seconds": seconds}


def _threads(task: Task, server: Server) -> Result:
    with _wire(server, f"{LOAD}.>") as wire, _process(task, "threads", server) as process:
        collector = Collector(wire, QUIET)
        collector.collect(task.n, task.workload.size)
        collector.check(task.n)
        result = process.result()
        return {**result, "seconds": collector.finished - result["started"]}


def _js_consume(task: Task, server: Server) -> Result:
    total = task.warmup + task.n
    with _streams(server) as streams:
        streams.fill(_block(task), total)
        with _process(task, task.workload.action, server) as process:
            result = process.result()
            streams.check_consumed(total)
    return result


def _js_publish(task: Task, server: Server) -> Result:
    with _streams(server) as streams, _process(task, task.workload.action, server) as process:
        result = process.result()
        if streams.stored() != result["sent"]:
            raise RunError(f"the stream has {streams.stored()} of {result['sent']} messages")
    return result


def _js_key_value(task: Task, server: Server) -> Result:
    with _streams(server) as streams, _process(task, task.workload.action, server) as process:
        result = process.result()
        if streams.written() != result["sent"]:
            raise RunError(f"the bucket got {streams.written()} of {result['sent']} writes")
    return result


def _js_object(task: Task, server: Server) -> Result:
    with _streams(server) as streams, _process(task, task.workload.action, server) as process:
        result = process.result()
        least = result["stored"] * OBJECT_SIZE
        if streams.object_bytes() < least:
            raise RunError(f"the store has {streams.object_bytes()} of at least {least} bytes")
    return result


@contextmanager
def _streams(server: Server) -> Iterator[Streams]:
    streams = Streams(server.port)
    try:
        streams.make()
        yield streams
    finally:
        streams.close()


@contextmanager
def _wire(server: Server, subject: str) -> Iterator[Wire]:
    wire = Wire(server.port)
    try:
        wire.subscribe(subject)
        yield wire
    finally:
        wire.close()


_KINDS: dict[str, Callable[[Task, Server], Result]] = {
    "publish": _publish,
    "receive": _receive,
    "request": _request,
    "stream": _request,
    "threads": _threads,
    "js_consume": _js_consume,
    "js_publish": _js_publish,
    "js_key_value": _js_key_value,
    "js_object": _js_object,
    "start": _start,
}
