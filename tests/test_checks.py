"""Checks of options: what they accept, and the one form of what they say."""

from __future__ import annotations

import asyncio
import functools
import re
from datetime import timedelta
from typing import Any

import pytest

from tidings import App, ConfigError, Group, Message, Retry, ServiceError
from tidings.checks import (
    LONGEST_SHOWN,
    MOST_SECONDS,
    MOST_WHOLE,
    as_seconds,
    check_choice,
    check_flag,
    check_name,
    check_seconds,
    check_text,
    check_whole,
)
from tidings.jetstream import Stream
from tidings.testing import NATSServer

WORD = re.compile("[a-z]{1,5}")


class NoRepr:
    def __repr__(self) -> str:
        raise LookupError("secret")


@pytest.mark.parametrize("value", [1, 7, MOST_WHOLE])
def test_a_whole_number_within_its_bounds_is_returned(value: int) -> None:
    assert check_whole("concurrency", value) == value


@pytest.mark.parametrize(
    ("value", "bounds", "text"),
    [
        (-1, {}, "n must be a whole number above 0, got -1"),
        (0, {}, "n must be a whole number above 0, got 0"),
        (True, {}, "n must be a whole number above 0, got True"),
        (1.5, {}, "n must be a whole number above 0, got 1.5"),
        (None, {}, "n must be a whole number above 0, got None"),
        ("10", {}, "n must be a whole number above 0, got '10': leave out the quotes"),
        ("ten", {}, "n must be a whole number above 0, got 'ten'"),
        (-1, {"least": 0}, "n must be a whole number, 0 or more, got -1"),
        (6, {"most": 5}, "n must be a whole number from 1 to 5, got 6"),
        (0, {"hint": "or 'unlimited'"}, "n must be a whole number above 0, or 'unlimited', got 0"),
        (2**63, {}, f"n must be a whole number from 1 to {MOST_WHOLE}, got {2**63}"),
    ],
    ids=str,
)
def test_what_is_no_whole_number_within_its_bounds_is_refused(
    value: Any, bounds: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_whole("n", value, **bounds)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(2, 2), (0.001, 0.001), (MOST_SECONDS, MOST_SECONDS), (timedelta(minutes=1), 60.0)],
)
def test_a_span_of_time_is_returned_in_seconds(value: Any, seconds: float) -> None:
    assert check_seconds("timeout", value) == seconds


