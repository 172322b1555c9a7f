"""The process of an embedded nats-server, which never outlives the process that started it.

A destructor cannot promise that, since kill -9 runs none, and the kernel's parent-death signal goes
by the starting *thread*. So a small shell, the reaper, is started first and reads from a pipe whose
only writing end is here. The server writes its own pid into that pipe before it runs. When this
process ends, however it ends, the pipe does too; then the reaper kills the pid that it read last,
and removes the temporary store.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import secrets
import shutil
import signal
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
LOG_GRACE = 1.0  # seconds until the last lines of an ended server are read

# "+ pid" comes from a server that starts, "- pid" once it was waited for: from then on that pid may
# be anybody's. The second can come late, when the next server has started. The store is removed
# twice, since a server in its last throes may still write to it.
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
# Its standard input is the reaper's pipe: in no moment does the server run unknown to the reaper.
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
    """Return the path of nats-server: beside this Python, in its scripts folders, or on the PATH.

    Raises:
        MissingExtraError: there is none.
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
    """A path for a temporary folder that nobody can have made before."""
    return os.path.join(tempfile.gettempdir(), f"tidings-jetstream-{secrets.token_hex(8)}")


class Reaper:
    """The shell that survives this process for a moment, to kill what it started.

    Args:
        store: a temporary folder, made here and removed then, or "".
    """

    def __init__(self, store: str) -> None:
        self._popen = subprocess.Popen(  # noqa: S603 - no shell, and no word of it from outside
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
            if store:  # not before there is who removes it
                os.makedirs(store, 0o700, exist_ok=True)
        except OSError:
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def spare(self, pid: int) -> None:
        """Tell it that the server was waited for, and its pid is not to be killed any more."""
        # It may be gone already, by stop() or by somebody else's hand.
        with contextlib.suppress(OSError, ValueError):
            self.pipe.write(b"- %d\n" % pid)

    def end(self) -> None:
        """End it without letting it act."""
        self._popen.kill()
        self._popen.wait()
        self.pipe.close()

    def let_go(self) -> None:
        """In a forked child: hold the pipe open no longer, so that the parent's end is seen."""
        self.pipe.close()
        self._popen.returncode = 0  # not this process's child: nothing to wait for


class Process:
    """One run of nats-server, and a thread that reads its log to the end, so that it never blocks.

    Args:
        command: the binary and its arguments.
        reaper: what kills it when this process dies.
    """

    def __init__(self, command: list[str], reaper: Reaper) -> None:
        self._changed = threading.Condition()
        self._lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._facts: dict[str, str] = {}
        self._reaper = reaper
        self._log_ended = False
        self._end_wanted = False
        self._popen = subprocess.Popen(  # noqa: S603 - no shell, and no word of it from outside
            ["/bin/sh", "-c", _SERVER, *command],
            stdin=reaper.pipe,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C ends the app, which then still needs its server
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
        """The last lines, without the passwords of URLs in them."""
        with self._changed:
            return "\n".join(self._lines)

    def fact(self, name: str, deadline: float) -> str | None:
        """Return what the log says on `name`, waiting for it until the deadline or its end."""
        with self._changed:
            self._changed.wait_for(
                lambda: name in self._facts or self._log_ended, deadline - time.monotonic()
            )
            return self._facts.get(name)

    def ending(self) -> str | None:
        """Return how the process ended, or None where it lives."""
        code = self._popen.poll()
        if code is None:
            return None
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"

    def start_error(self, what: str, timeout: float) -> ServerStartError:
        """Why it did not become ready, in its own words; those on its usage are left out."""
        output = self.log.partition("\n\nUsage:")[0].strip()
        if ending := self.ending():
            return ServerStartError(f"nats-server ended before it was ready ({ending})", output)
        return ServerStartError(f"the {what} was not ready within {timeout:g} s", output)

    def pause(self) -> None:
        self._popen.send_signal(signal.SIGSTOP)
        # The signal takes a moment to reach every thread; without waitid (older macOS) so be it.
        with contextlib.suppress(ChildProcessError, AttributeError):
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """End it in order, and past a grace by force."""
        self._end_wanted = True
        self._popen.terminate()
        self.resume()  # a paused process sees no SIGTERM
        try:
            self._popen.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
        self._ended()

    def kill(self) -> None:
        """End it by SIGKILL, and return when it is dead."""
        self._end_wanted = True
        self._popen.kill()
        self._ended()

    def _ended(self) -> None:
        self._popen.wait()
        self._reaper.spare(self.pid)
        if not sys.is_finalizing():  # then no daemon thread runs any more
            self._reader.join(LOG_GRACE)

    def let_go(self) -> None:
        """In a forked child: the process is the parent's, and there is nothing to wait for."""
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
            logger.error("the embedded nats-server ended by itself (%s)", self.ending())

    def _note(self, line: str) -> None:
        line = _USERINFO.sub("***@", line)
        with self._changed:
            self._lines.append(line)
            if found := _FACTS.search(line):
                self._facts |= {name: said for name, said in found.groupdict().items() if said}
                self._changed.notify_all()


_reapers: weakref.WeakSet[Reaper] = weakref.WeakSet()
_processes: weakref.WeakSet[Process] = weakref.WeakSet()


def _let_go_of_parents() -> None:
    for reaper in _reapers:
        reaper.let_go()
    for process in _processes:
        process.let_go()


os.register_at_fork(after_in_child=_let_go_of_parents)
