"""A process that is asked to stop ends within its drain timeout and END_GRACE, whatever blocks."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable

import pytest

from support.process import Program
from tidings import App, ConfigError
from tidings.process.runner import END_GRACE
from tidings.process.signals import MOMENT, Request, StopRequests

RunProgram = Callable[..., Program]

DRAIN = 0.3
SLACK = 5.0  # for a busy machine, and for Python's own end

HEAD = """
import asyncio, concurrent.futures, logging, os, re, signal, sqlite3, sys, threading, time
from tidings import App

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
forever = threading.Event().wait
app = App("stuck", drain_timeout=DRAIN, use_uvloop=UVLOOP, reconnect_time_wait=0.1)

async def stay():
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

def query():  # C code that gives up the interpreter's lock and never looks at signals
    counting = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
    sqlite3.connect(":memory:").execute(counting + " SELECT 1 FROM c WHERE x < 0").fetchone()

def backtrack():  # C code that looks at signals and never gives up the interpreter's lock
    re.match("(a|aa)+$", "a" * 100 + "b")

@app.task()
async def begin():
    await app.publish("work", force=True)
"""

WORK = """
@app.listen("work")
{kind} work(msg):
    print("began", flush=True)
    {what}

app.run()
print("run returned", flush=True)
"""


@pytest.fixture
def stuck(run_program: RunProgram) -> Callable[..., Program]:
    """A program whose handler has begun: the head, and what a test adds."""

    def start(source: str, *, drain: float = DRAIN, uvloop: bool = True) -> Program:
        head = HEAD.replace("DRAIN", str(drain)).replace("UVLOOP", str(uvloop))
        program = run_program(head + source)
        program.until("began")
        return program

    return start


def handler(what: str, kind: str = "async def") -> str:
    return WORK.format(kind=kind, what=what)


def ended_in(program: Program, number: signal.Signals | None = None) -> tuple[int, float]:
    """The exit code of a program, which gets this signal first, and the seconds that it took."""
    began = time.monotonic()
    if number is not None:
        program.signal(number)
    return program.wait(), time.monotonic() - began


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (handler("await asyncio.to_thread(forever)"), "1 messages abandoned"),
        (
            handler("await asyncio.get_running_loop().run_in_executor(None, forever)"),
            "1 messages abandoned",
        ),
        (handler("await stay()"), "1 messages abandoned"),
        (handler("forever()", kind="def"), "1 messages abandoned"),
        (
            handler("asyncio.ensure_future(asyncio.to_thread(forever))"),
            "1 call in the default executor did not end",
        ),
        (handler("asyncio.create_task(stay(), name='stays')"), "'stays' ignores its cancellation"),
        ("app.on_shutdown(forever)" + handler("pass"), "on_shutdown: .*wait.* did not end"),
        ("app.on_shutdown(stay)" + handler("pass"), "on_shutdown: stay .* did not end"),
        (
            "app.on_shutdown(lambda: asyncio.to_thread(forever))" + handler("pass"),
            "on_shutdown: .* did not end",
        ),
        ("app.task()(stay)" + handler("pass"), "'tidings stay' ignores its cancellation"),
    ],
)
def test_what_does_not_end_is_abandoned_and_the_exit_code_is_1(
    stuck: Callable[..., Program], source: str, message: str
) -> None:
    program = stuck(source, uvloop=len(source) % 2 == 0)  # some of them on each kind of loop
    program.signal()
    code, seconds = ended_in(program)
    assert code == 1
    assert seconds < DRAIN + END_GRACE + SLACK
    assert re.search(f"drain_timeout of 0.3 s passed: .*{message}", program.output)
    assert "run returned" not in program.output
    assert "Traceback" not in program.output
    assert "was destroyed" not in program.output


@pytest.mark.parametrize(
    ("what", "uvloop"),
    [
        ("time.sleep(600)", True),
        ("forever()", False),
        ("while True: pass", True),
        ("query()", False),
        ("query()", True),
    ],
)
def test_a_handler_that_blocks_the_loop_is_named_and_the_exit_code_is_1(
    stuck: Callable[..., Program], what: str, uvloop: bool
) -> None:
    program = stuck(handler(what), uvloop=uvloop)
    code, seconds = ended_in(program, signal.SIGINT)
    assert code == 1
    assert DRAIN < seconds < DRAIN + END_GRACE + SLACK
    # What the loop wrote in the turn of the handler may be unsent.
    assert re.search(
        r"drain_timeout of 0.3 s passed: 1 messages abandoned, \d+ bytes", program.output
    )
    [line] = [each for each in program.output.splitlines() if "the event loop is at" in each]
    assert "in work, called from" in line
    assert "\\n" not in line


def test_a_handler_that_holds_the_interpreter_is_ended_too(stuck: Callable[..., Program]) -> None:
    program = stuck(handler("backtrack()"))
    program.signal()
    code, seconds = ended_in(program)
    assert code == 1
    assert seconds < DRAIN + END_GRACE + SLACK
    assert "in backtrack" in program.output


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("time.sleep(600)", signal.SIGTERM),
        ("query()", signal.SIGINT),
        ("await asyncio.sleep(600)", signal.SIGHUP),
    ],
)
def test_a_second_signal_a_second_later_exits_at_once_whatever_the_loop_does(
    stuck: Callable[..., Program], what: str, number: signal.Signals
) -> None:
    buffered = "output = open(1, 'w')\nsys.stdout = output\n"
    program = stuck(buffered + handler(f"print('in the buffer'); {what}"), drain=600)
    program.signal()
    time.sleep(MOMENT + 1.5)
    program.signal(number)
    code, seconds = ended_in(program)
    assert code == 128 + number
    assert seconds < SLACK
    assert f"{number.name} during the shutdown: exiting at once" in program.output
    assert "in the buffer" in program.output


@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
def test_signals_within_a_moment_count_as_one(stuck: Callable[..., Program], uvloop: bool) -> None:
    a_long_moment = "from tidings.process import signals\nsignals.MOMENT = 10\n"
    program = stuck(a_long_moment + handler("await asyncio.sleep(0.5)"), drain=10, uvloop=uvloop)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        program.signal(number)
    assert program.wait() == 0
    assert program.output.count("draining; send a second signal to exit at once") == 1
    assert "run returned" in program.output


def test_only_a_signal_a_moment_after_the_first_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.1, 100 + MOMENT - 0.01, 100 + MOMENT])
    monkeypatch.setattr("tidings.process.signals.time.monotonic", lambda: next(clock))
    requests = StopRequests()
    got = [requests.add() for _ in range(4)]
    assert got == [Request.STOP, Request.SAME, Request.SAME, Request.FORCE]


def test_sighup_drains(stuck: Callable[..., Program]) -> None:
    program = stuck(handler("await asyncio.sleep(0.2); print('finished', flush=True)"), drain=10)
    program.signal(signal.SIGHUP)
    assert program.wait() == 0
    assert "SIGHUP: draining" in program.output
    assert "finished" in program.output


@pytest.mark.parametrize("previous", ["signal.SIG_IGN", "lambda *_: print('reloaded', flush=True)"])
def test_a_sighup_that_is_ignored_or_the_programs_own_does_not_drain(
    stuck: Callable[..., Program], previous: str
) -> None:
    source = f"signal.signal(signal.SIGHUP, {previous})\n" + handler("await asyncio.sleep(0.2)")
    program = stuck(source, drain=10)
    program.signal(signal.SIGHUP)
    if "reloaded" in previous:
        program.until("reloaded")
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert "SIGHUP" not in program.output


def test_a_thread_of_the_programs_own_does_not_keep_the_process_alive(
    stuck: Callable[..., Program],
) -> None:
    pool = "pool = concurrent.futures.ThreadPoolExecutor(1, 'reports')\n"
    program = stuck(pool + handler("pool.submit(forever)"))
    program.signal()
    code, seconds = ended_in(program)
    assert code == 1
    assert seconds < DRAIN + END_GRACE + SLACK
    assert "run returned" in program.output
    assert "exiting at once: the threads reports_0 do not end" in program.output


def test_code_after_run_takes_the_time_that_it_needs(stuck: Callable[..., Program]) -> None:
    pause = DRAIN + END_GRACE + 0.3
    program = stuck(handler("pass") + f"time.sleep({pause})\nprint('saved', flush=True)")
    program.signal()
    code, _ = ended_in(program)
    assert code == 0
    assert "saved" in program.output


def test_a_start_that_ignores_its_cancellation_is_ended(run_program: RunProgram) -> None:
    program = run_program(
        HEAD.replace("DRAIN", "0.2").replace("UVLOOP", "True")
        + """
