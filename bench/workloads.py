"""What the benchmark measures, and with which contenders."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from .contenders.probe import PACE

Kind = Literal[
    "publish",
    "receive",
    "request",
    "stream",
    "threads",
    "js_consume",
    "js_publish",
    "js_key_value",
    "js_object",
    "start",
]


@dataclass(frozen=True)
class Contender:
    """A client or framework, how to run it, and a note for the readers of its numbers."""

    name: str
    script: str
    environment: str
    """Name of a file in requirements/, "own" for this Python, "libnats" for the C client, or
    "node" for the packages in requirements/package.json."""
    note: str
    uvloop: bool = False
    core: Literal["", "pure"] = ""
    """The core of tidings that must run: "" for the one that runs by default."""
    json_rpc: bool = False


@dataclass(frozen=True)
class Workload:
    """One task, the same for every contender that takes part in it."""

    name: str
    kind: Kind
    action: str
    contenders: tuple[str, ...]
    first_n: int
    """Messages of the first run, which finds out how many messages the other runs need."""
    size: int = 128
    body: Literal["raw", "json"] = "raw"
    subscriptions: int = 1
    in_flight: int = 1
    headers: int = 0
    """Headers of each message. The handler reads one, if there are any or not."""
    concurrency: int = 0
    """Handlers that run at a time; 0 for each contender's default."""
    fixed_n: int = 0
    """Messages of every run, if the workload measures something other than a rate."""
    quick: bool = True
    """Whether quick mode runs it."""
    rounds: int = 3
    """The most rounds to run; more for the rows that other texts quote."""

    @property
    def block(self) -> int:
        """Messages between two reports of a receiver, of at most 1 MiB in total."""
        if self.action == "sleepers":
            return 100
        if self.kind == "js_consume":
            return 500
        return max(4, min(2000, (1 << 20) // self.size))

    @property
    def window(self) -> int:
        """Messages that may be unacknowledged: at most half of tidings' default queue limit."""
        return self.block * 16


_OWN = "own"

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("tidings", "tidings_app.py", _OWN, "defaults, `use_uvloop=False`"),
        Contender(
            "tidings-pure",
            "tidings_app.py",
            _OWN,
            "the same without the compiled core: `TIDINGS_CORE=pure`",
            core="pure",
        ),
        Contender(
            "tidings-uvloop", "tidings_app.py", _OWN, "defaults (uvloop installed)", uvloop=True
        ),
        Contender(
            "tidings-traced",
            "tidings_traced.py",
            _OWN,
            "`tidings` with a tracer provider of the OpenTelemetry SDK, which records every span "
            "and exports none",
        ),
        Contender(
            "nats-py",
            "nats_py.py",
            "nats-py",
            "defaults; a callback per subscription; json.loads and json.dumps; validation with "
            "pydantic's `validate_json`. From threads: `asyncio.run_coroutine_threadsafe`. "
            "Streams: `fetch(16)` from a pull consumer and `ack`; `publish_async` with 256 pending",
        ),
        Contender("nats-py-uvloop", "nats_py.py", "nats-py", "the same on uvloop", uvloop=True),
        Contender(
            "nats-py-push",
            "nats_py_push.py",
            "nats-py",
            "a push consumer: a callback and `ack`, with `max_ack_pending=1000`. It handles one "
            "message at a time, and no second process shares its messages",
        ),
        Contender(
            "panini",
            "panini_app.py",
            "panini",
            "logger off; ujson; validation with a pydantic model as `data_type`",
        ),
        Contender(
            "faststream",
            "faststream_app.py",
            "faststream",
            "`logger=None` (the default logs every message); sleepers: `max_workers=100`. "
            "Streams: `PullSub(batch_size=16)` with `max_workers=16`; 256 concurrent publishers",
        ),
        Contender(
            "natsapi",
            "natsapi_app.py",
            "natsapi",
            "sends only JSON-RPC envelopes, never raw bytes; "
            "decodes to dict with `skip_validation=True`",
            json_rpc=True,
        ),
        Contender(
            "natsio",
            "natsio_client.py",
            "natsio",
            "publishes only, with defaults; its `flush` does not wait for the server, so a message "
            "to itself does. It loses messages that do not arrive in one read from the socket, so "
            "it fails wherever it receives; it has no JetStream",
        ),
        Contender(
            "nats.js",
            "nats_js.mjs",
            "node",
            "defaults, on Node: a callback per subscription; JSON.parse and JSON.stringify. "
            "`publish` returns at once: the loop runs after every 500 of them. Streams: "
            "`consume()` with its default of 100 messages held; 256 promises of `publish` open",
        ),
        Contender(
            "libnats",
            "libnats.c",
            "libnats",
            "the C client; no JSON; many requests in flight with PublishRequest and one inbox "
            "subscription; `SendAsap` for the replies to single and paced requests, because p50 is "
            "1 ms without it. Streams: `natsSubscription_Fetch` and `js_PublishAsync`",
        ),
        Contender(
            "bare",
            "bare.py",
            _OWN,
            "a bare asyncio.Protocol that only parses and frames: the limit of pure Python on "
            "asyncio's own loop. It pulls 1,000 messages of a stream at a time and holds up to "
            "2,000, so that it measures the server",
        ),
    )
}

