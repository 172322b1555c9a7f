"""FailureLog: a bounded number of lines a second, a count of the rest, and no exception."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from support.waits import until
from tidings.concurrency import failure_log
from tidings.concurrency.failure_log import FailureLog
from tidings.log import logger, safe_text


class Hostile:
    """An object whose every word raises."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Refusing(logging.Filter):
    """A filter that was written for other records than these."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise AttributeError("request_id")


@pytest.fixture
def refusing() -> Iterator[None]:
    """The logger `tidings` with a filter that raises."""
    logger, refusal = logging.getLogger("tidings"), Refusing()
    logger.addFilter(refusal)
    yield
    logger.removeFilter(refusal)


async def test_lines_past_the_limit_become_one_line_with_their_count(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failure_log, "WINDOW", 0.2)
    log = FailureLog("bill", most=3)
    for number in range(10):
        log.error("failed %d", number)
    assert [record.getMessage() for record in caplog.records] == [
        "failed 0",
        "failed 1",
        "failed 2",
    ]
    await until(lambda: len(caplog.records) == 4)
    assert caplog.records[3].getMessage() == (
        "bill: 7 more failures in the last second; at most 3 a second are logged"
    )
    assert caplog.records[3].levelno == logging.ERROR
    assert caplog.records[3].suppressed == 7  # type: ignore[attr-defined]  # from `extra`
    log.error("the next second")
    assert len(caplog.records) == 5


async def test_the_count_that_is_left_at_the_end_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = FailureLog("bill", most=1)
    for _ in range(5):
        log.error("failed")
    log.close()
    log.close()
    assert [record.getMessage()[:7] for record in caplog.records] == ["failed", "bill: 4"]


async def test_many_lines_of_one_level_hide_none_of_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "tidings")
    log = FailureLog("bill", most=2)
    for _ in range(5):
        log.log(logging.INFO, "the caller's fault")
    log.error("failed")
    log.close()
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "ERROR", "INFO"]


async def test_lines_of_a_level_that_is_off_are_not_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "tidings")
    log = FailureLog("bill", most=1)
    for _ in range(5):
        log.log(logging.INFO, "the caller's fault")
    log.error("failed")
    log.close()
    assert [record.getMessage() for record in caplog.records] == ["failed"]


async def test_a_filter_that_raises_changes_nothing_but_the_line(
    refusing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    log = FailureLog("bill", most=1)
    log.error("failed %s", 1)
    log.error("failed %s", 2)
    log.close()
    err = capsys.readouterr().err
    assert "the logging raised AttributeError; this line was lost: failed %s" in err


def test_a_value_that_cannot_be_printed_is_named_by_its_type() -> None:
    logger.error("failed: %s", Hostile())
    assert safe_text(Hostile()) == "<Hostile>"
    assert safe_text(7) == "7"
