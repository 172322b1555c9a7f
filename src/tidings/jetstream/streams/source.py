"""StreamSource: a stream whose messages another stream copies. (NATS ADR-31, ADR-36)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Any

from tidings.checks import check_whole
from tidings.errors import ConfigError
from tidings.jetstream.names import check_existing_name
from tidings.jetstream.start import check_time, server_stamp
from tidings.jetstream.streams.transform import Transform, check_transform
from tidings.keywords import called
from tidings.subject import check_pattern, check_subject


@called("StreamSource", hint='StreamSource("ORDERS")')
@dataclass(frozen=True)
class StreamSource:
    """A stream that is copied, in `Stream(mirror=)` and `Stream(sources=)`.

    Args:
        name: the name of the stream that is copied.
        subject: copy only messages on this subject, wildcards allowed.
        start: the sequence of the first message to copy, or a `datetime` with a time zone; None for
            all messages.
        subject_transforms: pairs of a pattern and the subject to store its messages under. Messages
            that match no pattern are not copied. It replaces `subject`.
        domain: the JetStream domain of the stream, if it is another one.
        api_prefix: the prefix of the JetStream API of the stream, instead of `domain`, for an API
            that another account exports.
        deliver_prefix: the prefix of the subjects on which the messages come, for `api_prefix`.

    Raises:
        ConfigError: if an option is wrong, or if two options contradict each other.
        SubjectError: if NATS does not allow a subject.

    Example:
        ```python
        from tidings import Stream
        from tidings.jetstream import StreamSource

        eu = StreamSource("ORDERS", domain="eu", subject="orders.paid")
        paid = Stream("PAID", sources=[eu, "REFUNDS"])
        ```
    """

    name: str
    _: KW_ONLY
    subject: str | None = None
    start: int | datetime | None = None
    subject_transforms: Sequence[Transform] = ()
    domain: str | None = None
    api_prefix: str | None = None
    deliver_prefix: str | None = None

    def __post_init__(self) -> None:
        check_existing_name(self.name, "stream")
        object.__setattr__(self, "subject_transforms", tuple(self.subject_transforms))
        for transform in self.subject_transforms:
            check_transform(f"source {self.name}: subject_transforms", transform)
        if self.subject is not None:
            check_pattern(self.subject)
            if self.subject_transforms:
                raise ConfigError(
                    f"source {self.name}: subject and subject_transforms exclude each other: "
                    f"write ({self.subject!r}, {self.subject!r}) to copy without a change"
                )
        if isinstance(self.start, datetime):
            check_time(f"source {self.name}: start", self.start)
        elif self.start is not None:
            check_whole(f"source {self.name}: start", self.start, hint="or a datetime")
        self._check_place()

    def _check_place(self) -> None:
        if self.domain is not None:
            check_existing_name(self.domain, "domain")
            if self.api_prefix is not None:
                raise ConfigError(
                    f"source {self.name}: domain and api_prefix exclude each other: a domain has "
                    f"the prefix '$JS.{self.domain}.API'"
                )
        for prefix in (self.api_prefix, self.deliver_prefix):
            if prefix is not None:
                check_subject(prefix)

    def config(self) -> dict[str, Any]:
        """Return it with the server's names and values."""
        config: dict[str, Any] = {"name": self.name}
        if self.subject is not None:
            config["filter_subject"] = self.subject
        if isinstance(self.start, datetime):
            config["opt_start_time"] = server_stamp(self.start)
        elif self.start is not None:
            config["opt_start_seq"] = self.start
        if self.subject_transforms:
            config["subject_transforms"] = [
                {"src": src, "dest": dest} for src, dest in self.subject_transforms
            ]
        api = f"$JS.{self.domain}.API" if self.domain is not None else self.api_prefix
        external = {"api": api, "deliver": self.deliver_prefix}
        if api is not None or self.deliver_prefix is not None:
            config["external"] = {name: each for name, each in external.items() if each is not None}
        return config


def as_source(option: str, value: object) -> StreamSource:
    """Return a source that is given as such or by the name of its stream.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, StreamSource):
        return value
    if isinstance(value, str):
        return StreamSource(value)
    raise ConfigError(
        f"{option} must be the name of a stream or a StreamSource, got a value of type "
        f"{type(value).__name__}"
    )