@app.on_startup
async def start():
    print("starting", flush=True)
    await stay()

app.run()
"""
    )
    program.until("starting")
    program.signal()
    code, seconds = ended_in(program)
    assert code == 1
    assert seconds < 0.2 + END_GRACE + SLACK
    assert "the start did not end after it was cancelled" in program.output


@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
def test_the_programs_own_signal_handlers_go_on_working(
    run_program: RunProgram, uvloop: bool
) -> None:
    program = run_program(
        HEAD.replace("DRAIN", "5").replace("UVLOOP", str(uvloop))
        + """
@app.on_startup
async def start():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: print("own", flush=True))
    signal.signal(signal.SIGUSR2, lambda *_: print("plain", flush=True))

app.run()
"""
    )
    program.until("listens")
    program.signal(signal.SIGUSR1)
    program.until("own")
    program.signal(signal.SIGUSR2)
    program.until("plain")
    program.signal(signal.SIGTERM)
    assert program.wait() == 0


def test_a_signal_to_a_forked_child_does_not_stop_its_parent(run_program: RunProgram) -> None:
    program = run_program(
        HEAD.replace("DRAIN", "5").replace("UVLOOP", "False")
        + """
@app.task()
async def fork():
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, b"there")
        time.sleep(60)
        os._exit(3)
    os.read(reading, 5)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    print("child", os.waitstatus_to_exitcode(status), flush=True)
    await app.flush()
    print("runs", app.is_running, flush=True)

