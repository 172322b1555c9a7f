"""`tidings run --reload`: drains one child and starts it again when a .py file changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from tidings.log import logger

from .child import ENDED
from .supervisor import USAGE, ChildCommand, Present, Supervision, Worker, ending


class Reloader(Supervision):
    """Runs one child and starts it again after every change of its code.

    If the child ends with an error, such as a syntax error, it is started again after the next
    change. A wrong target ends the run only if no child has run before.

    Args:
        command: the command that starts the child.
        folder: folder to watch, including its subfolders.
        present: as for `Supervision`.
    """

    def __init__(self, command: ChildCommand, folder: str, present: Present) -> None:
        super().__init__(command, present)
        self._folder = folder
        self._restarts = 0

    async def run(self) -> int:
        """Run until a signal, or until the app disconnects, and return the exit code."""
        with self._signals():
            changes = self._changes()
            pending = asyncio.create_task(_next(changes))
            await asyncio.sleep(0)  # from now on it sees every change
            logger.info("watching the Python files in %s", self._folder)
            while True:
                code = await self._run_until(pending)
                if self._stopping.is_set():
                    break
                logger.info("%s changed: restarting", await pending)
                pending = asyncio.create_task(_next(changes))
                self._restarts += 1
            await pending
        return self._exit_code([code])

    async def _run_until(self, change: asyncio.Task[str]) -> int:
        """Run a child until a change or a stop, and return its exit code."""
        worker = await self._launch(0)
        exited = asyncio.create_task(worker.wait())
        await asyncio.wait([exited, change], return_when=asyncio.FIRST_COMPLETED)
        if not change.done() and not self._stopping.is_set():
            self._judge(await exited, worker)
        await change  # a stop also ends this wait
        worker.stop()
        return await worker.wait_stopped()

    def _judge(self, code: int, worker: Worker) -> None:
        """Stop if the app has disconnected, or if the very first start found a wrong target."""
        is_first_start = not self._restarts and not worker.has_run
        if code == ENDED or (code == USAGE and is_first_start):
            self._stop()
        else:
            logger.error("the app %s; waiting for a change of its code", ending(code))

    async def _changes(self) -> AsyncIterator[str]:
        from watchfiles import PythonFilter, awatch  # an optional dependency, needed here only

        watch = awatch(self._folder, watch_filter=PythonFilter(), stop_event=self._stopping)
        async for changes in watch:
            names = sorted({path.removeprefix(f"{self._folder}{os.sep}") for _, path in changes})
            yield ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


async def _next(changes: AsyncIterator[str]) -> str:
    """Return the names of the next changed files, or "" if watching has ended."""
    async for names in changes:
        return names
    return ""
