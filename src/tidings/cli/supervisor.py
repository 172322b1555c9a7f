"""The parent's side: keep workers of one app alive, or start one again when its code changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tidings.concurrency.backoff import Backoff
from tidings.log import logger
from tidings.process.runner import END_GRACE
from tidings.process.signals import Request, StopRequests, stop_signals

from .child import ENDED, LIFELINE, LOADED, RUNNING, SERVERS, STOP, WORKER

USAGE = 2
FIRST_DELAY = 0.5  # seconds before a worker that died is started again
LONGEST_DELAY = 30.0
# Seconds more than a child takes to end by itself, even by force, before it is killed.
KILL_GRACE = 0.15
LISTEN_GRACE = 0.1  # seconds to read what a child said before it ended
# A worker that lived this long was well: the delays begin anew when it dies.
STEADY = 10.0


@dataclass(frozen=True, kw_only=True)
class ChildCommand:
    """How to start a child.

    Attributes:
        target: `module:app`.
        options: further arguments of `tidings run`.
        servers: URLs that replace the app's own, comma-separated; "" for none.
        cwd: the folder to start it in; the current one where None.
    """

    target: str
    options: Sequence[str] = ()
    servers: str = ""
    cwd: str | os.PathLike[str] | None = None

    @property
    def arguments(self) -> list[str]:
        """The arguments. No folder is put on the path, so that a user's `signal.py` harms none."""
        return [sys.executable, "-P", "-m", "tidings", "run", self.target, *self.options]

    def environment(self, lifeline: int, number: int) -> dict[str, str]:
        """The environment; `number` is 0 for an only child."""
        own = {LIFELINE: str(lifeline)}
        if self.servers:
            own[SERVERS] = self.servers
        if number:
            own[WORKER] = str(number)
        return {**os.environ, **own}


class Worker:
    """One child process.

    Args:
        process: the process.
        lifeline: this end of the socket that it shares with the child.
        number: its place among the workers, from 1; 0 for an only child.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, lifeline: socket.socket, number: int
    ) -> None:
        self._process = process
        self._lifeline = lifeline
        self._started = time.monotonic()
        self._exit = asyncio.ensure_future(process.wait())
        self._listening = asyncio.ensure_future(self._listen())
        self._runs = asyncio.Event()
        self._drain_timeout = 0.0  # before the child says it, it has nothing to drain
        self._killing: asyncio.TimerHandle | None = None
        self.number = number

    @classmethod
    async def start(
        cls, command: ChildCommand, number: int = 0, stderr: int | None = None
    ) -> Worker:
        """Start a child in a session of its own: Ctrl-C in a terminal is the parent's to handle.

        Args:
            command: what to start.
            number: its place among the workers.
            stderr: the file descriptor for what it logs.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                env=command.environment(theirs.fileno(), number),
                cwd=command.cwd,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.setblocking(False)
        return cls(process, ours, number)

    async def _listen(self) -> None:
        loop, said = asyncio.get_running_loop(), b""
        with contextlib.suppress(OSError):
            while word := await loop.sock_recv(self._lifeline, 256):
                *lines, said = (said + word).split(b"\n")
                for line in lines:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        if line.startswith(LOADED):
            self._drain_timeout = float(line.removeprefix(LOADED))
        elif line == RUNNING:
            self._runs.set()

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    @property
    def has_run(self) -> bool:
        """Whether its app was connected and at work."""
        return self._runs.is_set()

    async def ready(self) -> bool:
        """Wait until its app is at work, or until it has ended, which returns False."""
        runs = asyncio.ensure_future(self._runs.wait())
        await asyncio.wait([runs, self._exit], return_when=asyncio.FIRST_COMPLETED)
        runs.cancel()
        return self.has_run

    async def wait(self) -> int:
        """Wait until it has ended; returns its exit code, negative for a signal."""
        code = await asyncio.shield(self._exit)
        if self._killing is not None:
            self._killing.cancel()
        # What it said last may still have to be read; a process that it forked may hold the socket.
        await asyncio.wait([self._listening], timeout=LISTEN_GRACE)
        self._listening.cancel()
        # The loop lets go of the socket before it is closed, and its number becomes another's.
        await asyncio.wait([self._listening])
        self._lifeline.close()
        return code

    async def wait_stopped(self) -> int:
        """`wait` for one that may have been told to stop: before it ran, it had nothing to
        abandon."""
        code = await self.wait()
        return 0 if self._killing is not None and not self.has_run else code

    def stop(self) -> None:
        """Tell it to drain and end, and kill it if it does not. May be called twice."""
        if self._exit.done():
            return
        with contextlib.suppress(OSError):
            self._lifeline.send(STOP)
            self._lifeline.shutdown(socket.SHUT_WR)
        if self._killing is None:
            patience = self._drain_timeout + END_GRACE + KILL_GRACE
            self._killing = asyncio.get_running_loop().call_later(patience, self._kill)

    def _kill(self) -> None:
        logger.error("%s does not end: killing it", self)
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send it a signal, where it still lives."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.pid})"


