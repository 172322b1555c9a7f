"""Create and fill a stream for one measurement and read its counts, over a bare socket."""

import json
import re
import time
from typing import Any

from .contenders.probe import BUCKET, DURABLE, LOAD, STREAM
from .load import Block, LoadError, Wire

INBOX = "_INBOX.bench"
WAIT = 10.0  # seconds to wait for an answer
FILL = 60.0  # seconds to wait until a stream holds all messages


class Streams:
    """The JetStream calls that a measurement needs."""

    def __init__(self, port: int) -> None:
        self._wire = Wire(port)
        self._wire.subscribe(INBOX)

    def close(self) -> None:
        self._wire.close()

    def make(self) -> None:
        """Create the stream in memory, so that the speed of the disk does not matter."""
        config = {
            "name": STREAM,
            "subjects": [f"{LOAD}.>"],
            "storage": "memory",
            "allow_batched": True,  # used only by publishers that ask for batches
        }
        self._call(f"STREAM.CREATE.{STREAM}", config)

    def fill(self, block: Block, messages: int) -> None:
        """Store that many messages.

        Raises:
            LoadError: the stream did not get all of them in time.
        """
        for sent in range(0, messages, block.messages):
            self._wire.send(block.numbered(sent + block.messages))
        deadline = time.monotonic() + FILL
        while self.stored() < messages:
            if time.monotonic() > deadline:
                raise LoadError(f"the stream has {self.stored()} of {messages} messages")
            time.sleep(0.02)

    def stored(self) -> int:
        """Return the number of messages in the stream."""
        return int(self._call(f"STREAM.INFO.{STREAM}")["state"]["messages"])

    def written(self) -> int:
        """Return the number of messages that were written to the key-value bucket."""
        return int(self._call(f"STREAM.INFO.KV_{BUCKET}")["state"]["last_seq"])

    def object_bytes(self) -> int:
        """Return the number of bytes in the object store, with its overhead."""
        return int(self._call(f"STREAM.INFO.OBJ_{BUCKET}")["state"]["bytes"])

    def check_consumed(self, messages: int) -> None:
        """Raise LoadError unless each message was delivered once and acknowledged."""
        info = self._call(f"CONSUMER.INFO.{STREAM}.{DURABLE}")
        acked, deliveries = info["ack_floor"]["stream_seq"], info["delivered"]["consumer_seq"]
        if acked != messages or deliveries != messages:
            raise LoadError(f"{deliveries} deliveries, {acked} of {messages} acknowledged in order")

    def _call(self, operation: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
        body = b"" if payload is None else json.dumps(payload).encode()
        head = f"PUB $JS.API.{operation} {INBOX} {len(body)}\r\n".encode()
        self._wire.send(head + body + b"\r\n")
        data, deadline = b"", time.monotonic() + WAIT
        while True:
            data += self._wire.receive(deadline)
            found = re.search(rb"MSG %s 1 (\d+)\r\n" % INBOX.encode(), data)
            if found is not None and len(data) >= found.end() + int(found[1]):
                break
        answer: dict[str, Any] = json.loads(data[found.end() : found.end() + int(found[1])])
        if "error" in answer:
            raise LoadError(f"{operation}: {answer['error']}")
        return answer
