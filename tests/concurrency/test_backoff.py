"""Backoff: waits that double up to a bound."""

from __future__ import annotations

from tidings.concurrency.backoff import Backoff, is_rare


def test_each_wait_is_twice_the_last_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 30)
    assert [backoff.next() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_first_wait_beyond_the_longest_is_cut_to_it() -> None:
    assert Backoff(5, 2).next() == 2


def test_a_reset_begins_with_the_first_wait_again() -> None:
    backoff = Backoff(0.1, 3)
    for _ in range(5):
        backoff.next()
    assert backoff.tries == 5
    backoff.reset()
    assert (backoff.tries, backoff.wait, backoff.next()) == (0, 0.1, 0.1)


def test_the_wait_can_be_read_without_a_try() -> None:
    backoff = Backoff(0.1, 3)
    backoff.next()
    assert (backoff.wait, backoff.wait, backoff.next()) == (0.2, 0.2, 0.2)


def test_a_backoff_never_overflows() -> None:
    backoff = Backoff(0.1, 3)
    for _ in range(10_000):
        backoff.next()
    assert backoff.wait == 3


def test_rare_tries_are_the_powers_of_two() -> None:
    assert [number for number in range(1, 70) if is_rare(number)] == [1, 2, 4, 8, 16, 32, 64]
