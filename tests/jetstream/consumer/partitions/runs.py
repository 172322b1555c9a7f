"""Processes that note each run of their handler, and the check that the runs were in order."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from support.process import Program
from support.waits import until
from tidings import App, Stream

KEYS = 24
LEASE = 3

MEMBER = """
    import asyncio, logging, os, time
    from tidings import App

    logging.basicConfig(level=logging.INFO, format="%%(message)s")
    stream = os.environ["STREAM"]
    app = App("ledger", servers=os.environ["NATS_URL"], drain_timeout=15)

    @app.consume(stream, durable="g", subject=f"{stream}.*", partitions=16, key=1,
                 inactive_threshold=%(lease)s, backoff=[0.1], concurrency=8)
    async def book(msg):
        key = msg.subject.rpartition(".")[2]
        run = f"{key} {msg.data['n']}"
        print("begin", run, time.monotonic_ns(), flush=True)
        try:
            await asyncio.sleep(float(os.environ.get("WORK", "0.004")))
            if key in os.environ.get("FAILING", "").split():
                raise ValueError("this key always fails")
        finally:
            print("end", run, time.monotonic_ns(), flush=True)

    app.run()
""" % {"lease": LEASE}  # noqa: UP031 - the program has braces


class Run(NamedTuple):
    """One run of the handler."""

    key: str
    number: int
    begin: int
    end: int  # in the same clock; of a killed process, the time of its death
    process: int


class Group:
    """Processes of one group, some of which may have ended.

    Args:
        run_program: the fixture.
        stream: the stream.
        url: the server's URL.
    """

    def __init__(self, run_program: Callable[..., Program], stream: Stream, url: str) -> None:
        self._run_program = run_program
        self._stream = stream
        self._url = url
        self._numbers = dict.fromkeys((f"k{key}" for key in range(KEYS)), 0)
        self._deaths: dict[int, int] = {}
        self.programs: list[Program] = []

    def add(self, **environment: str) -> Program:
        """Start one more process."""
        program = self._run_program(
            MEMBER, NATS_URL=self._url, STREAM=self._stream.name, **environment
        )
        self.programs.append(program)
        return program

    async def has_partitions(self, program: Program, count: int = 1) -> None:
        """Wait until a process handles partitions, for the so-manieth time."""
        await asyncio.to_thread(program.wait_for, "handles", count)

    async def publish(self, app: App, rounds: int) -> None:
        """Publish so many messages of each key."""
        for _ in range(rounds):
            for key, number in self._numbers.items():
                await app.js.publish(f"{self._stream.name}.{key}", {"n": number})
                self._numbers[key] = number + 1

    def kill(self, program: Program) -> None:
        """Kill a process with SIGKILL."""
        program.popen.kill()
        program.wait()
        self._deaths[id(program)] = time.monotonic_ns()

    def runs(self) -> list[Run]:
        """Return the runs of all processes up to now."""
        found = []
        for number, program in enumerate(self.programs):
            begun: dict[tuple[str, int], int] = {}
            for line in list(program.lines):
                words = line.split()
                if len(words) != 4 or words[0] not in ("begin", "end"):
                    continue
                run = words[1], int(words[2])
                if words[0] == "begin":
                    begun[run] = int(words[3])
                else:
                    found.append(Run(*run, begun.pop(run), int(words[3]), number))
            death = self._deaths.get(id(program), time.monotonic_ns())
            found += [Run(*run, begin, death, number) for run, begin in begun.items()]
        return found

    async def has_handled_all(self, *, without: Iterable[str] = ()) -> None:
        """Wait until each message has been handled, except those of some keys."""

        def is_done() -> bool:
            done = {(run.key, run.number) for run in self.runs()}
            return all(
                (key, number) in done
                for key, count in self._numbers.items()
                if key not in without
                for number in range(count)
            )

        await until(is_done, 40)

    def check(self) -> list[Run]:
        """Check that each key was handled by one run at a time, and in its order.

        Returns:
            The runs of messages that had been handled before.
        """
        by_key: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs():
            by_key[run.key].append(run)
        again = []
        for runs in by_key.values():
            runs.sort(key=lambda run: run.begin)
            for first, second in itertools.pairwise(runs):
                assert first.end <= second.begin, f"two runs of one key at once: {first}, {second}"
            newest = -1
            for run in runs:
                assert run.number <= newest + 1, f"{run} came before {newest + 1}"
                if run.number <= newest:
                    again.append(run)
                newest = max(newest, run.number)
        return again
