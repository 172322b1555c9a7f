"""Logging for the commands: text for people, JSON for log collectors.

The sender of a message chooses some of the texts in a log record. Both formats escape them, so that
a text can neither forge a line nor control a terminal.
"""

from __future__ import annotations

import enum
import logging
import logging.config
import textwrap
from typing import Any

from tidings.contrib.tracing.logs import TraceFilter
from tidings.text import printable


class LogLevel(enum.StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(enum.StrEnum):
    """The format of log records."""

    TEXT = "text"
    JSON = "json"


def configure(level: LogLevel, form: LogFormat, worker: str = "") -> None:
    """Log all loggers, `tidings` and root included, to standard error.

    Args:
        level: lowest level that is logged.
        form: text, or one JSON object a line, which includes the record's `extra` fields
            and, inside a span, the ids of the trace.
        worker: number of this process, shown in each record; "" for the only process.
    """
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"text": _text(worker), "json": _json(worker)},
            "filters": {"trace": {"()": TraceFilter}},
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": form.value,
                    "filters": ["trace"],
                }
            },
            "root": {"level": level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "tidings": {"level": level.upper()},
                "watchfiles": {"level": "WARNING"},  # it logs every change that it sees
            },
        }
    )


class TextFormatter(logging.Formatter):
    """Formats a record as one printable line, followed by its traceback, if any. The traceback is
    indented, so each line that is not indented is the start of a record."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        lines = [printable(self.formatMessage(record))]
        if record.exc_info:
            lines.append(_indented(self.formatException(record.exc_info)))
        elif record.exc_text:  # a record that passed through a queue
            lines.append(_indented(record.exc_text))
        if record.stack_info:
            lines.append(_indented(self.formatStack(record.stack_info)))
        return "\n".join(lines)


def _indented(text: str) -> str:
    return textwrap.indent(printable(text, keep="\n"), "  ")


def json_formatter(**options: Any) -> logging.Formatter:
    """Create a formatter of JSON lines that escapes all texts, including the `extra` fields."""
    from pythonjsonlogger.json import JsonFormatter

    class Formatter(JsonFormatter):
        def process_log_record(self, log_record: dict[str, Any]) -> dict[str, Any]:
            fields: dict[str, Any] = super().process_log_record(log_record)
            return {
                name: _safe(value, "\n" if name in _OF_LINES else "")
                for name, value in fields.items()
            }

    return Formatter(**options)


_OF_LINES = ("exc_info", "stack_info")


def _safe(value: Any, keep: str) -> Any:
    """Escape all texts in a field of a record."""
    if isinstance(value, str):
        return printable(value, keep)
    if isinstance(value, dict):
        return {_safe(name, keep): _safe(each, keep) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_safe(each, keep) for each in value]
    return value


def _text(worker: str) -> dict[str, object]:
    who = f" [{worker}]" if worker else ""
    return {
        "()": TextFormatter,
        "fmt": f"%(asctime)s %(levelname)-7s{who} %(name)s: %(message)s",
        "datefmt": "%H:%M:%S",
    }


def _json(worker: str) -> dict[str, object]:
    return {
        "()": json_formatter,
        "fmt": "%(levelname)s %(name)s %(process)d %(message)s",
        "rename_fields": {"levelname": "level", "name": "logger"},
        "static_fields": {"worker": int(worker)} if worker else {},
        "json_ensure_ascii": False,
        "timestamp": True,
    }
