"""WebSocketTransport: a connection over a websocket that behaves like one over TCP."""

from __future__ import annotations

import asyncio
import logging

from tidings.errors import MissingExtraError
from tidings.transport.tcp import SocketTransport

# Bytes. A server puts all that waits for a client into one frame, up to its `max_pending` of 64 MiB
# and a message. A frame is kept until its end arrives, so that one without bounds fills the memory.
MAX_FRAME = 256 * 1024 * 1024
# At DEBUG, websockets logs whole frames, including CONNECT with the password. This logger has no
# parent, so that no configuration can enable that.
_quiet = logging.Logger("tidings.websocket", logging.ERROR)  # noqa: LOG001 - see above


class WebSocketTransport(SocketTransport):
    """A socket that carries its bytes in the frames of RFC 6455.

    To use it, await `open(...)`, then `start_tls(...)` for wss://, then `upgrade()`. Then use it
    like its base class. The library websockets only does the framing. All I/O is that of the base
    class, so order, back-pressure and closing are the same.

    Args:
        url: the server's URL, without credentials.

    Raises:
        MissingExtraError: if websockets is not installed.
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
        self._websocket = ClientProtocol(parse_uri(url), max_size=MAX_FRAME, logger=_quiet)
        self._upgraded: asyncio.Future[None] | None = None

    async def upgrade(self) -> None:
        """Upgrade the connection to a websocket.

        Raises:
            ConnectionError: if the server refused the upgrade or closed the connection.
        """
        self._upgraded = asyncio.get_running_loop().create_future()
        # A nats-server without websockets greets at once. Then the upgrade has failed already.
        if self._websocket.handshake_exc is None and not self._closed.done():
            self._websocket.send_request(self._websocket.connect())
            self._send()
            await self._upgraded
        if self._websocket.state is not self._open_state:
            reason = self._websocket.handshake_exc or "the server closed the connection"
            raise ConnectionError(f"no websocket: {reason}")

    def write(self, data: bytes) -> None:
        """Write bytes. Those that the kernel does not accept at once are buffered."""
        if self._websocket.state is self._open_state:  # otherwise the connection is ending
            self._websocket.send_binary(data)
            self._send()

    def close(self) -> None:
        """Close the connection after the buffered bytes are sent."""
        if self._websocket.state is self._open_state:
            self._websocket.send_close(1000)
            self._send()
        super().close()

    def _send(self) -> None:
        for piece in self._websocket.data_to_send():
            if piece:
                super().write(piece)
            else:  # an empty piece means the end of the stream
                super().close()

    # The event loop calls these methods.

    def data_received(self, data: bytes) -> None:
        self._websocket.receive_data(data)
        pieces = [
            event.data
            for event in self._websocket.events_received()
            if isinstance(event, self._frame_type) and event.opcode in self._data_opcodes
        ]
        self._send()  # the answers to pings and to a close frame
        if pieces:
            super().data_received(b"".join(pieces))
        upgraded = self._websocket.state is self._open_state or self._websocket.handshake_exc
        if upgraded:
            self._wake(self._upgraded)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wake(self._upgraded)
