"""Window: the credit of a receiver."""

from tidings.flows.window import FIRST, LEAST, MOST, TARGET, Window


def read(window: Window, count: int, size: int = 10) -> list[int]:
    """Let items arrive and be read, one after another. Returns the credit that was given."""
    given = []
    for _ in range(count):
        window.on_item(size)
        window.on_read()
        if credit := window.take_credit():
            given.append(credit)
    return given


def test_the_first_credit_is_given_at_once_and_no_more_before_half_is_used() -> None:
    window = Window()
    assert window.take_credit() == FIRST
    assert window.take_credit() == 0
    assert read(window, FIRST // 2 - 1) == []
    assert read(window, 1) == [FIRST // 2 + FIRST]  # the window doubles
    assert read(window, FIRST - 1) == []


def test_items_that_are_not_read_give_no_credit() -> None:
    window = Window()
    window.take_credit()
    for _ in range(FIRST):
        window.on_item(10)
    assert window.granted == FIRST


def test_small_items_may_be_many_and_large_ones_are_few() -> None:
    small, large = Window(), Window()
    small.take_credit()
    large.take_credit()
    read(small, 10 * MOST)
    assert MOST / 2 < small.granted - 10 * MOST <= MOST
    read(large, FIRST, size=TARGET)
    assert large.granted - FIRST <= LEAST


def test_a_sender_that_ignores_credit_is_noticed() -> None:
    window = Window()
    window.take_credit()
    for _ in range(FIRST):
        window.on_item(10)
    assert not window.is_overrun
    for _ in range(LEAST + 1):
        window.on_item(10)
    assert window.is_overrun
