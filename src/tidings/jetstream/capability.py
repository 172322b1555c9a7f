"""What the server and a stream can do: the versions, and the options that switch a feature on."""

from __future__ import annotations

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError
from tidings.jetstream.api import JetStreamApi

# The first server with a time to live for each message, the first with atomic batches and counters,
# the first that delivers a message later, and the first that repeats it.
FIRST_WITH_TTL = (2, 11)
FIRST_WITH_ATOMIC = (2, 12)
FIRST_WITH_COUNTERS = (2, 12)
FIRST_WITH_DELAYS = (2, 12)
FIRST_WITH_CRON = (2, 14)

BUCKET_PREFIX = "KV_"


class _Switch(msgspec.Struct, frozen=True):
    """A feature that a stream has only if it is switched on.

    Attributes:
        feature: what the stream does not take otherwise.
        stream: the option of `Stream`.
        bucket: the option of `JetStream.key_value`.
    """

    feature: str
    stream: str
    bucket: str


# By the error of a stream that does not have it.
_SWITCHES: dict[int, _Switch] = {
    ErrorCode.MESSAGE_TTL_DISABLED: _Switch(
        "messages with a ttl of their own", stream="ttl=True", bucket="marker_ttl=60"
    ),
    ErrorCode.ATOMIC_DISABLED: _Switch(
        "atomic batches", stream="atomic=True", bucket="atomic=True"
    ),
    ErrorCode.COUNTERS_DISABLED: _Switch("counts", stream="counters=True", bucket=""),
}


def check_server(api: JetStreamApi, first: tuple[int, int], what: str) -> None:
    """Check that the connected server is new enough.

    Args:
        api: the JetStream API.
        first: the major and minor version of the first server that can.
        what: what needs it, for the error.

    Raises:
        ConfigError: it is older.
    """
    found = api.connection.server_version
    if (0, 0) < found < first:
        raise ConfigError(
            f"{what} needs nats-server {_shown(first)} or newer, and the app is connected to "
            f"{_shown(found)}: update the server"
        )


def switched_off(err_code: int, stream: object) -> ConfigError | None:
    """Return the error for a feature that a stream or a bucket does not have switched on.

    Args:
        err_code: JetStream's number of the refusal.
        stream: the name of the stream, as the server sent it.

    Returns:
        None if the refusal has another reason.
    """
    switch = _SWITCHES.get(err_code)
    if switch is None:
        return None
    name = stream if isinstance(stream, str) else ""
    if name.startswith(BUCKET_PREFIX) and switch.bucket:
        bucket = name.removeprefix(BUCKET_PREFIX)
        return ConfigError(
            f"the bucket {bucket!r} takes no {switch.feature}: declare it with "
            f"app.js.key_value({bucket!r}, {switch.bucket})"
        )
    return ConfigError(
        f"the stream {name} takes no {switch.feature}: declare it with "
        f"Stream({name!r}, ..., {switch.stream})"
    )


def _shown(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
