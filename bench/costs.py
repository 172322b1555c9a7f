"""What discovery and metrics cost for each message that a listener receives.

The differences are too small for a clock, so this counts the instructions of the processor under
valgrind. It counts everything from the socket to the end of the handlers. There is no server: the
last handler of a burst writes the next one into the other end of the socket.

    $ python -m bench.costs
"""

import argparse
import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# What is switched on, and the messages that arrive with one chunk.
WHAT = ("nothing", "discovery", "metrics")
BURSTS = (1, 100)
# Bursts in two runs of different length: the difference leaves out the start of the process. The
# shorter one is past the first messages, which discovery measures one by one.
FEW, MANY = 200, 2_200
FRAME = b"MSG orders.created 1 128\r\n%b\r\n" % (b"x" * 128)


class Connection:
    """What `Subscriptions` needs of a connection: it routes the one subscription."""

    def __init__(self, dispatch: Any) -> None:
        self._dispatch = dispatch

    def subscribe_route(self, subject: str, queue: str, deliver: Any) -> int:
        self._dispatch.add_route(1, deliver, subject)
        return 1


class Sender:
    """What a listener answers with; nothing here is a request."""

    service_name = "costs"


class Reader(asyncio.Protocol):
    """Passes what arrives on, as tidings' own transport does."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.data_received = take  # type: ignore[method-assign]  # one call less


async def receive(what: str, burst: int, count: int) -> None:
    """Let a listener handle `count` messages, `burst` of them at a time."""
    from tidings import Message
    from tidings.handlers.listener import ListenerSpec
    from tidings.handlers.subscriptions import Subscriptions
    from tidings.transport.dispatch import Dispatch

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    chunk = FRAME * burst
    in_burst, left = burst, count
    done = asyncio.Event()

    async def on_order(msg: Message[bytes]) -> None:
        nonlocal in_burst, left
        in_burst -= 1
        if not in_burst:
            left -= burst
            in_burst = burst
            if left:
                theirs.send(chunk)
            else:
                done.set()

    dispatch = Dispatch(print)
    connection: Any = Connection(dispatch)
    sender: Any = Sender()
    portal: Any = None
    subscriptions = Subscriptions(connection, portal, sender, (), is_measured=what == "metrics")
    spec = ListenerSpec(handler=on_order, subjects=("orders.created",), data_type=bytes)
    subscriptions.add(spec, queue="", concurrency=100, is_endpoint=what == "discovery")
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: Reader(dispatch.take), sock=ours)
    theirs.send(chunk)
    await done.wait()
    await subscriptions.finish()
    await subscriptions.close()
    transport.close()
    theirs.close()


def instructions(core: str, what: str, burst: int, count: int) -> int:
    """The instructions of a process that handles so many messages."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += [sys.executable, "-m", "bench.costs", "--run", what, str(burst), str(count)]
        # With addresses and hashes that do not vary, the counts hardly do.
        environment = {**os.environ, "TIDINGS_CORE": core, "PYTHONHASHSEED": "0"}
        ended = subprocess.run(
            ["setarch", "-R", *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
    found = re.search(r"Collected : (\d+)", ended.stderr)
    if found is None or ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{ended.stderr}")
    return int(found[1])


def per_message(core: str, what: str, burst: int) -> float:
    runs = [instructions(core, what, burst, bursts * burst) for bursts in (FEW, MANY)]
    return (runs[1] - runs[0]) / ((MANY - FEW) * burst)


def show(cores: Sequence[str]) -> None:
    print(f"{'core':10}{'at a time':>10}{'switched on':>14}{'instructions':>14}{'more':>8}")
    for core in cores:
        for burst in BURSTS:
            without = 0.0
            for what in WHAT:
                count = per_message(core, what, burst)
                without = without or count
                more = "" if what == "nothing" else f"{count / without - 1:+.1%}"
                print(f"{core:10}{burst:10}{what:>14}{count:14,.0f}{more:>8}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", choices=("pure", "compiled"), help="only this core")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        what, burst, count = options.run
        asyncio.run(receive(what, int(burst), int(count)))
    else:
        show((options.core,) if options.core else ("pure", "compiled"))


if __name__ == "__main__":
    main()
