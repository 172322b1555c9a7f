"""Families: what several processes have counted becomes one."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from tidings.contrib.monitor.families import Families, Family, Merge, merged
from tidings.contrib.monitor.health import Health, Probe
from tidings.contrib.monitor.pipe import HEAD, MOST, PipeClient
from tidings.contrib.monitor.processes import ProcessesSource
from tidings.contrib.monitor.prometheus import encode
from tidings.handlers.health import OK
from tidings.stats import Histogram


def counted(handled: int, lag: int = 0, level: int = 0) -> list[Family]:
    families = Families()
    families.counter("done", "Done.", handled, {"listener": "a"})
    families.gauge("lag", "Lag.", lag, merge=Merge.MAX)
    families.gauge("level", "Level.", level, merge=Merge.EACH)
    families.gauge("waiting", "Waiting.", handled)
    families.histogram("seconds", "Seconds.", Histogram((0.5,), (handled, 1), 2.0), {"x": "y"})
    return families.all()


def text(families: list[Family]) -> set[str]:
    return {line for line in encode(families, "")[0].decode().splitlines() if line[0] != "#"}


def test_counts_are_summed_and_what_has_no_sum_stays_apart() -> None:
    assert text(merged({"1": counted(3, 7, 5), "2": counted(4, 7, 6)})) == {
        'done_total{listener="a"} 7.0',
        "lag 7.0",
        'level{process="1"} 5.0',
        'level{process="2"} 6.0',
        "waiting 7.0",
        'seconds_bucket{le="0.5",x="y"} 7.0',
        'seconds_bucket{le="+Inf",x="y"} 9.0',
        'seconds_count{x="y"} 9.0',
        'seconds_sum{x="y"} 4.0',
    }


def test_a_label_of_the_user_with_the_same_name_is_kept() -> None:
    families = Families()
    families.gauge("own", "Own.", 1, {"process": "mine"}, Merge.EACH)
    assert text(merged({"2": families.all()})) == {'own{exported_process="mine",process="2"} 1.0'}


class FakePipe:
    """Answers as the process at the other end would."""

    def __init__(self, handled: int, health: Health | None = None) -> None:
        self.handled: int | None = handled
        self.health = health or Health.of({"running": OK, "loop": OK})

    def ask(self, question: str, answer_type: Any, timeout: float) -> Any:
        if question != "metrics":
            return self.health if self.handled is not None else None
        return None if self.handled is None else counted(self.handled, level=self.handled)


class FakeProcess:
    def __init__(self, number: int, pipe: FakePipe, pid: int = 1) -> None:
        self.number, self.pid, self.is_running = number, pid, True
        self.pipe: Any = pipe


class FakeProcesses:
    is_stopping = False
    has_started = True
    count = 2

    def __init__(self, *processes: FakeProcess) -> None:
        self.processes = list(processes)

    def all(self) -> list[FakeProcess]:
        return self.processes


def done(source: ProcessesSource) -> float:
    return next(
        sample.value
        for family in source.families()
        if family.name == "done"
        for sample in family.samples
    )


def test_the_sum_never_decreases_when_processes_end_and_start_again() -> None:
    first, second = FakeProcess(1, FakePipe(10)), FakeProcess(2, FakePipe(5), pid=2)
    processes = FakeProcesses(first, second)
    source = ProcessesSource(processes)
    assert done(source) == 15
    second.pipe.handled = None  # it does not answer
    assert done(source) == 15
    second.is_running = False  # it has ended
    assert done(source) == 15
    assert not [line for line in text(source.families()) if 'process="2"' in line]
    processes.processes[1] = FakeProcess(2, FakePipe(1), pid=3)  # and is started again
    assert done(source) == 16
    processes.processes[1] = FakeProcess(2, FakePipe(2), pid=4)
    assert done(source) == 18
    assert done(source) == 18


def test_all_processes_must_be_healthy() -> None:
    first, second = FakeProcess(1, FakePipe(1)), FakeProcess(2, FakePipe(1))
    processes = FakeProcesses(first, second)
    source = ProcessesSource(processes)
    assert all(source.health(probe).is_ok for probe in Probe)
    second.pipe.health = Health.of({"running": OK, "loop": "blocked for 11 s"})
    assert source.health(Probe.LIVE).checks["loop"] == "blocked for 11 s (process 2)"
    second.pipe.handled = None
    assert source.health(Probe.LIVE).checks["loop"] == "does not answer (process 2)"
    second.is_running = False  # the supervisor starts it again, so the whole is not dead
    assert source.health(Probe.LIVE).is_ok
    assert source.health(Probe.READY).checks == {"running": "1 of 2 processes"}
    processes.is_stopping = True
    assert source.health(Probe.READY).checks == {"running": "draining"}
    processes.has_started = False
    assert not source.health(Probe.STARTED).is_ok


@pytest.fixture
def ends() -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_an_answer_that_comes_too_late_is_not_taken_for_another(ends: Any) -> None:
    ours, theirs = ends
    client = PipeClient(ours)
    assert client.ask("metrics", str, 0.05) is None
    late, ready = b'"late"', b'"in time"'

    def answer() -> None:
        lines = theirs.makefile("rb")
        assert lines.readline() == b"1 metrics\n"
        assert lines.readline() == b"2 metrics\n"
        for number, body in ((1, late), (2, ready)):
            frame = HEAD.pack(number, len(body)) + body
            theirs.sendall(frame[:7])
            theirs.sendall(frame[7:])

    thread = threading.Thread(target=answer)
    thread.start()
    assert client.ask("metrics", str, 10) == "in time"
    thread.join()


def test_what_is_no_answer_is_none(ends: Any) -> None:
    ours, theirs = ends
    client = PipeClient(ours)
    theirs.sendall(HEAD.pack(1, 4) + b"nope")
    assert client.ask("live", Health, 10) is None
    theirs.sendall(HEAD.pack(2, MOST + 1))
    assert client.ask("live", Health, 10) is None
    theirs.close()
    assert client.ask("live", Health, 10) is None
