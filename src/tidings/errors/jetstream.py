"""Errors of JetStream: streams, buckets, objects and locks."""

from __future__ import annotations

from tidings.errors.base import TidingsError, clipped, seconds


class JetStreamError(TidingsError):
    """Base of everything that a JetStream call raises: streams, consumers, buckets and objects.

    A call can also raise the errors of the connection, such as `RequestTimeoutError` and
    `DisconnectedError`, and those of a wrong argument, such as `ConfigError`.

    Example:
        ```python
        from tidings import JetStreamError

        try:
            await app.js.publish("nowhere", {"id": 1})
        except JetStreamError as error:
            print(error)
        ```
    """


class JetStreamApiError(JetStreamError):
    """The server refused a JetStream call, or its answer cannot be read.

    Attributes:
        code: the error's code, as in HTTP.
        err_code: JetStream's own code of the error.
        description: the error message of the server.
        call: the call that the server refused, such as "STREAM.INFO.ORDERS" or "publish to
            'orders.created'"; "" if it is not known.
    """

    def __init__(self, code: int, err_code: int, description: str, call: str = "") -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        self.call = call
        of = f"{call}: " if call else ""
        super().__init__(f"JetStream: {description} ({of}code {code}, error {err_code})")


class JetStreamUnavailableError(JetStreamError):
    """JetStream does not answer. It is disabled on the server or for this account, or the cluster
    has no leader at the moment.

    Attributes:
        call: the call that was made.
        reason: the error message of the server; "" if it sent none.
        err_code: JetStream's own code of the error; 0 if nothing answered.
    """

    def __init__(self, call: str, reason: str = "", err_code: int = 0) -> None:
        self.call = call
        self.reason = reason
        self.err_code = err_code
        detail = f" ({reason})" if reason else ""
        super().__init__(
            f"{call}: no JetStream answers{detail}. Is JetStream enabled on the server "
            f"(`nats-server -js`) and for this account? Does the cluster have a leader?"
        )


class NoStreamError(JetStreamError):
    """No stream stores the subject. Nothing was stored.

    Attributes:
        subject: the subject published to.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(
            f"no stream stores {subject!r}. Declare one: App(streams=[Stream('NAME', "
            f"subjects=[...])])"
        )


class PublishTimeoutError(JetStreamError, TimeoutError):
    """A publish to a stream was not acknowledged in time. The message may or may not be stored.

    Publish it again with the same `msg_id`: within its duplicate window, the stream stores it only
    once.

    Attributes:
        subject: the subject published to.
        msg_id: the message's Nats-Msg-Id.
    """

    def __init__(self, subject: str, msg_id: str, timeout: float) -> None:
        self.subject = subject
        self.msg_id = msg_id
        super().__init__(
            f"no acknowledgement for {subject!r} within {seconds(timeout)}; it may be stored. "
            f"Publish it again with msg_id={msg_id!r}"
        )


class BatchTimeoutError(PublishTimeoutError):
    """An atomic batch or a transaction was not acknowledged in time. Either all of its messages are
    stored, or none.

    Attributes:
        subject: the subject of the first message.
        msg_id: the Nats-Msg-Id of the first message.
        count: number of messages.
    """

    def __init__(self, subject: str, msg_id: str, timeout: float, count: int) -> None:
        super().__init__(subject, msg_id, timeout)
        self.count = count
        text = f"no acknowledgement for the batch of {count} messages within {seconds(timeout)}"
        advice = "Either all of them are stored, or none: look before you try again"
        self.args = (f"{text}, the first on {subject!r}. {advice}",)


class DuplicateMessageError(JetStreamApiError):
    """The stream already has a message with a message id of the atomic batch, so it stored nothing
    of the batch. (NATS ADR-50)"""


class WrongSequenceError(JetStreamApiError):
    """The stream's last sequence or message id is not the expected one: someone else wrote first.

    Read the current state, decide again, and publish with the new sequence. The message was not
    stored, with one exception: if the acknowledgement of an earlier attempt was lost and someone
    has overwritten the message since, the stream cannot know that it was stored.
    """


class StreamChangeError(JetStreamError):
    """A declared stream differs from the one on the server, and tidings did not change it.

    Attributes:
        stream: the stream's name.
        differences: a description of each difference.
    """

    def __init__(self, stream: str, differences: tuple[str, ...], reason: str) -> None:
        self.stream = stream
        self.differences = differences
        super().__init__(f"stream {stream}: {reason}: {'; '.join(differences)}")


class BucketNotFoundError(JetStreamError, LookupError):
    """The server has no key-value bucket or object store of this name.

    Attributes:
        bucket: the bucket's name.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        super().__init__(
            f"there is no bucket {bucket!r}: app.js.key_value({bucket!r}) or "
            f"app.js.object_store({bucket!r}) creates it, unless you pass create=False"
        )


class BucketChangeError(JetStreamError):
    """A declared bucket differs from the one on the server. tidings did not change it.

    Attributes:
        bucket: the bucket's name.
        differences: a description of each difference.
    """

    def __init__(self, bucket: str, differences: tuple[str, ...]) -> None:
        self.bucket = bucket
        self.differences = differences
        super().__init__(
            f"the bucket {bucket!r} already exists with other options: "
            f"{'; '.join(differences)}. Declare the same options, or declare the bucket in "
            f"App(buckets=[Bucket(...)]), which changes it"
        )


