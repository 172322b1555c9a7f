"""The configuration of a group, who has which partitions, and whose lease is over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import ConfigError
from tidings.jetstream.consumer.layout import Layout
from tidings.jetstream.consumer.partitions.done import Done
from tidings.jetstream.consumer.partitions.leases import Activity, Leases
from tidings.jetstream.consumer.partitions.members import GroupConfig

LAYOUT = Layout("ORDERS", "billing", ("orders.*",), (1,), 16)


def config(**fields: Any) -> GroupConfig:
    raw = {
        "max_members": 16,
        "partitioning_filters": [{"filter": "orders.*", "partitioning_wildcards": [1]}],
        **fields,
    }
    return GroupConfig.read(json.dumps(raw).encode(), 7, LAYOUT)


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        (["a"], {"a": range(16)}),
        (["b", "a"], {"a": range(8), "b": range(8, 16)}),
        (["a", "b", "c", "b"], {"a": (*range(5), 15), "b": range(5, 10), "c": range(10, 15)}),
        ([], {"a": ()}),
    ],
)
def test_the_partitions_are_divided_as_the_libraries_of_the_layout_do_it(
    members: list[str], wanted: dict[str, Any]
) -> None:
    there = config(members=members)
    for member, partitions in wanted.items():
        assert there.partitions_of(member) == tuple(partitions)


@given(st.integers(1, 40), st.sets(st.text("abc", min_size=1, max_size=4), max_size=50))
def test_each_partition_has_exactly_one_member(count: int, members: set[str]) -> None:
    there = config(max_members=count, members=sorted(members))
    found = [part for member in members for part in there.partitions_of(member)]
    assert sorted(found) == (list(range(count)) if members else [])


def test_more_members_than_partitions_stand_by() -> None:
    there = config(max_members=2, members=["a", "b", "c"])
    assert [there.partitions_of(each) for each in "abc"] == [(0,), (1,), ()]


def test_partitions_that_an_operator_has_given_to_members_are_followed_and_not_changed() -> None:
    mappings = [{"member": "x", "partitions": [3, 1, 4, -1]}, {"member": "y", "partitions": [0, 2]}]
    there = config(max_members=4, member_mappings=mappings)
    assert there.partitions_of("x") == (1, 3)
    assert there.partitions_of("tidings-a") == ()
    assert there.changed(add=["tidings-a"]) is None


def test_a_change_of_members_keeps_the_fields_that_others_have_written() -> None:
    changed = config(members=["a"], max_buffered_msg=500).changed(add=["b"], remove=["a"])
    assert changed is not None
    assert json.loads(changed.encode()) == {
        "max_members": 16,
        "partitioning_filters": [{"filter": "orders.*", "partitioning_wildcards": [1]}],
        "max_buffered_msg": 500,
        "members": ["b"],
    }
    assert changed.revision == 7
    assert changed.changed(add=["b"]) is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"max_members": "x"}', b'{"max_members":1,"members":[1]}', b"[" * 9999],
)
def test_a_configuration_that_is_none_is_an_error_that_names_the_key(body: bytes) -> None:
    with pytest.raises(ConfigError, match=r"'ORDERS\.billing' of the bucket elastic-consumer"):
        GroupConfig.read(body, 1, LAYOUT)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_members": 8},
        {"partitioning_filters": None},
        {"partitioning_filters": [{"filter": "orders.*", "partitioning_wildcards": []}]},
        {"partitioning_filters": [{"filter": "o.*", "partitioning_wildcards": [1]}]},
    ],
)
def test_a_group_with_other_partitions_is_an_error_that_says_what_to_do(
    fields: dict[str, Any],
) -> None:
    config().check(LAYOUT)
    with pytest.raises(ConfigError, match=r"Declare what is there; or use another durable="):
        config(**fields).check(LAYOUT)


def test_the_whole_subject_is_the_key_where_none_is_declared() -> None:
    layout = Layout("ORDERS", "billing", ("orders.>",), (), 16)
    filters = [{"filter": "orders.>", "partitioning_wildcards": None}]
    config(partitioning_filters=filters).check(layout)
    config(partitioning_filters=None).check(Layout("ORDERS", "billing", (), (), 16))


# Leases.

IDLE = Activity(waiting=0, delivered=5, acked=5, created="t")


def looks(leases: Leases, *seen: tuple[float, Activity]) -> list[list[str]]:
    return [leases.look({"a": activity}, now) for now, activity in seen]


def test_the_lease_of_a_member_is_over_when_it_was_silent_for_so_long() -> None:
    found = looks(Leases(5), *((second, IDLE) for second in range(100, 107)))
    assert found == [[], [], [], [], [], ["a"], ["a"]]


@pytest.mark.parametrize(
    "sign",
    [
        Activity(waiting=1, delivered=5, acked=5, created="t"),
        Activity(waiting=0, delivered=6, acked=5, created="t"),
        Activity(waiting=0, delivered=5, acked=6, created="t"),
        Activity(waiting=0, delivered=5, acked=5, created="u"),
    ],
    ids=["pull", "delivery", "ack", "new"],
)
def test_each_sign_of_life_begins_the_lease_again(sign: Activity) -> None:
    before = [(float(second), IDLE) for second in range(100, 105)]
    after = [(float(second), sign if sign.waiting == 0 else IDLE) for second in range(106, 110)]
    assert looks(Leases(5), *before, (105.0, sign), *after) == [[]] * 10


def test_looks_with_a_gap_between_them_say_nothing_because_a_pull_may_have_come_and_gone() -> None:
    assert looks(Leases(5), (100, IDLE), (101, IDLE), (106, IDLE), (107, IDLE)) == [[]] * 4


def test_a_member_without_a_consumer_is_forgotten() -> None:
    leases = Leases(5)
    assert leases.look({"a": IDLE}, 100) == []
    for second in range(101, 110):
        assert leases.look({}, second) == []
    assert leases.look({"a": IDLE}, 110) == []


# What was done.


def test_a_message_that_was_done_is_known_by_its_sequence_and_its_time() -> None:
    done = Done()
    done.add("$JS.ACK.S-g.m.1.5.9.111.0")
    assert "$JS.ACK.S-g.other.2.5.30.111.7" in done
    assert "$JS.ACK.hub.ACC.S-g.other.2.5.30.111.7" in done
    assert "$JS.ACK.hub.ACC.S-g.other.2.5.30.111.7.x" in done
    assert "$JS.ACK.S-g.m.1.6.9.111.0" not in done
    assert "$JS.ACK.S-g.m.1.5.9.222.0" not in done, "another stream of the same name"


def test_only_the_newest_messages_that_were_done_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidings.jetstream.consumer.partitions.done.MOST", 2)
    done = Done()
    replies = [f"$JS.ACK.S-g.m.1.{number}.1.1.0" for number in range(3)]
    for reply in replies:
        done.add(reply)
    assert [reply in done for reply in replies] == [False, True, True]
