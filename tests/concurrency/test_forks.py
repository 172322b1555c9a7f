"""Forks: a child process never uses its parent's connection, is told so at once, and may run the
app itself. The parent notices nothing."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from tidings.testing import NATSServer

PROGRAM = """
import asyncio, os, signal, sys, threading, time
from tidings import App, ForkedError, Stream, TidingsError

app = App("forking", servers=os.environ["NATS_URL"], use_uvloop=USE_UVLOOP,
          streams=[Stream("STREAM", subjects=["SUBJECT.stored.>"])])
bucket = app.js.key_value("STREAM", type=int)
got = []

@app.listen("SUBJECT.ask")
async def answer(msg):
    return {"pid": os.getpid()}

@app.listen("SUBJECT.told", data_type=str)
async def told(msg):
    got.append(msg.data)

def in_child(work):
    '''Fork, run `work` in the child, and return the child's exit code.'''
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException as error:
            print("child:", type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return "hung"

def raises_at_once(call):
    began = time.monotonic()
    try:
        result = call()
        if asyncio.iscoroutine(result):
            asyncio.run(result)
    except ForkedError as error:
        assert "Start the app in the child" in str(error), error
        assert time.monotonic() - began < 5
    else:
        raise AssertionError(f"nothing raised by {call}")
"""

Run = Callable[..., str]


@pytest.fixture
def run(nats_server: NATSServer, subject: str) -> Run:
    """Run a program, after what is above, and return what it printed."""

    def run(source: str, use_uvloop: bool = False, clean: bool = True) -> str:
        program = PROGRAM + textwrap.dedent(source)
        names = {"SUBJECT": subject, "STREAM": subject.replace(".", "-")}
        for name, value in {**names, "USE_UVLOOP": str(use_uvloop)}.items():
            program = program.replace(name, value)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NATS_URL": nats_server.url},
            capture_output=True,
            text=True,
            timeout=30,
        )
        output = done.stdout + done.stderr
        assert done.returncode == 0, output
        assert not clean or "Traceback" not in output
        return output

    return run


CALLS = """
def every_call():
    for call in (
        lambda: app.publish_sync("SUBJECT.told", "child"),
        lambda: app.publish_sync("SUBJECT.told", "child", force=True),
        lambda: app.publish_sync("SUBJECT.told", "child", reply_to="a"),
        lambda: app.publish_from_another_thread("SUBJECT.told", "child"),
        lambda: app.request_sync("SUBJECT.ask"),
        lambda: app.subscribe_new_subject_sync("SUBJECT.x", told),
        lambda: app.unsubscribe_subject_sync("SUBJECT.told"),
        lambda: app.unsubscribe_ssid_sync("1"),
        lambda: app.js.publish_sync("SUBJECT.stored.a", 1),
        lambda: app.js.run_sync(bucket.put("a", 1)),
        lambda: app.disconnect_sync(),
        lambda: app.stats(),
        lambda: app.publish("SUBJECT.told", "child"),
        lambda: app.publish("SUBJECT.told", "child", force=True),
        lambda: app.request("SUBJECT.ask"),
        lambda: app.request_from_another_thread("SUBJECT.ask"),
        lambda: app.flush(),
        lambda: app.subscribe_new_subject("SUBJECT.x", told),
        lambda: app.unsubscribe_subject("SUBJECT.told"),
        lambda: app.js.publish("SUBJECT.stored.a", 1),
        lambda: bucket.put("a", 1),
        lambda: bucket.get("a"),
        lambda: app.disconnect(),
    ):
        raises_at_once(call)
"""


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_every_call_in_a_child_raises_at_once_and_the_parent_goes_on(
    run: Run, use_uvloop: bool
) -> None:
    source = """
    with app:
        app.request_sync("SUBJECT.ask")
        bucket_api = app.js.run_sync(bucket.open())
        assert in_child(every_call) == 0
        app.publish_sync("SUBJECT.told", "parent", force=True)
        assert app.request_sync("SUBJECT.ask") == {"pid": os.getpid()}
        assert app.js.run_sync(bucket.put("a", 1)) == 1
        assert app.js.publish_sync("SUBJECT.stored.a", 1).sequence == 1
    assert got == ["parent"], got
    """
    run(CALLS + textwrap.dedent(source), use_uvloop)


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_a_child_of_a_handler_is_told_too(run: Run, use_uvloop: bool) -> None:
    source = """
    results = []

    @app.listen("SUBJECT.fork")
    async def fork(msg):
        results.append(in_child(every_call))

    @app.listen("SUBJECT.fork.thread")
    def fork_in_a_thread(msg):
        results.append(in_child(every_call))

    with app:
        app.request_sync("SUBJECT.ask")
        app.publish_sync("SUBJECT.fork", force=True)
        app.publish_sync("SUBJECT.fork.thread", force=True)
    assert results == [0, 0], results
    """
    run(CALLS + textwrap.dedent(source), use_uvloop)


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_a_child_may_start_the_app_itself_and_leave_the_parents_block(
    run: Run, use_uvloop: bool
) -> None:
    output = run(
        """
        with app:
            assert app.request_sync("SUBJECT.ask") == {"pid": os.getpid()}
            parent = os.getpid()
            sys.stdout.flush()
            pid = os.fork()
            if not pid:
                with app:
                    app.unsubscribe_subject_sync("SUBJECT.told")
                    app.publish_sync("SUBJECT.told", "from the child", force=True)
                print("child is through")
                sys.exit(7)  # through the end of the parent's block, and the interpreter's
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert app.request_sync("SUBJECT.ask") == {"pid": parent}
        print("parent got", got)
        """,
        use_uvloop,
    )
    assert "child is through" in output
    assert "parent got ['from the child']" in output


def test_workers_of_a_preloading_server_each_start_the_app(run: Run) -> None:
    output = run(
        """
        app.__enter__()  # as a module does that is imported before the fork
        pids = []
        for _ in range(2):
            pid = os.fork()
            if not pid:
                raises_at_once(lambda: app.request_sync("SUBJECT.ask"))
                app.__enter__()
                assert app.request_sync("SUBJECT.ask", timeout=5)["pid"]
                app.__exit__(None, None, None)
                os._exit(0)
            pids.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
        app.__exit__(None, None, None)
        print("ended")
        """
    )
    assert "ended" in output


@pytest.mark.parametrize("use_uvloop", [False, True])
def test_a_child_that_is_terminated_ends_and_its_parent_does_not(
    run: Run, use_uvloop: bool
) -> None:
    output = run(
        """
        import multiprocessing

        @app.task()
        async def fork():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            child.terminate()
            await asyncio.to_thread(child.join, 10)
            print("exit code", child.exitcode, flush=True)
            print("asked", await app.request("SUBJECT.ask") == {"pid": os.getpid()}, flush=True)
            await app.disconnect()

        app.run()
        """,
        use_uvloop,
    )
    assert f"exit code {-signal.SIGTERM}" in output
    assert "asked True" in output


def test_the_connection_ends_with_the_parent_though_a_child_lives(run: Run) -> None:
    """Else the server would go on sending a queue group's messages to a socket nobody reads."""
    output = run(
        """
        with app:
            name = app.connected_url
            pid = os.fork()
            if not pid:
                time.sleep(60)
                os._exit(0)
        app.service_name = "observer"
        with App("observer", servers=os.environ["NATS_URL"]) as observer:
            try:
                print("answer:", observer.request_sync("SUBJECT.ask", timeout=1))
            except TidingsError as error:
                print("no answer:", type(error).__name__)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        """
    )
    assert "no answer: NoRespondersError" in output


@pytest.mark.parametrize("use_uvloop", [False, True])
@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_child_that_comes_back_from_its_handler_ends_and_the_parent_goes_on(
    run: Run, kind: str, use_uvloop: bool
) -> None:
    source = """
    children = []

    @app.listen("SUBJECT.fork", concurrency=1)
    KIND fork(msg):
        children.append(os.fork())
        if not children[-1] and msg.data.get("exit"):
            sys.exit(7)
        return {}

    with app:
        for message in ({"exit": True}, {"exit": False}):
            app.request_sync("SUBJECT.fork", message)
        assert app.request_sync("SUBJECT.ask") == {"pid": os.getpid()}
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        assert app.request_sync("SUBJECT.ask") == {"pid": os.getpid()}
    print("exit codes", codes)
    """
    output = run(source.replace("KIND", kind), use_uvloop, clean=False)  # sys.exit is a failure
    assert f"exit codes {[1, 1] if kind == 'async def' else [7, 1]}" in output
    assert "Call os._exit() at the end of a forked child" in output


def test_an_app_that_had_ended_before_the_fork_is_merely_not_started(run: Run) -> None:
    output = run(
        """
        with app:
            pass

        def work():
            try:
                app.publish_sync("SUBJECT.told", "x")
            except Exception as error:
                print(type(error).__name__, flush=True)

        in_child(work)
        """
    )
    assert output.strip() == "NotStartedError"
