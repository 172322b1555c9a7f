"""Messages: a stream in order, as an `async for` in any task of the app."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tidings.concurrency.failure_log import FailureLog
from tidings.deadlines import in_time
from tidings.errors import ConfigError, DecodeError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.delay import takes_waiting
from tidings.jetstream.host import JetStreamHost
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered import Reading
from tidings.jetstream.reader import Reader

T = TypeVar("T")


class Messages(Generic[T]):
    """The messages of a stream in order, each once. `app.js.messages` returns it.

    Enter it with `async with`, and read it with `async for` or `anext`. `break`, a cancellation and
    the end of the app end the reading, and its consumer on the server is deleted. A wait may be
    cancelled, by `asyncio.timeout` for example: no message is lost by that.

    Attributes:
        failed: number of messages that were left out because their bodies could not be decoded.
        gaps: how often messages were missing, or the stream had begun again.
        missed: number of messages that the stream had removed before they could be read. If a part
            of the subjects is read, they are only noticed after an interruption, and messages on
            other subjects are counted too. A stream with `max_msgs_per_subject` removes messages
            all the time, and they are not counted.

    Example:
        ```python
        async def send_to(socket):
            async with app.js.messages("ORDERS", start="new") as messages:
                async for msg in messages:
                    await socket.send(msg.body)
        ```
    """

    def __init__(
        self,
        host: JetStreamHost,
        reading: Reading,
        decode: Callable[[bytes], Any],
        prefetch: int,
    ) -> None:
        self._host = host
        self._reading = reading
        self._decode = decode
        self._prefetch = prefetch
        self._reader: Reader | None = None
        self._log: FailureLog | None = None
        self._was_entered = False
        self.failed = self.gaps = self.missed = 0

    def __repr__(self) -> str:
        return f"<Messages of {self._reading.stream!r}>"

    async def __aenter__(self) -> Self:
        """Begin to read.

        Raises:
            ConfigError: it was entered before; or the stream keeps messages that are not due, and
                `subject` does not exclude them.
            JetStreamApiError: there is no such stream, or the server refuses the consumer.
            DeadlineExpiredError: the deadline passed before.
            NotStartedError: the app is not running.
            TidingsError: the server does not answer.
        """
        if self._was_entered:
            raise ConfigError("messages() was entered twice: call it for each `async with`")
        api = self._host.here("js.messages").api
        self._check_due(api)
        reader = Reader(
            self._reading,
            self._host,
            read_ahead=self._prefetch,
            endless=True,
            is_bounded=True,
            on_gap=self._on_gap,
        )
        self._log = FailureLog(self._reading.purpose)
        await in_time(reader.start(), self._reading.stream)
        self._reader, self._was_entered = reader, True
        return self

    def _check_due(self, api: JetStreamApi) -> None:
        reading = self._reading
        declared = api.declared.get(reading.stream)
        if declared is not None and takes_waiting(declared, reading.subjects):
            raise ConfigError(
                f"messages() would also yield the messages of {reading.stream} that are not due: "
                f"pass the subject= to read"
            )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        reader, self._reader = self._reader, None
        if self._log is not None:
            self._log.close()
        if reader is not None:
            await self._close(reader)

    async def _close(self, reader: Reader) -> None:
        """End the reading, and have the server delete the consumer.

        A web framework may cancel everything that a task awaits after its connection was lost. The
        server is asked all the same.
        """
        reader.end()
        link = self._host.current.link
        if link is None:  # the app has ended
            await reader.close()
        else:
            await asyncio.shield(link.portal.spawn(reader.close()))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamMessage[T]:
        """Return the next message.

        Raises:
            StopAsyncIteration: the app stops, and every message that was here has been read.
            ConfigError: it was not entered, or was left.
            WrongLoopError: the caller runs in another event loop than the app.
        """
        if self._reader is None:
            raise ConfigError(
                "messages() must be entered: write `async with app.js.messages(...) as messages`, "
                "and `async for msg in messages` inside"
            )
        while (message := await self._reader.next()) is not None:
            try:
                message.data = self._decode(message.body)
            except DecodeError as error:
                self._on_bad_body(message, error)
            else:
                return message
        raise StopAsyncIteration

    def _on_bad_body(self, message: StreamMessage[Any], error: DecodeError) -> None:
        self.failed += 1
        assert self._log is not None
        self._log.error(
            "%s: the message on %r (sequence %d) was left out: DecodeError, not a valid %s: %s",
            *(self._reading.purpose, message.subject, message.sequence),
            *(error.wanted, error.reason),
            extra={
                "stream": self._reading.stream,
                "subject": message.subject,
                "sequence": message.sequence,
            },
        )

    def _on_gap(self, count: int | None) -> None:
        self.gaps += 1
        self.missed += count or 0
        assert self._log is not None
        if count is None:
            what = (
                "the stream has begun again with sequence 1, so it is read from its beginning, and "
                "messages of the former stream may be missing"
            )
        else:
            others = ", messages on other subjects included" if self._reading.subjects else ""
            what = f"{count} messages were removed before they could be read{others}"
        self._log.log(
            logging.WARNING,
            "%s: %s",
            *(self._reading.purpose, what),
            extra={"stream": self._reading.stream},
        )
