"""The default executor of an app: it does its work and never keeps the process from ending."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Iterator

import pytest

from support.waits import PATIENCE, until
from tidings.process.executor import THREADS, DaemonExecutor


@pytest.fixture
def executor() -> Iterator[DaemonExecutor]:
    executor = DaemonExecutor()
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)


def test_it_hands_on_results_and_errors_of_any_kind(executor: DaemonExecutor) -> None:
    assert executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
    for kind in (LookupError, SystemExit, KeyboardInterrupt):
        with pytest.raises(kind):
            executor.submit(_raise, kind).result(PATIENCE)
    assert executor.submit(threading.current_thread).result(PATIENCE).daemon
    assert list(executor.map(abs, [-1, -2, -3])) == [1, 2, 3]


def _raise(kind: type[BaseException]) -> None:
    raise kind


def test_calls_run_beside_each_other_up_to_a_bound(executor: DaemonExecutor) -> None:
    release = threading.Event()
    futures = [executor.submit(release.wait, PATIENCE) for _ in range(THREADS + 1)]
    assert executor.unfinished == THREADS + 1
    deadline = time.monotonic() + PATIENCE
    while sum(future.running() for future in futures) < THREADS:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert not futures[-1].running()
    release.set()
    assert all(future.result(PATIENCE) for future in futures)


def test_a_call_that_is_cancelled_while_it_waits_does_not_run(executor: DaemonExecutor) -> None:
    release, ran = threading.Event(), []
    for _ in range(THREADS):
        executor.submit(release.wait, PATIENCE)
    waiting = executor.submit(ran.append, "ran")
    assert waiting.cancel()
    release.set()
    executor.shutdown(wait=True)
    assert ran == []
    assert executor.unfinished == 0


def test_it_takes_nothing_after_its_end(executor: DaemonExecutor) -> None:
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(int)


def test_without_a_thread_it_says_so_and_with_one_it_goes_on(
    executor: DaemonExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            executor.submit(int)
    assert executor.unfinished == 0
    release = threading.Event()
    executor.submit(release.wait, PATIENCE)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    second = executor.submit(int)
    release.set()
    assert second.result(PATIENCE) == 0


async def test_a_loop_takes_it_and_waits_for_it_up_to_a_limit(executor: DaemonExecutor) -> None:
    asyncio.get_running_loop().set_default_executor(executor)
    assert await asyncio.to_thread(int, "7") == 7
    release = threading.Event()
    blocked = asyncio.ensure_future(asyncio.to_thread(release.wait, PATIENCE))
    await until(lambda: executor.unfinished)
    await executor.finish(0.05)
    assert executor.unfinished == 1
    release.set()
    await executor.finish(PATIENCE)
    assert executor.unfinished == 0
    assert await blocked
    assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
