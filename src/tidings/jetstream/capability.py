"""Whether the server and a stream can keep schedules."""

from __future__ import annotations

from tidings.errors import ConfigError
from tidings.jetstream.api import JetStreamApi

# The first server that delivers a message later, and the first that repeats it.
FIRST_WITH_DELAYS = (2, 12)
FIRST_WITH_CRON = (2, 14)


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


def _shown(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
