"""systemd's end of a notification socket."""

from __future__ import annotations

import re
import socket
import time

from support.waits import PATIENCE


class Systemd:
    """Receives the notifications of a service, as systemd does.

    Args:
        address: the path of the socket; it begins with "@" if it is an abstract one.

    Attributes:
        address: what a service finds in $NOTIFY_SOCKET.
        received: the notifications up to now.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.received: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(b"\0" + address[1:].encode() if address[0] == "@" else address)

    def wait_for(self, pattern: str) -> str:
        """Return the first notification from now on that the pattern matches somewhere."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                text = self._socket.recv(4096).decode()
            except TimeoutError:
                raise AssertionError(f"no {pattern!r} in {self.received}") from None
            self.received.append(text)
            if re.search(pattern, text):
                return text

    def rest(self) -> list[str]:
        """Return the notifications that have arrived and were not read."""
        self._socket.setblocking(False)
        texts = []
        try:
            while True:
                texts.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return texts

    def close(self) -> None:
        self._socket.close()
