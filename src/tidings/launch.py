"""Launch: how an app is run, besides what it declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from tidings.transport.settings import ConnectionSettings
from tidings.transport.sources import Source

# What runs an app is imported when it starts.
if TYPE_CHECKING:
    from tidings.addresses import ListenAddress
    from tidings.lifecycle import Observer, Run


class Launch(msgspec.Struct):
    """How an app is run, besides what it declares.

    The arguments of `App` say it first. Before the start, the command line may change it for its
    flags, and the test client for its server.

    Attributes:
        connection: how to connect.
        monitor: the address for metrics and health; None for no monitor.
        observers: functions that take the run and begin to observe it.
        is_measured: whether to measure how long handlers and requests take, even without a monitor.
    """

    connection: ConnectionSettings
    monitor: ListenAddress | None = None
    observers: list[Callable[[Run], Observer]] = []
    is_measured: bool = False

    def use_flags(self, flags: Source, *, may_use_selected: bool = False) -> None:
        """Connect as the flags of a command say.

        Args:
            flags: the flags.
            may_use_selected: whether the context that `nats` has selected counts, as the last
                source.
        """
        self.connection = self.connection.with_flags(flags, may_use_selected=may_use_selected)
