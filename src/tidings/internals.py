"""The internals of an app, for the command line and the test client. Users need none of them."""

from __future__ import annotations

from tidings.app import App
from tidings.launch import Launch
from tidings.lifecycle import Run
from tidings.plan import Plan


def launch_of(app: App) -> Launch:
    """Return how an app is run, to be changed before it starts."""
    return app._launch


def plan_of(app: App) -> Plan:
    """Return what an app has declared up to now."""
    return app._plan(app._launch.connection.arguments)


def run_of(app: App) -> Run | None:
    """Return the run of an app; None if it does not run."""
    return app._run


async def start(app: App) -> Run:
    """Start an app in the running event loop, as `App.connect` does, and return the run.

    Raises:
        ConfigError: the app has started already and has not ended yet.
        Exception: whatever else stopped the start.
    """
    return await app._start()
