"""Lanes: of each key one message at a time, in order, whatever comes in which order."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tidings.jetstream.consumer.partitions.lanes import (
    LEAST_AWAY,
    MOST_AWAY,
    MOST_BEHIND,
    OVERDUE,
    Arrival,
    Lanes,
)
from tidings.protocol.parser import Frame


def frame(sequence: int) -> Frame:
    return (1, "0.s.a", f"$JS.ACK.S.c.1.{sequence}.{sequence}.0.0", b"", b"")


def arrive(lanes: Lanes, key: str, *sequences: int, now: float = 0.0) -> list[Arrival]:
    return [lanes.arrive(key, sequence, frame(sequence), now) for sequence in sequences]


def test_one_message_of_a_key_is_taken_at_a_time_and_another_key_does_not_wait() -> None:
    lanes = Lanes()
    arrive(lanes, "a", 1, 2)
    arrive(lanes, "b", 3)
    assert lanes.take()[:2] == ("a", 1)
    assert lanes.take()[:2] == ("b", 3)
    assert not lanes.is_ready
    lanes.done("a", 1)
    assert lanes.take()[:2] == ("a", 2)


def test_the_messages_behind_one_that_failed_wait_until_it_has_come_again() -> None:
    lanes = Lanes()
    arrive(lanes, "a", 1, 2)
    lanes.take()
    lanes.failed("a", 1, 0.0)
    assert not lanes.is_ready
    assert lanes.blocked == 1
    arrive(lanes, "a", 1)
    assert lanes.take()[:2] == ("a", 1)
    lanes.done("a", 1)
    assert lanes.blocked == 0
    assert lanes.take()[:2] == ("a", 2)


def test_another_delivery_of_a_message_that_is_here_is_a_copy() -> None:
    lanes = Lanes()
    arrive(lanes, "a", 1, 2)
    lanes.take()
    assert arrive(lanes, "a", 1, 2) == [Arrival.COPY, Arrival.COPY]
    assert len(lanes) == 1


def test_a_message_that_comes_again_while_its_run_goes_on_is_handled_next_if_the_run_fails() -> (
    None
):
    lanes = Lanes()
    arrive(lanes, "a", 1, 2)
    lanes.take()
    arrive(lanes, "a", 1)
    assert lanes.failed("a", 1, 0.0) == (True, [])
    assert lanes.take()[1] == 1
    arrive(lanes, "a", 1)
    lanes.done("a", 1)
    assert lanes.take()[1] == 2


def test_messages_that_are_here_when_the_first_of_their_key_fails_are_given_back_beyond_some() -> (
    None
):
    lanes = Lanes()
    arrive(lanes, "a", *range(1, 2 + MOST_BEHIND + 3))
    lanes.take()
    is_here, back = lanes.failed("a", 1, 0.0)
    assert (is_here, len(back), len(lanes)) == (False, 3, MOST_BEHIND)


def test_only_some_messages_are_kept_behind_one_that_failed_and_the_others_come_in_order() -> None:
    lanes = Lanes()
    arrive(lanes, "a", 1)
    lanes.take()
    lanes.failed("a", 1, 0.0)
    last = 1 + MOST_BEHIND + 2
    assert arrive(lanes, "a", *range(2, last + 1))[-3:] == [
        Arrival.KEPT,
        Arrival.BACK,
        Arrival.BACK,
    ]
    arrive(lanes, "a", 1)
    for sequence in range(1, last - 1):
        assert lanes.take()[1] == sequence
        lanes.done("a", sequence)
    assert not lanes.is_ready
    arrive(lanes, "a", last)
    assert not lanes.is_ready, "the one before it has not come"
    arrive(lanes, "a", last - 1)
    _, sequence, _, given_back = lanes.take()
    assert (sequence, given_back) == (last - 1, 1)


def test_messages_are_given_back_for_as_long_as_their_key_has_been_failing() -> None:
    lanes = Lanes()
    arrive(lanes, "a", 1)
    lanes.take()
    lanes.failed("a", 1, 0.0)
    assert lanes.seconds_away("a", 0.1) == LEAST_AWAY
    assert lanes.seconds_away("a", 7.0) == 7.0
    assert lanes.seconds_away("a", 1000.0) == MOST_AWAY
    assert lanes.seconds_away("other", 7.0) == LEAST_AWAY


def test_relief_gives_back_the_newest_messages_of_the_key_that_has_most() -> None:
    lanes = Lanes()
    arrive(lanes, "slow", *range(1, 10))
    arrive(lanes, "b", 20)
    lanes.take()
    given = [delivered[2].split(".")[6] for delivered, _ in lanes.relieve(0.0)]
    assert given == ["6", "7", "8", "9"]
    assert len(lanes) == 5
    lanes.done("slow", 1)
    arrive(lanes, "slow", *range(6, 10))
    lanes.take()
    order = []
    while lanes.is_ready:
        key, sequence, _, _ = lanes.take()
        order.append(sequence)
        lanes.done(key, sequence)
    assert order == list(range(2, 10))


def test_relief_of_keys_with_one_message_each_gives_nothing_back() -> None:
    lanes = Lanes()
    assert lanes.relieve(0.0) == []
    arrive(lanes, "a", 1)
    assert lanes.relieve(0.0) == []


def test_a_message_that_does_not_come_again_is_overdue_and_its_key_goes_on_without_it() -> None:
    lanes = Lanes()
    arrive(lanes, "a", 1, 2)
    lanes.take()
    lanes.failed("a", 1, 0.0)
    assert lanes.overdue(OVERDUE - 1, 10) == []
    assert lanes.overdue(OVERDUE, 10) == [("a", 1)]
    lanes.wait_on("a", 1, OVERDUE)
    assert lanes.overdue(OVERDUE + 1, 10) == []
    lanes.gone("a", 1)
    assert lanes.take()[1] == 2


def test_what_is_settled_after_everything_was_given_up_changes_nothing() -> None:
    lanes = Lanes()
    arrive(lanes, "a", 1, 2)
    lanes.take()
    lanes.clear()
    lanes.failed("a", 1, 0.0)
    lanes.done("a", 1)
    lanes.gone("a", 1)
    assert (len(lanes), lanes.is_ready, list(lanes)) == (0, False, [])


@given(st.integers(), st.integers(1, 60), st.integers(0, 20))
def test_each_key_is_handled_in_order_whatever_fails_and_in_whatever_order_it_comes_again(
    seed: int, count: int, fails: int
) -> None:
    lanes = Lanes()
    random = Random(seed)
    coming = list(range(1, count + 1))
    key_of = {sequence: random.choice("ab") for sequence in coming}
    wanted = {key: [each for each in coming if key_of[each] == key] for key in "ab"}
    back: list[int] = []
    running: dict[str, int] = {}
    done: dict[str, list[int]] = {"a": [], "b": []}
    for now in range(2000):
        if not (coming or back or running or len(lanes)):
            break
        choices = ["come"] * bool(coming) + ["again"] * bool(back)
        choices += ["take"] * lanes.is_ready + ["end"] * bool(running)
        what = random.choice(choices)
        if what in ("come", "again"):
            place = 0 if what == "come" else random.randrange(len(back))
            sequence = (coming if what == "come" else back).pop(place)
            if lanes.arrive(key_of[sequence], sequence, frame(sequence), now) is Arrival.BACK:
                back.append(sequence)
        elif what == "take":
            key, sequence, _, _ = lanes.take()
            assert key not in running
            running[key] = sequence
        else:
            key = random.choice(sorted(running))
            sequence = running.pop(key)
            if fails and random.random() < 0.5:
                fails -= 1
                is_here, given = lanes.failed(key, sequence, now)
                back += [int(each[2].split(".")[6]) for each, _ in given]
                if not is_here:
                    back.append(sequence)
            else:
                lanes.done(key, sequence)
                done[key].append(sequence)
    assert done == wanted
    assert lanes.blocked == 0
