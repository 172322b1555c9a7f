"""ConnectBackoff: never without a pause, and only a connection that lasted counts as a success."""

from __future__ import annotations

from tidings.transport.backoff import FIRST, LASTED, ConnectBackoff


def test_the_first_attempt_after_a_connection_that_lasted_is_soon_but_not_at_once() -> None:
    backoff = ConnectBackoff(2.0)
    backoff.lost(LASTED)
    assert 0 < backoff.pause() <= FIRST


def test_the_pause_grows_while_connections_do_not_last() -> None:
    backoff = ConnectBackoff(2.0)
    pauses = []
    for _ in range(8):
        backoff.lost(0.01)
        pauses.append(backoff.pause())
    assert pauses[-1] > 4 * pauses[0]
    assert all(0 < pause <= 2.0 for pause in pauses)
    assert min(pauses[-2:]) >= 1.0
    assert backoff.attempts == 8


def test_a_round_in_which_nobody_accepts_is_followed_by_the_longest_pause() -> None:
    backoff = ConnectBackoff(2.0)
    backoff.lost(LASTED)
    backoff.refused()
    assert 1.8 <= backoff.pause() <= 2.0


def test_a_connection_that_lasted_resets_it() -> None:
    backoff = ConnectBackoff(2.0)
    for _ in range(5):
        backoff.lost(0.01)
        backoff.refused()
    backoff.lost(LASTED)
    assert backoff.attempts == 0
    assert backoff.pause() <= FIRST


def test_pauses_are_spread() -> None:
    backoff = ConnectBackoff(2.0)
    backoff.refused()
    assert len({backoff.pause() for _ in range(10)}) > 5


def test_no_pause_is_longer_than_what_was_asked_for() -> None:
    backoff = ConnectBackoff(0.01)
    for _ in range(100):
        backoff.lost(0.001)
        assert 0 < backoff.pause() <= 0.01
