"""Lease: one key of the bucket, from the moment that it is taken until it is released or lost."""

from __future__ import annotations

import asyncio
import secrets
import time

import msgspec

from tidings.concurrency.backoff import Backoff
from tidings.error_codes import PASSING
from tidings.errors import (
    DeadlineExpiredError,
    DisconnectedError,
    JetStreamApiError,
    JetStreamUnavailableError,
    RequestTimeoutError,
    TidingsError,
    WrongSequenceError,
)
from tidings.jetstream.locks.leases import MARKER, Holder, Leases

# Errors after which nobody knows whether the server did it. They pass.
OUTAGE = (DisconnectedError, RequestTimeoutError, JetStreamUnavailableError)
# A lease is renewed when this part of it has passed.
RENEW = 1 / 3
# The holder gives up when this part of the lease has passed without a renewal, before the server
# does: what it does then must have an end before another instance begins.
TRUSTED = 0.9
# Seconds to wait for one answer, and between two tries.
TRY_TIMEOUT, LEAST_TIMEOUT = 2.0, 0.1
TRY_FIRST, TRY_MOST = 0.05, 0.5


class Lease:
    """One lease of a lock.

    Args:
        leases: the bucket.
        key: the name of the lock.
        seconds: the length of the lease.
        holder: who takes it: the service and the ID of its instance.

    Attributes:
        token: the revision with which it was taken; 0 before that.
    """

    def __init__(self, leases: Leases, key: str, seconds: float, holder: str) -> None:
        self.token = 0
        self._leases = leases
        self._key = key
        self._seconds = seconds
        # The ID tells this lease from any other, even of the same process.
        self._body = msgspec.json.encode(Holder(holder, secrets.token_hex(8), seconds))
        self._revision = 0
        self._began = 0.0  # when the last write that succeeded was sent, on the monotonic clock

    @property
    def left(self) -> float:
        """Seconds for which the lease can be trusted, if it is not renewed."""
        return self._began + TRUSTED * self._seconds - time.monotonic()

    async def take(self, after: int) -> bool:
        """Take the lease, if nobody else did. Returns whether it is held.

        Args:
            after: the sequence of the key, which nobody holds at the moment; 0 if it has none.

        Raises:
            JetStreamError: the stream refuses it.
            TidingsError: it cannot be sent.
        """
        self._began = time.monotonic()
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while self.left > 0:
            try:
                revision = await self._put(after)
            except TidingsError as error:
                if not may_pass(error):
                    raise
                await asyncio.sleep(backoff.next())
                continue
            self.token = self._revision = revision or 0
            return revision is not None and self.left > 0
        return False

    async def keep(self) -> str:
        """Renew the lease again and again. Returns the reason why it is lost."""
        while True:
            due = self._began + RENEW * self._seconds
            await asyncio.sleep(max(due - time.monotonic(), 0))
            if reason := await self._renew():
                return reason

    async def _renew(self) -> str:
        """Renew the lease, and try again until it can no longer be trusted.

        Returns:
            Why it is lost; "" if it is renewed.
        """
        began, doubt = time.monotonic(), "the event loop was blocked for too long"
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while self.left > 0:
            try:
                revision = await self._put(self._revision)
            except TidingsError as error:
                doubt = str(error)
                if not may_pass(error):
                    return doubt
                await asyncio.sleep(min(backoff.next(), max(self.left, 0)))
                continue
            if revision is None:
                return "another instance has taken it, or it was deleted"
            self._revision, self._began = revision, began
            return ""
        return f"it was not renewed in time, because {doubt}"

    async def release(self) -> None:
        """End the lease, so that another instance can take it at once. Never raises.

        Tries until the server would end it anyway.
        """
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while self._began + self._seconds > time.monotonic():
            try:
                await self._remove()
            except TidingsError as error:
                if not may_pass(error):
                    return  # the server ends the lease
                await asyncio.sleep(backoff.next())
            else:
                return

    async def _put(self, after: int) -> int | None:
        """Write the lease. Returns its revision; None if the key is not at `after`.

        Raises:
            TidingsError: as `Leases.write`.
        """
        try:
            return await self._write(self._body, after)
        except WrongSequenceError:
            # It may be this lease, if the acknowledgement of an earlier try was lost.
            return await self._find()

    async def _remove(self) -> None:
        try:
            await self._write(b"", self._revision)
        except WrongSequenceError:
            # It may be this lease, if a renewal was under way when it ended.
            if (found := await self._find()) is not None:
                await self._write(b"", found)

    async def _write(self, body: bytes, after: int) -> int:
        seconds = self._seconds if body else MARKER
        timeout = min(max(self.left, LEAST_TIMEOUT), TRY_TIMEOUT)
        return await self._leases.write(self._key, body, seconds, after, timeout)

    async def _find(self) -> int | None:
        """Return the revision of this lease, if it is the last message of its key."""
        place = await self._leases.read(self._key)
        return place.sequence if place.body == self._body else None


def may_pass(error: TidingsError) -> bool:
    """Whether the same call can succeed a moment later, after an outage or an election."""
    if isinstance(error, JetStreamApiError):
        return error.err_code in PASSING
    return isinstance(error, OUTAGE) and not isinstance(error, DeadlineExpiredError)
