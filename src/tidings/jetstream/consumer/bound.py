"""BoundConsumer: uses a consumer as others made it. It needs hardly any permission."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from tidings.error_codes import ErrorCode
from tidings.errors import (
    ConfigError,
    JetStreamApiError,
    TidingsError,
)
from tidings.headers import Headers
from tidings.jetstream.consumer.config import differences, updated_config
from tidings.jetstream.consumer.remote import ANSWER, RemoteConsumer
from tidings.jetstream.consumer.terms import Terms
from tidings.jetstream.election import through_election
from tidings.jetstream.status import Status
from tidings.log import logger
from tidings.text import printable

# A pull that the server refuses in every case, so that its answer says no more than whether the
# consumer exists: the interval of the heartbeats is longer than the pull.
PROBE = b'{"batch":1,"expires":1000000,"idle_heartbeat":1000000000}'
# Seconds that the consumer may be without a leader, during which nobody answers a pull.
LEADERLESS = 5.0
PROBE_WAIT = 0.25
# Seconds between two progress reports if the consumer's ack_wait is not known.
UNKNOWN_HEARTBEAT = 1.0


class BoundConsumer(RemoteConsumer):
    """A consumer that the app neither creates nor changes.

    The app pulls and acknowledges. It reads the configuration if the user has the permission, and
    otherwise trusts what is declared.
    """

    _is_readable = True

    @property
    def heartbeat(self) -> float:
        """Seconds between two progress reports to the server."""
        if not self._is_readable and self.spec.ack_wait is None:
            return UNKNOWN_HEARTBEAT
        return super().heartbeat

    async def ensure(self, *, keeps_dead_letters: bool = False) -> None:
        """Find the consumer, and check that it is as declared.

        Args:
            keeps_dead_letters: whether the consumer's stream also takes its dead letters.

        Raises:
            ConfigError: it does not exist, cannot be used, or is not as declared.
            SubjectPermissionError: the user may not pull from it.
            RequestTimeoutError, JetStreamUnavailableError: no leader answers.
        """
        info = await through_election(self._read)
        if info is None:
            await self._trust()
            return
        if keeps_dead_letters:
            self._refuse_own_dead_letters(info)
        self._take(info)
        self._compare(info["config"])
        self._warn_of_surprises(None)

    async def _read(self) -> dict[str, Any] | None:
        """Return the consumer's state; None if the user may not read it."""
        try:
            info = await self._api.call_if_allowed(f"CONSUMER.INFO.{self._path}", timeout=ANSWER)
        except JetStreamApiError as error:
            if error.err_code not in (ErrorCode.CONSUMER_NOT_FOUND, ErrorCode.STREAM_NOT_FOUND):
                raise
            raise self._is_missing() from None
        self._is_readable = info is not None
        return info

    def _compare(self, config: dict[str, Any]) -> None:
        wanted = updated_config(self.spec, config)
        if (limit := config.get("max_deliver")) != wanted.get("max_deliver"):
            wanted["max_deliver"] = limit  # both limits hold, and the app counts up to the lower
            logger.warning(
                "%s: %s has max_deliver=%s on the server, so a message whose process dies in the "
                "last delivery gets no dead letter",
                *(self.spec.name, self._called, limit),
            )
        if wanted != config and (found := differences(config, wanted)):
            raise ConfigError(
                f"{self.spec.name}: {self._called} is not as declared, and the app may not change "
                f"it: {printable(', '.join(found))}. Declare it as it is on the server"
            )

    async def _trust(self) -> None:
        """Check that the consumer exists, and take what is declared for its configuration."""
        if untrusted := self.spec.created_options():
            raise ConfigError(
                f"{self.spec.name}: the user may not read {self._called}, so the app cannot give "
                f"it the declared {', '.join(untrusted)}. Leave that out, or allow the user "
                f"{self._api.prefix}.STREAM.INFO.{self.spec.stream} and CONSUMER.INFO and "
                f"CONSUMER.CREATE for it"
            )
        await self._probe()
        self.unchecked = self.spec.subjects
        if self.spec.ack_wait is not None:
            self.terms = Terms(ack_wait=self.spec.ack_wait)
            self.spec.check_batch_timeout(self.spec.ack_wait)
        logger.info(
            "%s: the user may not read the configuration of %s, so the app relies on what is "
            "declared",
            *(self.spec.name, self._called),
        )

    async def _probe(self) -> None:
        """Check that the consumer exists, with the permission to pull alone.

        Raises:
            ConfigError: nobody answers pulls for it, and no election explains that.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEADERLESS
        subject = f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._path}"
        while True:
            frame = await self._api.connection.request(subject, PROBE, b"", ANSWER)
            if Headers.from_block(frame[3]).status != Status.NO_RESPONDERS:
                return
            if loop.time() > deadline:
                raise self._is_missing()
            await asyncio.sleep(PROBE_WAIT)

    def _is_missing(self) -> ConfigError:
        return ConfigError(
            f"{self.spec.name}: there is no {self._called}. Create it. Or let the app create it, "
            f"without create=False and with the permissions for {self._api.prefix}.STREAM.INFO."
            f"{self.spec.stream}, and CONSUMER.INFO and CONSUMER.CREATE of the consumer"
        )

    async def restore(self) -> None:
        """Check that the consumer is there again, as far as the user may.

        Raises:
            TidingsError: the server does not answer, or the consumer is gone.
        """
        # Without the permission to ask, the next pull finds out.
        info = await self._read() if self._is_readable else None
        if info is not None:
            self._take(info)

    async def refresh(self) -> None:
        """Read floor and terms from the server, as far as the user may."""
        if self._is_readable:
            with contextlib.suppress(TidingsError):
                info = await self._info()
                if info is not None:
                    self._take(info)

    async def release(self) -> None:
        """Leave the consumer on the server."""
