"""Runs an app in the main thread until a signal arrives, or in a background thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from tidings.errors import (
    ConfigError,
    ConnectError,
    ConnectionClosedError,
    DrainTimeoutError,
    ThreadStartError,
)
from tidings.lifecycle import Run, State
from tidings.log import logger
from tidings.process.exits import bound_exit, stack_of
from tidings.process.loops import LoopRun
from tidings.process.signals import StopSignals
from tidings.process.systemd import Notifier

# True while a command imports the module of an app that the command will run.
importing: ContextVar[bool] = ContextVar("importing", default=False)

# Seconds after the drain timeout until the process is ended by force. This is the time for
# cancelled work, for the on_shutdown functions and for the cleanup of the loop.
END_GRACE = 1.75

Start = Callable[[], Awaitable[Run]]  # starts an app


def run_program(start: Start, *, drain_timeout: Callable[[], float], use_uvloop: bool) -> None:
    """Run an app as the whole of a program: `MainRun`, with a line for its user.

    A program that has not configured logging would start without a word. It gets one line on
    standard error instead. If no server can be reached, that is one line, too.

    Args:
        start: as for `MainRun`.
        drain_timeout: as for `MainRun`.
        use_uvloop: as for `MainRun`.

    Raises:
        SystemExit: with 1, if no server could be reached, work was abandoned or the connection was
            given up.
        ConfigError: as for `MainRun`.
    """

    async def start_and_say() -> Run:
        run = await start()
        if not main.was_stopped and not logger.has_handlers():
            _say(f"{run.headline()}. Ctrl-C stops it.")
        return run

    main = MainRun(start_and_say, drain_timeout=drain_timeout, use_uvloop=use_uvloop)
    try:
        main.run()
    except ConnectError as error:
        if getattr(error, "__notes__", None):  # a hook of the program raised it
            raise
        logger.error("%s", error)  # without any handler, Python writes it to standard error
        raise SystemExit(1) from None


def _say(line: str) -> None:
    """Write a line to standard error, which may be closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class MainRun:
    """Runs an app in the main thread until a signal, `stop` or the app's own end.

    Args:
        start: starts the app.
        drain_timeout: returns the drain timeout of the app, in seconds. The start may change it.
        use_uvloop: use uvloop if it is installed.

    Raises:
        ConfigError: if an event loop is running, if this is not the main thread, or if a command
            is importing the app's module.
    """

    def __init__(
        self, start: Start, *, drain_timeout: Callable[[], float], use_uvloop: bool
    ) -> None:
        _check_place()
        self._start = start
        self._drain_timeout = drain_timeout
        self._use_uvloop = use_uvloop
        self._signals = StopSignals(self._on_signal, self._give_up, self._patience)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[Any] | None = None
        self._run: Run | None = None  # once it has started
        self._stop_asked = threading.Event()
        self._has_failed = False
        self._notifier = Notifier()

    def run(self) -> None:
        """Run the app until it ends.

        The first signal drains. A second one, at least a second later, exits at once. The process
        ends at most `drain_timeout` and `END_GRACE` after the first signal, whatever blocks.

        Raises:
            SystemExit: with 1, if work was abandoned or the connection was given up.
        """
        self._notifier = Notifier.take()
        with self._signals:
            self._run_loop()
        if self._has_failed or self._signals.asked_at is not None:
            bound_exit(self._patience() - self._signals.seconds_since())
        if self._has_failed:
            raise SystemExit(1)

    @property
    def was_stopped(self) -> bool:
        """Whether a signal or `stop` ended the app, and not the app itself."""
        return self._stop_asked.is_set()

    def stop(self, why: str) -> None:
        """Drain and end the app, like the first signal. Any thread may call this.

        Args:
            why: the reason, for the log.
        """
        self._signals.ask()
        self._stop_asked.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._begin_end, why)

    def _run_loop(self) -> None:
        loop_run = LoopRun(use_uvloop=self._use_uvloop)
        self._loop = loop_run.loop
        left = loop_run.run(self._serve_and_log, self._seconds_left)
        if left and not self._has_failed:
            self._has_failed = True
            logger.error("%s", DrainTimeoutError(self._drain_timeout(), 0, 0, left))

    async def _serve_and_log(self) -> None:
        """Run the app, and log a failure before the loop is cleaned up."""
        try:
            await self._serve()
        except (DrainTimeoutError, ConnectionClosedError) as error:
            self._has_failed = True
            logger.error("%s", error)

    async def _serve(self) -> None:
        self._signals.join_loop()
        self._starting = asyncio.current_task()
        try:
            if self._stop_asked.is_set():
                return
            self._notifier.status("starting")
            self._run = await self._start()
        except asyncio.CancelledError:
            if self._stop_asked.is_set():
                return
            raise
        self._signals.join_loop()  # an on_startup hook may have added signal handlers
        if self._stop_asked.is_set():  # an on_startup hook swallowed its cancellation
            self._run.begin_end()
        self._notify(self._run)
        await self._run.wait_stopped()

    def _notify(self, run: Run) -> None:
        """Tell systemd about the run from now on."""

        def status() -> str:
            url = run.connection.url
            return f"connected to {url}" if url else run.connection.state

        def report() -> None:
            if run.state is State.DRAINING:
                self._notifier.stopping()
            elif run.state is State.RUNNING:
                self._notifier.status(status())

        self._notifier.ready(status())
        self._notifier.keep_alive()
        run.observe(report)

    def _patience(self) -> float:
        return self._drain_timeout() + END_GRACE

    def _on_signal(self, number: signal.Signals) -> None:
        self.stop(number.name)

    def _begin_end(self, why: str) -> None:
        if self._run is not None:
            logger.info("%s: draining; send a second signal to exit at once", why)
            self._run.begin_end()
        elif self._starting is not None:
            logger.info("%s during the start: stopping", why)
            self._starting.cancel()

    def _seconds_left(self) -> float:
        """Return the seconds that are left of the drain timeout."""
        return 0 if self._has_failed else self._drain_timeout() - self._signals.seconds_since()

    def _give_up(self) -> str:
        where = _blocked_at(threading.main_thread().ident)
        if self._run is None:
            return f"the start did not end after it was cancelled; {where}"
        return str(DrainTimeoutError(self._drain_timeout(), *self._run.unfinished(), where))


