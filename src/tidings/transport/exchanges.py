"""Exchanges: the open requests with several answers, each with an inbox of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from tidings.errors import TidingsError


class Exchange(Protocol):
    """An open request with several answers, or the reply to one.

    Attributes:
        subject: the request's subject.
        target: the subject that it publishes to.
        sid: the subscription of its inbox.
    """

    subject: str
    target: str
    sid: int

    def fail(self, error: TidingsError) -> None:
        """End it with an error. Must not raise."""
        ...


class Exchanges:
    """The exchanges that end when their connection, their subject or their inbox is lost.

    Args:
        refusal: returns why the server refuses a subscription, or None.
    """

    def __init__(self, refusal: Callable[[int], TidingsError | None]) -> None:
        self._refusal = refusal
        self._open: dict[int, Exchange] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._open.values())

    def add(self, exchange: Exchange) -> None:
        """Add an exchange."""
        self._open[exchange.sid] = exchange

    def discard(self, exchange: Exchange) -> None:
        """Remove an exchange that has ended."""
        self._open.pop(exchange.sid, None)

    def refuse(self, sids: Iterable[int]) -> None:
        """Fail the exchanges whose inboxes the server refuses."""
        for sid in sids:
            error = self._refusal(sid)
            if error is not None and (exchange := self._open.pop(sid, None)):
                exchange.fail(error)

    def fail_subject(self, subject: str, error: TidingsError) -> None:
        """Fail all exchanges on a subject, because the server denied it."""
        for exchange in [each for each in self._open.values() if each.target == subject]:
            exchange.fail(error)

    def fail_all(self, error: Callable[[str], TidingsError]) -> None:
        """Fail all exchanges. `error` creates the error of each from a description of the call."""
        exchanges, self._open = self._open, {}
        for exchange in exchanges.values():
            exchange.fail(error(f"request to {exchange.subject!r}"))
