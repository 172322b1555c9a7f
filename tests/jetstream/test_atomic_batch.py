"""AtomicBatch: how the messages of a batch are numbered, and how its answer is read."""

from __future__ import annotations

from typing import Any

import pytest

from tidings.errors import ConfigError, JetStreamApiError
from tidings.jetstream.atomic_batch import AtomicBatch, BatchAck, read_ack
from tidings.jetstream.publish import prepare


def batch_of(*subjects: str, **options: Any) -> AtomicBatch:
    batch = AtomicBatch()
    for subject in subjects:
        batch.add(prepare(subject, b"body", **options))
    return batch


def test_messages_are_numbered_from_1_and_the_last_one_commits() -> None:
    blocks = [
        (message.subject, block.decode(), is_last)
        for message, block, is_last in batch_of("a", "b", "c").blocks("id")
    ]
    assert [(subject, is_last) for subject, _, is_last in blocks] == [
        ("a", False),
        ("b", False),
        ("c", True),
    ]
    for number, (_, block, is_last) in enumerate(blocks, 1):
        assert f"\r\nNats-Batch-Id: id\r\nNats-Batch-Sequence: {number}\r\n" in block
        assert block.endswith("\r\n\r\n")
        assert ("\r\nNats-Batch-Commit: 1\r\n" in block) is is_last


def test_the_only_message_commits() -> None:
    ((_, block, is_last),) = batch_of("a").blocks("id")
    assert is_last
    assert b"Nats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1\r\n" in block


def test_each_try_has_an_id_of_its_own_and_the_same_message_ids() -> None:
    batch = batch_of("a")
    ((_, one, _),) = batch.blocks("1")
    ((_, two, _),) = batch.blocks("2")
    assert one.replace(b"Nats-Batch-Id: 1", b"Nats-Batch-Id: 2") == two


def test_sizes_are_those_of_what_is_sent() -> None:
    batch = batch_of("a", "b")
    sent = [len(each.body) + len(block) for each, block, _ in batch.blocks("0" * 32)]
    assert list(batch.sizes()) == sent


def test_a_batch_knows_whether_only_itself_can_be_the_duplicate() -> None:
    batch = batch_of("a", "b")
    assert batch.has_own_ids
    batch.add(prepare("c", 1, msg_id="known"))
    assert not batch.has_own_ids


def test_a_message_that_is_refused_is_not_in_the_batch() -> None:
    batch = batch_of("a", "b")
    with pytest.raises(ConfigError, match="first message"):
        batch.add(prepare("c", 1, expected_sequence=5))
    assert [each.subject for each in batch.messages] == ["a", "b"]
    assert batch.add(prepare("c", 1)) == 2


@pytest.mark.parametrize(
    ("ack", "sequences"),
    [(BatchAck("S", 7, 3), [5, 6, 7]), (BatchAck("S", 1, 1), [1]), (BatchAck("S", 0, 3), [])],
)
def test_an_acknowledgement_has_the_sequence_of_each_message(
    ack: BatchAck, sequences: list[int]
) -> None:
    assert list(ack.sequences) == sequences


def test_the_acknowledgement_of_a_batch_is_read() -> None:
    answer = {"stream": "S", "seq": 7, "batch": "id", "count": 3}
    assert read_ack(answer, 3) == BatchAck("S", 7, 3)
    assert read_ack({"stream": "S", "seq": 7, "batch": "id", "count": 1}, 1).count == 1


@pytest.mark.parametrize(
    "answer", [{}, {"stream": "S"}, {"stream": 5, "seq": 1}, {"stream": "S", "seq": True}]
)
def test_something_else_is_no_acknowledgement(answer: dict[str, Any]) -> None:
    with pytest.raises(JetStreamApiError, match="somebody else"):
        read_ack(answer, 3)


@pytest.mark.parametrize("more", [{}, {"count": 2}])
def test_a_server_that_stored_the_messages_one_by_one_is_noticed(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="one by one"):
        read_ack({"stream": "S", "seq": 7, **more}, 3)
