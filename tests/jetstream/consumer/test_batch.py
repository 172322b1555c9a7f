"""The states of a batch, without a server and without a loop: each call says what time it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidings.jetstream.consumer.batch import LEAST_PULL, PULL_LATE, Batch, Phase

SIZE, TIMEOUT, PLACES = 10, 2.0, 2


@pytest.fixture
def batch() -> Batch:
    return Batch(SIZE, TIMEOUT, PLACES)


def filling(batch: Batch, queued: int = 3, now: float = 100.0) -> Batch:
    batch.arrived(queued, now)
    assert batch.phase is Phase.FILLING
    return batch


def overdue(batch: Batch, now: float = 100.0) -> Batch:
    filling(batch, 3, now)
    batch.expire(3, owed=5, now=now + TIMEOUT)
    assert batch.phase is Phase.OVERDUE
    return batch


def ripe(batch: Batch, queued: int = 3) -> Batch:
    filling(batch, queued).expire(queued, owed=0, now=102.0)
    assert batch.phase is Phase.RIPE
    return batch


# When it is ready.


def test_nothing_is_ready_before_a_message_came(batch: Batch) -> None:
    assert not batch.is_ready(0)
    assert (batch.phase, batch.deadline) == (Phase.EMPTY, None)


def test_the_first_message_starts_the_time_and_the_next_ones_do_not_prolong_it(
    batch: Batch,
) -> None:
    batch.arrived(1, 100.0)
    batch.arrived(9, 101.5)
    assert (batch.phase, batch.deadline) == (Phase.FILLING, 102.0)
    assert not batch.is_ready(9)


def test_a_full_batch_is_ready_at_once(batch: Batch) -> None:
    batch.arrived(SIZE, 100.0)
    assert batch.is_ready(SIZE)
    assert batch.deadline is None


def test_a_batch_that_fills_up_in_time_is_ready(batch: Batch) -> None:
    filling(batch).arrived(SIZE, 101.0)
    assert batch.is_ready(SIZE)


def test_at_the_deadline_a_batch_is_ripe_if_nothing_is_under_way(batch: Batch) -> None:
    filling(batch).expire(3, owed=0, now=102.0)
    assert (batch.phase, batch.deadline) == (Phase.RIPE, None)
    assert batch.is_ready(3)


def test_at_the_deadline_a_batch_waits_a_moment_for_messages_under_way(batch: Batch) -> None:
    filling(batch).expire(3, owed=5, now=102.0)
    assert (batch.phase, batch.deadline) == (Phase.OVERDUE, 102.0 + PULL_LATE)
    assert not batch.is_ready(3)


def test_an_overdue_batch_is_ripe_as_soon_as_its_last_pull_ends(batch: Batch) -> None:
    overdue(batch).pull_ended(3, owed=2)
    assert batch.phase is Phase.OVERDUE
    batch.pull_ended(3, owed=0)
    assert (batch.phase, batch.deadline) == (Phase.RIPE, None)


def test_an_overdue_batch_does_not_wait_for_ever(batch: Batch) -> None:
    overdue(batch).expire(3, owed=5, now=102.0 + PULL_LATE)
    assert batch.phase is Phase.RIPE


def test_an_overdue_batch_that_fills_up_is_ready(batch: Batch) -> None:
    assert overdue(batch).is_ready(SIZE)


def untouched(batch: Batch) -> Batch:
    return batch


@pytest.mark.parametrize("begin", [untouched, filling, ripe])
def test_the_end_of_a_pull_changes_nothing_for_a_batch_that_is_not_overdue(
    batch: Batch, begin: Callable[[Batch], Batch]
) -> None:
    begin(batch)
    before = (batch.phase, batch.deadline)
    batch.pull_ended(3, owed=0)
    assert (batch.phase, batch.deadline) == before


def test_a_deadline_without_messages_leaves_nothing_ripe(batch: Batch) -> None:
    filling(batch).expire(0, owed=0, now=102.0)
    assert batch.phase is Phase.EMPTY


# Taken.


def test_what_a_batch_leaves_has_a_time_of_its_own(batch: Batch) -> None:
    batch.arrived(13, 100.0)
    batch.taken(3, 100.5)
    assert (batch.phase, batch.deadline) == (Phase.FILLING, 102.5)


def test_the_time_of_a_batch_that_was_taken_does_not_count_for_the_next(batch: Batch) -> None:
    filling(batch).arrived(SIZE, 101.0)
    batch.taken(0, 101.0)
    assert (batch.phase, batch.deadline) == (Phase.EMPTY, None)
    batch.arrived(1, 101.9)
    assert batch.deadline == 103.9


def test_when_a_whole_batch_is_left_it_is_ready_without_a_deadline(batch: Batch) -> None:
    batch.arrived(2 * SIZE, 100.0)
    batch.taken(SIZE, 100.0)
    assert batch.is_ready(SIZE)
    assert batch.deadline is None


def test_what_a_cut_batch_leaves_is_ripe(batch: Batch) -> None:
    batch.arrived(SIZE, 100.0)
    batch.taken(4, 100.0, is_cut=True)
    assert batch.phase is Phase.RIPE
    batch.taken(0, 100.0, is_cut=True)
    assert batch.phase is Phase.EMPTY


def test_a_ripe_batch_that_was_taken_is_not_ripe_again(batch: Batch) -> None:
    ripe(batch).taken(0, 102.0)
    assert batch.phase is Phase.EMPTY


def test_messages_that_come_to_a_ripe_batch_go_with_it(batch: Batch) -> None:
    ripe(batch).arrived(5, 103.0)
    assert (batch.phase, batch.deadline) == (Phase.RIPE, None)


# The end.


def test_at_the_end_everything_is_ripe_and_stays_so(batch: Batch) -> None:
    filling(batch, 3).close(13)
    assert batch.is_ready(13)
    batch.taken(3, 101.0)
    assert batch.is_ready(3)
    batch.taken(0, 101.0)
    assert (batch.phase, batch.is_ready(0)) == (Phase.EMPTY, False)


# What to ask for.


def test_a_batch_begins_with_one_message_however_long_that_takes(batch: Batch) -> None:
    assert batch.wanted(0, 0, 100.0) == (1, None)


def test_no_message_is_asked_for_while_every_place_is_taken(batch: Batch) -> None:
    assert batch.wanted(0, PLACES, 100.0) == (0, None)


def test_a_batch_is_filled_up_until_its_deadline(batch: Batch) -> None:
    assert filling(batch).wanted(3, 0, 101.5) == (PLACES * SIZE - 3, 0.5)
    assert batch.wanted(3, 1, 101.5) == (SIZE - 3, 0.5)


def test_a_pull_that_would_end_at_once_is_not_worth_a_request(batch: Batch) -> None:
    count, _ = filling(batch).wanted(3, 0, 102.0 - LEAST_PULL / 2)
    assert count == 0


def test_an_overdue_batch_asks_for_nothing(batch: Batch) -> None:
    count, _ = overdue(batch).wanted(3, 0, 102.1)
    assert count == 0


@pytest.mark.parametrize(("queued", "wanted"), [(3, SIZE), (SIZE, SIZE), (SIZE + 1, 0)])
def test_a_ripe_batch_needs_a_place_and_the_others_are_asked_for(
    batch: Batch, queued: int, wanted: int
) -> None:
    ripe(batch).arrived(queued, 102.0)
    assert batch.wanted(queued, 0, 102.0) == (wanted, TIMEOUT)


def test_after_a_full_batch_the_next_is_asked_for_as_a_whole(batch: Batch) -> None:
    batch.done(SIZE, 100.0)
    assert batch.wanted(0, 0, 101.9) == (PLACES * SIZE, TIMEOUT)
    assert batch.wanted(0, 0, 102.0) == (1, None)


def test_after_a_batch_that_was_not_full_the_next_begins_with_one_message(batch: Batch) -> None:
    batch.done(SIZE - 1, 100.0)
    assert batch.wanted(0, 0, 100.0) == (1, None)
