"""PublishWindow: publishes to streams that overlap, up to a number at a time."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from tidings import codec
from tidings.checks import check_flag, check_whole
from tidings.errors import RequestTimeoutError, SubjectError, TidingsError
from tidings.handlers.middleware import Send
from tidings.handlers.tracing import Tracing
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.fast_ingest import Batch, FastIngest
from tidings.jetstream.publish import (
    MSG_ID,
    NOTHING,
    PUBLISH_TIMEOUT,
    TRY_TIMEOUT,
    FirstTry,
    Publication,
    PublishAck,
    prepare,
)
from tidings.log import logger
from tidings.protocol.headers import HEADER_VERSION
from tidings.protocol.parser import Frame
from tidings.subject import check_subject

# Sends a publish, through the send hooks if there are any.
Begin = Callable[[Publication, Any, dict[str, Any]], Awaitable[PublishAck]]


class Run(Protocol):
    """JetStream in the run of an app: the API, and the send hooks if there are any."""

    @property
    def api(self) -> JetStreamApi: ...

    @property
    def send(self) -> Send | None: ...

    @property
    def window_trace(self) -> Tracing | None: ...


class PublishFailure(msgspec.Struct, frozen=True):
    """A publish of a window that was not acknowledged.

    Attributes:
        subject: the subject published to.
        message: the message, as it was given.
        msg_id: its id. If the message may be stored, publish it again with this id.
        error: why it failed.
    """

    subject: str
    message: Any
    msg_id: str
    error: Exception


class PublishWindow:
    """Publishes that overlap. Leaving the window waits for every acknowledgement.

    If the task is cancelled inside the window or while it leaves it, the window stops waiting. The
    messages under way may be stored, and are among the failed.

    Attributes:
        acked: how many publishes were acknowledged. The acknowledgements are not kept.
        failed: a `PublishFailure` for each other publish, in the order in which they failed.
    """

    def __init__(
        self, here: Callable[[], Run], begin: Begin, size: int, *, batched: bool = False
    ) -> None:
        self.acked = 0
        self.failed: list[PublishFailure] = []
        self._here = here  # raises unless the app runs in this event loop
        self._begin = begin
        self._size = check_whole("size", size)
        self._pending: set[_Pending] = set()
        self._queue: deque[asyncio.Future[None]] = deque()  # publishers that wait for room
        self._idle: asyncio.Future[None] | None = None  # set when nothing is under way any more
        self._batched = check_flag("batched", batched)
        self._ingest: FastIngest | None = None  # what is under way in batches
        # A message without an id of its own gets a number under this random name as its id.
        self._name = secrets.token_urlsafe(12)
        self._numbers = 0
        self._acked_until = 0.0  # when the newest message was sent that is acknowledged
        self._head = b"%b\r\n%b: %b." % (HEADER_VERSION, MSG_ID.encode(), self._name.encode())

    def __repr__(self) -> str:
        counts = f"{len(self._pending)} under way, {self.acked} acked, {len(self.failed)} failed"
        return f"<PublishWindow {counts}>"

    async def publish(
        self, subject: str, message: Any = None, **options: Any
    ) -> asyncio.Future[PublishAck]:
        """Publish, and return as soon as there is room in the window.

        The result is counted in `acked` or kept in `failed`.

        Args:
            subject: as in `JetStream.publish`.
            message: as in `JetStream.publish`.
            options: the other arguments of `JetStream.publish`: `msg_id`, `headers`,
                `expected_sequence` and so on.

        Returns:
            A future for the acknowledgement of this message.

        Raises:
            TidingsError: it cannot be sent at all, because of a bad subject or a value that does
                not encode.
            TypeError: an option that `JetStream.publish` does not have.

        Example:
            ```python
            async with app.js.publish_window(10) as window:
                first = await window.publish("orders.created", {"id": 1})
                await window.publish("orders.created", {"id": 2})
                print((await first).sequence)
            ```
        """
        run = self._here()
        trace, follow = run.window_trace, None
        if trace is not None:
            options, follow = trace.begin_publish(subject, options)
        if options or run.send is not None:
            publication = prepare(subject, message, **options)
            publication.check(run.api)
            if (run.send is not None and trace is None) or publication.due is not None:
                await self._make_room()
                work = self._begin(publication, message, options)
                return self._in_task(self._prepared(run.api, publication, message), work)
            pending = self._prepared(run.api, publication, message)
            if follow is not None:
                pending.future.add_done_callback(follow)
        else:
            body = message if type(message) is bytes else codec.encode(message)
            pending = self._numbered(run.api, subject, message, body)
        if self._batched and not self._knows_stream(run.api, subject):
            await self._find_stream(subject)
        if len(self._pending) >= self._size:
            check_subject(subject)
            await self._make_room()
            run = self._here()
        if self._send(pending, run.api):
            await run.api.connection.outbox.make_room()
        return pending.future

    def _prepared(self, api: JetStreamApi, publication: Publication, message: Any) -> _Pending:
        return _Pending(
            self,
            asyncio.Future(loop=api.home.loop),
            publication.subject,
            message,
            publication.body,
            publication.block,
            publication.msg_id,
            publication,
            api,
        )

    def _numbered(self, api: JetStreamApi, subject: str, message: Any, body: bytes) -> _Pending:
        self._numbers = number = self._numbers + 1
        block = b"%b%d\r\n\r\n" % (self._head, number)
        # Without the call of the loop's create_future, since every message needs one.
        future: asyncio.Future[PublishAck] = asyncio.Future(loop=api.home.loop)
        return _Pending(self, future, subject, message, body, block, number, None, api)

    def _send(self, pending: _Pending, api: JetStreamApi) -> bool:
        """Send a message for the first time.

        Returns:
            Whether the connection's buffer is crowded: see `Buffer.post`.

        Raises:
            SubjectError: NATS does not allow the subject.
        """
        pending.api, pending.began, pending.acked_before = api, time.monotonic(), self.acked
        if self._ingest is not None and pending.is_plain:
            batch = self._ingest.batch_for(pending.subject)
            if batch is not None:
                return self._send_in_batch(pending, batch)
        return self._send_alone(pending, api)

    def _send_alone(self, pending: _Pending, api: JetStreamApi) -> bool:
        """Send a message with an acknowledgement of its own. Returns, raises: as `_send`."""
        publication = pending.publication
        patience = TRY_TIMEOUT if publication is None else min(publication.timeout, TRY_TIMEOUT)
        try:
            pending.token, is_crowded = api.connection.start_request_for(
                pending, pending.subject, pending.body, pending.block, patience
            )
        except SubjectError:
            raise
        except TidingsError as error:
            self._pending.add(pending)
            self._try_again(pending, error)
            return False
        self._pending.add(pending)
        return is_crowded

    def _knows_stream(self, api: JetStreamApi, subject: str) -> bool:
        """Return whether it is known if the stream of a subject takes batches."""
        if self._ingest is None or self._ingest.api is not api:
            self._ingest = FastIngest(api, self._size // 2)
        return self._ingest.knows(subject)

    async def _find_stream(self, subject: str) -> None:
        check_subject(subject)
        if self._ingest is not None:
            await self._ingest.find(subject)

    def _send_in_batch(self, pending: _Pending, batch: Batch) -> bool:
        """Send a message for the first time, in a batch. Returns, raises: as `_send`."""
        try:
            is_crowded = batch.post(pending)
        except SubjectError:
            raise
        except TidingsError as error:
            self._pending.add(pending)
            self._try_again(pending, error)
            return False
        self._pending.add(pending)
        return is_crowded

    # Messages that need more than one try, or that pass through send hooks.

    def _try_again(self, pending: _Pending, outcome: Frame | TidingsError) -> None:
        """Go on with a message that its first try did not get acknowledged."""
        first = FirstTry(pending.began, outcome)
        self._in_task(pending, pending.as_publication().send(pending.api, first))

    def _in_task(
        self, pending: _Pending, work: Awaitable[PublishAck]
    ) -> asyncio.Future[PublishAck]:
        """Let a task do the rest of a publish. Returns the future of the acknowledgement."""
        task = asyncio.ensure_future(work)
        pending.task = task
        self._pending.add(pending)
        task.add_done_callback(pending.end)
        if pending.future.cancelled():
            task.cancel()
        else:
            pending.future.add_done_callback(lambda done: done.cancelled() and task.cancel())
        return pending.future

    # Room.

    async def _make_room(self) -> None:
        """Wait until fewer than `size` messages are under way."""
        while len(self._pending) >= self._size:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._on_room()  # somebody else can use it
                raise

    def _on_room(self) -> None:
        """Let the next publisher go on, and whoever waits for the end of all."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                break
        if self._idle is not None and not self._pending and not self._idle.done():
            self._idle.set_result(None)

    # The end.

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, asyncio.CancelledError):
                self._cut_off()
            await self._ended()
        except asyncio.CancelledError:
            self._cut_off()
            await self._ended()
            raise
        finally:
            if self._ingest is not None:
                self._ingest.close()
                self._ingest = None
            self._log_failed()

    async def _ended(self) -> None:
        while self._pending:
            if self._ingest is not None:
                self._ingest.end_all()
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def _cut_off(self) -> None:
        """Stop waiting. The publishes under way count as failed."""
        for pending in list(self._pending):
            pending.cut_off()

    def _log_failed(self) -> None:
        if self.failed:
            logger.warning(
                "%d of %d publishes of a window were not acknowledged; the first on %r: %s",
                *(len(self.failed), len(self.failed) + self.acked),
                *(self.failed[0].subject, self.failed[0].error),
            )


