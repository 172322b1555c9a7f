"""The addresses and headers of a flow."""

import pytest

from tidings.protocol.flow import MAX_CREDIT, credit_of, is_address, number_of, prefix_of


@pytest.mark.parametrize(
    ("value", "credit"),
    [
        ("0", 0),
        ("32", 32),
        ("999999999", MAX_CREDIT),
        ("9" * 5000, 0),
        ("-1", 0),
        ("+1", 0),
        ("1_0", 0),
        ("٣", 0),
        ("", 0),
        ("many", 0),
    ],
)
def test_a_credit_is_a_bounded_number_and_anything_else_is_none(value: str, credit: int) -> None:
    assert credit_of(value) == credit


@pytest.mark.parametrize(
    ("subject", "number"),
    [
        ("_INBOX.a.items.7", 7),
        ("_INBOX.a.items.x", None),
        ("_INBOX.a.items." + "9" * 50, None),
        ("_INBOX.a.7", None),
        ("items.7", None),
        ("", None),
    ],
)
def test_the_number_in_an_address(subject: str, number: int | None) -> None:
    assert number_of(subject) == number


def test_an_address_without_its_number() -> None:
    assert prefix_of("_INBOX.a.items.7") == "_INBOX.a.items"
    assert prefix_of("orders.7") == "orders.7"
    assert is_address("_INBOX.a.items.7")
    assert not is_address("_INBOX.a.7")
