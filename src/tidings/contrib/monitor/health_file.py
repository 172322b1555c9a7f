"""HealthFile: the health of an app in a file, for those without a port."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from pathlib import Path

import msgspec

from tidings.errors import ConfigError, ThreadStartError
from tidings.log import logger

from .health import Health, Probe, Source

INTERVAL = 2.0  # seconds between two writes
# Seconds after which a file counts as left behind: its process is blocked, or has ended.
MAX_AGE = 10.0
LONGEST = 65_536  # bytes of the file that are read


class HealthFile:
    """Writes a file again and again, as long as the process lives. Its content is the readiness.

    Args:
        source: what answers.
        path: the file. Its folder must exist.

    Raises:
        ConfigError: the file cannot be written.
        ThreadStartError: the system refuses to start a thread.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self._source = source
        self._path = path
        self._ended = threading.Event()
        self._has_failed = False
        try:
            self._write(Health("failed", {"running": "starting"}))
        except OSError as error:
            raise ConfigError(
                f"--health-file: cannot write {path}: {error.strerror}. Choose a file in a folder "
                f"that exists and may be written to"
            ) from None
        self._thread = threading.Thread(target=self._watch, name="tidings health", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ThreadStartError("the health file", str(error)) from None

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL if self._is_ready() else INTERVAL / 10):
            pass

    def _is_ready(self) -> bool:
        """Write the file if the process lives. Returns whether it is ready."""
        if not self._source.health(Probe.LIVE).is_ok:
            return False
        ready = self._source.health(Probe.READY)
        if self._ended.is_set():
            return True
        try:
            self._write(ready)
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                logger.error("cannot write the health file %s: %s", self._path, error.strerror)
            self._has_failed = True
        return ready.is_ok

    def _write(self, health: Health) -> None:
        """Replace the file at once, so that no reader finds half of it.

        The folder may be one in which others write, such as /tmp: nobody can know the name of the
        draft, and what is there already is not opened.
        """
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            with draft.open("xb") as file:
                file.write(msgspec.json.encode(health) + b"\n")
            draft.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise

    def close(self) -> None:
        """Remove the file: the run has ended."""
        self._ended.set()
        self._thread.join(1)
        with contextlib.suppress(OSError):
            self._path.unlink()

    def forget(self) -> None:
        """Leave the file to the parent process: this is a forked child."""
        self._ended.set()


def read_health_file(path: Path, max_age: float = MAX_AGE) -> tuple[bool, Health]:
    """Return whether the process of a health file lives, and the readiness in it.

    Args:
        path: the file.
        max_age: seconds after which the file counts as left behind.

    Raises:
        OSError: there is no such file.
        ConfigError: this is no health file.
    """
    with path.open("rb") as file:
        content = file.read(LONGEST)
        age = time.time() - os.fstat(file.fileno()).st_mtime
    try:
        health = msgspec.json.decode(content, type=Health)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ConfigError(
            f"{path} is no file that `tidings run --health-file` has written"
        ) from None
    return age <= max_age, health