class _Answer(msgspec.Struct):
    """The answer of a stream to a publish. What is not an acknowledgement has no sequence."""

    stream: str
    seq: int
    duplicate: bool = False
    error: msgspec.Raw | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


class _Pending(msgspec.Struct, eq=False):
    """One message of a window: the waiter for its acknowledgement.

    The pending requests of the connection hold it, so it needs no task and no future besides the
    one that the publisher gets. A message that is not acknowledged at once gets a task.

    Attributes:
        id: the message id; a number if the window chose it.
        publication: the message, if it has options.
        began: when it was sent first, on the clock of `time.monotonic`.
        acked_before: how many messages of the window were acknowledged when it was sent, or when it
            began to wait longer.
        token: the token of its pending request.
        task: the rest of its publish, if the first try was not acknowledged.
    """

    window: PublishWindow
    future: asyncio.Future[PublishAck]
    subject: str
    message: Any
    body: bytes
    block: bytes
    id: str | int
    publication: Publication | None
    api: JetStreamApi
    began: float = 0.0
    acked_before: int = 0
    token: str = ""
    task: asyncio.Future[PublishAck] | None = None

    @property
    def msg_id(self) -> str:
        """The message id, as it was sent."""
        return self.id if isinstance(self.id, str) else f"{self.window._name}.{self.id}"

    @property
    def is_plain(self) -> bool:
        """Whether the message expects nothing of the stream, so that a batch can take it."""
        return self.publication is None or b"\r\nNats-Expected-" not in self.block

    def as_publication(self) -> Publication:
        """Return the message as one that is published until it is acknowledged."""
        return self.publication or Publication(
            subject=self.subject,
            body=self.body,
            block=self.block,
            expected=NOTHING,
            msg_id=self.msg_id,
            id_is_known=False,
            timeout=PUBLISH_TIMEOUT,
        )

    # The pending request and the batch call these.

    def done(self) -> bool:
        """Return whether somebody else decides what becomes of the message."""
        return self.task is not None or self not in self.window._pending

    def set_result(self, frame: Frame) -> None:
        """Take the answer."""
        if not frame[3]:
            try:
                answer = _decode_answer(frame[4])
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
            else:
                if answer.seq > 0 and answer.error is None:
                    self.acknowledge(PublishAck(answer.stream, answer.seq, answer.duplicate))
                    return
        self.window._try_again(self, frame)

    def set_exception(self, error: TidingsError) -> None:
        """Take the reason why no answer comes, or wait longer."""
        if isinstance(error, RequestTimeoutError) and self._is_behind:
            left = self._timeout - (time.monotonic() - self.began)
            if left > 0:
                self.acked_before = self.window.acked
                patience = min(left, TRY_TIMEOUT)
                self.api.connection.keep_request(self.token, self, self.subject, patience)
                return
        self.api.connection.end_request(self.token)
        self.window._try_again(self, error)

    @property
    def _is_behind(self) -> bool:
        """Whether the server is at the messages before this one. To send it again would only make a
        slow connection slower."""
        window = self.window
        return window.acked != self.acked_before and window._acked_until < self.began

    @property
    def _timeout(self) -> float:
        return PUBLISH_TIMEOUT if self.publication is None else self.publication.timeout

    def publish_alone(self) -> None:
        """Publish the message on its own: no batch got it stored."""
        self.began, self.acked_before = time.monotonic(), self.window.acked
        self.window._send_alone(self, self.api)

    # How it ends.

    def acknowledge(self, ack: PublishAck) -> None:
        """Count the message as acknowledged."""
        window = self.window
        if self.future.cancelled():
            self.fail(asyncio.CancelledError())
            return
        window._pending.discard(self)
        window.acked += 1
        if self.began > window._acked_until:
            window._acked_until = self.began
        self.future.set_result(ack)
        window._on_room()

    def fail(self, error: BaseException) -> None:
        """Count the message as failed."""
        window = self.window
        window._pending.discard(self)
        shown = error if isinstance(error, Exception) else RuntimeError("cancelled")
        window.failed.append(PublishFailure(self.subject, self.message, self.msg_id, shown))
        if isinstance(error, asyncio.CancelledError):
            self.future.cancel()
        elif not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # it is among the failed, so that nobody has to ask for it
        window._on_room()

    def end(self, task: asyncio.Future[PublishAck]) -> None:
        """Take the outcome of the task."""
        if task.cancelled():
            self.fail(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.fail(error)
        else:
            self.acknowledge(task.result())

    def cut_off(self) -> None:
        """Stop waiting for the acknowledgement."""
        if self.task is not None:
            self.task.cancel()
        else:
            self.api.connection.end_request(self.token)
            self.fail(asyncio.CancelledError())