QUICK_CONTENDERS = ("tidings", "nats-py")

_TIDINGS = ("tidings", "tidings-pure", "tidings-uvloop")
_TRACED = ("tidings-traced",)
_PAIR = ("tidings", "tidings-pure", "nats-py")
_OTHERS = ("nats-py", "nats.js")
_CORE = (*_TIDINGS, *_OTHERS)
_FRAMEWORKS = ("panini", "faststream", "natsapi")
_JSON = (*_CORE, *_FRAMEWORKS)
_EVERYONE = (*_TIDINGS, "nats-py", "nats-py-uvloop", "nats.js", *_FRAMEWORKS, "libnats")

_ONE_BY_ONE = ("tidings", "tidings-pure", "nats-py", "nats-py-push", "nats.js", "libnats")

_SIZED: tuple[tuple[Kind, str], ...] = (("receive", "receive_raw"), ("publish", "publish"))

SIZES = (1, 256, 4096, 65536, 262144)
HEADERS = (0, 1, 10)
SUBSCRIPTIONS = (1, 100, 1000)

PREFETCH = 256
"""Messages that a consumer may hold while it handles one."""

WIDE = 4_096
"""Messages that a publisher may hold for a stream where the server acknowledges many at once."""

QUOTED = 5
"""Rounds of the rows that other texts quote."""


def _request(name: str, first_n: int, in_flight: int, contenders: tuple[str, ...]) -> Workload:
    return Workload(
        name,
        "request",
        name,
        contenders,
        first_n,
        body="json",
        in_flight=in_flight,
        rounds=QUOTED,
    )


def _core() -> Iterator[Workload]:
    """What every client can do: publish, receive, request and reply."""
    raw = tuple(name for name in _EVERYONE if name != "natsapi")
    yield Workload(
        "publish",
        "publish",
        "publish",
        (*_EVERYONE, "natsio", "bare", *_TRACED),
        20_000,
        rounds=QUOTED,
    )
    yield Workload("publish_monitored", "publish", "publish_monitored", _TIDINGS, 20_000)
    yield Workload("publish_sync", "publish", "publish_sync", _TIDINGS, 20_000)
    yield Workload(
        "receive_raw", "receive", "receive_raw", (*raw, "bare", *_TRACED), 20_000, rounds=QUOTED
    )
    for name in ("receive_json", "receive_validated"):
        contenders = _JSON if name == "receive_json" else (*_TIDINGS, "nats-py", *_FRAMEWORKS)
        yield Workload(name, "receive", name, contenders, 20_000, body="json", rounds=QUOTED)
    yield Workload("receive_monitored", "receive", "receive_monitored", _TIDINGS, 20_000)
    yield _request("request_many", 4_000, 256, (*_EVERYONE, *_TRACED))
    yield Workload(
        "request_many_monitored",
        "request",
        "request_many_monitored",
        _TIDINGS,
        4_000,
        body="json",
        in_flight=256,
    )
    yield _request("request_one", 500, 1, _EVERYONE)
    yield replace(_request("request_paced", PACE, 1, (*_CORE, "libnats")), fixed_n=PACE, rounds=3)


