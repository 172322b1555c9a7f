"""CurrentLink: where the calls of an app find the link of the run that goes on."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from tidings.errors import ForkedError, NotStartedError

# The link belongs to a run, and `import tidings` is quick: it is imported when an app starts.
if TYPE_CHECKING:
    from tidings.link import Link

T = TypeVar("T")


class CurrentLink:
    """Where the calls of an app find the link of the run that goes on.

    Attributes:
        link: the link; None while the app does not run.
    """

    __slots__ = ("is_forked", "link")

    def __init__(self) -> None:
        self.link: Link | None = None
        self.is_forked = False  # the app ran when this process was forked, and not since then

    @property
    def state(self) -> str:
        """Whether the app is "running" or "idle", as far as calls are concerned."""
        return "idle" if self.link is None else "running"

    def attach(self, link: Link) -> None:
        """Let calls through to a run."""
        self.link, self.is_forked = link, False

    def detach(self) -> None:
        """Let no more calls through."""
        self.link = None

    def forget(self) -> None:
        """Let no more calls through, because this process is a forked child."""
        self.link, self.is_forked = None, True

    def error(self, call: str) -> NotStartedError:
        """The error of a call that needs a running app."""
        return ForkedError(call) if self.is_forked else NotStartedError(call)

    def get(self, call: str) -> Link:
        """The link, for a caller in any thread.

        Raises:
            NotStartedError: the app is not running.
            ForkedError: it runs in the process from which this one was forked.
        """
        if self.link is None:
            raise self.error(call)
        return self.link

    def here(self, call: str) -> Link:
        """The link, for a caller in the app's event loop.

        Raises:
            NotStartedError, ForkedError: as `get`.
            WrongLoopError: the caller is in another event loop.
        """
        link = self.get(call)
        link.home.check(call)
        return link

    def run(
        self, work: Coroutine[Any, Any, T], call: str, instead: str, timeout: float | None = None
    ) -> T:
        """Run a coroutine in the app's event loop and block until it ends: see `Portal.run`.

        Raises:
            NotStartedError: the app is not running.
        """
        if self.link is None:
            work.close()
            raise self.error(call)
        return self.link.portal.run(work, call, instead, timeout)