class Supervision:
    """What the two supervisors share: children, and the signals that end them all."""

    def __init__(self, command: ChildCommand) -> None:
        self._command = command
        self._workers: dict[int, Worker] = {}
        self._stopping = asyncio.Event()
        self._requests = StopRequests()
        self._killed_by = 0

    async def _launch(self, number: int) -> Worker:
        worker = self._workers[number] = await Worker.start(self._command, number)
        if self._killed_by:  # the signals came while the process was made
            worker.signal(signal.SIGKILL)
        elif self._stopping.is_set():
            worker.stop()
        return worker

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handled = stop_signals()
        for number in handled:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        request = self._requests.add()
        if request is Request.FORCE:
            logger.error("%s again: killing what still runs", number.name)
            self._killed_by = number
            for worker in self._workers.values():
                worker.signal(signal.SIGKILL)
        elif request is Request.STOP:
            logger.info("%s: stopping; once more to exit at once", number.name)
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for worker in self._workers.values():
            worker.stop()

    def _exit_code(self, codes: Sequence[int]) -> int:
        if self._killed_by:
            return 128 + self._killed_by
        if USAGE in codes:
            return USAGE
        return 1 if any(code not in (0, ENDED) for code in codes) else 0


class Supervisor(Supervision):
    """Keeps a number of workers alive until a signal.

    The others follow once the first is at work; if the first start fails, nothing else is tried.
    From then on no worker's failure is final: each is started again, and the others run on.

    Args:
        command: what each worker runs.
        count: how many.
    """

    def __init__(self, command: ChildCommand, count: int) -> None:
        super().__init__(command)
        self._count = count

    async def run(self) -> int:
        """Run until every worker has ended. Returns the exit code."""
        with self._signals():
            first = await self._launch(1)
            if not await first.ready():
                return self._exit_code([await first.wait_stopped()])
            others = [self._keep(await self._launch(n)) for n in range(2, self._count + 1)]
            codes = await asyncio.gather(self._keep(first), *others)
        logger.info("all workers have ended")
        return self._exit_code(codes)

    async def _keep(self, worker: Worker) -> int:
        delays = Backoff(FIRST_DELAY, LONGEST_DELAY)
        logger.info("%s started", worker)
        while True:
            code = await worker.wait()
            if self._stopping.is_set():
                return await worker.wait_stopped()
            if code == ENDED:
                logger.info("%s: the app has ended by itself", worker)
                return code
            if worker.age > STEADY:
                delays.reset()
            delay = delays.next()
            logger.error("%s %s; starting it again in %g s", worker, ending(code), delay)
            if await self._stopped_within(delay):
                return 0
            worker = await self._launch(worker.number)
            logger.info("%s started", worker)

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"
