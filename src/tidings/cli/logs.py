"""Logging for `tidings run`: text for a person, JSON for a collector of logs."""

from __future__ import annotations

import enum
import logging.config


class LogLevel(enum.StrEnum):
    """The least severe record that is shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(enum.StrEnum):
    """How a record is shown."""

    TEXT = "text"
    JSON = "json"


def configure(level: LogLevel, form: LogFormat, worker: str = "") -> None:
    """Log everything, `tidings` and root alike, to standard error.

    Args:
        level: the least severe record that is shown.
        form: text, or one JSON object a line with the records' `extra` fields.
        worker: the number of this worker, shown in front where there are several.
    """
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"text": _text(worker), "json": _json(worker)},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form.value}},
            "root": {"level": level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "tidings": {"level": level.upper()},
                "watchfiles": {"level": "WARNING"},  # it tells every change that it sees
            },
        }
    )


def _text(worker: str) -> dict[str, object]:
    who = f" [{worker}]" if worker else ""
    return {
        "format": f"%(asctime)s %(levelname)-7s{who} %(name)s: %(message)s",
        "datefmt": "%H:%M:%S",
    }


def _json(worker: str) -> dict[str, object]:
    return {
        "()": "pythonjsonlogger.json.JsonFormatter",
        "fmt": "%(levelname)s %(name)s %(process)d %(message)s",
        "rename_fields": {"levelname": "level", "name": "logger"},
        "static_fields": {"worker": int(worker)} if worker else {},
        "json_ensure_ascii": False,
        "timestamp": True,
    }
