"""The server's trace of a message (NATS ADR-41): read from its events, and drawn as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tidings.text import printable

TRACE_DEST, TRACE_ONLY, TRACE_HOP = "Nats-Trace-Dest", "Nats-Trace-Only", "Nats-Trace-Hop"

# The most events that are read of one server, and the most servers. Anybody who knows the inbox can
# send more.
MOST_EVENTS, MOST_SERVERS = 10_000, 200

CLIENT = 0
# Kinds of connections, as the server numbers them.
KINDS = {0: "client", 1: "route", 2: "gateway", 3: "system", 4: "leaf node", 5: "JetStream"}

Services = Mapping[tuple[str, str], Sequence[str]]


class _Server(msgspec.Struct, frozen=True):
    name: str = ""
    cluster: str = ""
    domain: str = ""


class _Request(msgspec.Struct, frozen=True):
    header: dict[str, list[str]] = {}


class Event(msgspec.Struct, frozen=True):
    """What happened to the message at one server. Which fields are set depends on the type.

    Attributes:
        type: "in" (it arrived), "sm" (its subject was mapped), "si" and "se" (it went to another
            account through a service import or a stream export), "js" (a stream stores it), or "eg"
            (it left).
        kind: the kind of the connection that it came from or left to.
        name: the name of this connection.
        acc: the account.
        subj: the subject with which it arrived.
        sub: the subject of the subscription.
        queue: the queue group of the subscription.
        hop: the id of the next server's part of the trace.
        to: the new subject.
        stream: the name of the stream.
        subject: the subject under which the stream stores it.
        nointerest: whether the stream does not keep it, since no consumer wants it.
        error: why it went no further.
    """

    type: str
    kind: int = -1
    name: str = ""
    acc: str = ""
    subj: str = ""
    sub: str = ""
    queue: str = ""
    hop: str = ""
    to: str = ""
    stream: str = ""
    subject: str = ""
    nointerest: bool = False
    error: str = ""

    @property
    def is_receiver(self) -> bool:
        """Whether somebody got the message: a subscriber or a stream."""
        if self.error:
            return False
        is_stored = self.type == "js" and not self.nointerest
        return is_stored or (self.type == "eg" and self.kind == CLIENT)


class ServerTrace(msgspec.Struct, frozen=True):
    """What happened to the message at one server."""

    server: _Server
    request: _Request
    events: list[Event]

    @property
    def hop(self) -> str:
        """The id under which the server before it sent the message; "" for the first server."""
        return next(iter(self.request.header.get(TRACE_HOP, ())), "")

    @property
    def hops(self) -> list[str]:
        """The ids under which it sent the message to other servers."""
        return [each.hop for each in self.events if each.hop and not each.error]


_decode = msgspec.json.Decoder(ServerTrace).decode


class MessageTrace:
    """The parts of a trace that have arrived.

    Attributes:
        parts: each server's part, by the id of its hop.
    """

    def __init__(self) -> None:
        self.parts: dict[str, ServerTrace] = {}
        self.raw: list[Any] = []

    def take(self, body: bytes) -> None:
        """Add the part of a server. Ignores what is none."""
        try:
            part, raw = _decode(body), msgspec.json.decode(body)  # the second reads every field
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        is_new = part.hop not in self.parts and len(self.parts) < MOST_SERVERS
        if is_new and len(part.events) <= MOST_EVENTS:
            self.parts[part.hop] = part
            self.raw.append(raw)

    @property
    def is_complete(self) -> bool:
        """Whether the part of each server has arrived."""
        return "" in self.parts and all(
            hop in self.parts for part in self.parts.values() for hop in part.hops
        )

    @property
    def missing(self) -> list[str]:
        """The names of the servers whose part has not arrived."""
        return [
            event.name
            for part in self.parts.values()
            for event in part.events
            if event.hop and not event.error and event.hop not in self.parts
        ]

    @property
    def receivers(self) -> list[Event]:
        """The events of everybody who got the message."""
        return [event for part in self.parts.values() for event in part.events if event.is_receiver]


class Node(msgspec.Struct, frozen=True):
    """A line of the tree, with those below it. Its text is safe to print."""

    text: str
    children: list[Node]


def tree(trace: MessageTrace, *, is_only: bool, services: Services) -> Node | None:
    """Return the way of the message as a tree; None if the first server's part is missing.

    Args:
        trace: the trace.
        is_only: whether the message was not delivered.
        services: the names of the services at each pair of subject and queue group.
    """
    part = trace.parts.get("")
    if part is None:
        return None
    drawing = _Drawing(trace, is_only, services)
    return Node(printable(f"server {_title(part)}"), drawing.children(part))


class _Drawing:
    """Makes a tree of a trace."""

    def __init__(self, trace: MessageTrace, is_only: bool, services: Services) -> None:
        self._trace = trace
        self._is_only = is_only
        self._services = services
        self._seen = {""}  # hops; a forged trace may lead to itself

    def children(self, part: ServerTrace) -> list[Node]:
        """Return the nodes below a server."""
        nodes = [self._node(event) for event in part.events if event.type != "in" or event.error]
        return nodes or [Node("nobody subscribes here, and no stream takes it", [])]

    def _node(self, event: Event) -> Node:
        if event.type == "in":
            return Node(f"refused: {printable(event.error)}", [])
        text = _text(event, self._is_only, self._services)
        if event.error:
            return Node(printable(f"{text}: {event.error}"), [])
        if not event.hop:
            return Node(printable(text), [])
        part = self._trace.parts.get(event.hop)
        if part is None:
            return Node(printable(text), [Node("the events of this server are missing", [])])
        if event.hop in self._seen:
            return Node(printable(text), [])
        self._seen.add(event.hop)
        words = f"{KINDS.get(event.kind, 'connection')} to server {_title(part)}"
        return Node(printable(words), self.children(part))


def _title(part: ServerTrace) -> str:
    """Return the name of a server, and how the message arrived there."""
    words = part.server.name
    if part.server.cluster and part.server.cluster != part.server.name:
        words += f" of cluster {part.server.cluster}"
    arrival = next((event for event in part.events if event.type == "in"), None)
    return words if arrival is None else f"{words}: account {arrival.acc}, subject {arrival.subj}"


def _text(event: Event, is_only: bool, services: Services) -> str:
    if event.type == "eg":
        return _egress(event, services)
    if event.type == "js":
        if event.nointerest:
            return f"stream {event.stream} does not keep it: no consumer wants it"
        stores = "would store" if is_only else "stores"
        return f"stream {event.stream} {stores} it as {event.subject}"
    if event.type == "sm":
        return f"mapped to subject {event.to}"
    if event.type == "si":
        return f"service import into account {event.acc}, as subject {event.to}"
    if event.type == "se":
        return f"stream export to account {event.acc}, as subject {event.to}"
    return f"event {event.type}"


def _egress(event: Event, services: Services) -> str:
    if event.kind != CLIENT:
        return f"{KINDS.get(event.kind, 'connection')} to server {event.name}"
    found = services.get((event.sub, event.queue), ())
    # A connection of tidings has the name of its service.
    others = [name for name in found if name != event.name]
    name = f"client {event.name}" if event.name else "client without a name"
    if event.name in found:
        name = f"service {event.name}"
    elif others:
        name += f" (service {' or '.join(others)})"
    queue = f", queue group {event.queue}" if event.queue else ""
    account = f", account {event.acc}" if event.acc else ""
    return f"{name}, subscription {event.sub}{queue}{account}"


def drawn(node: Node, *, is_ascii: bool) -> Iterator[str]:
    """Yield the lines of a tree.

    Args:
        node: the root.
        is_ascii: whether to draw it with ASCII characters only.
    """
    yield node.text
    fork, last, line = ("|- ", "`- ", "|  ") if is_ascii else ("├─ ", "└─ ", "│  ")
    for index, child in enumerate(node.children):
        is_last = index == len(node.children) - 1
        first, *rest = drawn(child, is_ascii=is_ascii)
        yield f"{last if is_last else fork}{first}"
        for each in rest:
            yield f"{'   ' if is_last else line}{each}"


class _Endpoint(msgspec.Struct, frozen=True):
    subject: str = ""
    queue_group: str = ""


class _ServiceInfo(msgspec.Struct, frozen=True):
    name: str = ""
    endpoints: list[_Endpoint] = []


_decode_service = msgspec.json.Decoder(_ServiceInfo).decode


def add_service(services: dict[tuple[str, str], list[str]], body: bytes) -> None:
    """Add an answer to `$SRV.INFO` (NATS ADR-32). Ignores what is none."""
    try:
        found = _decode_service(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    for endpoint in found.endpoints if len(services) < MOST_EVENTS else ():
        names = services.setdefault((endpoint.subject, endpoint.queue_group), [])
        if found.name not in names and len(names) < MOST_SERVERS:
            names.append(found.name)
