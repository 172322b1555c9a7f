"""WebSocketTransport: a connection over a websocket, with the semantics of the one over TCP."""

from __future__ import annotations

import asyncio
import logging

from tidings.errors import MissingExtraError
from tidings.transport.tcp import SocketTransport

# websockets logs whole frames at DEBUG, CONNECT with its password among them. This logger has no
# parent, so that no configuration makes it do so.
_quiet = logging.Logger("tidings.websocket", logging.ERROR)  # noqa: LOG001 - see above


class WebSocketTransport(SocketTransport):
    """A socket that wraps what it carries in the frames of RFC 6455.

    Use: `await open(...)`, `await start_tls()` for wss://, `await upgrade()`, then as its base.
    websockets does the framing and no I/O, so that order, back-pressure and closing are those of
    the socket below.

    Args:
        url: the server's URL, without credentials.

    Raises:
        MissingExtraError: websockets is not installed.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            from websockets.client import ClientProtocol
            from websockets.frames import DATA_OPCODES, Frame
            from websockets.protocol import State
            from websockets.uri import parse_uri
        except ImportError:
            raise MissingExtraError("websocket", "a ws:// or wss:// server") from None
        self._frame_type, self._data_opcodes, self._open_state = Frame, DATA_OPCODES, State.OPEN
        self._websocket = ClientProtocol(parse_uri(url), max_size=None, logger=_quiet)
        self._upgraded: asyncio.Future[None] | None = None

    async def upgrade(self) -> None:
        """Make a websocket of the connection.

        Raises:
            ConnectionError: the server refused, or it ended the connection.
        """
        self._upgraded = asyncio.get_running_loop().create_future()
        self._websocket.send_request(self._websocket.connect())
        self._send()
        await self._upgraded
        if self._websocket.state is not self._open_state:
            reason = self._websocket.handshake_exc or "the server closed the connection"
            raise ConnectionError(f"no websocket: {reason}")

    def write(self, data: bytes) -> None:
        """Write; what the kernel does not take at once is kept."""
        if self._websocket.state is self._open_state:  # else it is about to be lost
            self._websocket.send_binary(data)
            self._send()

    def close(self) -> None:
        """End the connection; what is written already still goes out, if the peer takes it."""
        if self._websocket.state is self._open_state:
            self._websocket.send_close(1000)
            self._send()
        super().close()

    def _send(self) -> None:
        for piece in self._websocket.data_to_send():
            if piece:
                super().write(piece)
            else:  # the end of the stream: nothing more may be sent
                super().close()

    # What the event loop calls.

    def data_received(self, data: bytes) -> None:
        self._websocket.receive_data(data)
        pieces = [
            event.data
            for event in self._websocket.events_received()
            if isinstance(event, self._frame_type) and event.opcode in self._data_opcodes
        ]
        self._send()  # answers to pings and to the end
        if pieces:
            super().data_received(b"".join(pieces))
        upgraded = self._websocket.state is self._open_state or self._websocket.handshake_exc
        if upgraded:
            self._wake(self._upgraded)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wake(self._upgraded)
