"""The parent's side of a supervised run: keeps the processes of one app alive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from tidings.concurrency.backoff import Backoff
from tidings.contrib.monitor.pipe import PipeClient
from tidings.errors import ConfigError
from tidings.log import logger
from tidings.process.runner import END_GRACE
from tidings.process.signals import Request, StopRequests, stop_signals
from tidings.process.systemd import Notifier
from tidings.transport.sources import Source

from .child import (
    ALIVE,
    BEAT,
    DEV,
    ENDED,
    FLAGS,
    LEVEL_CONFIGURED,
    LEVEL_DEBUG,
    LIFELINE,
    LOADED,
    MONITOR,
    OVERVIEW,
    RUNNING,
    SERVERS,
    STOP,
    WORKER,
)
from .log_level import switch
from .monitoring import NOTHING, Monitoring, ProcessesMonitor
from .overview import Overview

# Gets the overview of an app from each of its processes that has started.
Present = Callable[[Overview], None]

USAGE = 2
FIRST_DELAY = 0.5  # seconds before a process that died is started again
LONGEST_DELAY = 30.0
# A child ends by itself within its own limits. After so many more seconds it is killed.
KILL_GRACE = 0.15
LISTEN_GRACE = 0.1  # seconds to read what a child wrote before it ended
# Keep-alives of a child in a row that may be missing. The supervisor looks as often as the child
# sends them: twice in each period of systemd's watchdog.
MISSING = 2
# If a process has run for this many seconds, the next delay is FIRST_DELAY.
STEADY = 10.0


@dataclass(frozen=True, kw_only=True)
class ChildCommand:
    """How to start a child.

    Attributes:
        target: `module:app`.
        options: further arguments of `tidings run`.
        servers: URLs that replace the app's own, comma-separated; "" for none. With them, the
            environment and contexts do not count.
        flags: the flags of the connection.
        is_dev: the servers are the one of --dev.
        cwd: working directory of the child; None for the current one.
        beat: seconds between two keep-alives of the child; 0 for none.
        monitoring: what the supervisor will ask the child about.
    """

    target: str
    options: Sequence[str] = ()
    servers: str = ""
    flags: Source | None = None
    is_dev: bool = False
    cwd: str | os.PathLike[str] | None = None
    beat: float = 0.0
    monitoring: Monitoring = NOTHING

    @property
    def arguments(self) -> list[str]:
        """The command line. -P keeps the current folder off the path, because the child must not
        import a user's `signal.py` instead of Python's."""
        return [sys.executable, "-P", "-m", "tidings", "run", self.target, *self.options]

    def environment(self, lifeline: int, pipe: socket.socket, number: int) -> dict[str, str]:
        """Build the child's environment; `number` is 0 for the only child."""
        own = {LIFELINE: str(lifeline)}
        self.monitoring.tell(own, pipe)
        if self.servers:
            own[SERVERS] = self.servers
        if self.flags is not None:
            own[FLAGS] = json.dumps(self.flags.options)
        if self.is_dev:
            own[DEV] = "1"
        if number:
            own[WORKER] = str(number)
        if self.beat:
            own[BEAT] = str(self.beat)
        return {**os.environ, **own}


class Worker:
    """One child process.

    Args:
        process: the process.
        lifeline: the parent's end of the socket that parent and child share.
        pipe: asks the child about its health and metrics.
        number: number of the child, from 1; 0 for the only child.
        present: gets the overview of the app when it runs.
        on_running: called when the app runs.
        on_monitor: gets the address of the app's own monitor.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        lifeline: socket.socket,
        pipe: PipeClient,
        number: int,
        present: Present | None,
        on_running: Callable[[], object],
        on_monitor: Callable[[str], object],
    ) -> None:
        self._process = process
        self._present = present
        self._lifeline = lifeline
        self._started = time.monotonic()
        self._exit = asyncio.ensure_future(process.wait())
        self._listening = asyncio.ensure_future(self._listen())
        self._runs = asyncio.Event()
        self._on_running, self._on_monitor = on_running, on_monitor
        self._missing = 0  # keep-alives in a row that did not arrive
        self._drain_timeout = 0.0  # until the child reports it, it has nothing to drain
        self._killing: asyncio.TimerHandle | None = None
        self.number, self.pipe = number, pipe

    @classmethod
    async def start(
        cls,
        command: ChildCommand,
        number: int = 0,
        stderr: int | None = None,
        present: Present | None = None,
        on_running: Callable[[], object] = bool,
        on_monitor: Callable[[str], object] = str,
    ) -> Worker:
        """Start a child in its own session, so that Ctrl-C in a terminal reaches only the parent.

        Args:
            command: the command to start.
            number: number of the child.
            stderr: file descriptor for the child's log.
            present: gets the overview of the app when it runs.
            on_running: called when the child's app runs.
            on_monitor: gets the address of the app's own monitor.
        """
        ours, theirs = socket.socketpair()
        asking, answering = socket.socketpair()
        with theirs, answering:
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                env=command.environment(theirs.fileno(), answering, number),
                cwd=command.cwd,
                pass_fds=[theirs.fileno(), answering.fileno()],
                start_new_session=True,
            )
        ours.setblocking(False)
        return cls(process, ours, PipeClient(asking), number, present, on_running, on_monitor)

    async def _listen(self) -> None:
        loop, said = asyncio.get_running_loop(), b""
        with contextlib.suppress(OSError):
            while word := await loop.sock_recv(self._lifeline, 4096):
                *lines, said = (said + word).split(b"\n")
                for line in lines:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        if line.startswith(LOADED):
            self._drain_timeout = float(line.removeprefix(LOADED))
        elif line.startswith(OVERVIEW) and self._present is not None:
            self._present(msgspec.json.decode(line.removeprefix(OVERVIEW), type=Overview))
        elif line.startswith(MONITOR):
            self._on_monitor(line.removeprefix(MONITOR).decode().strip())
        elif line == RUNNING:
            self._runs.set()
            self._on_running()
        elif line == ALIVE:
            self._missing = 0

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since the start of the child."""
        return time.monotonic() - self._started

    @property
    def has_run(self) -> bool:
        """Whether the app has reported that it runs."""
        return self._runs.is_set()

    @property
    def is_running(self) -> bool:
        """Whether the app runs, as far as is known."""
        return self.has_run and not self._exit.done()

    def check(self, seconds: float) -> None:
        """Kill the child if something has blocked its event loop. Call it once for each keep-alive
        that is due.

        Args:
            seconds: seconds between two keep-alives.
        """
        if not self.is_running or self._killing is not None:
            return
        if self._missing > MISSING:
            logger.error(
                "%s has blocked its event loop for more than %g s: killing it",
                *(self, MISSING * seconds),
            )
            self.signal(signal.SIGKILL)
        self._missing += 1

    async def ready(self) -> bool:
        """Wait until the app runs. Returns False if the child ended before that."""
        runs = asyncio.ensure_future(self._runs.wait())
        await asyncio.wait([runs, self._exit], return_when=asyncio.FIRST_COMPLETED)
        runs.cancel()
        return self.has_run

    async def wait(self) -> int:
        """Wait until the child has ended. Returns its exit code, negative for a signal."""
        code = await asyncio.shield(self._exit)
        if self._killing is not None:
            self._killing.cancel()
        # Its last lines may be unread. The wait is limited, because a process that the child forked
        # can keep the socket open.
        await asyncio.wait([self._listening], timeout=LISTEN_GRACE)
        self._listening.cancel()
        # The loop must release the socket before it is closed, because its number can be reused.
        await asyncio.wait([self._listening])
        self._lifeline.close()
        self.pipe.close()
        return code

    async def wait_stopped(self) -> int:
        """Like `wait`, but return 0 if `stop` ended a child whose app did not run yet: it had no
        work to abandon."""
        code = await self.wait()
        return 0 if self._killing is not None and not self.has_run else code

    def stop(self) -> None:
        """Ask the child to drain and end, and kill it if it does not. Can be called twice."""
        if self._exit.done():
            return
        with contextlib.suppress(OSError):
            self._lifeline.send(b"%b\n" % STOP)
            self._lifeline.shutdown(socket.SHUT_WR)
        if self._killing is None:
            patience = self._drain_timeout + END_GRACE + KILL_GRACE
            self._killing = asyncio.get_running_loop().call_later(patience, self._kill)

    def set_level(self, debug: bool) -> None:
        """Switch the log of the child to DEBUG, or back."""
        with contextlib.suppress(OSError):  # it has ended
            self._lifeline.send(b"%b\n" % (LEVEL_DEBUG if debug else LEVEL_CONFIGURED))

    def _kill(self) -> None:
        logger.error("%s did not end in time: killing it", self)
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send the child a signal if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def __str__(self) -> str:
        return f"process {self.number} (pid {self.pid})"


