"""Threads that the system refuses."""

import contextlib
import threading
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def threads_refused(containing: str = "") -> Iterator[None]:
    """Refuse every thread whose name contains these words, as a system at its limit does."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if containing in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield
