"""A fast batch: which messages an answer acknowledges, and which are to be published again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.jetstream.fast_batch import FastBatch, Verdict

BLOCK = b"NATS/1.0 503\r\n\r\n"
UNKNOWN = {"error": {"code": 400, "err_code": 10208}, "stream": "S", "seq": 0}


def batch_of(count: int) -> FastBatch[int]:
    """A batch of the messages 1 to `count`, which are their own numbers."""
    batch = FastBatch[int](b"inbox.name.2.fail.")
    for number in range(1, count + 1):
        batch.add(number)
    return batch


def take(batch: FastBatch[int], number: int, answer: Any) -> Verdict[int]:
    return batch.take(number, b"", json.dumps(answer).encode())


def test_the_reply_subjects_number_the_messages_and_name_what_they_do() -> None:
    batch = FastBatch[int](b"inbox.name.2.fail.")
    replies = []
    for number in range(3):
        replies.append(batch.prefix + batch.next_token().encode())
        batch.add(number)
    replies.append(batch.end())
    assert replies == [
        b"inbox.name.2.fail.1.0.$FI",
        b"inbox.name.2.fail.2.1.$FI",
        b"inbox.name.2.fail.3.1.$FI",
        b"inbox.name.2.fail.4.3.$FI",
    ]
    assert not batch.is_open


def test_an_acknowledgement_counts_for_all_messages_up_to_its_number_once() -> None:
    batch = batch_of(5)
    assert take(batch, 1, {"type": "ack", "seq": 0, "msgs": 2}) == Verdict()
    assert take(batch, 3, {"type": "ack", "seq": 3, "msgs": 2}) == Verdict(acked=[1, 2, 3])
    assert take(batch, 3, {"type": "ack", "seq": 2, "msgs": 2}) == Verdict()
    assert take(batch, 5, {"type": "ack", "seq": 99, "msgs": 2}) == Verdict(acked=[4, 5])
    assert not batch.waits
    assert batch.is_open


def test_the_last_answer_acknowledges_the_rest() -> None:
    batch = batch_of(3)
    batch.end()
    last = {"stream": "S", "seq": 9, "batch": "name", "count": 3}
    assert take(batch, 4, last) == Verdict(acked=[1, 2, 3])
    assert batch.is_over


@pytest.mark.parametrize(
    "news",
    [
        {"type": "gap", "last_seq": 3, "seq": 4},
        {"type": "err", "seq": 3, "error": {"code": 400, "err_code": 10071}},
    ],
)
def test_what_follows_a_gap_or_an_error_is_to_be_published_again(news: dict[str, Any]) -> None:
    batch = batch_of(5)
    assert take(batch, 4, news) == Verdict()
    assert not batch.is_open
    last = {"stream": "S", "seq": 9, "batch": "name", "count": 2}
    assert take(batch, 4, last) == Verdict(acked=[1, 2], undecided=[3, 4, 5])
    assert batch.is_over


def test_an_error_without_a_type_is_that_of_one_message() -> None:
    batch = batch_of(3)
    error = {"error": {"code": 400, "err_code": 10070}, "stream": "S", "seq": 0}
    assert take(batch, 2, error) == Verdict(undecided=[2])
    assert (batch.is_open, batch.is_ended) == (False, False)
    assert take(batch, 3, {"type": "ack", "seq": 3}) == Verdict(acked=[1, 3])


def test_each_message_after_the_end_of_a_batch_is_to_be_published_again() -> None:
    batch = batch_of(2)
    assert take(batch, 2, UNKNOWN) == Verdict(undecided=[2])
    assert take(batch, 1, UNKNOWN) == Verdict(undecided=[1])
    assert take(batch, 3, UNKNOWN) == Verdict()


def test_a_stream_that_takes_no_batches_says_so() -> None:
    batch = batch_of(1)
    error = {"error": {"code": 400, "err_code": 10205}, "stream": "S", "seq": 0}
    assert take(batch, 1, error) == Verdict(undecided=[1], is_refused=True)


def test_a_server_that_knows_no_batches_acknowledges_each_message() -> None:
    batch = batch_of(2)
    verdict = take(batch, 2, {"stream": "S", "seq": 7})
    assert verdict == Verdict(acked=[2], place=("S", 7), is_refused=True)
    assert not batch.is_open


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'"no"', b"\xff", b"[" * 5000, b'{"seq": "x"}', b'{"seq": 7}']
)
def test_an_answer_of_somebody_else_decides_nothing(body: bytes) -> None:
    batch = batch_of(2)
    assert batch.take(1, b"", body) == Verdict(undecided=[1])
    assert batch.take(2, BLOCK, b"") == Verdict(undecided=[2])


NUMBERS = st.integers(-1, 12)
ANSWERS = st.one_of(
    st.builds(lambda seq: {"type": "ack", "seq": seq}, NUMBERS),
    st.builds(lambda seq: {"type": "gap", "seq": seq}, NUMBERS),
    st.builds(lambda count: {"stream": "S", "seq": 9, "batch": "b", "count": count}, NUMBERS),
    st.builds(lambda seq: {"stream": "S", "seq": seq}, NUMBERS),
    st.just(UNKNOWN),
    st.just(None),
)


@given(st.integers(0, 8), st.lists(st.tuples(NUMBERS, ANSWERS)))
def test_each_message_ends_in_one_way_whatever_is_answered(
    count: int, answers: list[tuple[int, Any]]
) -> None:
    batch = batch_of(count)
    ended = []
    for number, answer in answers:
        verdict = take(batch, number, answer)
        ended += verdict.acked + verdict.undecided
    assert sorted(ended + batch.give_up()) == list(range(1, count + 1))
