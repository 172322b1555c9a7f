"""Sizes, times and lengths of time as the tables of the commands show them."""

from __future__ import annotations

from datetime import UTC, datetime

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_LARGEST = 2**64  # a larger number is from no server
_LENGTHS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def size_text(size: int) -> str:
    """Return a number of bytes in three or four digits: "512 B", "1.5 KiB"."""
    number, unit = float(min(size, _LARGEST)), 0
    while number >= 1000 and unit < len(_SIZES) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.{0 if unit == 0 or number >= 100 else 1}f} {_SIZES[unit]}"


def length_text(seconds: float) -> str:
    """Return a length of time in its two largest units: "2h 5m"."""
    left = round(seconds)
    words = []
    for unit, length in _LENGTHS:
        count, left = divmod(left, length)
        if count:
            words.append(f"{count}{unit}")
    return " ".join(words[:2]) or "0s"


def time_text(time: datetime | None) -> str:
    """Return a time in UTC, to the second; "-" for None."""
    return "-" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"
