"""PublishBatch: messages that are published together, and stored as a whole. (NATS ADR-50)"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from tidings.checks import Seconds
from tidings.errors import ConfigError
from tidings.handlers.middleware import Middleware, Send, fold_send
from tidings.headers import HeadersLike
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.atomic import Atomic, RunSync
from tidings.jetstream.atomic_batch import AtomicBatch, BatchAck
from tidings.jetstream.commit import commit
from tidings.jetstream.publish import PublishAck, prepare
from tidings.jetstream.ttl import Never

CALL = "app.js.batch"


class Run(Protocol):
    """JetStream in the run of an app: the API, and the middlewares with send hooks."""

    @property
    def api(self) -> JetStreamApi: ...

    @property
    def hooks(self) -> Sequence[Middleware]: ...


class _Added(NamedTuple):
    subject: str
    message: Any
    options: dict[str, Any]


class PublishBatch(Atomic):
    """Messages that a stream stores all, or none of them. Create it with `JetStream.batch`.

    Attributes:
        ack: the acknowledgement of the batch, after the block; None if nothing was stored.
    """

    def __init__(self, here: Callable[[str], Run], run_sync: RunSync, timeout: Seconds) -> None:
        super().__init__(CALL, here, run_sync, timeout)
        self.ack: BatchAck | None = None
        self._here = here
        self._batch = AtomicBatch()
        self._added: list[_Added] = []

    def __len__(self) -> int:
        return len(self._added)

    def add(
        self,
        subject: str,
        message: Any = None,
        *,
        msg_id: str | None = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        expected_stream: str | None = None,
        expected_sequence: int | None = None,
        expected_subject_sequence: int | None = None,
        ttl: Seconds | Never | None = None,
    ) -> None:
        """Add a message. It is sent at the end of the block.

        Args:
            subject: as in `JetStream.publish`. All subjects of a batch belong to one stream.
            message: as in `JetStream.publish`. It is encoded now.
            msg_id: as in `JetStream.publish`. If the stream has a message with this id already, it
                stores nothing of the batch.
            headers: as in `JetStream.publish`.
            data_type: as in `JetStream.publish`.
            expected_stream: store the batch only if this stream takes it.
            expected_sequence: store the batch only if this is the stream's last sequence; only for
                the first message.
            expected_subject_sequence: store the batch only if this is the last sequence of the
                subject; only for the first message on the subject.
            ttl: as in `JetStream.publish`.

        Raises:
            ConfigError: an option is wrong, the batch has 1000 messages already, or its block has
                ended.
            SubjectError, HeaderError, EncodeError: it cannot be sent.

        Example:
            ```python
            async with app.js.batch() as batch:
                batch.add("ledger.ada", {"amount": -10})
                batch.add("ledger.bob", {"amount": 10})
            print(batch.ack.sequences)
            ```
        """
        self._must_be_open()
        named = {
            "msg_id": msg_id,
            "headers": headers,
            "data_type": data_type,
            "expected_stream": expected_stream,
            "expected_sequence": expected_sequence,
            "expected_subject_sequence": expected_subject_sequence,
            "ttl": ttl,
        }
        options = {name: value for name, value in named.items() if value is not None}
        self._batch.add(prepare(subject, message, **options))
        self._added.append(_Added(subject, message, options))

    async def _commit(self, timeout: float) -> None:
        run = self._here(CALL)
        if fold_send(run.hooks, _no_send, "send_stream") is None:
            self.ack = await commit(run.api, self._batch, timeout, CALL)
            return
        hooked = _Hooked(run.hooks)
        try:
            for added in self._added:
                await hooked.add(added)
            batch = hooked.complete()
            if len(batch):
                self.ack = await commit(run.api, batch, timeout, CALL)
                await hooked.succeed(self.ack)
        except BaseException as error:
            await hooked.fail(error)
            raise


class _Hooked:
    """The messages of a batch, as the send hooks pass them on.

    The hooks of a message run until they send it. They go on when the batch is acknowledged.
    """

    def __init__(self, hooks: Sequence[Middleware]) -> None:
        self.batch = AtomicBatch()
        self._acked: asyncio.Future[BatchAck] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[Any]] = []
        self._is_complete = False
        self._arrived = asyncio.Event()
        send = fold_send(hooks, self._collect, "send_stream")
        assert send is not None
        self._send: Send = send

    async def add(self, added: _Added) -> None:
        """Run the hooks of a message until they have sent it, or decided otherwise."""
        self._arrived.clear()
        work = self._send(added.subject, added.message, **added.options)
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        task.add_done_callback(lambda done: self._arrived.set())
        await self._arrived.wait()
        if task.done():
            task.result()  # a hook has raised

    async def _collect(self, subject: str, message: Any = None, **options: Any) -> PublishAck:
        if self._is_complete:
            raise ConfigError("a send hook cannot send a message of a batch later, or again")
        number = self.batch.add(prepare(subject, message, **options))
        self._arrived.set()
        ack = await asyncio.shield(self._acked)
        return PublishAck(ack.stream, ack.sequences[number] if ack.sequence else 0)

    def complete(self) -> AtomicBatch:
        """Take no more messages. Returns those that were sent."""
        self._is_complete = True
        return self.batch

    async def succeed(self, ack: BatchAck) -> None:
        """Let the hooks go on with the acknowledgements of their messages."""
        self._acked.set_result(ack)
        await asyncio.gather(*self._tasks)

    async def fail(self, error: BaseException) -> None:
        """Let the hooks go on with the error of the batch, which is raised anyway."""
        if isinstance(error, Exception) and not self._acked.done():
            self._acked.set_exception(error)
            self._acked.exception()  # there may be no hook that waits for it
        else:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _no_send(subject: str, message: Any = None, **options: Any) -> None:
    raise NotImplementedError
