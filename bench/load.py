"""The other end of a measurement, over a bare socket: a load generator and a counting receiver.

The generator is the same for every contender and much faster than any of them: it encodes a block
of messages once, and only writes the sequence of its last message anew for each block.
"""

import re
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .contenders.probe import FIRST_ID, LOAD

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"name":"bench"}\r\n'

JSON_ITEM = b'{"id":%d,"name":"Ada Lovelace","amount":12.5,"active":true,"tags":["a","b"]}'

JSON_RPC = (
    b'{"jsonrpc":"2.0","timeout":-1,"method":null,"params":%s,'
    b'"id":"00000000-0000-4000-8000-000000000000"}'
)


class LoadError(Exception):
    """The contender did not get, or did not send, what it should."""


class Wire:
    """A NATS connection that can do what the bench needs, and no more."""

    def __init__(self, port: int) -> None:
        self.alive: Callable[[], bool] = lambda: True
        """Asked while nothing arrives, so that a wait ends when the other side has ended."""
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
        """What arrives next. Answers the server's pings.

        Raises:
            LoadError: nothing came until the deadline, or the contender has ended.
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
    """A number of encoded messages, the last of which carries a sequence."""

    data: bytearray
    messages: int
    _digits_at: int

    def numbered(self, sequence: int) -> bytearray:
        if self._digits_at >= 0:
            self.data[self._digits_at : self._digits_at + 10] = b"%d" % (FIRST_ID + sequence)
        return self.data


def encode_block(bodies: list[bytes], subjects: list[str]) -> Block:
    """Frame the bodies, one on each subject in turn, for publishing."""
    frames = [
        b"PUB %s %d\r\n%s\r\n" % (subjects[i % len(subjects)].encode(), len(body), body)
        for i, body in enumerate(bodies)
    ]
    data = bytearray(b"".join(frames))
    digits = b"%d" % FIRST_ID
    last_body = len(data) - 2 - len(bodies[-1])
    return Block(data, len(bodies), data.find(digits, last_body))


def raw_bodies(count: int, size: int) -> list[bytes]:
    """Ten digits and padding; where these do not fit, dots, and a mark in the last one."""
    if size < 10:
        return [b"." * size] * (count - 1) + [b"!" * size]
    return [b"%d" % FIRST_ID + b"x" * (size - 10)] * count


def json_bodies(count: int, rpc: bool) -> list[bytes]:
    item = JSON_ITEM % FIRST_ID
    return [JSON_RPC % (b'{"item":%s}' % item) if rpc else item] * count


@dataclass
class Feeder:
    """Sends blocks as fast as a receiver's reports allow: so many unacknowledged at most."""

    wire: Wire
    block: Block
    window: int
    timeout: float
    _acknowledged: int = -1
    _sent: int = 0
    _tail: bytes = field(default=b"", repr=False)

    def feed(self, total: int) -> None:
        """Wait until the receiver listens, send `total` messages, wait until it has them all.

        Raises:
            LoadError: no report came for `timeout` seconds.
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
    """Wait until a responder says that it listens."""
    deadline = time.monotonic() + timeout
    data = b""
    while b"count=0" not in data:
        data += wire.receive(deadline)


@dataclass
class Collector:
    """Takes everything that is published, and says afterwards what was lost."""

    wire: Wire
    timeout: float
    finished: float = 0.0
    _chunks: list[bytes] = field(default_factory=list, repr=False)

    def collect(self, messages: int, size: int) -> None:
        """Receive until that many messages of that size have come.

        Raises:
            LoadError: it went quiet before that; says how many are missing.
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
        """Raise LoadError unless each thread's messages are all there, once and in order."""
        if missing := lost(b"".join(self._chunks), messages):
            raise LoadError(missing)


def lost(data: bytes, messages: int) -> str:
    """Say what is missing, doubled or out of its thread's order; "" where all is well."""
    by_thread: dict[bytes, list[int]] = {}
    for thread, number in re.findall(rb"\r\nt(\d) (\d{10}) ", data):
        by_thread.setdefault(thread, []).append(int(number) - FIRST_ID)
    came = sum(map(len, by_thread.values()))
    if came != messages:
        return f"{messages - came} of {messages} messages missing"
    if any(numbers != list(range(len(numbers))) for numbers in by_thread.values()):
        return "messages doubled or out of order"
    return ""