app.run()
"""
    )
    program.until(f"child {-signal.SIGTERM}")
    program.until("runs True")
    program.signal()
    assert program.wait() == 0


@pytest.mark.parametrize("what", ["time.sleep(600)", "await asyncio.to_thread(forever)"])
def test_leaving_a_with_block_raises_and_the_program_can_end(
    run_program: RunProgram, what: str
) -> None:
    program = run_program(
        HEAD.replace("DRAIN", str(DRAIN)).replace("UVLOOP", "True")
        + f"""
from tidings import DrainTimeoutError
began = threading.Event()

@app.listen("work")
async def work(msg):
    began.set()
    {what}

app.__enter__()
began.wait()
print("began", flush=True)
try:
    app.__exit__(None, None, None)
except DrainTimeoutError as error:
    print("raised", error.abandoned, error, flush=True)
"""
    )
    program.until("began")
    code, seconds = ended_in(program)
    assert code == 0
    assert seconds < DRAIN + END_GRACE + SLACK
    assert "raised 1 drain_timeout of 0.3 s passed" in program.output
    assert "Traceback" not in program.output


def test_a_service_with_the_default_drain_timeout_fits_into_ten_seconds() -> None:
    """What `docker stop` and others grant between SIGTERM and SIGKILL."""
    assert App("default").drain_timeout + END_GRACE < 10


def test_run_outside_the_main_thread_says_what_to_write_instead() -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            App("elsewhere").run()
        except ConfigError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "with app:" in str(caught[0])
