"""Ending the process by force, and naming what kept it from ending in order."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import traceback

from tidings.log import logger

# Seconds for the last log line and for what is still in buffers, and frames of a stack in it.
LAST_WORDS = 0.4
FRAMES = 6
LOOK = 0.1  # seconds between two looks at the main thread
EXIT_GRACE = 1.5  # seconds that threads and exit handlers have at the least after it


def exit_at_once(message: str, code: int) -> None:
    """Log an error, flush logs and output, and end the process, whatever its threads do.

    The thread that is stuck may hold the lock of the log or of a stream, so another thread writes,
    and it gets a moment only.
    """
    writer = threading.Thread(target=_write, args=(message,), name="tidings exit", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started any more
        writer.start()
        writer.join(LAST_WORDS)
    os._exit(code)


def _write(message: str) -> None:
    try:
        logger.error("%s", message)
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none at all
                stream.flush()


def stack_of(thread: int | None) -> str:
    """The innermost frames of a thread, a line each."""
    frame = sys._current_frames().get(thread or 0)
    return "\n".join(
        f"  {each.filename}:{each.lineno} in {each.name}"
        for each in traceback.extract_stack(frame)[-FRAMES:]
    )


def bound_exit(seconds: float) -> None:
    """End the process that many seconds from now if only its other threads keep it alive then.

    Python ends when every thread that is no daemon has ended, and one of a thread pool may never do
    so. The main thread, with the program's own code after the app, takes the time that it needs.
    """
    deadline = time.monotonic() + seconds
    with contextlib.suppress(RuntimeError):  # no thread can be started any more
        threading.Thread(
            target=_end_after_main, args=(deadline,), name="tidings exit", daemon=True
        ).start()


def _end_after_main(deadline: float) -> None:
    while not _main_has_ended():
        time.sleep(LOOK)
    time.sleep(max(deadline - time.monotonic(), EXIT_GRACE))
    main = threading.main_thread()
    left = [each.name for each in threading.enumerate() if not each.daemon and each is not main]
    what = f"the threads {', '.join(left)} do not end" if left else "an exit handler does not end"
    exit_at_once(f"exiting at once: {what}; the main thread is at\n{stack_of(main.ident)}", 1)


def _main_has_ended() -> bool:
    """Whether the main thread has run the program and only waits for other threads.

    It counts as alive while thread pools join their threads. The module `threading` calls them
    then, and no code of the program is below it.
    """
    main = threading.main_thread()
    frame = sys._current_frames().get(main.ident or 0)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    waits = frame is not None and frame.f_code.co_filename == threading.__file__
    return waits or not main.is_alive()