class Supervision:
    """Base of the two supervisors: children, and the signals for all of them.

    Args:
        command: the command that starts a child.
        present: gets the overview of the app at the start, and again if it has changed.
    """

    def __init__(self, command: ChildCommand, present: Present) -> None:
        self._notifier = Notifier.take()
        self._beat = self._notifier.watchdog / 2
        self._is_ready = False
        self._count = 1
        self._command = replace(command, beat=self._beat)
        self._present = present
        self._presented: Overview | None = None
        self._workers: dict[int, Worker] = {}
        self._stopping = asyncio.Event()
        self._requests = StopRequests()
        self._killed_by = 0
        self._has_wrong_monitor = False
        self._monitor = ProcessesMonitor(self, command.monitoring)

    # What the monitor asks, in threads of its own.

    @property
    def is_stopping(self) -> bool:
        """Whether the processes were asked to end."""
        return self._stopping.is_set()

    @property
    def has_started(self) -> bool:
        """Whether all processes have run at the same time."""
        return self._is_ready

    @property
    def count(self) -> int:
        """How many processes there should be."""
        return self._count

    def all(self) -> list[Worker]:
        """Return the processes."""
        return list(self._workers.values())

    async def _launch(self, number: int) -> Worker:
        worker = await Worker.start(
            self._command,
            number,
            present=self._present_once,
            on_running=self._notify,
            on_monitor=self._serve_monitor,
        )
        self._workers[number] = worker
        if switch.is_debug:
            worker.set_level(debug=True)
        if self._killed_by:  # the signals arrived while the process was created
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
        loop.add_signal_handler(signal.SIGUSR1, self._on_level_signal)
        try:
            self._monitor.open()
            yield
        finally:
            self._monitor.close()
            for number in (*handled, signal.SIGUSR1):
                loop.remove_signal_handler(number)

    def _serve_monitor(self, address: str) -> None:
        """Serve all processes on the address that the app names."""
        try:
            self._monitor.use(address)
        except ConfigError as error:
            logger.error("%s", error)
            self._has_wrong_monitor = True
            self._stop()

    def _present_once(self, overview: Overview) -> None:
        if overview != self._presented:
            self._presented = overview
            self._present(overview)

    def _on_level_signal(self) -> None:
        switch.toggle()
        for worker in self._workers.values():
            worker.set_level(switch.is_debug)

    def _on_signal(self, number: signal.Signals) -> None:
        request = self._requests.add()
        if request is Request.FORCE:
            logger.error("%s again: killing the processes that still run", number.name)
            self._killed_by = number
            for worker in self._workers.values():
                worker.signal(signal.SIGKILL)
        elif request is Request.STOP:
            logger.info("%s: stopping; a second signal exits at once", number.name)
            self._stop()

    def _notify(self) -> None:
        """Tell systemd how many processes run. The service is ready when all of them do."""
        running = sum(worker.is_running for worker in self._workers.values())
        status = f"{running} of {self._count} processes are running"
        if self._stopping.is_set():
            return
        if running == self._count and not self._is_ready:
            self._is_ready = True
            self._notifier.ready(status, main_pid=os.getpid())
            self._notifier.keep_alive(self._check)
        else:
            self._notifier.status(status)

    def _check(self) -> None:
        for worker in self._workers.values():
            worker.check(self._beat)

    def _stop(self) -> None:
        self._notifier.stopping()
        self._stopping.set()
        for worker in self._workers.values():
            worker.stop()

    def _exit_code(self, codes: Sequence[int]) -> int:
        if self._killed_by:
            return 128 + self._killed_by
        if USAGE in codes or self._has_wrong_monitor:
            return USAGE
        return 1 if any(code not in (0, ENDED) for code in codes) else 0


class Supervisor(Supervision):
    """Keeps a number of processes alive until a signal.

    It starts one process first. If that start fails, it gives up. When the app of the first process
    runs, it starts the others. From then on it restarts each process that dies, while the others
    run on.

    Args:
        command: the command that starts each process.
        count: number of processes.
        present: as for `Supervision`.
    """

    def __init__(self, command: ChildCommand, count: int, present: Present) -> None:
        super().__init__(command, present)
        self._count = count

    async def run(self) -> int:
        """Run until every process has ended, and return the exit code."""
        with self._signals():
            first = await self._launch(1)
            if not await first.ready():
                return self._exit_code([await first.wait_stopped()])
            others = [self._keep(await self._launch(n)) for n in range(2, self._count + 1)]
            codes = await asyncio.gather(self._keep(first), *others)
        logger.info("all processes have ended")
        return self._exit_code(codes)

    async def _keep(self, worker: Worker) -> int:
        delays = Backoff(FIRST_DELAY, LONGEST_DELAY)
        logger.info("%s started", worker)
        while True:
            code = await worker.wait()
            self._notify()
            if self._stopping.is_set():
                return await worker.wait_stopped()
            if code == ENDED:
                logger.info("%s: the app has disconnected", worker)
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
    """Describe in words how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"
