"""Ends the process by force, and reports what kept it from ending properly."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import traceback

from tidings.log import logger

LAST_WORDS = 0.4  # seconds to write the last log line and to flush the output
FRAMES = 6  # number of stack frames in the last log line
LOOK = 0.1  # seconds between two checks of the main thread
EXIT_GRACE = 1.5  # the least number of seconds for threads and exit handlers after the main thread


def exit_at_once(message: str, code: int) -> None:
    """Log an error, flush logs and output, and end the process regardless of its threads.

    A stuck thread may hold the lock of the log or of a stream. So a separate thread writes, and it
    gets `LAST_WORDS` seconds.
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
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None
                stream.flush()


def stack_of(thread: int | None) -> str:
    """Return the innermost frames of a thread, one per line."""
    frame = sys._current_frames().get(thread or 0)
    return "\n".join(
        f"  {each.filename}:{each.lineno} in {each.name}"
        for each in traceback.extract_stack(frame)[-FRAMES:]
    )


def bound_exit(seconds: float) -> None:
    """End the process after `seconds` if its main thread has ended but other threads have not.

    Python exits when every non-daemon thread has ended, and a thread of a pool may never end. The
    main thread gets as much time as it needs, because it may run code of the program after the app.
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
    """Return whether the main thread has run the whole program and only waits for other threads.

    While the interpreter joins the other threads, the main thread still counts as alive. Then its
    outermost frame is in the module `threading`.
    """
    main = threading.main_thread()
    frame = sys._current_frames().get(main.ident or 0)
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    waits = frame is not None and frame.f_code.co_filename == threading.__file__
    return waits or not main.is_alive()