def _check_place() -> None:
    if importing.get():
        raise ConfigError(
            "app.run() was called while a command imports the module to run the app itself. Write "
            'the call under `if __name__ == "__main__":`'
        )
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise ConfigError(
            "app.run() was called inside a running event loop. Write `async with app:` there, or "
            "`await app.connect()` in a notebook"
        )


def _blocked_at(thread: int | None) -> str:
    """Say where the event loop is blocked: in one line, as the errors of tidings are."""
    frames = [line.strip() for line in reversed(stack_of(thread).splitlines())]
    return f"the thread of the event loop is at {', called from '.join(frames)}"


class BackgroundRun:
    """Runs an app in a background thread, for synchronous programs.

    Args:
        start: starts the app.
        drain_timeout: returns the drain timeout of the app, in seconds.
        use_uvloop: use uvloop if it is installed.
    """

    def __init__(
        self, start: Start, *, drain_timeout: Callable[[], float], use_uvloop: bool
    ) -> None:
        self._start = start
        self._drain_timeout = drain_timeout
        self._use_uvloop = use_uvloop
        self._run: Run | None = None  # once it has started
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._is_given_up = False
        self._asked_at: float | None = None
        self._thread = threading.Thread(target=self._run_thread, name="tidings", daemon=True)

    def start(self) -> None:
        """Start the app, and return when its listeners and tasks are running.

        Raises:
            ThreadStartError: if the system refuses to start the thread.
            ConnectError: if no server could be reached. Any other error that stops the start is
                raised too.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ThreadStartError("the app", str(error)) from None
        try:
            self._started.result()
        except BaseException:  # an error of the start, or Ctrl-C in this thread
            self._is_given_up = True
            self._begin_end(self._give_up)
            self._thread.join(self._drain_timeout() + END_GRACE)
            raise

    def stop(self) -> None:
        """Drain and close the app, and end its thread.

        Raises:
            DrainTimeoutError: if work was abandoned or the event loop is blocked. A blocked thread
                is left behind; it does not keep the process alive.
            ConnectionClosedError: if the app had given up reconnecting.
        """
        self._begin_end(self._give_up)
        timeout = self._drain_timeout()
        self._thread.join(timeout + END_GRACE)
        if self._thread.is_alive():
            unfinished = (0, 0) if self._run is None else self._run.unfinished()
            raise DrainTimeoutError(timeout, *unfinished, _blocked_at(self._thread.ident))
        self._ended.result()

    def _begin_end(self, how: Callable[[], None]) -> None:
        self._asked_at = time.monotonic()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the app has ended
                self._loop.call_soon_threadsafe(how)

    def _give_up(self) -> None:
        if self._run is not None:
            self._run.begin_end()
        elif self._main is not None:
            self._main.cancel()

    def _run_thread(self) -> None:
        try:
            loop_run = LoopRun(use_uvloop=self._use_uvloop)
            self._loop = loop_run.loop
            if left := loop_run.run(self._serve, self._seconds_left):
                raise DrainTimeoutError(self._drain_timeout(), 0, 0, left)
        except BaseException as error:  # the waiting thread raises it
            if self._started.done():
                self._ended.set_exception(error)
            else:
                self._started.set_exception(error)
        else:
            self._ended.set_result(None)

    def _seconds_left(self) -> float:
        """Return the seconds that are left of the drain timeout."""
        since = time.monotonic() - self._asked_at if self._asked_at is not None else 0
        return self._drain_timeout() - since

    async def _serve(self) -> None:
        self._main = asyncio.current_task()
        if self._is_given_up:
            raise asyncio.CancelledError
        self._run = await self._start()
        self._started.set_result(None)
        await self._run.wait_stopped()
