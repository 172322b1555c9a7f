"""Message: the argument of a handler."""

from __future__ import annotations

import time
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from tidings.errors import ConfigError
from tidings.headers import Headers, HeadersLike
from tidings.keywords import former_names

T = TypeVar("T")


class Responder(Protocol):
    """An object that sends replies: the app's bus, or a stand-in in a test."""

    async def respond(self, reply: str, value: object, headers: HeadersLike | None) -> None: ...

    def respond_sync(self, reply: str, value: object, headers: HeadersLike | None) -> None: ...


# A Struct, because every message needs one: msgspec creates it in half the time of a class with
# __slots__. Listener passes the fields by position, so their order matters.
@former_names("Message", "context", "header")
class Message(msgspec.Struct, Generic[T], eq=False):
    """A message, as its handler gets it.

    Annotate the handler's argument as `Message[Order]` to get `data` as an `Order`. Type checkers
    and editors then know its type too.

    Attributes:
        subject: the subject that the message was published to.
        data: the body, decoded to the listener's `data_type`.
        body: the raw body.
        reply: the subject for the answer; "" if the message is not a request.
        is_answered: whether `respond` or `respond_sync` was called.

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
    _deadline: float | None = None

    @property
    def sid(self) -> str:
        """The ID of the subscription that received the message."""
        return str(self._sid)

    @property
    def headers(self) -> Headers:
        """The headers of the message; empty if it has none."""
        if not isinstance(self._block, Headers):
            self._block = Headers.from_block(self._block)
        return self._block

    @property
    def is_request(self) -> bool:
        """Whether the message has a reply subject, so that its sender expects an answer."""
        return self.reply != ""

    @property
    def deadline(self) -> float | None:
        """Seconds that are left until the requester stops waiting; 0.0 when they have passed.

        None if the request has no deadline, and for a message that is not a request. Requests of
        the handler keep to the deadline without it: see `tidings.deadline`.
        """
        if self._deadline is None:
            return None
        return max(self._deadline - time.monotonic(), 0.0)

    async def respond(self, value: object = None, *, headers: HeadersLike | None = None) -> None:
        """Answer the message. A handler may call this several times.

        Args:
            value: the answer. It is encoded in the same way as by `App.publish`.
            headers: the headers of the answer. The headers of the message are not sent back.

        Raises:
            ConfigError: if the message has no reply subject. Check `is_request` first.
            TidingsError: if the answer cannot be sent; see `App.publish`.

        Example:
            ```python
            from tidings import App

            app = App("orders")

            @app.listen("orders.*")
            async def on_order(msg):
                if msg.is_request:
                    await msg.respond({"seen": msg.subject}, headers={"Version": "2"})
            ```
        """
        if not self.reply or self._responder is None:
            raise self._without_reply()
        self.is_answered = True
        await self._responder.respond(self.reply, value, headers)

    def respond_sync(self, value: object = None, *, headers: HeadersLike | None = None) -> None:
        """`respond` from synchronous code: in a `def` handler, or in any other thread.

        It returns when the answer is in the buffer, and never waits for the network. In another
        thread the call blocks while the event loop is behind.

        Args:
            value: as in `respond`.
            headers: as in `respond`.

        Raises:
            ConfigError: if the message has no reply subject. Check `is_request` first.
            TidingsError: if the answer cannot be sent; see `App.publish_sync`.

        Example:
            ```python
            from tidings import App

            app = App("orders")

            @app.listen("orders.*", no_reply=True)
            def on_order(msg):
                msg.respond_sync({"seen": msg.subject})
                print("now the work begins")
            ```
        """
        if not self.reply or self._responder is None:
            raise self._without_reply()
        self.is_answered = True
        self._responder.respond_sync(self.reply, value, headers)

    def _without_reply(self) -> ConfigError:
        if self.reply:
            return ConfigError(
                f"a copy of the message on {self.subject!r} cannot be answered, as it was pickled "
                f"or copied deeply. Answer the message that the handler got"
            )
        return ConfigError(
            f"the message on {self.subject!r} has no reply subject. Check msg.is_request first"
        )

    def __repr__(self) -> str:
        # Without the body, because messages may end up in logs.
        reply = f" reply={self.reply!r}" if self.reply else ""
        return f"<{type(self).__name__} {self.subject!r} {len(self.body)} bytes{reply}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message, for another process, without what sends the answer."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return _restored, (type(self), {**values, "_responder": None})


M = TypeVar("M", bound=Message[Any])


def _restored(kind: type[M], values: dict[str, Any]) -> M:
    return kind(**values)


def make_message(
    subject: str, body: bytes = b"", *, data: Any = None, headers: HeadersLike | None = None
) -> Message[Any]:
    """Return a message without a server, to call a handler in a unit test.

    Args:
        subject: the subject.
        body: the raw body.
        data: the decoded body.
        headers: the headers.

    Raises:
        HeaderError: if a header's name or value is not valid.

    Example:
        ```python
        from tidings.message import make_message

        msg = make_message("orders.created", data={"id": 7})
        assert msg.data["id"] == 7
        ```
    """
    return Message(subject, data, body, "", 0, Headers(headers or ()), None)
