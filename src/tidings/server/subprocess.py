"""The process of an embedded nats-server. It always ends with the process that started it.

A destructor cannot guarantee that, because kill -9 runs no destructors. The kernel's parent-death
signal depends on the *thread* that started the server. So a small shell, the reaper, starts first.
It reads from a pipe whose only writing end is in this process. The server writes its pid to the
pipe before it runs. When this process ends for any reason, the pipe closes. Then the reaper kills
the last pid and removes the temporary folder.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import weakref

from tidings.errors import MissingExtraError, ServerStartError

__all__ = ["Process", "Reaper", "find_binary", "store_name"]

from tidings.log import logger

LOG_LINES = 500
LOG_LINE_BYTES = 4096
STOP_GRACE = 5.0  # seconds from SIGTERM to SIGKILL
LOG_GRACE = 1.0  # seconds to wait for the last lines of a server that has ended

# A server writes "+ pid" when it starts. This process writes "- pid" after it has waited for the
# server, because another process may then get the pid. The second line may come late, when the next
# server has already started. The folder is removed twice, because a dying server may still write.
_REAPER = """
while read -r sign number; do
    case $sign$number in
        +*) pid=$number ;;
        "-$pid") pid= ;;
    esac
done
[ -z "$pid" ] || kill -9 "$pid"
[ -n "$1" ] || exit
rm -rf -- "$1"
sleep 1
rm -rf -- "$1"
"""
# The standard input is the reaper's pipe, so the reaper knows the pid before the server runs.
_SERVER = 'echo + $$ >&0 && exec "$0" "$@" </dev/null'

_FACTS = re.compile(
    r"Listening for client connections on \S+:(?P<port>\d+)"
    r"|Listening for route connections on \S+:(?P<route_port>\d+)"
    r"|Starting http monitor on (?P<monitor>\S+)"
    r"|(?P<tls>TLS required for client connections)"
    r"|(?P<ready>Server is ready)"
    r"|new (?:JetStream cluster )?(?P<leader>metadata leader)"
)
_USERINFO = re.compile(r"(?<=://)[^\s\"']+@")


def find_binary() -> str:
    """Return the path of nats-server: next to this Python, in its scripts folders, or on the PATH.

    Raises:
        MissingExtraError: if nats-server is not installed.
    """
    folders = [
        os.path.dirname(sys.executable),
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")),
    ]
    for path in [*folders, None]:
        if found := shutil.which("nats-server", path=path):
            return found
    raise MissingExtraError("server", "The embedded nats-server")


def store_name() -> str:
    """Return the path of a new temporary folder. The name is random, so nobody can create it
    first."""
    return os.path.join(tempfile.gettempdir(), f"tidings-jetstream-{secrets.token_hex(8)}")


def _make_private(folder: str) -> None:
    """Create a folder that only this user can read, or find the one of an earlier start.

    Its name is in the command line of the reaper, where everybody on this machine can read it.

    Raises:
        FileExistsError: somebody else has created it first.
        OSError: it cannot be created.
    """
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise


class Reaper:
    """The shell that kills the server when this process has ended.

    Args:
        store: the path of a temporary folder to create now and to remove at the end, or "".
    """

    def __init__(self, store: str) -> None:
        self._popen = subprocess.Popen(  # noqa: S603 - no part of the command is user input
            ["/bin/sh", "-c", _REAPER, "sh", store],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )
        assert self._popen.stdin is not None
        self.pipe = self._popen.stdin
        _reapers.add(self)
        try:
            if store:  # created only now, when the reaper can remove it
                _make_private(store)
        except OSError:
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def spare(self, pid: int) -> None:
        """Tell the reaper that the server has ended, so that it does not kill this pid."""
        # The reaper may have ended already.
        with contextlib.suppress(OSError, ValueError):
            self.pipe.write(b"- %d\n" % pid)

    def end(self) -> None:
        """Kill the reaper, so that it does nothing."""
        self._popen.kill()
        self._popen.wait()
        self.pipe.close()

    def let_go(self) -> None:
        """Close the pipe in a forked child, so that the reaper notices the end of the parent."""
        self.pipe.close()
        self._popen.returncode = 0  # the parent waits for it


class Process:
    """One run of nats-server. A thread reads its log, so that the server never blocks on writing.

    Args:
        command: the binary and its arguments.
        reaper: the shell that kills the server when this process has ended.
    """

    def __init__(self, command: list[str], reaper: Reaper) -> None:
        self._changed = threading.Condition()
        self._lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._facts: dict[str, str] = {}
        self._reaper = reaper
        self._log_ended = False
        self._end_wanted = False
        self._popen = subprocess.Popen(  # noqa: S603 - the caller chose the command
            ["/bin/sh", "-c", _SERVER, *command],
            stdin=reaper.pipe,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C must not end the server before the app
        )
        _processes.add(self)
        self._reader = threading.Thread(target=self._read_log, name="nats-server log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def log(self) -> str:
        """The last lines of the log. Passwords in URLs are masked."""
        with self._changed:
            return "\n".join(self._lines)

    def fact(self, name: str, deadline: float) -> str | None:
        """Wait for a fact in the log, until the deadline or the end of the log. Returns None if the
        log does not contain it."""
        with self._changed:
            self._changed.wait_for(
                lambda: name in self._facts or self._log_ended, deadline - time.monotonic()
            )
            return self._facts.get(name)

    def ending(self) -> str | None:
        """Return how the process ended, or None if it is running."""
        code = self._popen.poll()
        if code is None:
            return None
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def start_error(self, what: str, timeout: float) -> ServerStartError:
        """Return the error for a server that did not become ready, with its last lines but without
        its usage text.

        Args:
            what: "nats-server" or "cluster".
            timeout: the timeout that has passed, in seconds.
        """
        output = self.log.partition("\n\nUsage:")[0].strip()
        if ending := self.ending():
            return ServerStartError(f"nats-server ended before it was ready ({ending})", output)
        return ServerStartError(f"the {what} was not ready within {timeout:g} s", output)

    def pause(self) -> None:
        self._popen.send_signal(signal.SIGSTOP)
        # Wait until the signal has stopped every thread. Older versions of macOS have no waitid.
        with contextlib.suppress(ChildProcessError, AttributeError):
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """End the process with SIGTERM, and after a grace period with SIGKILL."""
        self._end_wanted = True
        self._popen.terminate()
        self.resume()  # a paused process does not handle SIGTERM
        try:
            self._popen.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
        self._ended()

    def kill(self) -> None:
        """End the process with SIGKILL, and return when it has ended."""
        self._end_wanted = True
        self._popen.kill()
        self._ended()

    def _ended(self) -> None:
        self._popen.wait()
        self._reaper.spare(self.pid)
        if not sys.is_finalizing():  # during finalization no daemon thread runs
            self._reader.join(LOG_GRACE)

    def let_go(self) -> None:
        """Do not wait for the process in a forked child: it belongs to the parent."""
        self._popen.returncode = 0

    def _read_log(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            while line := stream.readline(LOG_LINE_BYTES):
                self._note(line.decode(errors="replace").rstrip("\n"))
        self._popen.wait()
        self._reaper.spare(self.pid)
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()
        if "ready" in self._facts and not self._end_wanted:
            logger.error("the embedded nats-server ended unexpectedly (%s)", self.ending())

    def _note(self, line: str) -> None:
        line = _USERINFO.sub("***@", line)
        with self._changed:
            self._lines.append(line)
            if found := _FACTS.search(line):
                self._facts |= {name: fact for name, fact in found.groupdict().items() if fact}
                self._changed.notify_all()


_reapers: weakref.WeakSet[Reaper] = weakref.WeakSet()
_processes: weakref.WeakSet[Process] = weakref.WeakSet()


def _let_go_of_parents() -> None:
    for reaper in _reapers:
        reaper.let_go()
    for process in _processes:
        process.let_go()


os.register_at_fork(after_in_child=_let_go_of_parents)
