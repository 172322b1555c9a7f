"""Logging for the commands: text for people, JSON for log collectors.

With JSON, standard error holds nothing but records, so failures and warnings become records, too.

The sender of a message chooses some of the texts in a log record. Both formats escape them, so that
a text can neither forge a line nor control a terminal.
"""

from __future__ import annotations

import enum
import logging
import logging.config
import sys
import textwrap
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from tidings.contrib.tracing.logs import TraceFilter
from tidings.log import logger
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
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form.value}},
            "root": {"level": level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "tidings": {"level": level.upper()},
                "watchfiles": {"level": "WARNING"},  # it logs every change that it sees
            },
        }
    )
    add_identity()
    if form is LogFormat.JSON:
        log_failures()


class Identity(logging.Filter):
    """Adds the service, its version and the ID of its instance to records, unless a record has such
    a field itself. They are "" until the app is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = {"service": "", "version": "", "instance": ""}

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in self.fields.items():
            record.__dict__.setdefault(name, value)
        return True


_identity, _trace = Identity(), TraceFilter()


def identify(service: str, version: str, instance: str = "") -> None:
    """Name the service in all records from now on.

    Args:
        service: the app's name.
        version: the app's version.
        instance: the app's instance ID; "" for the process that only supervises others.
    """
    _identity.fields = {"service": service, "version": version, "instance": instance}


def add_identity() -> None:
    """Let every handler add the service, version and instance to its records, and the ids of the
    trace."""
    for handler in _handlers():
        handler.addFilter(_identity)
        handler.addFilter(_trace)


def _handlers() -> Iterator[logging.Handler]:
    named = logging.root.manager.loggerDict.values()
    for each in (logging.root, *named):
        yield from getattr(each, "handlers", ())  # a placeholder of a logger has none


def is_on_console() -> bool:
    """Whether a handler writes to standard error or standard output."""
    return any(
        getattr(handler, "stream", None) in (sys.stderr, sys.stdout) for handler in _handlers()
    )


class _Reports:
    """Where failures go: to standard error as plain text, or into the log."""

    into_log = False


def report(text: str) -> bool:
    """Log why a command failed, if the log is meant to hold failures.

    Returns:
        False if the text must also be written to standard error.
    """
    if _Reports.into_log:
        logger.error("%s", text)
    return _Reports.into_log and is_on_console()


def report_exception(text: str, error: BaseException) -> bool:
    """Do the same with the traceback of an error."""
    if _Reports.into_log:
        logger.error("%s: %s", text, type(error).__name__, exc_info=error)
    return _Reports.into_log and is_on_console()


def log_failures() -> None:
    """Log uncaught errors, failures of the command and warnings from now on."""
    _Reports.into_log = True
    logging.captureWarnings(True)
    sys.excepthook = _on_uncaught
    threading.excepthook = _on_uncaught_in_thread
    sys.unraisablehook = _on_unraisable


def _on_uncaught(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
    if not report_exception("the process ends", error):
        sys.__excepthook__(kind, error, tb)


def _on_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    error = args.exc_value
    if (
        error is None
        or isinstance(error, SystemExit)
        or not report_exception("a thread ended", error)
    ):
        threading.__excepthook__(args)


def _on_unraisable(args: Any) -> None:
    if args.exc_value is None or not report_exception(
        args.err_msg or "an error was ignored", args.exc_value
    ):
        sys.__unraisablehook__(args)


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
                if value != "" or name not in _identity.fields
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
