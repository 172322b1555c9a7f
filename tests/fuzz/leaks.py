"""`make fuzz`: many messages through the compiled core, which must keep no memory and no reference.

    python tests/fuzz/leaks.py [MESSAGES]

Messages go the whole way, without a server: they are parsed, queued, handled by handlers that
return, suspend and raise, answered, published and requested. In the end there must be as many
blocks of memory, and as many references to the objects that all messages share, as after the first
tenth.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from threading import get_ident
from typing import Any, cast

from tidings import core
from tidings.bus import Bus
from tidings.concurrency.pool import WorkerPool
from tidings.current_link import CurrentLink
from tidings.handlers.bursts import BurstListener
from tidings.handlers.listener import Sender
from tidings.handlers.listener_spec import ListenerSpec
from tidings.link import Link
from tidings.message import Message
from tidings.protocol.parser import Frame
from tidings.transport.buffer import Buffer
from tidings.transport.dispatch import Dispatch
from tidings.transport.requests import RequestTable
from tidings.transport.tcp import SocketTransport

# The numbers vary by a few because of caches and freelists; a leak of one a message is a million.
MOST_BLOCKS = 2_000
MOST_REFERENCES = 200
HANDLED, ASKED = 1, 2  # sids
BLOCK = 1_000  # messages
INBOX = "_INBOX.leaks."


class Nowhere:
    """A socket that takes everything."""

    is_paused = False
    buffered = 0

    def write(self, data: bytes) -> None:
        pass


class Answers:
    """Sends the answers of the listener, as a link does."""

    service_name = "leaks"

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    def reply(self, subject: str, value: object, headers: object) -> None:
        self._buffer.reply(subject, b"%a" % value)

    def tell(self, event: str, error: Exception | None) -> None:
        pass


class OpenLink:
    """What the compiled `app.publish` needs of a link."""

    def __init__(self, buffer: Buffer) -> None:
        self.outbox = buffer
        self.loop = asyncio.get_running_loop()
        self.thread = buffer.direct_thread = get_ident()
        self.send_publish = None


async def handle(msg: Message[Any]) -> Any:
    if msg.subject == "a.suspend":
        await asyncio.sleep(0)
    elif msg.subject == "a.raise":
        raise ValueError(msg.subject)
    return msg.data


def message(number: int) -> bytes:
    """One of the kinds of messages, most of them plain."""
    body = b'{"id":%d}' % number
    if number % 1000 == 17:
        return b"MSG a.raise 1 %d\r\n%b\r\n" % (len(body), body)
    if number % 100 == 3:
        return b"MSG a.suspend 1 %s%d %d\r\n%b\r\n" % (b"re.ply.", number, len(body), body)
    if number % 50 == 5:
        block = b"NATS/1.0\r\nA: %d\r\n\r\n" % number
        size = len(block) + len(body)
        return b"HMSG a.headers 1 %d %d\r\n%b%b\r\n" % (len(block), size, block, body)
    if number % 10 == 7:
        return b"MSG a.request 1 re.ply.%d %d\r\n%b\r\n" % (number, len(body), body)
    if number % 200 == 9:
        return b"MSG  a.odd\t1 %d\r\n%b\r\nGARBAGE\r\nPING\r\n" % (len(body), body)
    if number % 200 == 11:
        return b"MSG other.%d 1 %d\r\n%b\r\n" % (number, len(body), body)  # not admitted
    return b"MSG a.plain 1 %d\r\n%b\r\n" % (len(body), body)


class Course:
    """The way of the messages, set up once."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.buffer = Buffer(loop, 32 * 1024 * 1024)
        self.buffer.connect(cast(SocketTransport, Nowhere()))
        current = CurrentLink()
        current.link = cast(Link, OpenLink(self.buffer))
        self.bus = Bus(current)
        self.pool = WorkerPool()
        spec = ListenerSpec(handler=handle, subjects=("a.>",), pending_msgs_limit=10 * BLOCK)
        sender = cast(Sender, Answers(self.buffer))
        self.listener = BurstListener(
            spec, sender, self.pool, queue="", concurrency=10, middlewares=()
        )
        self.requests = RequestTable(loop)
        self.dispatch = Dispatch(lambda frame: None)
        self.dispatch.add_route(HANDLED, self.listener.deliver, "a.>")
        self.dispatch.add_route(ASKED, self.answered, f"{INBOX}*")
        self.dispatch.expect_new_subjects(ASKED, INBOX.encode())
        self.data = b"".join(map(message, range(BLOCK)))

    def answered(self, size: int, frames: list[Frame]) -> None:
        self.requests.deliver(frames, len(INBOX))

    async def run(self, messages: int) -> None:
        for number in range(max(1, messages // BLOCK)):
            cut = number * 7919 % len(self.data)
            self.dispatch.take(self.data[:cut])
            self.dispatch.take(self.data[cut:])
            await self.send()
            await self.ask()
            await self.listener.finish()

    async def send(self) -> None:
        for _ in range(50):
            await self.bus.publish("out", b"body")
        await self.bus.publish("out", {"id": 1})
        await self.bus.publish("out", b"x" * 200_000)  # more than the threshold
        self.bus.publish("out", b"").close()

    async def ask(self) -> None:
        open_requests = [self.requests.add("ask", 10) for _ in range(20)]
        for token, _ in open_requests:
            self.buffer.request("ask", b"", INBOX.encode(), token)
        open_requests[0][1].cancel()
        tokens = [token for token, _ in open_requests] + ["late"]
        replies = [b"MSG %b%b 2 2\r\nok\r\n" % (INBOX.encode(), t.encode()) for t in tokens]
        self.dispatch.take(b"".join(replies))
        await asyncio.gather(*[future for _, future in open_requests[1:]])


def counts(course: Course) -> dict[str, int]:
    """The number of blocks of memory, and of references to what all messages share."""
    gc.collect()
    shared = {
        "None": None,
        "True": True,
        "the empty str": "",
        "the empty bytes": b"",
        "1": 1,
        "Message": Message,
        "the listener": course.listener,
        "the sender": course.listener._sender,
        "the buffer": course.buffer,
        "the handler": handle,
        "the type Publish": type(course.bus.publish),
    }
    return {
        "blocks": sys.getallocatedblocks(),
        **{name: sys.getrefcount(value) for name, value in shared.items()},
    }


async def check(messages: int) -> list[str]:
    """Return what grew."""
    course = Course()
    await course.run(messages // 10)
    before = counts(course)
    await course.run(messages)
    after = counts(course)
    await course.pool.close()
    print(f"{course.listener.snapshot()}")  # noqa: T201 - the output of a script
    return [
        f"{name}: {before[name]} before, {count} after"
        for name, count in after.items()
        if count - before[name] > (MOST_BLOCKS if name == "blocks" else MOST_REFERENCES)
    ]


def main(messages: int) -> int:
    if core.NAME != "compiled":
        sys.exit(f"make fuzz needs the compiled core: {core.REASON}")
    logging.disable()
    grown = asyncio.run(check(messages))
    print("\n".join(grown) if grown else f"nothing leaked in {messages:,} messages")  # noqa: T201 - as above
    return len(grown)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000))
