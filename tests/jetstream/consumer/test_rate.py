"""Rate: how many messages may be asked for. It reads no clock."""

from __future__ import annotations

from tidings.jetstream.consumer.rate import Rate


def test_as_many_messages_as_come_in_a_tenth_of_a_second_may_come_at_once() -> None:
    assert Rate(1000, 0.0).room(0.0) == 100
    assert Rate(1, 0.0).room(0.0) == 1


def test_what_came_is_taken_off_and_comes_back_with_time() -> None:
    rate = Rate(100, 0.0)
    rate.came(10, 0.0)
    assert rate.room(0.0) == 0
    assert rate.room(0.05) == 5
    assert rate.wait(0.05) == 0.05
    assert rate.room(0.1) == 10
    assert rate.wait(0.1) == 0


def test_more_than_was_allowed_is_made_up_for() -> None:
    rate = Rate(100, 0.0)
    rate.came(30, 0.0)
    assert (rate.room(0.1), rate.room(0.2), rate.room(0.3)) == (0, 0, 10)


def test_idle_time_saves_up_no_more_than_one_burst() -> None:
    rate = Rate(100, 0.0)
    assert rate.room(1000.0) == 10