def _handlers() -> Iterator[Workload]:
    """Answers, streams of items, threads, and handlers that wait."""
    yield Workload("answers", "request", "answers", _PAIR, 500, body="json")
    yield Workload("stream", "stream", "stream", _PAIR, 10_000)
    sleepers = ("tidings", "tidings-uvloop", "nats-py", "faststream")
    yield Workload("sleepers", "receive", "sleepers", sleepers, 100)
    yield Workload("threads", "threads", "threads", (*_PAIR, "panini"), 20_000)


def _shapes() -> Iterator[Workload]:
    """Many subscriptions, sizes and headers."""
    for n in SUBSCRIPTIONS:
        yield Workload(
            f"subscriptions_{n}",
            "receive",
            "receive_raw",
            (*_PAIR, "nats.js", "libnats"),
            20_000,
            subscriptions=n,
        )
    for (kind, action), size in itertools.product(_SIZED, SIZES):
        yield Workload(f"{kind}_{size}", kind, action, _PAIR, 2_000, size=size, quick=False)
    for n in HEADERS:
        yield Workload(
            f"headers_{n}",
            "receive",
            "receive_headers",
            (*_PAIR, "nats.js", "libnats"),
            20_000,
            headers=n,
            quick=False,
        )


def _consume(
    name: str, contenders: tuple[str, ...], first_n: int, concurrency: int, in_flight: int = 1
) -> Workload:
    return Workload(
        name,
        "js_consume",
        "js_consume",
        contenders,
        first_n,
        concurrency=concurrency,
        in_flight=in_flight,
        quick=False,
    )


def _streams() -> Iterator[Workload]:
    """JetStream: consuming, publishing, keys and objects."""
    everyone = (*_CORE, "nats-py-push", "faststream", "libnats", "bare")
    yield _consume("js_consume", everyone, 5_000, 16)
    yield _consume("js_consume_one", _ONE_BY_ONE, 1_000, 1)
    yield _consume("js_consume_one_prefetch", _ONE_BY_ONE, 5_000, 1, PREFETCH)
    publishers = (*_CORE, "faststream", "libnats")
    yield Workload("js_publish", "js_publish", "js_publish", publishers[:-1], 1_000, quick=False)
    yield Workload(
        "js_publish_window",
        "js_publish",
        "js_publish_window",
        publishers,
        5_000,
        in_flight=256,
        quick=False,
    )
    yield Workload(
        "js_publish_wide",
        "js_publish",
        "js_publish_window",
        ("tidings", "nats-py", "libnats"),
        5_000,
        in_flight=WIDE,
        quick=False,
    )
    yield Workload(
        "js_publish_batched",
        "js_publish",
        "js_publish_batched",
        _TIDINGS,
        5_000,
        in_flight=WIDE,
        quick=False,
    )
    for name in ("key_value_put", "key_value_get"):
        yield Workload(name, "js_key_value", name, _CORE, 2_000, in_flight=64, quick=False)
    for name in ("object_put", "object_get"):
        yield Workload(name, "js_object", name, (*_PAIR, "nats.js"), 4, quick=False)


def _programs() -> Iterator[Workload]:
    """What a program takes: memory, and the time until it is ready."""
    memory = (*_PAIR, "panini", "nats.js", "libnats")
    yield Workload("memory", "receive", "receive_raw", memory, 100_000, fixed_n=1_000_000, rounds=1)
    start = (*_PAIR, "panini", "faststream", "natsapi", "nats.js", "libnats")
    yield Workload("start", "start", "start", start, 1, fixed_n=1, rounds=QUOTED)


WORKLOADS = {
    workload.name: workload
    for group in (_core, _handlers, _shapes, _streams, _programs)
    for workload in group()
}
