"""Programs of others, which the tests start: JavaScript, and the official command lines."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.adder import adding
from support.process import Process
from tidings import App

# The npm packages: `npm install` in this folder, or their folder in $TIDINGS_NODE_MODULES.
SCRIPTS = Path(__file__).parent
MODULES = Path(os.environ.get("TIDINGS_NODE_MODULES") or SCRIPTS / "node_modules")

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"interop-{next(_numbers)}"


@pytest.fixture
async def adder(
    nats_server: Any, make_app: Callable[..., App], name: str, subject: str
) -> AsyncIterator[App]:
    """An app with one endpoint, that has answered one request and failed with another."""
    app = make_app(nats_server, name, version="1.2.0", description="adds")
    async with adding(app, subject):
        yield app


@pytest.fixture
def start(nats_server: Any, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a program, if it is installed, with the server in $NATS_URL and in its context."""
    contexts = tmp_path / "nats" / "context"
    contexts.mkdir(parents=True)
    (contexts / "test.json").write_text(json.dumps({"url": nats_server.url}))
    (tmp_path / "nats" / "context.txt").write_text("test")
    environment = {"NATS_URL": nats_server.url, "XDG_CONFIG_HOME": str(tmp_path)}
    processes: list[Process] = []

    def start(program: str, *arguments: str, **options: Any) -> Process:
        found = shutil.which(program)
        if found is None:
            pytest.skip(f"{program} is not installed")
        command = [found, *arguments]
        processes.append(Process(command, env={**os.environ, **environment}, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def node(start: Callable[..., Process], tmp_path: Path) -> Callable[..., Process]:
    """Starts a JavaScript program of this folder, if Node and the packages are installed."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    for package in ("services", "jetstream", "kv", "obj"):
        if not (MODULES / "@nats-io" / package).is_dir():
            pytest.skip("npm packages are missing: run npm install in tests/interop")
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())

    def run(script: str, *arguments: str) -> Process:
        shutil.copy(SCRIPTS / script, tmp_path / script)
        return start("node", str(tmp_path / script), *arguments)

    return run


@pytest.fixture
def node_json(node: Callable[..., Process]) -> Callable[..., Awaitable[Any]]:
    """Runs a JavaScript program to its end, and returns what it printed."""

    async def run(script: str, *arguments: str) -> Any:
        process = node(script, *arguments)
        assert await asyncio.to_thread(process.wait) == 0, process.text
        out = "".join(process.out)
        return json.loads(out) if out else None

    return run


@pytest.fixture
def run(start: Callable[..., Process]) -> Callable[..., Awaitable[str]]:
    """Runs a program to its end, and returns what it printed."""

    async def run(*command: str) -> str:
        process = start(*command)
        assert await asyncio.to_thread(process.wait) == 0, process.text
        return process.text

    return run
