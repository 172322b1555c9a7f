"""AppServices: `app.services`, with forms for synchronous code."""

from __future__ import annotations

from tidings.checks import Seconds
from tidings.current_link import CurrentLink
from tidings.services.finder import Services
from tidings.services.records import ServiceInfo, ServicePing, ServiceStats


class AppServices(Services):
    """Finds services with the connection of an app. Its methods that end in `_sync` are for
    synchronous code: `def` handlers, scripts and other threads.

    Args:
        current: where the run of the app is found.

    Example:
        ```python
        def print_versions():
            with app:
                for each in app.services.ping_sync(name="billing"):
                    print(each.version)
        ```
    """

    def __init__(self, current: CurrentLink) -> None:
        super().__init__(lambda call: current.here(call).connection)
        self._current = current

    def __repr__(self) -> str:
        return f"<AppServices {self._current.state}>"

    def ping_sync(
        self,
        *,
        name: str | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        timeout: Seconds = 2.0,
        stall: Seconds = 0.3,
    ) -> tuple[ServicePing, ...]:
        """`ping` from synchronous code.

        Raises:
            LoopThreadError: called on the event loop's own thread.
            TidingsError: as `ping`.
        """
        work = self.ping(name=name, id=id, timeout=timeout, stall=stall)
        return self._current.run(work, "services.ping_sync", "await app.services.ping()")

    def info_sync(
        self,
        *,
        name: str | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        timeout: Seconds = 2.0,
        stall: Seconds = 0.3,
    ) -> tuple[ServiceInfo, ...]:
        """`info` from synchronous code.

        Raises:
            TidingsError: as `ping_sync`.
        """
        work = self.info(name=name, id=id, timeout=timeout, stall=stall)
        return self._current.run(work, "services.info_sync", "await app.services.info()")

    def stats_sync(
        self,
        *,
        name: str | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        timeout: Seconds = 2.0,
        stall: Seconds = 0.3,
    ) -> tuple[ServiceStats, ...]:
        """`stats` from synchronous code.

        Raises:
            TidingsError: as `ping_sync`.
        """
        work = self.stats(name=name, id=id, timeout=timeout, stall=stall)
        return self._current.run(work, "services.stats_sync", "await app.services.stats()")
