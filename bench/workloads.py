"""What the benchmark measures, and with which contenders."""

from dataclasses import dataclass
from typing import Literal

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
]


@dataclass(frozen=True)
class Contender:
    """A client or framework, how to run it, and a note for the readers of its numbers."""

    name: str
    script: str
    environment: str
    """Name of a file in requirements/, "own" for this Python, or "libnats" for the C client."""
    note: str
    uvloop: bool = False
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
    rounds: int = 99
    """The most rounds to run, for workloads that take long or do not vary."""

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
            "libnats",
            "libnats.c",
            "libnats",
            "the C client; no JSON; many requests in flight with PublishRequest and one inbox "
            "subscription; `SendAsap` for the replies to single requests, because p50 is 1 ms "
            "without it",
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

_TIDINGS = ("tidings", "tidings-uvloop")
_TRACED = ("tidings-traced",)
_PAIR = ("tidings", "nats-py")
_LOOPS = (*_TIDINGS, "nats-py", "nats-py-uvloop")
_FRAMEWORKS = ("panini", "faststream", "natsapi")
_JSON = (*_TIDINGS, "nats-py", *_FRAMEWORKS)

_STREAMS = (*_LOOPS, "faststream", "bare")
_ONE_BY_ONE = (*_LOOPS, "nats-py-push")

_SIZED: tuple[tuple[Kind, str], ...] = (("receive", "receive_raw"), ("publish", "publish"))

SIZES = (1, 16, 256, 4096, 65536, 262144)
HEADERS = (0, 1, 10)
SUBSCRIPTIONS = (1, 100, 1000)

PREFETCH = 256
"""Messages that a consumer may hold while it handles one."""


def _request(name: str, first_n: int, in_flight: int) -> Workload:
    contenders = (*_LOOPS, *_FRAMEWORKS, "libnats", *_TRACED)
    return Workload(name, "request", name, contenders, first_n, body="json", in_flight=in_flight)


def _workloads() -> list[Workload]:
    everyone = (*_LOOPS, *_FRAMEWORKS, "libnats", "bare")
    raw = tuple(name for name in everyone if name != "natsapi")
    return [
        Workload("publish", "publish", "publish", (*everyone, *_TRACED), 20_000),
        Workload("publish_monitored", "publish", "publish_monitored", _TIDINGS, 20_000),
        Workload("publish_sync", "publish", "publish_sync", _TIDINGS, 20_000),
        Workload("receive_raw", "receive", "receive_raw", (*raw, *_TRACED), 20_000),
        Workload("receive_json", "receive", "receive_json", _JSON, 20_000, body="json"),
        Workload("receive_validated", "receive", "receive_validated", _JSON, 20_000, body="json"),
        Workload("receive_monitored", "receive", "receive_monitored", _TIDINGS, 20_000),
        _request("request_many", 4_000, 256),
        Workload(
            "request_many_monitored",
            "request",
            "request_many_monitored",
            _TIDINGS,
            4_000,
            body="json",
            in_flight=256,
        ),
        _request("request_one", 500, 1),
        Workload("answers", "request", "answers", _PAIR, 500, body="json"),
        Workload("stream", "stream", "stream", _PAIR, 10_000),
        Workload("sleepers", "receive", "sleepers", (*_LOOPS, "faststream"), 100),
        Workload("threads", "threads", "threads", (*_PAIR, "panini"), 20_000),
        *(
            Workload(f"subscriptions_{n}", "receive", "receive_raw", _PAIR, 20_000, subscriptions=n)
            for n in SUBSCRIPTIONS
        ),
        *(
            Workload(f"{kind}_{size}", kind, action, _PAIR, 2_000, size=size, quick=False)
            for kind, action in _SIZED
            for size in SIZES
        ),
        *(
            Workload(
                f"headers_{n}", "receive", "receive_headers", _PAIR, 20_000, headers=n, quick=False
            )
            for n in HEADERS
        ),
        Workload(
            "js_consume",
            "js_consume",
            "js_consume",
            (*_STREAMS, "nats-py-push"),
            5_000,
            concurrency=16,
            quick=False,
        ),
        *(
            Workload(
                name,
                "js_consume",
                "js_consume",
                _ONE_BY_ONE,
                first_n,
                concurrency=1,
                in_flight=in_flight,
                quick=False,
            )
            for name, first_n, in_flight in (
                ("js_consume_one", 1_000, 1),
                ("js_consume_one_prefetch", 5_000, PREFETCH),
            )
        ),
        Workload("js_publish", "js_publish", "js_publish", _STREAMS[:-1], 1_000, quick=False),
        Workload(
            "js_publish_window",
            "js_publish",
            "js_publish_window",
            _STREAMS[:-1],
            5_000,
            in_flight=256,
            quick=False,
        ),
        *(
            Workload(name, "js_key_value", name, _LOOPS, 2_000, in_flight=64, quick=False)
            for name in ("key_value_put", "key_value_get")
        ),
        *(
            Workload(name, "js_object", name, _PAIR, 4, quick=False)
            for name in ("object_put", "object_get")
        ),
        Workload(
            "js_publish_batched",
            "js_publish",
            "js_publish_batched",
            _TIDINGS,
            5_000,
            in_flight=256,
            quick=False,
        ),
        Workload(
            "memory",
            "receive",
            "receive_raw",
            (*_PAIR, "panini", "libnats"),
            100_000,
            fixed_n=1_000_000,
            rounds=1,
        ),
    ]


WORKLOADS = {workload.name: workload for workload in _workloads()}
