"""Subjects: what may be published to, what may be subscribed to, and what falls under a pattern."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import SubjectError
from tidings.subject import (
    MAX_SUBJECT_BYTES,
    check_pattern,
    check_queue,
    check_subject,
    has_wildcard,
    matches,
    overlaps,
)

TOKENS = st.text("ab*>é-", min_size=1, max_size=3)


@pytest.mark.parametrize("subject", ["a", "a.b.c", "$SYS.x", "zoë.ß", "a*", "a>b", "_INBOX.x.1"])
def test_a_subject_becomes_its_bytes(subject: str) -> None:
    assert check_subject(subject) == subject.encode()


@pytest.mark.parametrize("subject", ["a.*", "*", ">", "a.*.c"])
def test_a_message_cannot_go_to_a_wildcard(subject: str) -> None:
    with pytest.raises(SubjectError, match="without wildcards"):
        check_subject(subject)
    assert check_pattern(subject) == subject.encode()


@pytest.mark.parametrize("pattern", [">.a", "a.>.b"])
def test_the_rest_wildcard_stands_at_the_end_only(pattern: str) -> None:
    with pytest.raises(SubjectError, match="at the end only"):
        check_pattern(pattern)


@pytest.mark.parametrize("check", [check_subject, check_pattern])
@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("", "empty"),
        (".a", "empty token"),
        ("a.", "empty token"),
        ("a..b", "empty token"),
        ("a b", "white space"),
        ("a\tb", "white space"),
        ("a\r\nPUB b 0\r\n", "white space"),
        ("a\0", "control characters"),
        ("a\x7f", "control characters"),
        ("a\u2028b", "white space"),
        ("a\ud800", "UTF-8"),
        ("a" * (MAX_SUBJECT_BYTES + 1), "at most"),
        ("é" * (MAX_SUBJECT_BYTES // 2 + 1), "at most"),
        (None, "got NoneType"),
        (b"a", "got bytes"),
        (7, "got int"),
    ],
)
def test_what_would_break_the_protocol_is_refused(check: type, subject: str, reason: str) -> None:
    with pytest.raises(SubjectError, match=reason) as caught:
        check(subject)
    assert caught.value.subject == subject


def test_the_longest_subject_is_still_taken() -> None:
    assert len(check_subject("a" * MAX_SUBJECT_BYTES)) == MAX_SUBJECT_BYTES


def test_the_error_of_a_long_subject_is_short() -> None:
    with pytest.raises(SubjectError) as caught:
        check_subject("a" * 10_000)
    assert len(str(caught.value)) < 250


def test_a_queue_group_may_be_empty_or_a_word() -> None:
    assert check_queue("") == b""
    assert check_queue("billing.eu") == b"billing.eu"


@pytest.mark.parametrize("queue", ["a b", "a\n", 3, None, "q" * 5000])
def test_a_queue_group_that_breaks_the_protocol_is_refused(queue: str) -> None:
    with pytest.raises(SubjectError):
        check_queue(queue)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a.b", False),
        ("a.b", "a", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.*.c", "a.b.c", True),
        (">", "a", True),
        (">", "a.b.c", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "b.c", False),
        ("*.>", "a.b", True),
        ("a*", "ab", False),
        ("a*", "a*", True),
        ("a>", "a.b", False),
    ],
)
def test_a_pattern_matches_as_the_server_does(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@given(st.lists(TOKENS, min_size=1, max_size=4), st.lists(TOKENS, min_size=1, max_size=4))
def test_matching_is_that_of_the_same_pattern_as_a_regular_expression(
    pattern: list[str], subject: list[str]
) -> None:
    pattern = [token for token in pattern[:-1] if token != ">"] + pattern[-1:]
    words = {"*": r"[^.]+", ">": r".+"}
    expression = r"\.".join(words.get(token, re.escape(token)) for token in pattern)
    expected = re.fullmatch(expression, ".".join(subject)) is not None
    assert matches(".".join(pattern), ".".join(subject)) is expected


@pytest.mark.parametrize(
    ("pattern", "expected"), [("a.b", False), ("a.*", True), (">", True), ("a*", False)]
)
def test_only_a_whole_token_is_a_wildcard(pattern: str, expected: bool) -> None:
    assert has_wildcard(pattern) is expected


# Few words, so that patterns meet.
_WORDS = st.sampled_from(["a", "b", "*"])
PATTERNS = st.builds(
    lambda words, end: ".".join([*words, *end]),
    st.lists(_WORDS, min_size=1, max_size=3),
    st.sampled_from([[], [], [">"]]),
)
EVERY_SUBJECT = [
    ".".join(words)
    for length in range(1, 6)
    for words in itertools.product(["a", "b", "c"], repeat=length)
]


@given(PATTERNS, PATTERNS)
def test_two_patterns_overlap_where_some_subject_falls_under_both(one: str, other: str) -> None:
    both = any(matches(one, subject) and matches(other, subject) for subject in EVERY_SUBJECT)
    assert overlaps(one, other) == overlaps(other, one) == both


@pytest.mark.parametrize(
    ("one", "other"), [(">", "a"), (">", "*.*"), ("a.>", "*.b"), ("a.*", "*.b"), ("a", "a")]
)
def test_wildcards_overlap_with_each_other(one: str, other: str) -> None:
    assert overlaps(one, other)
    assert overlaps(other, one)


@pytest.mark.parametrize(("one", "other"), [("a.>", "a"), ("a.*", "a"), ("a", "b"), ("a.*", "b.*")])
def test_patterns_of_different_subjects_do_not_overlap(one: str, other: str) -> None:
    assert not overlaps(one, other)
    assert not overlaps(other, one)
