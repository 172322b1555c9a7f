"""Message: what a handler gets."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import msgspec

from tidings.errors import ConfigError
from tidings.headers import Headers, HeadersLike

T = TypeVar("T")


class Responder(Protocol):
    """What sends a reply: the connection below, or a test's stand-in."""

    async def respond(self, reply: str, value: object, headers: HeadersLike | None) -> None: ...


# A Struct only because one is made for every message: built in C, it takes half the time of a
# class with __slots__. Field order is the order in which Listener fills it.
class Message(msgspec.Struct, Generic[T], eq=False):
    """A message as its handler sees it.

    Annotate the handler's argument as `Message[Order]` to have `data` decoded into an `Order`, and
    known as one to an editor.

    Attributes:
        subject: the subject it was published to.
        data: the decoded body, by the listener's `data_type`.
        body: the body as it came, in bytes.
        reply: the subject that an answer goes to, "" where none is wanted.
        is_answered: whether `respond` was called.

    Example:
        ```python
        from dataclasses import dataclass
        from tidings import App, Message

        @dataclass
        class Order:
            id: int

        app = App("billing")

        @app.listen("orders.created")
        async def bill(msg: Message[Order]) -> None:
            print(msg.subject, msg.data.id)
        ```
    """

    subject: str
    data: T
    body: bytes
    reply: str
    _sid: int
    _block: bytes | Headers
    _responder: Responder | None
    is_answered: bool = False

    @property
    def sid(self) -> str:
        """The ID of the subscription that got it."""
        return str(self._sid)

    @property
    def headers(self) -> Headers:
        """The message's headers; empty where it has none."""
        if not isinstance(self._block, Headers):
            self._block = Headers.from_block(self._block)
        return self._block

    @property
    def is_request(self) -> bool:
        """Whether the sender wants an answer."""
        return self.reply != ""

    async def respond(self, value: object = None, *, headers: HeadersLike | None = None) -> None:
        """Answer the message, once or several times.

        Args:
            value: what to send, encoded as `App.publish` does.
            headers: headers of the answer. Those of the message are never sent back.

        Raises:
            ConfigError: the message carries no reply subject: look at `is_request` first.
            TidingsError: whatever `App.publish` raises.
        """
        if not self.reply or self._responder is None:
            raise ConfigError(
                f"the message on {self.subject!r} wants no answer; look at msg.is_request first"
            )
        self.is_answered = True
        await self._responder.respond(self.reply, value, headers)

    def __repr__(self) -> str:
        # Never the body: messages end up in logs.
        reply = f" reply={self.reply!r}" if self.reply else ""
        return f"<Message {self.subject!r} {len(self.body)} bytes{reply}>"


def make_message(
    subject: str, body: bytes = b"", *, data: Any = None, headers: HeadersLike | None = None
) -> Message[Any]:
    """A message that came from nowhere, to call a handler with in a unit test."""
    return Message(subject, data, body, "", 0, Headers(headers or ()), None)
