"""Followed: a request with several answers, whose end somebody wants to know."""

from __future__ import annotations

from collections.abc import Callable

# Gets why the answers ended, the number of answers that arrived, and the error, if it was one.
Follower = Callable[[str, int, BaseException | None], None]


class Followed:
    """A request with several answers. The send hooks return before its answers arrive, so the
    tracing sets a follower.

    Attributes:
        follower: called once, when the reader of the answers knows the end; None for none.
    """

    __slots__ = ("follower",)

    def __init__(self) -> None:
        self.follower: Follower | None = None

    @property
    def received(self) -> int:
        """Number of answers that arrived."""
        raise NotImplementedError

    def report(self, why: str, error: BaseException | None = None) -> None:
        """Tell the follower that the answers have ended. Only the first call counts."""
        follower, self.follower = self.follower, None
        if follower is not None:
            follower(why, self.received, error)
