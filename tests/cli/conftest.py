"""What the tests of the command line share: a service to run in several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]

SERVICE = """
import asyncio
import os
from tidings import App

app = App(service_name="many hands", drain_timeout=DRAIN)


@app.listen("SUBJECT.who")
async def who(msg):
    return {"pid": os.getpid()}


@app.listen("SUBJECT.slow")
async def slow(msg):
    print("begun\\n", end="", flush=True)  # one write: other workers print, too
    await asyncio.sleep(SECONDS)
    return {"pid": os.getpid()}


@app.listen("SUBJECT.all", queue="")
async def every(msg):
    print(f"told {os.getpid()}\\n", end="", flush=True)
"""


@pytest.fixture
def service(write: Write) -> Write:
    """Writes the service above."""

    def service(drain: float = 10, seconds: float = 0.3) -> Path:
        return write(SERVICE.replace("DRAIN", str(drain)).replace("SECONDS", str(seconds)))

    return service
