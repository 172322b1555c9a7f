"""KeyBucket: the stream below a key-value bucket, with keys and values as they are stored.

If the acknowledgement of a write is lost, the write is published again with the same message id,
so the server stores it once.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from tidings import codec
from tidings.checks import Seconds
from tidings.errors import (
    ConfigError,
    EncodeError,
    SubjectError,
    WrongRevisionError,
    WrongSequenceError,
)
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.atomic_batch import AtomicBatch, BatchAck
from tidings.jetstream.bucket import AnyBucket
from tidings.jetstream.capability import FIRST_WITH_TTL, check_server
from tidings.jetstream.commit import commit
from tidings.jetstream.expected import Expected
from tidings.jetstream.get import Stored
from tidings.jetstream.kv.codecs import (
    KeyCodec,
    ValueCodec,
    check_key_codec,
    check_round_trip,
    check_value_codec,
    stored_key,
    user_key,
    value_decoder,
    value_encoder,
)
from tidings.jetstream.kv.entry import Entry, MarkerReason, Operation
from tidings.jetstream.kv.keys import check_key, check_keys, check_revision
from tidings.jetstream.kv.transaction import CALL as TRANSACTION
from tidings.jetstream.kv.transaction import ROLLUP, Change
from tidings.jetstream.latest import ask_last, last_in, read_from, read_sequence
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered import Reading
from tidings.jetstream.publish import FirstTry, PublishAck, publication_of, publish_stored
from tidings.jetstream.reader import Host, read_all
from tidings.jetstream.start import Start
from tidings.jetstream.ttl import HEADER as TTL
from tidings.jetstream.ttl import Never, seconds_of, ttl_text
from tidings.log import logger
from tidings.protocol.parser import Frame
from tidings.text import printable

T = TypeVar("T")
M = TypeVar("M")

# Seconds that a write may take, including a leader election.
WRITE_TIMEOUT = 10.0

# The server's description of the error for a wrong revision.
_LAST = re.compile(r"wrong last sequence: (\d{1,19})$")


class KeyBucket(AnyBucket, Generic[T]):
    """The stream below a key-value bucket: reads and writes entries by their stored keys.

    `KeyValue` adds the calls of users.

    Args:
        host: the app's JetStream.
        name: the bucket's name.
        type: the type of the values.
        create: whether to create the bucket if it does not exist.
        said: the options that were declared, which an existing bucket must have.
        key_codec: how the bucket stores keys; None as they are.
        value_codec: how the bucket stores encoded values; None as they are.

    Attributes:
        type: as above.
        key_codec: as above.
        value_codec: as above.

    Raises:
        ConfigError: a bad name, type or codec.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        type: Any,  # noqa: A002 - the interface's word
        create: bool,
        said: dict[str, Any],
        key_codec: KeyCodec | None,
        value_codec: ValueCodec | None,
    ) -> None:
        super().__init__(host, name, "$KV", create=create, said=said)
        self.type = codec.resolve(type)
        self.key_codec = key_codec
        self.value_codec = value_codec
        self._encode: Callable[[T], bytes] = self._checked
        self._decode = codec.decoder(self.type)
        if key_codec is not None:
            check_key_codec("key_codec", key_codec)
        if value_codec is not None:
            check_value_codec("value_codec", value_codec)
            self._encode = value_encoder(value_codec, self._encode)
            self._decode = value_decoder(value_codec, self._decode)

    def _checked(self, value: T) -> bytes:
        try:
            return codec.encode(value, self.type)
        except EncodeError:
            if self.type is not dict or isinstance(value, dict):
                raise
            name = type(value).__qualname__
            reason = f"the bucket {self.name!r} has values of type dict. Declare another type, as "
            instead = f"in app.js.key_value({self.name!r}, type={name})"
            raise EncodeError(value, f"{reason}{instead}") from None

    def reading(
        self, keys: str | Sequence[str], *, initial: bool, history: bool = False
    ) -> Reading:
        """Return what a watch reads from the stream. The bucket must be open."""
        return Reading(
            stream=self._stream,
            subject=self._subjects(check_keys(keys, self.key_codec)),
            begin="new" if not initial else "all" if history else "last_per_subject",
            purpose=f"watch of {self.name}",
        )

    def _subjects(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{self._origin.read}{name}" for name in names)

    def _stored_name(self, key: str, *, new: bool = False) -> str:
        """Return a key as the bucket stores it."""
        if self.key_codec is None:
            check_key(key, new=new)
            return key
        name = stored_key(self.key_codec, key)
        try:
            check_key(name, new=new)
        except SubjectError as error:
            raise SubjectError(key, f"it is stored as {name!r}: {error.reason}") from None
        if new:
            check_round_trip(self.key_codec, key, name)
        return name

    def stored_name(self, message: StreamMessage[Any]) -> str:
        """Return the key of a message of the bucket's stream, as the bucket stores it."""
        return message.subject.removeprefix(self._origin.read)

    def readable_entry(self, message: StreamMessage[Any]) -> Entry[T] | None:
        """Return the entry that a message of the bucket's stream contains.

        If the codec cannot decode the key, logs a warning and returns None.
        """
        if self.key_codec is None:
            return self.entry(message)
        return next(self._readable(self.entry, [message]), None)

    def _readable(self, read: Callable[[M], Entry[T]], messages: Iterable[M]) -> Iterator[Entry[T]]:
        """Yield entries without those whose keys the codec cannot decode, and log their number."""
        first: SubjectError | None = None
        count = 0
        for message in messages:
            try:
                yield read(message)
            except SubjectError as error:
                first = first or error
                count += 1
        if first is not None:
            logger.warning(
                "left out %d of the keys of the bucket %r, which another client has written: %s",
                *(count, self.name, printable(str(first))),
                extra={"bucket": self.name},
            )

    def entry(self, message: StreamMessage[Any]) -> Entry[T]:
        """Return the entry that a message of the bucket's stream contains.

        Raises:
            SubjectError: if the codec cannot decode the key.
        """
        metadata = message.metadata
        return self._entry(
            message.subject, message.body, metadata.sequence, metadata.timestamp, message.headers
        )

    def _stored_entry(self, stored: Stored) -> Entry[T]:
        return self._entry(
            stored.subject, stored.body, stored.sequence, stored.time, stored.headers
        )

    def _entry(
        self, subject: str, body: bytes, revision: int, created: datetime, headers: Headers
    ) -> Entry[T]:
        key = subject.removeprefix(self._origin.read)
        if self.key_codec is not None:
            key = user_key(self.key_codec, key)
        operation = Operation.of(headers)
        reason = MarkerReason.of(headers)
        return Entry(self.name, key, body, revision, created, operation, self._decode, reason)

    async def _write(
        self,
        key: str,
        body: bytes,
        headers: Sequence[tuple[str, str]] = (),
        revision: int | None = None,
        *,
        ttl: Seconds | Never | None = None,
        msg_id: str = "",
        tries: list[FirstTry] | None = None,
    ) -> int:
        # Other clients may allow more characters. Their keys can be updated and deleted here.
        name = self._stored_name(key, new=not headers and not revision)
        if revision is not None:
            check_revision(revision)
        lifetime = None if ttl is None else ttl_text(ttl)
        pairs = with_ttl(headers, lifetime)

        async def write(api: JetStreamApi) -> PublishAck:
            if lifetime is not None:
                self._check_ttl(api, lifetime)
            return await publish_stored(
                self._origin_api(api),
                f"{self._origin.write}{name}",
                body,
                pairs,
                msg_id=msg_id or secrets.token_hex(16),
                timeout=WRITE_TIMEOUT,
                expected=Expected(subject_sequence=revision),
                first=tries.pop() if tries else None,
            )

        try:
            ack = await self.use(write)
        except WrongSequenceError as error:
            said = _LAST.search(error.description)
            last = int(said[1]) if said else None
            raise WrongRevisionError(self.name, key, revision or 0, last) from None
        return ack.sequence

    async def _store(self, changes: Sequence[Change], timeout: float) -> BatchAck:
        """Store changes as a whole."""

        async def write(api: JetStreamApi) -> BatchAck:
            batch = AtomicBatch()
            for change in changes:
                if change.ttl is not None:
                    self._check_ttl(api, change.ttl)
                batch.add(
                    publication_of(
                        f"{self._origin.write}{self._stored_name(change.key)}",
                        change.body,
                        with_ttl(change.headers, change.ttl),
                        msg_id=secrets.token_hex(16),
                        timeout=timeout,
                        expected=Expected(subject_sequence=change.revision),
                    )
                )
            return await commit(self._origin_api(api), batch, timeout, TRANSACTION)

        return await self.use(write)

    def _check_ttl(self, api: JetStreamApi, lifetime: str) -> None:
        """Check that the server lets a value expire, and when it should.

        Raises:
            ConfigError: it is too old, or would keep the value for longer.
        """
        check_server(api, FIRST_WITH_TTL, "ttl=")
        shortest, longest = self._ttl_bounds
        if seconds_of(lifetime) < shortest:
            raise ConfigError(
                f"ttl={lifetime.removesuffix('s')} is shorter than marker_ttl={shortest:g} of the "
                f"bucket {self.name!r}, and the server would keep the value that long: use a "
                f"longer ttl, or a bucket with history=1"
            )
        if longest < seconds_of(lifetime) < math.inf:
            raise ConfigError(
                f"ttl={lifetime.removesuffix('s')} is longer than ttl={longest:g} of the bucket "
                f"{self.name!r}, after which every value expires: use a shorter ttl, or 'never'"
            )

    async def _stored(
        self, api: JetStreamApi, name: str, revision: int | None, answers: list[Frame]
    ) -> Stored | None:
        if revision is None:
            subject = f"{self._origin.read}{name}"
            frame = answers.pop() if answers else await ask_last(api, self._stream, subject)
            return await last_in(frame, api, self._stream, subject)
        # No entry has revision 0, and the server rejects a request for sequence 0.
        return await read_sequence(api, self._stream, revision) if revision else None

    async def _newest(self, api: JetStreamApi, name: str, at_least: int | None) -> Stored | None:
        """Return the latest entry of a key from the stream that takes the writes.

        A replica or a mirror may not have it yet.
        """
        origin, api = self._origin, self._origin_api(api)
        return await read_from(api, origin.stream, f"{origin.source}{name}", at_least)

    async def _newest_of(self, key: str) -> Stored | None:
        name = self._stored_name(key)
        return await self.use(lambda api: self._newest(api, name, None))

    async def _read_all(
        self,
        names: Sequence[str],
        *,
        purpose: str,
        begin: Start = "all",
        headers_only: bool = False,
    ) -> list[StreamMessage[Any]]:
        async def read(api: JetStreamApi) -> list[StreamMessage[Any]]:
            reading = Reading(
                stream=self._stream,
                subject=self._subjects(names),
                begin=begin,
                headers_only=headers_only,
                purpose=f"{purpose} of {self.name}",
            )
            return await read_all(reading, self._host)

        return await self.use(read)


def with_ttl(headers: Sequence[tuple[str, str]], lifetime: str | None) -> Headers:
    """Return the headers of a write. A value that expires replaces those before it, which would
    come back."""
    if lifetime is None:
        return Headers(headers)
    rollup = [] if ROLLUP in headers else [ROLLUP]
    return Headers([*headers, (TTL, lifetime), *rollup])
