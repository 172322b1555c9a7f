"""TaskSpec: the declaration of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.checks import check_seconds
from tidings.concurrency.time_limit import check_timeout
from tidings.functions import function_name
from tidings.handlers.signatures import check_handler

if TYPE_CHECKING:
    from tidings.cron import CronExpression


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of a task.

    Attributes:
        function: the function to run.
        interval: seconds from the start of one run to the start of the next; None to run once.
        cron: the times of the runs, instead of `interval`.
        timeout: the limit of one run in seconds; None for no limit.

    Raises:
        ConfigError: if the function takes arguments, or if the interval or the timeout is not a
            positive number.
    """

    function: Callable[[], Any]
    interval: float | None = None
    cron: CronExpression | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        check_handler(self.function, "")
        check_timeout(self.timeout)
        if self.interval is not None:
            check_seconds("interval", self.interval, hint="or None to run once")

    @property
    def is_periodic(self) -> bool:
        """Whether it runs again and again."""
        return self.interval is not None or self.cron is not None

    @property
    def name(self) -> str:
        """The function's name, for logs and statistics."""
        return function_name(self.function)
