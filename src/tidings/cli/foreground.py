"""Runs an app in the process of the command."""

from __future__ import annotations

from collections.abc import Callable

from tidings import internals
from tidings.app import App
from tidings.lifecycle import Run
from tidings.process.runner import MainRun


def foreground(app: App, on_started: Callable[[], None] | None = None) -> MainRun:
    """Prepare a run of an app until a signal. Unlike `app.run()`, it raises what stops the start.

    Args:
        app: the app.
        on_started: called when the app runs.
    """

    async def start() -> Run:
        run = await internals.start(app)
        if on_started is not None:
            on_started()
        return run

    return MainRun(start, drain_timeout=lambda: app.drain_timeout, use_uvloop=app.use_uvloop)
