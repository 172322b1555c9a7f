"""`tidings run --log-config`: a configuration of Python's logging from a file."""

from __future__ import annotations

import json
import logging.config
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidings.errors import ConfigError

from . import logs

# In a file name, it is replaced by the number of the process: 0 for the command, 1 for the first
# process of --workers.
NUMBER = "{worker}"

_READERS = {".json": json.loads, ".toml": tomllib.loads}
# Handlers that rename their file. A second process would go on writing to the renamed one.
_ROTATING = ("RotatingFileHandler", "TimedRotatingFileHandler")


def read_log_config(path: Path, *, is_shared: bool) -> dict[str, Any]:
    """Read a configuration, in the form of `logging.config.dictConfig`.

    Args:
        path: a .json or .toml file.
        is_shared: several processes will use it.

    Raises:
        ConfigError: the file cannot be read or used.
    """
    read = _READERS.get(path.suffix)
    if read is None:
        raise _fault(path, "the file name must end in .json or .toml")
    try:
        config = read(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _fault(path, str(error.strerror or error)) from None
    except (ValueError, RecursionError) as error:  # of JSON, TOML or UTF-8
        raise _fault(path, str(error)) from None
    if not isinstance(config, dict):
        raise _fault(path, f"it must contain an object, not a {type(config).__name__}")
    for name, handler in _handlers_with_files(config):
        if is_shared and _is_rotating(handler) and NUMBER not in handler["filename"]:
            raise _fault(
                path,
                f"the handler {name!r} rotates one file, but several processes write to it. Write "
                f"{NUMBER} into its filename, so that each process has a file of its own",
            )
    return config


def use_log_config(path: Path, *, is_shared: bool, number: int) -> None:
    """Configure logging from a file.

    Args:
        path: a .json or .toml file.
        is_shared: several processes use it.
        number: the number of this process.

    Raises:
        ConfigError: the file cannot be read or used.
    """
    config = read_log_config(path, is_shared=is_shared)
    for _, handler in _handlers_with_files(config):
        handler["filename"] = handler["filename"].replace(NUMBER, str(number))
    config.setdefault("version", 1)
    config.setdefault("disable_existing_loggers", False)  # True would silence tidings
    try:
        logging.config.dictConfig(config)
    except Exception as error:  # whatever a class raises that the file names
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        raise _fault(path, f"{error}{cause}") from None
    logs.add_identity()
    logs.log_failures()


def _handlers_with_files(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    handlers = config.get("handlers")
    for name, handler in handlers.items() if isinstance(handlers, dict) else ():
        if isinstance(handler, dict) and isinstance(handler.get("filename"), str):
            yield name, handler


def _is_rotating(handler: dict[str, Any]) -> bool:
    return str(handler.get("class", "")).rpartition(".")[2] in _ROTATING


def _fault(path: Path, text: str) -> ConfigError:
    return ConfigError(f"--log-config {path}: {' '.join(text.split())}")
