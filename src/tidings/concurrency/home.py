"""Home: the event loop, the thread and the process that a running app belongs to."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from threading import get_ident

from tidings.concurrency.forks import end_child, forget_after_fork
from tidings.errors import ConfigError, ForkedError, WrongLoopError

# The call to use instead of an awaited call, from a thread with another event loop.
INSTEAD = {
    "publish": "app.publish_sync(...)",
    "request": "await app.request_from_another_thread(...)",
    "flush": "app.publish_sync(..., force=True)",
    "msg.respond": "app.publish_sync(msg.reply, ...)",
    "js.publish": "app.js.publish_sync(...)",
    "lock": "with app.lock(...)",
    "app.js.batch": "with app.js.batch()",
    "bucket.transaction": "with bucket.transaction()",
    "wait_stopped": "a threading.Event that an @app.on_shutdown function sets",
}
INSTEAD |= {
    call: f"app.{call}_sync(...)"
    for call in (
        *("request_many", "stream", "subscribe_new_subject"),
        *("unsubscribe_subject", "unsubscribe_ssid", "disconnect"),
    )
}
RUN_SYNC = "app.js.run_sync(...)"  # for all other calls, which are JetStream's


def check_asyncio() -> None:
    """Check that asyncio runs the caller.

    Raises:
        ConfigError: if it does not, for example because trio runs the caller.
    """
    if _get_running_loop() is None:
        raise ConfigError(
            "the app needs the event loop of asyncio, and none is running here. Start "
            "the program with asyncio.run(). Under trio or another event loop, write `with app:` "
            "in a thread, and use the calls that end in _sync"
        )


class Home:
    """Remembers the event loop, thread and process of a running app. Create it inside that loop."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.thread = get_ident()
        self.is_forked = False
        forget_after_fork(self)

    def forget(self) -> None:
        """Remember that this process is a forked child: the app runs in the parent."""
        self.is_forked = True

    def end_child_in_loop(self) -> None:
        """Exit from this forked child when it returns into the parent's event loop."""
        if get_ident() == self.thread and self.loop.is_running():
            self.loop.call_soon(end_child)

    def check(self, call: str) -> None:
        """Raise unless the caller runs in the app's loop, or in its thread while no loop runs.

        Args:
            call: the name of the call, as users write it.

        Raises:
            ForkedError: if this process was forked while the app ran.
            WrongLoopError: if the caller runs in another event loop.
        """
        if self.is_forked:
            raise ForkedError(call)
        running = _get_running_loop()
        if running is self.loop:
            return
        is_elsewhere = get_ident() != self.thread
        if is_elsewhere or running is not None:
            raise WrongLoopError(call, INSTEAD.get(call, RUN_SYNC) if is_elsewhere else "")
