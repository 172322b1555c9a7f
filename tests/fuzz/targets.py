"""What is fuzzed: functions of any bytes, which fail by an assertion or an error that is not ours.

`test_fuzz.py` runs them with hypothesis in the suite, `run_atheris.py` with atheris in `make fuzz`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pydantic

from tidings import core
from tidings.cli.columns import cells_of, columns_of
from tidings.cli.fleet import Sample, View, lines_of
from tidings.cli.message_trace import MessageTrace, add_service, drawn, tree
from tidings.cli.units import size_text
from tidings.codec import decoder, encode
from tidings.contrib.monitor.families import Families
from tidings.contrib.monitor.fleet import _add_service
from tidings.contrib.monitor.prometheus import encode as encode_metrics
from tidings.cron import parse_cron
from tidings.errors import (
    ConfigError,
    DecodeError,
    HeaderError,
    JetStreamError,
    NoRespondersError,
    ServiceError,
    SubjectError,
    TransportError,
)
from tidings.flows.window import MOST, Window
from tidings.flows.wire import Kind
from tidings.flows.wire import read as read_flow
from tidings.headers import Headers
from tidings.jetstream.api import read_answer
from tidings.jetstream.atomic_batch import read_ack
from tidings.jetstream.consumer.layout import Layout
from tidings.jetstream.consumer.partitions.members import GroupConfig
from tidings.jetstream.counts import read_count, read_sources
from tidings.jetstream.dead_letters import DeadLetter
from tidings.jetstream.fast_batch import FastBatch
from tidings.jetstream.latest import direct_message
from tidings.jetstream.locks.leases import Place
from tidings.jetstream.objects.info import ObjectInfo
from tidings.jetstream.publish import acknowledgement
from tidings.protocol.commands import publish_frame, publish_headers_frame, subscribe_frame
from tidings.protocol.flow import MAX_CREDIT, number_of, prefix_of
from tidings.protocol.headers import header_problem, parse_header_block
from tidings.protocol.info import read_error, read_info
from tidings.protocol.parser import CONTROL, Frame, Parser
from tidings.service_errors import raise_remote_error
from tidings.services.finder import _Reader
from tidings.services.protocol import Verb
from tidings.services.records import ServiceInfo, ServicePing, ServiceStats
from tidings.subject import check_pattern, check_queue, check_subject, matches
from tidings.transport.frame_queue import FrameQueue

INBOX_SID, INBOX = 7, "_INBOX."
# The Python form, and the compiled one if it runs.
PURE: type[Parser] = core.PURE["Parser"]
PARSERS: list[type[Parser]] = [PURE, *([Parser] if Parser is not PURE else [])]
QUEUES: list[type[FrameQueue]] = [core.PURE["FrameQueue"], FrameQueue]


def new_parser(form: type[Parser]) -> Parser:
    """A parser that admits some messages and not others, with an inbox."""
    parser = form(lambda sid, subject: matches("a.>", subject) or sid != 2)
    parser.expect_new_subjects(INBOX_SID, INBOX.encode())
    return parser


def feed(parser: Parser, chunks: list[bytes]) -> list[Frame]:
    frames: list[Frame] = []
    for chunk in chunks:
        for sid, size, batch in parser.feed(chunk):
            assert batch
            assert {frame[0] for frame in batch} == {sid}
            if sid != CONTROL:
                assert size == sum(len(block) + len(body) for *_, block, body in batch)
            frames += batch
    return frames


def feed_forgetful(form: type[Parser], data: bytes) -> tuple[list[Frame], int]:
    """The same by parsers that have seen nothing before: a new one after every frame."""
    frames: list[Frame] = []
    malformed = start = 0
    parser = new_parser(form)
    for end in range(1, len(data) + 1):
        found = feed(parser, [data[end - 1 : end]])
        if found or parser.malformed:
            frames += found
            malformed += parser.malformed
            parser, start = new_parser(form), end
    assert start <= len(data)
    return frames, malformed


def wire(data: bytes) -> None:
    """However the bytes are split, whatever the parser has seen, and whether it is the Python form
    or the compiled one: the frames are the same."""
    if not data:
        return
    step, stream = data[0] % 13 + 1, data[1:] + b"\r\nPING\r\n"
    chunks = [stream[at : at + step] for at in range(0, len(stream), step)]
    expected = feed_forgetful(PURE, stream)
    for form in PARSERS:
        whole, pieces = new_parser(form), new_parser(form)
        assert (feed(whole, [stream]), whole.malformed) == expected
        assert (feed(pieces, chunks), pieces.malformed) == expected
        assert feed_forgetful(form, stream) == expected
        whole.reset()
        assert (feed(whole, [stream])) == expected[0]
    for sid, subject, _, block, _ in expected[0]:
        assert sid < 0 or sid != 2 or subject.startswith("a.")
        if block:
            Headers.from_block(block)


class Loop:
    """What a queue of frames needs of an event loop."""

    def __init__(self) -> None:
        self.calls = 0

    def call_soon(self, call: Callable[[], None]) -> None:
        self.calls += 1


def new_queue(form: type[FrameQueue]) -> FrameQueue:
    """A small queue of frames. It empties itself when it is crowded."""

    class Queue(form):  # type: ignore[valid-type,misc]  # the form is a class
        written = b""

        def _begin(self, subject: str) -> bytes:
            begin = self._begins[subject] = b"PUB %b " % check_subject(subject)
            return begin

        def _refuse_reply(self, reply: str) -> None:
            self.refused += 1

        def _on_crowded(self) -> bool:
            self.written += b"".join(self._frames)
            self._frames, self.size, self.is_scheduled = [], 0, False
            return True

        def write(self) -> None:
            pass

    queue = Queue(Loop(), 100)
    queue.max_payload = 20
    return queue


def outcome(call: Callable[..., bool], *args: object) -> object:
    """What a call returned, or its error."""
    try:
        return call(*args)
    except Exception as error:  # any of both forms: they have to be the same
        return type(error), str(error)


def outgoing(data: bytes) -> None:
    """Both forms of the queue write the same frames, count the same and raise the same errors."""
    queues = [new_queue(form) for form in QUEUES]
    words = data.split(b"|")
    for kind, name, payload in zip(words[::3], words[1::3], words[2::3], strict=False):
        text = name.decode("utf-8", "surrogateescape")
        calls: list[tuple[str, tuple[object, ...]]] = [
            ("publish", (text, payload)),
            ("request", (text, payload, INBOX.encode() * len(kind), text)),
            ("request", (text, payload, INBOX.encode(), text, kind)),
            ("reply", (text, payload)),
            ("reply", (text, payload, kind)),
            ("ack", (text, payload)),
            ("post", (payload,)),
            ("publish", (name, payload)),
            ("publish", (text, text)),
        ]
        call, args = calls[sum(kind) % len(calls)]
        outcomes = [outcome(getattr(queue, call), *args) for queue in queues]
        states = [
            (q.size, q.refused, q.is_scheduled, q._frames, q._begins, q.written, q._loop.calls)
            for q in queues
        ]
        assert outcomes == outcomes[:1] * len(queues)
        assert states == states[:1] * len(queues)


def subject(data: bytes) -> None:
    """What is let through is one word of the protocol, and the server reads it as we do."""
    text = data.decode("utf-8", "surrogateescape")
    for check in (check_subject, check_pattern, check_queue):
        with contextlib.suppress(SubjectError):
            encoded = check(text)
            assert encoded.decode() == text
            assert len(encoded) <= 2000
            assert not set(encoded) & {0, 9, 10, 13, 32}
            if check is check_queue and not encoded:
                continue
            assert len(publish_frame(encoded, encoded, b"").split()) == 4
            assert len(subscribe_frame(encoded, encoded, 1).split()) == 4
            assert len(subscribe_frame(encoded, encoded, 10**9)) <= 4096
            if check is check_subject:
                assert matches(text, text)
                assert check_pattern(text) == encoded


def headers(data: bytes) -> None:
    """What is let through is read back; what is read never raises, and could be sent again."""
    pieces = data.decode("utf-8", "replace").split("|")
    pairs = list(itertools.zip_longest(pieces[::2], pieces[1::2], fillvalue=""))
    with contextlib.suppress(HeaderError):
        block = Headers(pairs).to_block()
        assert block.count(b"\r\n") == len(pairs) + 2
        frame = publish_headers_frame(b"a", b"", block, b"body")
        assert frame.endswith(b"\r\n\r\nbody\r\n")
        read = Headers.from_block(block)
        assert [(n, v.strip(" \t")) for n, v in Headers(pairs).pairs()] == read.pairs()
    status, _, read_pairs = parse_header_block(data)
    assert isinstance(status, int)
    for name, value in read_pairs:
        assert header_problem(name, value) in ("", "the value contains a line break or NUL")
    for name, value in dict(reversed(read_pairs)).items():
        assert Headers.from_block(data).get(name) == value  # without reading the other headers
    with contextlib.suppress(NoRespondersError, ServiceError):
        raise_remote_error("a", data, data)


def batch(data: bytes) -> None:
    """Each message of a batch is acknowledged, published again or still waits, whatever is
    answered."""
    messages = FastBatch[int](b"inbox.")
    for number in range(9):
        messages.add(number)
    ended = []
    for number, answer in enumerate(data.split(b"|")):
        verdict = messages.take(number, b"", answer)
        ended += verdict.acked + verdict.undecided
    assert sorted(ended + messages.give_up()) == list(range(9))


@dataclass
class Order:
    """One of the types to decode."""

    id: int
    tags: list[str]
    parent: Order | None = None


class Event(msgspec.Struct):
    """Another one."""

    name: str
    value: float | None = None


class Card(pydantic.BaseModel):
    """One that only pydantic reads."""

    number: str
    holders: list[str] = pydantic.Field(default_factory=list)


class Cash(pydantic.BaseModel):
    """Another one."""

    model_config = pydantic.ConfigDict(extra="forbid")
    coins: dict[str, int] = pydantic.Field(alias="theCoins")


@dataclass
class Paid:
    """A dataclass that pydantic has to read."""

    how: Card | Cash


TYPES: list[Any] = ["json", dict, list, str, bytes, int, Order, list[Order], Event, dict[str, int]]
TYPES += [Card | Cash, dict[str, list[Cash]], Paid]
DECODERS = [decoder(data_type) for data_type in TYPES]
# What the error of a body may be made of: words of ours and of the schema.
PLAIN = re.compile(r"[ -~]*")


def body(data: bytes) -> None:
    """A body is decoded or a DecodeError, and what was decoded can be encoded and read again."""
    for decode in DECODERS:
        fault = None
        try:
            value = decode(data)
        except DecodeError as error:
            fault = error
        if fault is not None:
            assert PLAIN.fullmatch(str(fault)), str(fault)
            assert fault.__cause__ is fault.__context__ is None
        elif not isinstance(value, str | bytes | float | None):
            assert decode(encode(value)) == value


def server_text(data: bytes) -> None:
    """Whatever a server says of itself or as an error is read without an error of another kind."""
    info = read_info(data)
    assert info is None or isinstance(info["connect_urls"], list)
    if info is not None and "max_payload" in info:
        assert info["max_payload"] > 0
    assert isinstance(read_error(data), TransportError)


def counts(data: bytes) -> None:
    """What a stream says of counters and batches is read, or an error of ours."""
    with contextlib.suppress(DecodeError):
        assert isinstance(read_count(data, "a"), int)
    with contextlib.suppress(DecodeError):
        found = read_sources(data.decode(errors="surrogateescape"))
        assert all(isinstance(value, int) for each in found.values() for value in each.values())
    with contextlib.suppress(JetStreamError, ConfigError, DecodeError):
        answer = read_answer("a", b"", data)
        assert read_ack(answer, 2).count == 2
        acknowledgement("a", answer)


KINDS: dict[Verb, Any] = {
    Verb.PING: ServicePing,
    Verb.INFO: ServiceInfo,
    Verb.STATS: ServiceStats,
}
LAYOUT = Layout("S", "g", ("s.*",), (1,), 4)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stored(data: bytes) -> None:
    """What anybody has written into a bucket or a stream is read, or an error of ours; and what was
    read can be shown."""
    with contextlib.suppress(DecodeError):
        info = ObjectInfo.decode(data, NOW)
        assert size_text(info.size)
        assert info.encode()
        assert isinstance(info.has_digest(b"digest"), bool)
    with contextlib.suppress(ConfigError):
        config = GroupConfig.read(data, 1, LAYOUT)
        config.check(LAYOUT)
        for member in (*config.members, "me"):
            assert set(config.partitions_of(member)) <= set(range(4))
        changed = config.changed(add=("me",), remove=config.members[:1])
        assert changed is None or GroupConfig.read(changed.encode(), 2, LAYOUT)
    holder = Place(1, data).holder
    assert max(min(holder.lease + 1, 2), 1) <= 2
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ConfigError):
        assert parse_cron(text).server_form
    with contextlib.suppress(ConfigError):
        zone = text.partition("|")[2]
        expression = parse_cron("0 9 * * mon", zone)
        assert next(expression.times(NOW)) > NOW
    found = direct_message(b"NATS/1.0\r\n" + data + b"\r\n\r\n", b"body")
    if found is not None:
        letter = DeadLetter.of("D", found[0])
        assert letter is None or letter.redrive_id


def services(data: bytes) -> None:
    """What anybody says of a service is skipped, or can be shown and measured."""
    for verb, kind in KINDS.items():
        body = data.replace(b"TYPE", verb.response_type.encode())
        record = _Reader(verb, kind, None, None).read(body, 0.1)
        if isinstance(record, ServiceStats):
            families = Families()
            _add_service(families, record, 10)
            assert encode_metrics(families.all(), "")
            for view in View:
                sample = Sample(at=1.0, services=(record,))
                for line in lines_of(sample, sample, view):
                    cells = cells_of(line, columns_of(view))
                    assert all(cell.isprintable() for cell in cells)


def traces(data: bytes) -> None:
    """Whatever is sent as the trace of a message can be drawn, and ends."""
    trace, names = MessageTrace(), dict[tuple[str, str], list[str]]()
    for part in data.split(b"|"):
        trace.take(part)
        add_service(names, part)
    assert isinstance(trace.is_complete, bool)
    assert trace.missing is not None
    root = tree(trace, is_only=True, services=names)
    for line in drawn(root, is_ascii=False) if root else ():
        assert line.isprintable()


def flow(data: bytes) -> None:
    """Whatever is sent in a flow is a message of one kind; a window allows no more than it should,
    and any address is read."""
    window = Window()
    window.take_credit()
    for part in data.split(b"|"):
        kind, credit = read_flow((1, "a", "b", b"NATS/1.0\r\n" + part + b"\r\n\r\n", part))
        assert 0 <= credit <= MAX_CREDIT
        assert kind is Kind.CREDIT or not credit
        window.on_item(len(part))
        window.on_read()
        assert 0 <= window.take_credit() <= MOST
    text = data.decode("utf-8", "replace")
    number = number_of(text)
    assert number is None or 0 <= number < 10**18
    assert text.startswith(prefix_of(text))


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function
    for function in (
        *(wire, outgoing, subject, headers, batch, body, counts, server_text),
        *(stored, services, traces, flow),
    )
}

SEEDS: dict[str, list[bytes]] = {
    "wire": [
        b"\x03MSG a.b 1 2\r\nhi\r\nMSG a.b 1 2\r\nhi\r\nMSG a.b 1 re.ply 2\r\nhi\r\n",
        b"\x01MSG _INBOX.1 7 0\r\n\r\nMSG _INBOX.2 7 1\r\nx\r\nMSG other 7 1\r\nx\r\n",
        b"\x05HMSG b 2 12 14\r\nNATS/1.0\r\n\r\nhi\r\nHMSG b 2 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
        b"\x07HMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n-ERR 'x'\r\n+OK\r\nINFO {}\r\nPONG\r\n",
        b"\x05\0X\r\nMSG a.b 1 2\r\nhi\r\n\r\n\0\r\nPING\r\n\r\n\r\nMSG a.b 1 0\r\n\r\n",
        b"\x03MSG a 1 re.ply  2\r\nhi\r\nMSG a  1 re.ply 2\r\nhi\r\nMSG a 1 r x 2\r\nhi\r\n",
        b"\x0bMSG a 1 2 \r\nhi\r\nMSG a 1 r 2\r\nhi\r\nMSG a 1 x \r\nhi\r\nPING\r\n",
        b"\x02MSG a 1 -1\r\nMSG a 1 99999999999\r\nHMSG a 1 0 0\r\n\r\nMSG \xff 1 0\r\n\r\n",
    ],
    "outgoing": [
        b"\x08|a.b|hi|\x08|a.b|hi|\x08|a.b|hello hello hello hello|\x08|a b|x",
        b"\x01|a.b|hi|\x08|a.b|hi|\x01|a.b|hi|\x02|re.ply|ok|\x02|$JS.API|ok|\x02||ok",
        b"\x03|re.ply|ok|\x04|$JS.ACK.1|+ACK|\x05||PUB a 0\r\n\r\n|\x06|a|x|\x07|a|x",
        b"\x02|" + b"long." * 500 + b"|ok|\x02|\xff|ok|\x04|\xff|ok",
    ],
    "subject": [
        b"a.b",
        b"a.*",
        b"a.>",
        b"a b",
        b".a",
        b"a..b",
        b"\xed\xa0\x80",
        "é.\u2028".encode(),
    ],
    "headers": [b"A|b|C|d", b"A|b\r\n", b"NATS/1.0 503 No\r\nA: b\r\n\r\n", b"NATS/1.0\r\n\r\n"],
    "batch": [
        b'{"type":"ack","seq":0,"msgs":2}|{"type":"ack","seq":4,"msgs":2}',
        b'{"type":"gap","last_seq":3,"seq":4}|{"stream":"S","seq":9,"batch":"b","count":2}',
        b'{"stream":"S","seq":9}|{"error":{"code":400,"err_code":10205},"stream":"S","seq":0}',
    ],
    "body": [
        b'{"id":1,"tags":["a"],"parent":null}',
        b'{"name":"a","value":1e9}',
        b'{"how":{"number":"1","holders":["a"]}}',
        b'{"theCoins":{"a":1},"x":0}',
        b"[[[[",
        b"1",
    ],
    "counts": [
        b'{"val":"-42"}',
        b'{"C":{"count.hits":"42"},"D":{"eu.hits":"5"}}',
        b'{"stream":"S","seq":9,"batch":"b","count":2,"val":"1000000000000000000000000000000"}',
        b'{"error":{"code":400,"err_code":10168,"description":"off"},"stream":"KV_a","seq":0}',
    ],
    "stored": [
        b'{"name":"a","bucket":"b","nuid":"c","size":1,"chunks":1,"digest":"SHA-256=YQ=="}',
        b'{"name":"a","bucket":"b","nuid":"c","options":{"link":{"bucket":"b","name":"a"}}}',
        (
            b'{"max_members":4,"partitioning_filters":[{"filter":"s.*","partitioning_wildcards":[1]}],'
            b'"members":["a","b"],"member_mappings":[{"member":"a","partitions":[0,9,-1]}]}'
        ),
        b'{"max_members":1000000000000,"members":["me"]}',
        b'{"holder":"a/b","id":"c","lease":1e308}',
        b"0 0 29 2 *|Europe/Berlin",
        b"*/5 0-23/3 * jan,feb mon-fri|../../etc/passwd",
        b"@every 1h30m",
        (
            b"Subject: s.a\r\nTidings-Dead-Letter-Subject: s.a\r\nNats-Stream: S\r\nNats-Subject: s"
            b"\r\nNats-Sequence: 5\r\nNats-Time-Stamp: 2026-01-01T00:00:00.000000001Z"
        ),
    ],
    "services": [
        (
            b'{"type":"TYPE","name":"a","id":"b","version":"1","metadata":{"tidings.consumers":"S.c"},'
            b'"started":"0001-01-01T00:00:00Z","endpoints":[{"name":"e","subject":"s","num_requests":9,'
            b'"processing_time":9000000000000000000,"data":{"p50":1,"pending":99999999999999999999}}]}'
        ),
        b'{"type":"TYPE","name":"a","id":"b","version":"1","started":"9999-12-31T23:59:59-14:00"}',
    ],
    "traces": [
        (
            b'{"server":{"name":"s"},"request":{"header":{"Nats-Trace-Hop":["1"]}},"events":'
            b'[{"type":"eg","kind":1,"name":"t","hop":"1"},{"type":"js","stream":"S","subject":"a"}]}'
        ),
        (
            b'{"server":{"name":"s"},"request":{},"events":[{"type":"in","acc":"A","subj":"a"},'
            b'{"type":"eg","hop":"1"}]}|{"name":"a","endpoints":[{"subject":"a"}]}'
        ),
    ],
    "flow": [
        b"Tidings-Credit: 999999999|Tidings-Credit: -1|Tidings-Cancel: 1|Tidings-Flow: 1",
        b"_INBOX.a.items.7|_INBOX.a.items.99999999999999999999",
    ],
    "server_text": [
        b'{"max_payload":1,"connect_urls":["127.0.0.1:4222","[::1]:1"]}',
        b'\'Permissions Violation for Subscription to "a" using queue "q"\'',
    ],
}
