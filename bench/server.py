"""A nats-server for one measurement, and its own counters."""

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tidings.server import NATSServer


@dataclass(frozen=True)
class Server:
    """A running nats-server with its monitoring endpoint."""

    url: str
    monitor: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def facts(self) -> dict[str, int | str]:
        """Return the server's own facts: `version`, `in_msgs`, `in_bytes` and more."""
        with urllib.request.urlopen(f"{self.monitor}/varz", timeout=5) as reply:
            facts: dict[str, int | str] = json.load(reply)
            return facts


@contextmanager
def fresh_server(*, jetstream: bool = False) -> Iterator[Server]:
    with NATSServer(jetstream=jetstream, args=["-m", "-1"]) as server:
        address = re.search(r"http monitor on (\S+)", server.log)
        if address is None:
            raise RuntimeError("nats-server did not log the address of its monitoring endpoint")
        yield Server(server.url, f"http://{address[1]}")
