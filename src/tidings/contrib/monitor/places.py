"""Places: which clients of the monitor are served at the same time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from tidings.log import logger

ROOM_TIMEOUT = 0.5  # seconds until a client that was sent away has left its place
LOG_INTERVAL = 1.0  # seconds between two warnings


class Places:
    """A bounded number of places. If all are taken, one that is kept without need becomes free.

    So nobody can keep probes and scrapes out by opening connections: the client that is sent away
    is the oldest that has not sent its request yet, or does not take its answer. One whose answer
    is being made stays.

    Args:
        count: the number of places.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._changed = threading.Condition()
        # In the order of arrival, each with whether it is the client's turn to do something.
        self._taken: dict[socket.socket, bool] = {}
        self._left = 0  # clients that were sent away, and not logged yet
        self._logged_at = -LOG_INTERVAL

    def take(self, client: socket.socket) -> bool:
        """Give a client a place. Returns False if there is none."""
        with self._changed:
            if len(self._taken) >= self._count:
                self._send_one_away()
                self._changed.wait_for(lambda: len(self._taken) < self._count, ROOM_TIMEOUT)
            if len(self._taken) >= self._count:
                return False
            self._taken[client] = True
            return True

    def leave(self, client: socket.socket) -> None:
        """Take the place of a client back."""
        with self._changed:
            self._taken.pop(client, None)
            self._changed.notify_all()

    def begin(self, client: socket.socket) -> bool:
        """Begin to make the answer. Returns False if the client was sent away meanwhile."""
        with self._changed:
            was_waited_for = self._taken.get(client, True)
            self._taken[client] = False
            return was_waited_for

    def end(self, client: socket.socket) -> None:
        """The answer is made: the client has to take it."""
        with self._changed:
            self._taken[client] = True

    def _send_one_away(self) -> None:
        self._note()
        for client, is_its_turn in self._taken.items():
            if is_its_turn:
                self._taken[client] = False
                with contextlib.suppress(OSError):  # it has left by itself
                    client.shutdown(socket.SHUT_RDWR)
                return

    def _note(self) -> None:
        self._left += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL:
            logger.warning(
                "the monitor serves %d clients already, so clients that did nothing or came last "
                "had to leave: %d",
                *(self._count, self._left),
            )
            self._logged_at, self._left = now, 0
