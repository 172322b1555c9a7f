"""Integrations that an app turns on by itself, because its program has set up their library.

The core does not import them. It finds them by their names, at the start of an app.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidings.handlers.tracing import Tracing

# The module that a program imports to set up tracing, and the integration for it.
OPENTELEMETRY = "opentelemetry.trace"
TRACING = "tidings.contrib.tracing.setup"


def find_tracing(
    patterns: Callable[[], list[str]], url: Callable[[], str | None]
) -> Tracing | None:
    """Return the tracing of a run; None if the program has set up no tracer provider.

    Args:
        patterns: returns the subjects that the app declares, which may contain wildcards.
        url: returns the URL of the connected server; None if there is no connection.
    """
    if OPENTELEMETRY not in sys.modules:
        return None  # the program cannot have set one up
    tracing: Tracing | None = importlib.import_module(TRACING).tracing_of(patterns(), url)
    return tracing