class MessageNotFoundError(JetStreamError, LookupError):
    """The stream has no such message: it was never stored, or it was deleted, or it expired.

    Attributes:
        stream: the stream's name.
        sequence: the sequence that was asked for; None if a subject was.
        subject: the subject that was asked for; "" if a sequence was.
    """

    def __init__(self, stream: str, *, sequence: int | None = None, subject: str = "") -> None:
        self.stream = stream
        self.sequence = sequence
        self.subject = subject
        wanted = f"on {subject!r}" if sequence is None else f"with sequence {sequence}"
        super().__init__(f"the stream {stream!r} has no message {wanted}")


class KeyNotFoundError(JetStreamError, LookupError):
    """The bucket has no value for the key: it was never put, or it was deleted, or it expired.

    Attributes:
        bucket: the bucket's name.
        key: the key.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket = bucket
        self.key = key
        super().__init__(f"the bucket {bucket!r} has no key {key!r}")


class WrongRevisionError(WrongSequenceError):
    """The key is not at the expected revision: someone else wrote first. Read the key and decide
    again.

    Attributes:
        bucket: the bucket's name.
        key: the key.
        revision: the expected revision.
        last: the key's revision at that moment; None if the server did not send it.
    """

    def __init__(self, bucket: str, key: str, revision: int, last: int | None = None) -> None:
        # Only what uses JetStream needs the numbers.
        from tidings.error_codes import ErrorCode

        self.bucket = bucket
        self.key = key
        self.revision = revision
        self.last = last
        super().__init__(400, ErrorCode.WRONG_LAST_SEQUENCE, "wrong last sequence")
        text = f"the key {key!r} of the bucket {bucket!r} is not at revision {revision}"
        self.args = (f"{text}: someone else wrote first. Read it and decide again",)


class KeyExistsError(WrongRevisionError):
    """`create` found that the key already has a value."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(bucket, key, 0)
        self.args = (f"the bucket {bucket!r} already has a value for {key!r}",)


class ObjectNotFoundError(JetStreamError, LookupError):
    """The object store has no object of this name.

    Attributes:
        bucket: the store's name.
        name: the object's name.
    """

    def __init__(self, bucket: str, name: str) -> None:
        self.bucket = bucket
        self.name = name
        super().__init__(f"the object store {bucket!r} has no object {name!r}")


class ObjectExistsError(JetStreamError):
    """A link would replace an object of that name. Delete the object first, or give the link
    another name.

    Attributes:
        bucket: the name of the object store.
        name: the name of the object.
    """

    def __init__(self, bucket: str, name: str) -> None:
        self.bucket = bucket
        self.name = name
        super().__init__(
            f"the object store {bucket!r} has an object {name!r}, which a link would replace: "
            f"delete the object first, or give the link another name"
        )


class DigestError(JetStreamError):
    """The content that was read of an object differs from what was stored. An incomplete file is
    removed.

    Attributes:
        bucket: the store's name.
        name: the object's name.
        reason: what is wrong.
    """

    def __init__(self, bucket: str, name: str, reason: str) -> None:
        self.bucket = bucket
        self.name = name
        self.reason = reason
        super().__init__(f"the object {name!r} of {bucket!r} cannot be read completely: {reason}")


class LockTimeoutError(JetStreamError, TimeoutError):
    """`app.lock` did not acquire the lock within its `timeout`.

    Attributes:
        name: the name of the lock.
        timeout: the timeout in seconds.
        holder: the service and the ID of the instance that holds the lock; "" if it is not known.
    """

    def __init__(self, name: str, timeout: float, holder: str = "") -> None:
        self.name = name
        self.timeout = timeout
        self.holder = holder
        who = f": {clipped(holder)} holds it" if holder else ""
        super().__init__(f"the lock {name!r} was not acquired within {seconds(timeout)}{who}")


class LockLostError(JetStreamError):
    """A lock was lost while it was held, so the block was cancelled. Another instance may hold it.

    What the block has done up to now stays done. The next holder has a larger token, so what
    the block wrote with its token can be recognized.

    Attributes:
        name: the name of the lock.
        reason: why it was lost.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"the lock {name!r} is lost: {reason}")


class RedriveError(JetStreamError):
    """A dead letter does not match the message that it stands for. It was not published again.

    This protects against forged dead letters: any client with permission to publish to the subject
    of dead letters can write one with any headers.

    Attributes:
        stream: the stream that stores the dead letter.
        sequence: the sequence of the dead letter in this stream.
        reason: what does not match.
    """

    def __init__(self, stream: str, sequence: int, reason: str) -> None:
        self.stream = stream
        self.sequence = sequence
        self.reason = reason
        super().__init__(
            f"the dead letter {sequence} of {stream!r} is not published again: {reason}. Find out "
            f"who wrote it. If its message is right, publish the message yourself; otherwise drop "
            f"the dead letter"
        )
