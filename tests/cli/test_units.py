"""Sizes and times in the tables of the commands."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tidings.cli.units import length_text, size_text, time_text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1536, "1.5 KiB"), (300 << 20, "300 MiB")],
)
def test_a_size_has_three_or_four_digits(size: int, text: str) -> None:
    assert size_text(size) == text


def test_the_largest_size_that_a_server_counts_has_a_unit() -> None:
    assert size_text(2**63 - 1) == "8192 PiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.6, "1m"), (90, "1m 30s"), (3600, "1h"), (90_061, "1d 1h")],
)
def test_a_length_of_time_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert length_text(seconds) == text


def test_a_time_is_in_utc() -> None:
    time = datetime(2025, 5, 2, 12, 4, 1, 900_000, timezone(timedelta(hours=2)))
    assert time_text(time) == "2025-05-02 10:04:01Z"
    assert time_text(None) == "-"
