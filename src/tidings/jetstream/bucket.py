"""AnyBucket: the stream behind a key-value bucket or an object store."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal, TypeVar

from tidings.checks import (
    MOST_WHOLE,
    Seconds,
    check_choice,
    check_flag,
    check_seconds,
    check_text,
    check_whole,
)
from tidings.deadlines import current, in_time
from tidings.error_codes import ErrorCode
from tidings.errors import (
    BucketChangeError,
    BucketNotFoundError,
    JetStreamApiError,
    NoStreamError,
)
from tidings.jetstream.api import PREFIX, JetStreamApi, nanoseconds
from tidings.jetstream.capability import FIRST_WITH_ATOMIC, FIRST_WITH_TTL, check_server
from tidings.jetstream.election import through_election
from tidings.jetstream.names import check_existing_name, check_new_bucket
from tidings.jetstream.origins import KIND_PREFIXES, Origin
from tidings.jetstream.reader import Host
from tidings.jetstream.streams.bucket import MOST_HISTORY, bucket_subjects, new_config
from tidings.jetstream.ttl import SHORTEST

T = TypeVar("T")

Storage = Literal["file", "memory"]

MARKER_TTL, ATOMIC = "subject_delete_marker_ttl", "allow_atomic"
# The server's names of options, and what they are called here.
_OPTIONS = {
    "max_age": "ttl",
    "max_msgs_per_subject": "history",
    "max_msg_size": "max_value_size",
    MARKER_TTL: "marker_ttl",
    ATOMIC: "atomic",
    "num_replicas": "replicas",
}
# What the server allows.
MOST_REPLICAS = 5
# Values that the server leaves out of a configuration.
_ABSENT = {"description": "", "max_age": 0, MARKER_TTL: 0, ATOMIC: False}


class AnyBucket:
    """A stream that is used as a bucket.

    Args:
        host: the app's JetStream.
        name: the bucket's name.
        root: the first word of its subjects, "$KV" or "$O".
        create: whether to create the bucket if it does not exist.
        said: the options that were declared, which an existing bucket must have.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        root: str,
        *,
        create: bool,
        said: dict[str, Any],
    ) -> None:
        if create:
            check_new_bucket(name)
        else:
            check_bucket(name)
        self.name = name
        self._stream = f"{KIND_PREFIXES[root]}{name}"
        self._root = root
        self._host = host
        self._create = create
        self._said = said
        self._config = {
            "name": self._stream,
            "subjects": bucket_subjects(root, name),
            **new_config(root),
            **said,
        }
        if MARKER_TTL in said:
            self._config["allow_msg_ttl"] = True  # the server has no markers without
        self._opened: JetStreamApi | None = None
        self._ttl_bounds = SHORTEST, math.inf
        self._origin = Origin.plain(root, name, self._stream, api_prefix=PREFIX)

    async def open(self) -> JetStreamApi:
        """Find the bucket or create it, once in a run of the app.

        Raises:
            BucketNotFoundError: it does not exist, and `create` is False.
            BucketChangeError: it has other options than those declared.
            JetStreamUnavailableError: no JetStream answers.
            NotStartedError: the app is not running.
        """
        api = self._host.api
        if self._opened is api and current.get() is None:  # open, and no deadline to keep
            return api
        return await in_time(self._open(), self.name)

    async def _open(self) -> JetStreamApi:
        api = self._host.api
        if self._opened is not api:
            info = await through_election(lambda: self._find_or_make(api))
            config = info["config"]
            self._compare(config)
            self._ttl_bounds = _ttl_bounds(config)
            self._origin = Origin.of(self._root, self.name, config, api.prefix)
            if self._create and not config.get("mirror"):  # a mirror is not created again
                # What `App(buckets=)` or another `key_value` declares of it counts as well.
                others = api.declared.get(self._stream, {})
                api.declared[self._stream] = {**self._config, **others, **self._said}
            self._opened = api
        return api

    async def use(self, work: Callable[[JetStreamApi], Awaitable[T]]) -> T:
        """Open the bucket and do some work in it, perhaps twice.

        If the server has lost the bucket and the app declares it, it is created again.

        Raises:
            BucketNotFoundError: the bucket is gone.
            DeadlineExpiredError: the deadline passed before the end of the work.
            TidingsError: whatever `open` and `work` raise.
        """
        return await in_time(self._use(work), self.name)

    async def _use(self, work: Callable[[JetStreamApi], Awaitable[T]]) -> T:
        api = await self._open()
        try:
            with self._must_exist():
                return await work(api)
        except BucketNotFoundError:
            if not await api.restore_stream(self._stream):
                self._opened = None  # somebody may create another kind of bucket with its name
                raise
        with self._must_exist():
            return await work(api)

    def _origin_api(self, api: JetStreamApi) -> JetStreamApi:
        """Return the API for writes: another domain's if the bucket is a mirror of one there."""
        if self._origin.api_prefix == api.prefix:
            return api
        return JetStreamApi(api.connection, api.timeout, self._origin.api_prefix)

    async def _find_or_make(self, api: JetStreamApi) -> dict[str, Any]:
        found = await self._find(api)
        if found is None and self._stream in api.declared:  # the server had it in this run
            await api.restore_stream(self._stream)
            found = await self._find(api)
        return found or await self._make(api)

    async def _find(self, api: JetStreamApi) -> dict[str, Any] | None:
        try:
            return await api.call(f"STREAM.INFO.{self._stream}")
        except JetStreamApiError as error:
            if error.err_code != ErrorCode.STREAM_NOT_FOUND:
                raise
            return None

    async def _make(self, api: JetStreamApi) -> dict[str, Any]:
        if not self._create:
            raise BucketNotFoundError(self.name)
        if MARKER_TTL in self._said:  # an older server would leave the option out
            check_server(api, FIRST_WITH_TTL, "marker_ttl=")
        if self._said.get(ATOMIC):
            check_server(api, FIRST_WITH_ATOMIC, "atomic=")
        try:
            return await api.call(f"STREAM.CREATE.{self._stream}", self._config)
        except JetStreamApiError as error:
            found = (
                await self._find(api) if error.err_code == ErrorCode.STREAM_NAME_IN_USE else None
            )
            if found is None:
                raise
            return found  # another process created it in this moment

    def _compare(self, config: dict[str, Any]) -> None:
        there = {option: config.get(option, _ABSENT.get(option)) for option in self._said}
        differences = tuple(
            f"{_OPTIONS.get(option, option)} is {_words(option, there[option])} there, "
            f"{_words(option, wanted)} here"
            for option, wanted in self._said.items()
            if there[option] != wanted
        )
        if differences:
            raise BucketChangeError(self.name, differences)

    @contextlib.contextmanager
    def _must_exist(self) -> Iterator[None]:
        """Turn the error for a missing stream into that for a missing bucket."""
        try:
            yield
        except (JetStreamApiError, NoStreamError) as error:
            if (
                isinstance(error, JetStreamApiError)
                and error.err_code != ErrorCode.STREAM_NOT_FOUND
            ):
                raise
            raise BucketNotFoundError(self.name) from None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def check_bucket(name: object) -> None:
    """Check the name of a bucket that any client can have created.

    Raises:
        ConfigError: no bucket can have that name.
    """
    check_existing_name(name, "bucket")


