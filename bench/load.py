"""The other end of a measurement, over a bare socket: a load generator and a counting receiver.

The generator is the same for every contender and much faster than any of them. It encodes a block
of messages once. For each further block it only replaces the sequence number in the last message.
"""

import re
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .contenders.probe import FIRST_ID, LOAD

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"name":"bench"}\r\n'

JSON_ITEM = b'{"id":%d,"name":"Ada Lovelace","amount":12.5,"active":true,"tags":["a","b"]}'

JSON_RPC = (
    b'{"jsonrpc":"2.0","timeout":-1,"method":null,"params":%s,'
    b'"id":"00000000-0000-4000-8000-000000000000"}'
)


class LoadError(Exception):
    """The contender did not receive or did not send the expected messages."""


class Wire:
    """A NATS connection with only what the benchmark needs."""

    def __init__(self, port: int) -> None:
        self.alive: Callable[[], bool] = lambda: True
        """Called while nothing arrives, so that a wait ends when the contender has ended."""
        self._buffer = b""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(CONNECT)

    def subscribe(self, subject: str) -> None:
        self.socket.sendall(b"SUB %s 1\r\nPING\r\n" % subject.encode())
        while b"PONG\r\n" not in self._buffer:
            self._buffer += self.receive(time.monotonic() + 5)
        self._buffer = b""

    def send(self, data: bytes | bytearray) -> None:
        self.socket.settimeout(30)
        self.socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        """Return the next bytes that arrive. Answers the server's pings.

        Raises:
            LoadError: nothing arrived before the deadline, or the contender has ended.
        """
        self.socket.settimeout(0.25)
        while time.monotonic() < deadline:
            try:
                data = self.socket.recv(1 << 20)
            except TimeoutError:
                if not self.alive():
                    raise LoadError("the contender ended too early") from None
                continue
            if not data:
                raise LoadError("the server closed the connection")
            if data.startswith(b"PING\r\n") or b"\r\nPING\r\n" in data:
                self.socket.sendall(b"PONG\r\n")
            return data
        raise LoadError("nothing arrived in time")

    def close(self) -> None:
        self.socket.close()


@dataclass
class Block:
    """Several encoded messages. The last one carries a sequence number."""

    data: bytearray
    messages: int
    _digits_at: int

    def numbered(self, sequence: int) -> bytearray:
        if self._digits_at >= 0:
            self.data[self._digits_at : self._digits_at + 10] = b"%d" % (FIRST_ID + sequence)
        return self.data


def encode_block(bodies: list[bytes], subjects: list[str], headers: int = 0) -> Block:
    """Encode the bodies for publishing, on each subject in turn, with so many headers each."""
    lines = b"".join(b"Header-%d: value-%d\r\n" % (i, i) for i in range(headers))
    block = b"NATS/1.0\r\n%s\r\n" % lines if headers else b""
    frames = [
        _frame(subjects[i % len(subjects)].encode(), block, body) for i, body in enumerate(bodies)
    ]
    data = bytearray(b"".join(frames))
    digits = b"%d" % FIRST_ID
    last_body = len(data) - 2 - len(bodies[-1])
    return Block(data, len(bodies), data.find(digits, last_body))


def _frame(subject: bytes, block: bytes, body: bytes) -> bytes:
    if block:
        sizes = len(block), len(block) + len(body)
        return b"HPUB %s %d %d\r\n%s%s\r\n" % (subject, *sizes, block, body)
    return b"PUB %s %d\r\n%s\r\n" % (subject, len(body), body)


def raw_bodies(count: int, size: int) -> list[bytes]:
    """Bodies of ten digits and padding. If ten digits do not fit: dots, and a mark in the last."""
    if size < 10:
        return [b"." * size] * (count - 1) + [b"!" * size]
    return [b"%d" % FIRST_ID + b"x" * (size - 10)] * count


def json_bodies(count: int, rpc: bool) -> list[bytes]:
    item = JSON_ITEM % FIRST_ID
    return [JSON_RPC % (b'{"item":%s}' % item) if rpc else item] * count


@dataclass
class Feeder:
    """Sends blocks as fast as the receiver reports them, with at most `window` messages open."""

    wire: Wire
    block: Block
    window: int
    timeout: float
    _acknowledged: int = -1
    _sent: int = 0
    _tail: bytes = field(default=b"", repr=False)

    def feed(self, total: int) -> None:
        """Wait until the receiver listens, send `total` messages and wait until it has them all.

        Raises:
            LoadError: no report arrived for `timeout` seconds.
        """
        while self._acknowledged < 0:
            self._take_reports()
        while self._sent < total:
            while self._sent - self._acknowledged >= self.window:
                self._take_reports()
            self._sent += self.block.messages
            self.wire.send(self.block.numbered(self._sent))
        while self._acknowledged < total:
            self._take_reports()

    def _take_reports(self) -> None:
        try:
            data = self._tail + self.wire.receive(time.monotonic() + self.timeout)
        except LoadError as error:
            state = f"{max(self._acknowledged, 0)} of {self._sent} acknowledged"
            raise LoadError(f"{error}, {state}") from None
        counts = re.findall(rb"count=(\d+)\D", data)
        self._acknowledged = max([self._acknowledged, *map(int, counts)])
        self._tail = data[-40:]


def wait_for_report(wire: Wire, timeout: float) -> None:
    """Wait until a responder reports that it listens."""
    deadline = time.monotonic() + timeout
    data = b""
    while b"count=0" not in data:
        data += wire.receive(deadline)


@dataclass
class Collector:
    """Receives everything that is published, and finds out afterwards what was lost."""

    wire: Wire
    timeout: float
    finished: float = 0.0
    _chunks: list[bytes] = field(default_factory=list, repr=False)

    def collect(self, messages: int, size: int) -> None:
        """Receive until that many messages of that size have arrived.

        Raises:
            LoadError: no more messages arrived. The text says how many are missing.
        """
        needed, got = messages * (size + len(f"MSG {LOAD}.0 1 {size}\r\n\r\n")), 0
        while got < needed:
            try:
                self._chunks.append(self.wire.receive(time.monotonic() + self.timeout))
            except LoadError as error:
                raise LoadError(f"{error}: {lost(b''.join(self._chunks), messages)}") from None
            got += len(self._chunks[-1])
        self.finished = time.perf_counter()

    def check(self, messages: int) -> None:
        """Raise LoadError unless all messages of each thread arrived, once and in order."""
        if missing := lost(b"".join(self._chunks), messages):
            raise LoadError(missing)


def lost(data: bytes, messages: int) -> str:
    """Describe missing, duplicate and unordered messages. Returns "" if there are none."""
    by_thread: dict[bytes, list[int]] = {}
    for thread, number in re.findall(rb"\r\nt(\d) (\d{10}) ", data):
        by_thread.setdefault(thread, []).append(int(number) - FIRST_ID)
    came = sum(map(len, by_thread.values()))
    if came != messages:
        return f"{messages - came} of {messages} messages are missing"
    if any(numbers != list(range(len(numbers))) for numbers in by_thread.values()):
        return "messages are duplicated or out of order"
    return ""
