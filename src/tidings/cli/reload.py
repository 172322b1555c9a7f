"""`tidings run --reload`: one child, drained and started again when a .py file changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from tidings.log import logger

from .child import ENDED
from .supervisor import USAGE, ChildCommand, Supervision, Worker, ending


class Reloader(Supervision):
    """Runs one child and starts it again on every change of its code.

    A child that ends with an error, such as a syntax error, is not started again before the next
    change. A wrong target is final at the first start only.

    Args:
        command: what the child runs.
        folder: the folder to watch, with everything below it.
    """

    def __init__(self, command: ChildCommand, folder: str) -> None:
        super().__init__(command)
        self._folder = folder
        self._restarts = 0

    async def run(self) -> int:
        """Run until a signal, or until the app ends by itself. Returns the exit code."""
        with self._signals():
            changes = self._changes()
            pending = asyncio.create_task(_next(changes))
            await asyncio.sleep(0)  # from here on no change is missed
            logger.info("watching %s for changes of Python files", self._folder)
            while True:
                code = await self._run_until(pending)
                if self._stopping.is_set():
                    break
                logger.info("%s changed: starting again", await pending)
                pending = asyncio.create_task(_next(changes))
                self._restarts += 1
            await pending
        return self._exit_code([code])

    async def _run_until(self, change: asyncio.Task[str]) -> int:
        """Run a child until a change or a stop; returns its exit code."""
        worker = await self._launch(0)
        exited = asyncio.create_task(worker.wait())
        await asyncio.wait([exited, change], return_when=asyncio.FIRST_COMPLETED)
        if not change.done() and not self._stopping.is_set():
            self._judge(await exited, worker)
        await change  # a stop ends it too
        worker.stop()
        return await worker.wait_stopped()

    def _judge(self, code: int, worker: Worker) -> None:
        """Stop if the app has ended by itself, or its very first start shows a wrong target."""
        is_first_start = not self._restarts and not worker.has_run
        if code == ENDED or (code == USAGE and is_first_start):
            self._stop()
        else:
            logger.error("the app %s; waiting for a change", ending(code))

    async def _changes(self) -> AsyncIterator[str]:
        from watchfiles import PythonFilter, awatch  # only this option needs it

        watch = awatch(self._folder, watch_filter=PythonFilter(), stop_event=self._stopping)
        async for changes in watch:
            names = sorted({path.removeprefix(f"{self._folder}{os.sep}") for _, path in changes})
            yield ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


async def _next(changes: AsyncIterator[str]) -> str:
    """The next change; "" where watching has ended."""
    async for names in changes:
        return names
    return ""