@pytest.mark.parametrize(
    ("value", "bounds", "text"),
    [
        (0, {}, "t must be a positive number of seconds, got 0"),
        (-1.5, {}, "t must be a positive number of seconds, got -1.5"),
        (float("nan"), {}, "t must be a positive number of seconds, got nan"),
        (float("inf"), {}, "t must be a positive number of seconds, got inf"),
        (True, {}, "t must be a positive number of seconds, got True"),
        ("1", {}, "t must be a positive number of seconds, got '1': leave out the quotes"),
        (
            "7d",
            {},
            "t must be a positive number of seconds, got '7d': write a number, or a timedelta",
        ),
        ("soon", {}, "t must be a positive number of seconds, got 'soon'"),
        (
            timedelta(0),
            {},
            "t must be a positive number of seconds, got datetime.timedelta(0)",
        ),
        (1e12, {}, "t must be a number of seconds, 3153600000 or less, got 1000000000000.0"),
        (-1, {"least": 0}, "t must be a number of seconds, 0 or more, got -1"),
        (0.05, {"least": 0.1}, "t must be a number of seconds, 0.1 or more, got 0.05"),
        (
            None,
            {"hint": "or None for no limit"},
            "t must be a positive number of seconds, or None for no limit, got None",
        ),
    ],
    ids=str,
)
def test_what_is_no_span_of_time_within_its_bounds_is_refused(
    value: Any, bounds: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_seconds("t", value, **bounds)
    assert str(caught.value) == text


def test_zero_seconds_are_allowed_where_they_make_sense() -> None:
    assert check_seconds("delay", 0, least=0) == 0


def test_only_a_timedelta_is_turned_into_seconds() -> None:
    assert as_seconds(timedelta(milliseconds=5)) == 0.005
    assert as_seconds("5") == "5"
    assert as_seconds(None) is None


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_a_flag_is_true_or_false_and_nothing_else(value: Any) -> None:
    assert check_flag("ordered", False) is False
    with pytest.raises(ConfigError, match=f"^ordered must be True or False, got {value!r}$"):
        check_flag("ordered", value)


@pytest.mark.parametrize("value", [b"hunter2", 7, None, ["hunter2"]])
def test_a_text_of_another_type_is_refused_and_never_shown(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        check_text("password", value)
    kind = type(value).__name__
    assert str(caught.value) == f"password must be a str, got a value of type {kind}"


def test_an_empty_text_is_refused_unless_it_is_allowed() -> None:
    assert check_text("description", "", may_be_empty=True) == ""
    with pytest.raises(ConfigError, match="msg_id must be a str that is not empty, got ''"):
        check_text("msg_id", "")


def test_a_text_that_cannot_be_sent_is_refused_and_never_shown() -> None:
    with pytest.raises(ConfigError, match="UTF-8") as caught:
        check_text("token", "hunter2\udcff")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("value", ["disk", "", 1, None, ["file"]])
def test_a_choice_is_one_of_a_few_words(value: Any) -> None:
    assert check_choice("storage", "file", ("file", "memory")) == "file"
    with pytest.raises(ConfigError) as caught:
        check_choice("storage", value, ("file", "memory"))
    assert str(caught.value) == f"storage must be 'file' or 'memory', got {value!r}"


@pytest.mark.parametrize("value", ["two words", "toolong", "", 7, None])
def test_a_name_matches_as_a_whole(value: Any) -> None:
    assert check_name("bucket", "abc", WORD, "small letters, at most 5") == "abc"
    with pytest.raises(ConfigError) as caught:
        check_name("bucket", value, WORD, "small letters, at most 5")
    assert str(caught.value) == f"bucket must be a name of small letters, at most 5, got {value!r}"


@pytest.mark.parametrize("value", [NoRepr(), -(10**5000)], ids=["no repr", "many digits"])
def test_a_value_that_cannot_be_shown_is_described(value: Any) -> None:
    kind = type(value).__name__
    with pytest.raises(ConfigError, match=f"got a value of type {kind} that cannot be shown$"):
        check_seconds("timeout", value)


def test_a_value_is_shown_on_one_line_and_not_in_full_length() -> None:
    with pytest.raises(ConfigError) as caught:
        check_flag("ordered", "\x1b[2J\n" + "x" * 10_000)
    text = str(caught.value)
    assert text.isprintable()
    assert text.endswith("...")
    assert len(text) < LONGEST_SHOWN + 100


# A timedelta wherever seconds are.

SECOND = timedelta(seconds=1)


def test_declarations_take_a_timedelta() -> None:
    stream = Stream("S", subjects=["s"], max_age=timedelta(days=1), duplicate_window=SECOND)
    assert stream.declared()["max_age"] == 86_400 * 10**9
    assert stream.declared()["duplicate_window"] == 10**9
    app = App(
        "spans",
        request_timeout=SECOND,
        drain_timeout=SECOND,
        connect_timeout=SECOND,
        reconnect_time_wait=SECOND,
        ping_interval=SECOND,
    )
    assert app.drain_timeout == 1.0
    app.drain_timeout = 2 * SECOND
    assert app.drain_timeout == 2.0
    group = Group("g")
    group.listen("a", timeout=SECOND)(lambda msg: None)
    group.consume("S", ack_wait=SECOND, backoff=[SECOND, 2], timeout=SECOND)(lambda msg: None)
    group.consume("S", batch=2, batch_timeout=SECOND)(lambda messages: None)
    group.watch("b", timeout=SECOND)(lambda entry: None)
    group.task(interval=SECOND, timeout=SECOND)(lambda: None)
    declared = group.declared()
    [listener], [watch], [task] = declared.listeners, declared.watches, declared.tasks
    first, second = declared.consumers
    assert (listener.timeout, watch.timeout, task.interval, task.timeout) == (1.0,) * 4
    assert (first.ack_wait, first.backoff, first.timeout) == (1.0, (1.0, 2), 1.0)
    assert second.batch_timeout == 1.0
    assert Retry(SECOND).delay == 1.0


async def test_calls_take_a_timedelta(nats_server: NATSServer, subject: str) -> None:
    app = App("spans", servers=nats_server.url, request_timeout=SECOND)
    app.listen(f"{subject}.echo")(lambda msg: msg.data)

    async def late(msg: Message[Any]) -> None:
        await asyncio.sleep(20)

    app.listen(f"{subject}.late", timeout=timedelta(milliseconds=20))(late)
    values = app.js.key_value(subject.replace(".", "-"), type=int, ttl=timedelta(hours=1))
    async with app:
        assert await app.request(f"{subject}.echo", {"n": 1}, timeout=20 * SECOND) == {"n": 1}
        with pytest.raises(ServiceError, match="504"):
            await app.request(f"{subject}.late", {}, timeout=20 * SECOND)
        call = functools.partial(app.request_sync, f"{subject}.echo", {"n": 2}, timeout=20 * SECOND)
        assert await asyncio.to_thread(call) == {"n": 2}
        await app.flush(timeout=20 * SECOND)
        await values.put("a", 1)
        work = functools.partial(app.js.run_sync, values.value("a"), timeout=20 * SECOND)
        assert await asyncio.to_thread(work) == 1
