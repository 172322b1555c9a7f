"""Expressions: translated for the server, and refused with the name of the field."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from tidings import ConfigError, MissingExtraError
from tidings.cron import parse_cron


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("0 9 * * mon-fri", "0 0 9 * * 1-5"),
        ("  0   9 * *  MON,Wed ", "0 0 9 * * 1,3"),
        ("30 0 9 1-31/2 jan-mar *", "30 0 9 1-31/2 1-3 *"),
        ("*/15,7 * * * *", "0 */15,7 * * * *"),
        ("0 0 * * 7", "0 0 0 * * 0"),
        ("0 0 * * fri-sun", "0 0 0 * * 0,5,6"),
        ("0 0 * * 5-7", "0 0 0 * * 0,5,6"),
        ("0 0 ? * mon", "0 0 0 * * 1"),
        ("0 0 29 feb *", "0 0 0 29 2 *"),
        ("0 0 30 feb mon", "0 0 0 30 2 1"),  # on Mondays, too
        ("@hourly", "0 0 * * * *"),
        ("@Weekly", "0 0 0 * * 0"),
        ("@every 1h30m", "@every 1h30m"),
        ("@every 1.5s", "@every 1.5s"),
    ],
)
def test_an_expression_is_translated_for_the_server(text: str, form: str) -> None:
    assert parse_cron(text).server_form == form


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs an expression"),
        (None, "needs an expression"),
        (5, "needs an expression"),
        (
            "0 9 * *",
            "has 4 fields: write minute hour day-of-month month day-of-week, with the second",
        ),
        ("60 * * * *", "minute must be 0 to 59, got '60'"),
        ("0 24 * * *", "hour must be 0 to 23"),
        ("0 0 0 * *", "day of month must be 1 to 31"),
        ("0 0 L * *", "day of month must be 1 to 31"),
        ("0 0 * 13 *", "month must be 1 to 12 or jan to dec"),
        ("0 0 * * munday", "day of week must be 0 to 7 or sun to sat, got 'munday'"),
        ("0 0 * * fri-mon", "range 'fri-mon' of the day of week runs backwards"),
        ("5/15 * * * *", "write 5-59/15 or"),
        ("*/0 * * * *", "step of the minute must be 1 to 59"),
        ("*/60 * * * *", "step of the minute"),
        ("0 0 5,* * *", "the day of month has a star in a list"),
        ("1- * * * *", "minute must be"),
        (", * * * *", "minute must be"),
        ("\u0661 * * * *", "minute must be"),
        ("0 0 30 feb *", "never due"),
        ("0 0 31 4,jun *", "never due"),
        ("@sometimes", "there is no '@sometimes'"),
        ("@every 90", "with its units"),
        ("@every 1d", "with its units"),
        ("@every 999ms", "shortest interval is 1s"),
        ("@every 999999999h", "longest interval"),
        ("* " * 200, "at most 256 characters"),
    ],
)
def test_a_wrong_expression_is_refused_with_its_field(text: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cron(text)
    assert words in str(caught.value)


def test_an_error_shows_no_control_characters() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cron("0 9 * * mon\x1b[31m")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("tz", ["Mars/Olympus", "../etc/passwd", "", " ", 5])
def test_a_time_zone_that_does_not_exist_is_refused(tz: Any) -> None:
    with pytest.raises(ConfigError, match="time zone"):
        parse_cron("0 9 * * *", tz)


def test_an_interval_has_no_time_zone() -> None:
    with pytest.raises(ConfigError, match="no effect on an interval"):
        parse_cron("@every 5s", "Europe/Berlin")


def test_without_a_database_of_time_zones_the_server_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoneinfo.available_timezones", set)
    assert parse_cron("0 9 * * *", "Mars/Olympus").tz == "Mars/Olympus"


def test_the_times_follow_the_clocks_of_the_time_zone() -> None:
    friday = datetime(2025, 3, 28, 12, tzinfo=UTC)  # two days before summer time
    times = list(islice(parse_cron("0 9 * * mon-sat", "Europe/Berlin").times(friday), 2))
    assert times == [
        datetime(2025, 3, 29, 8, tzinfo=UTC),
        datetime(2025, 3, 31, 7, tzinfo=UTC),
    ]


def test_a_time_that_a_change_of_clocks_repeats_comes_once() -> None:
    autumn = datetime(2025, 10, 25, 12, tzinfo=UTC)
    times = list(islice(parse_cron("30 2 * * *", "Europe/Berlin").times(autumn), 2))
    assert times[1] - times[0] > timedelta(hours=20)


def test_times_without_the_extra_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(MissingExtraError, match=r"tidings\[cron\]"):
        parse_cron("@hourly").times(datetime.now(UTC))
