"""Running an app: in the main thread until a signal, or in a background thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from tidings.errors import (
    ConfigError,
    ConnectionClosedError,
    DrainTimeoutError,
    NotStartedError,
    ThreadStartError,
)
from tidings.log import logger

# Set while a command imports a module whose app it is going to run itself.
importing: ContextVar[bool] = ContextVar("importing", default=False)


class Runnable(Protocol):
    """What a runner needs of an app."""

    async def __aenter__(self) -> Any: ...

    async def wait_stopped(self) -> None: ...

    def begin_disconnect(self) -> asyncio.Task[None]: ...


def run_until_stopped(app: Runnable, *, use_uvloop: bool) -> None:
    """Run an app until SIGTERM, SIGINT or its own end.

    The first signal drains, the second exits at once.

    Raises:
        SystemExit: with 1, when work was abandoned or the connection given up.
        ConfigError: inside a running event loop, or while a command imports the app's module.
    """
    if importing.get():
        raise ConfigError(
            "app.run() while a command imports the module to run the app itself: write it "
            'under `if __name__ == "__main__":`'
        )
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise ConfigError("app.run() inside a running event loop: write `async with app:` there")
    failure: Exception | None = None
    with asyncio.Runner(loop_factory=_loop_factory(use_uvloop)) as runner:
        try:
            runner.run(_serve(app))
        except (DrainTimeoutError, ConnectionClosedError) as error:
            failure = error
    if failure is not None:
        logger.error("%s", failure)
        raise SystemExit(1)


async def _serve(app: Runnable) -> None:
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    started = False
    signals = 0

    def on_signal(number: int) -> None:
        nonlocal signals
        signals += 1
        name = signal.Signals(number).name
        if signals > 1:
            logger.error("%s again: exiting at once", name)
            logging.shutdown()
            os._exit(128 + number)
        if started:
            logger.info("%s: draining; once more to exit at once", name)
            app.begin_disconnect()
        elif starting is not None:
            logger.info("%s while starting", name)
            starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        await app.__aenter__()
    except asyncio.CancelledError:
        if signals:
            return
        raise
    started = True
    if signals:  # an on_startup hook that swallowed its cancellation
        app.begin_disconnect()
    await app.wait_stopped()


class BackgroundRun:
    """An app in a thread of its own, for synchronous programs."""

    def __init__(self, app: Runnable, *, use_uvloop: bool) -> None:
        self._app = app
        self._use_uvloop = use_uvloop
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name="tidings", daemon=True)

    def start(self) -> None:
        """Start, and return when listeners and tasks are at work.

        Raises:
            ThreadStartError: the system refuses the thread.
            ConnectError: no server could be reached, or whatever else stopped the start.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ThreadStartError("the app", str(error)) from None
        try:
            self._started.result()
        except BaseException:  # its own error, or Ctrl-C here while it starts
            self._is_given_up = True
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._give_up)
            self._thread.join()
            raise

    def stop(self) -> None:
        """Drain, close and end the thread.

        Raises:
            DrainTimeoutError: work was abandoned.
            ConnectionClosedError: the connection had been given up.
        """
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: it ended by itself
            self._loop.call_soon_threadsafe(self._begin_disconnect)
        self._thread.join()
        self._ended.result()

    def _give_up(self) -> None:
        if self._started.done():
            self._begin_disconnect()
        elif self._main is not None:
            self._main.cancel()

    def _begin_disconnect(self) -> None:
        with contextlib.suppress(NotStartedError):  # it has ended already
            self._app.begin_disconnect()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory(self._use_uvloop)) as runner:
            self._loop = runner.get_loop()
            try:
                runner.run(self._serve())
            except BaseException as error:  # carried to the thread that waits for it
                if self._started.done():
                    self._ended.set_exception(error)
                else:
                    self._started.set_exception(error)
            else:
                self._ended.set_result(None)

    async def _serve(self) -> None:
        self._main = asyncio.current_task()
        if self._is_given_up:
            raise asyncio.CancelledError
        await self._app.__aenter__()
        self._started.set_result(None)
        await self._app.wait_stopped()


def _loop_factory(use_uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not use_uvloop:
        return None
    try:
        import uvloop  # optional
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
