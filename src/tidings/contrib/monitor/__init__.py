"""The monitor of an app: its metrics and its health over HTTP.

`App(monitor=...)` and `tidings run --monitor` start it. Health needs nothing else; `/metrics` needs
the extra `metrics`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidings.addresses import ListenAddress
from tidings.errors import MissingExtraError
from tidings.lifecycle import Observer, Run

if TYPE_CHECKING:
    from .prometheus import AppCollector

__all__ = ["AppCollector", "health_file", "serve"]


def serve(run: Run, address: ListenAddress) -> Observer:
    """Serve the metrics and the health of a run over HTTP.

    Raises:
        ConfigError: the address cannot be used.
    """
    from .observers import Monitor

    return Monitor(run, address)


def health_file(run: Run, path: Path) -> Observer:
    """Keep the health of a run in a file.

    Raises:
        ConfigError: the file cannot be written.
    """
    from .observers import RunHealthFile

    return RunHealthFile(run, path)


def __getattr__(name: str) -> Any:
    """Import `AppCollector` at its first use, because it needs prometheus-client.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    if name != "AppCollector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .prometheus import AppCollector
    except ImportError:
        raise MissingExtraError("metrics", "AppCollector") from None
    return AppCollector
