"""CronExpression: when a job is due. Checked here, so that an error names the field."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NoReturn

import msgspec

from tidings.errors import ConfigError, MissingExtraError
from tidings.text import printable

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY = "@every "
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(h|ms|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# The shortest interval that the server accepts, in seconds.
LEAST_INTERVAL = 1.0
# The longest expression that an error shows, and that is worth reading.
LONGEST = 256

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SUNDAY = 7  # also 0, which is what the server knows


class _Field(NamedTuple):
    """One field of an expression.

    Attributes:
        name: its name, for errors.
        least: its smallest value.
        most: its largest value.
        names: the words for the values from `least` on.
    """

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, tuple(_MONTHS)),
    _Field("day of week", 0, _SUNDAY, tuple(_DAYS)),
)
_FIVE = "minute hour day-of-month month day-of-week"


class CronExpression(msgspec.Struct, frozen=True):
    """A checked expression. `parse_cron` makes it.

    Attributes:
        text: the expression as it was written.
        fields: second, minute, hour, day of month, month and day of week, without names; empty
            for an interval.
        interval: seconds from one run to the next, for `@every`; None for fields.
        tz: the time zone of the fields; None for UTC.
    """

    text: str
    fields: tuple[str, ...]
    interval: float | None = None
    tz: str | None = None

    @property
    def server_form(self) -> str:
        """The expression as the server takes it: six fields, or `@every`. (NATS ADR-51)"""
        return self.text.lower() if self.interval is not None else " ".join(self.fields)

    def __str__(self) -> str:
        return f"{self.text} ({self.tz})" if self.tz else self.text

    def times(self, after: datetime) -> Iterator[datetime]:
        """Yield the times at which the job is due after a time, one after another.

        They are calculated by cronsim. In a night in which clocks change, an expression with five
        fields is due once.

        Args:
            after: an aware time.

        Raises:
            MissingExtraError: the extra `cron` is not installed.
            ConfigError: the expression is an interval, or the time zone is not known here.
        """
        if self.interval is not None:
            raise ConfigError(f"{self.text!r} has no times of its own: it counts from its start")
        try:
            from cronsim import CronSim
        except ImportError:
            raise MissingExtraError("cron", f"The expression {self.text!r}") from None
        fields = self.fields[1:] if self.fields[0] == "0" else self.fields
        zone = UTC if self.tz is None else _zone(self.tz)
        return CronSim(" ".join(fields), after.astimezone(zone))


def parse_cron(text: str, tz: str | None = None, *, what: str = "cron") -> CronExpression:
    """Check an expression and a time zone.

    Args:
        text: five fields, `minute hour day-of-month month day-of-week`; six with the second before
            them; `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`; or `@every 90s`.
        tz: the name of a time zone, such as "Europe/Berlin"; None for UTC.
        what: the call, for errors.

    Raises:
        ConfigError: the expression is not valid, or never due, or the time zone does not exist.

    Example:
        ```python
        from tidings.cron import parse_cron

        assert parse_cron("0 9 * * mon-fri").server_form == "0 0 9 * * 1-5"
        ```
    """
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(
            f"{what} needs an expression, such as '0 9 * * mon-fri' or '@hourly', got "
            f"{printable(repr(text))[:LONGEST]}"
        )
    if len(text) > LONGEST:
        raise ConfigError(f"{what}: an expression has at most {LONGEST} characters")
    text = " ".join(text.split())
    if text.lower().startswith(_EVERY):
        if tz is not None:
            raise ConfigError(f"{what} {text!r}: tz= has no effect on an interval, leave it out")
        return CronExpression(text, (), _interval(text, what))
    plain = _ALIASES.get(text.lower(), text)
    if plain.startswith("@"):
        known = ", ".join(_ALIASES)
        _refuse(what, text, f"there is no {text.split()[0]!r}: use {known} or '@every 90s'")
    parts = plain.split(" ")
    if len(parts) == len(_FIELDS) - 1:
        parts.insert(0, "0")
    if len(parts) != len(_FIELDS):
        _refuse(
            what,
            text,
            f"it has {len(parts)} field{'s' * (len(parts) != 1)}: write {_FIVE}, "
            "with the second before them if you need it",
        )
    fields = tuple(
        _translated(part, field, what, text) for part, field in zip(parts, _FIELDS, strict=True)
    )
    _check_days(fields, what, text)
    if tz is not None:
        _check_zone(tz, what)
    return CronExpression(text, fields, None, tz)


def _interval(text: str, what: str) -> float:
    span = text[len(_EVERY) :].lower()
    parts = _PART.findall(span)
    if not parts or "".join(number + unit for number, unit in parts) != span:
        _refuse(what, text, "write a duration with its units, such as '@every 90s' or '1h30m'")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds < LEAST_INTERVAL:
        _refuse(what, text, "the shortest interval is 1s")
    if seconds > timedelta(days=36_500).total_seconds():
        _refuse(what, text, "the longest interval is a hundred years")
    return seconds


def _translated(part: str, field: _Field, what: str, text: str) -> str:
    """Return a field without names, and with 0 as the only Sunday."""
    if part == "?" and field.name.startswith("day"):
        return "*"
    if field.name.startswith("day") and "," in part and "*" in part:
        # Whether the other kind of day matters depends on a star, and each program reads it
        # differently in a list.
        _refuse(what, text, f"the {field.name} has a star in a list: write the days themselves")
    done: list[str] = []
    for item in part.lower().split(","):
        done.extend(_items(item, field, what, text))
    return ",".join(done)


def _items(item: str, field: _Field, what: str, text: str) -> Iterator[str]:
    """Yield the same as an item of a list, in one or two items that the server understands."""
    span, slash, step = item.partition("/")
    if slash:
        most = field.most - field.least
        if not step.isascii() or not step.isdigit() or not 0 < int(step) <= most:
            _refuse(what, text, f"the step of the {field.name} must be 1 to {most}, got {step!r}")
    if span == "*":
        yield item
        return
    first, dash, last = span.partition("-")
    begin = _value(first, field, what, text)
    if slash and not dash:
        _refuse(
            what,
            text,
            f"the step of the {field.name} needs a range: write {first}-{field.most}/{step} or "
            f"*/{step}",
        )
    end = _value(last, field, what, text) if dash else begin
    if field.most == _SUNDAY and dash and begin > end == 0:
        end = _SUNDAY  # fri-sun
    if begin > end:
        _refuse(
            what,
            text,
            f"the range {span!r} of the {field.name} runs backwards: write two ranges with a comma",
        )
    if field.most == _SUNDAY and end == _SUNDAY:
        # The server's week is 0 to 6.
        yield from sorted({str(day % _SUNDAY) for day in range(begin, end + 1, int(step or 1))})
        return
    yield f"{begin}-{end}{slash}{step}" if dash else str(begin)


def _value(word: str, field: _Field, what: str, text: str) -> int:
    if word in field.names:
        return field.names.index(word) + field.least
    if word.isascii() and word.isdigit() and field.least <= int(word) <= field.most:
        return int(word)
    words = f" or {field.names[0]} to {field.names[-1]}" if field.names else ""
    wanted = f"{field.least} to {field.most}{words}"
    return _refuse(what, text, f"the {field.name} must be {wanted}, got {word!r}")


def _check_days(fields: tuple[str, ...], what: str, text: str) -> None:
    """Refuse a day that none of the months has, such as February 30."""
    _, _, _, days, months, weekdays = fields
    if days.startswith("*") or not weekdays.startswith("*"):
        return
    first = min(int(re.split("[-/]", item)[0]) for item in days.split(","))
    longest = max(_DAYS_OF_MONTH[month - 1] for month in _months(months))
    if first > longest:
        _refuse(what, text, f"it is never due: none of its months has a day {first}")


def _months(field: str) -> Iterator[int]:
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, dash, last = ("1", "-", "12") if span == "*" else span.partition("-")
        yield from range(int(first), int(last if dash else first) + 1, int(step or 1))


def _check_zone(tz: object, what: str) -> None:
    if not isinstance(tz, str) or not tz:
        raise ConfigError(
            f"{what}: tz must be the name of a time zone, such as 'Europe/Berlin', got {tz!r}"
        )
    if zoneinfo.available_timezones():  # without a database here, the server decides
        _zone(tz, what)


def _zone(tz: str, what: str = "cron") -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"{what}: there is no time zone {printable(tz)[:LONGEST]!r} on this system. Write a "
            f"name such as 'Europe/Berlin', or install the package tzdata"
        ) from None


def _refuse(what: str, text: str, why: str) -> NoReturn:
    raise ConfigError(f"{what} {text!r}: {printable(why)}")
