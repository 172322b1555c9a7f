"""Limits: when the reader of a flow stops waiting."""

import pytest

from tidings.flows.limits import Limits


@pytest.mark.parametrize(
    ("limits", "knows_credit", "until"),
    [
        (Limits(), False, (None, 0.0)),
        (Limits(first=10), False, (15, 10)),
        (Limits(first=10), True, (None, 0.0)),
        (Limits(first=10, stall=2), False, (7, 2)),
        (Limits(first=10, stall=2), True, (7, 2)),
        (Limits(stall=2, timeout=3, deadline=6), True, (6, 3)),
        (Limits(stall=2, timeout=3, deadline=8), True, (7, 2)),
        (Limits(timeout=3, deadline=8), True, (8, 3)),
        (Limits(first=10, timeout=30, deadline=35), False, (15, 10)),
    ],
)
def test_a_wait_that_began_at_5(
    limits: Limits, knows_credit: bool, until: tuple[float | None, float]
) -> None:
    assert limits.of_wait(5, knows_credit=knows_credit) == until