def declared_options(
    *,
    ttl: Seconds | None,
    description: str | None,
    storage: Storage | None,
    replicas: int | None,
    max_bytes: int | None,
    marker_ttl: Seconds | None = None,
    history: int | None = None,
    max_value_size: int | None = None,
    atomic: bool | None = None,
) -> dict[str, Any]:
    """Check the options that were declared and return them with the server's names.

    An option that is None was not declared.

    Raises:
        ConfigError: a bad option.
    """
    if storage is not None:
        check_choice("storage", storage, ("file", "memory"))
    if description is not None:
        check_text("description", description, may_be_empty=True)
    if atomic is not None:
        check_flag("atomic", atomic)
    whole = {
        "history": (history, MOST_HISTORY),
        "replicas": (replicas, MOST_REPLICAS),
        "max_bytes": (max_bytes, MOST_WHOLE),
        "max_value_size": (max_value_size, MOST_WHOLE),
    }
    for name, (value, most) in whole.items():
        if value is not None:
            check_whole(name, value, most=most)
    options = {
        "max_age": None if ttl is None else nanoseconds(check_seconds("ttl", ttl)),
        MARKER_TTL: None if marker_ttl is None else _marker_ttl(marker_ttl),
        "description": description,
        "storage": storage,
        "num_replicas": replicas,
        "max_bytes": max_bytes,
        "max_msgs_per_subject": history,
        "max_msg_size": max_value_size,
        ATOMIC: atomic,
    }
    return {option: value for option, value in options.items() if value is not None}


def _ttl_bounds(config: dict[str, Any]) -> tuple[float, float]:
    """Return the shortest and the longest time that the server keeps a value with a ttl."""
    shortest, longest = SHORTEST, config.get("max_age", 0) / 1e9 or math.inf
    if config.get("max_msgs_per_subject") != 1:  # of a mirror, the marker_ttl is not known
        shortest = max(shortest, config.get(MARKER_TTL, 0) // 1_000_000_000)
    return shortest, longest


def _marker_ttl(seconds: Seconds) -> int:
    return nanoseconds(check_seconds("marker_ttl", seconds, least=SHORTEST))


def _words(option: str, value: Any) -> str:
    if option in ("max_age", MARKER_TTL):
        return f"{value / 1e9:g} s" if value else "none"
    if isinstance(value, bool):
        return repr(value)
    return "without limit" if value == -1 else repr(value) if value else "none"
