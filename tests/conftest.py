"""What the whole suite shares. The fixture `nats_server` comes from tidings' own pytest plugin."""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.apps import QUICK
from support.command import call, start, write  # noqa: F401 - fixtures
from support.contexts import write_context  # noqa: F401 - a fixture
from support.locked import locked  # noqa: F401 - a fixture
from support.process import Program
from tidings import App
from tidings.jetstream import Stream
from tidings.server import NATSServer

_numbers = itertools.count(1)

# The same examples in each run, so that a failure is one of the change. For new examples, pass
# --hypothesis-profile=default. And a busy machine is no fault of a test.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

# A shell's background job ignores SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def subject() -> str:
    """A subject that no other test uses."""
    return f"test.{next(_numbers)}"


@pytest.fixture
def stream() -> Stream:
    """A stream that no other test uses; its subjects begin with its name."""
    name = f"S{next(_numbers)}"
    return Stream(name, subjects=[f"{name}.>"], storage="memory")


@pytest.fixture
def server() -> Iterator[NATSServer]:
    """A nats-server of the test's own, to kill, pause and restart."""
    with NATSServer() as own:
        yield own


@pytest.fixture
def make_app() -> Callable[..., App]:
    """Make an app that notices faults quickly; `servers` is a URL or anything with one."""

    def make(servers: Any, name: str = "faulty", **options: Any) -> App:
        url = getattr(servers, "url", servers)
        return App(name, servers=url, **{**QUICK, **options})

    return make


@pytest.fixture
def run_program(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Starts a script that finds the test's own server in $NATS_URL, if no other is given."""
    with contextlib.ExitStack() as stack:

        def start(source: str, **environment: str) -> Program:
            if "NATS_URL" not in environment:
                environment["NATS_URL"] = request.getfixturevalue("server").url
            program = Program(source, tmp_path / f"p{time.monotonic_ns()}.py", **environment)
            stack.callback(program.close)
            return program

        yield start
