"""What the keys of `tidings top` do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tidings.cli.controls import Controls, Sort
from tidings.cli.fleet import Line, Sample, View, lines_of
from tidings.services import EndpointStats, ServiceStats


def lines(**counts: tuple[int, int | None]) -> list[Line]:
    """Lines of services with a number of errors, and a number of pending messages."""
    services = tuple(
        ServiceStats(
            name=name,
            id=name,
            version="1.0.0",
            started=datetime.now(UTC),
            endpoints=(
                EndpointStats(name="e", subject="e", num_errors=errors, data={"pending": pending}),
            ),
        )
        for name, (errors, pending) in counts.items()
    )
    return lines_of(None, Sample(at=0.0, services=services), View.SERVICE)


SOME = lines(b=(1, 5), c=(3, None), a=(2, 9))


def names(controls: Controls) -> str:
    return "".join(line.name for line in controls.choose(SOME))


def press(controls: Controls, keys: str) -> Controls:
    for key in keys:
        controls.press(key)
    return controls


@pytest.mark.parametrize(
    ("keys", "order"),
    [
        ("n", "abc"),
        ("nn", "cba"),
        ("e", "cab"),
        ("ee", "bac"),
        ("p", "abc"),
        ("pp", "bac"),
        ("ppe", "cab"),
        ("r", "cba"),
    ],
)
def test_a_key_sorts_and_the_same_key_again_reverses(keys: str, order: str) -> None:
    assert names(press(Controls(sort=Sort.LAG), keys)) == (order if keys != "r" else "abc")


def test_each_column_has_a_key_of_its_own() -> None:
    keys = [sort.key for sort in Sort]
    assert len(set(keys)) == len(keys)
    assert all(sort.key in sort for sort in Sort)  # where the key is underlined
    assert not set(keys) & set("qv/\x1b")


def test_a_filter_is_typed_and_kept_with_enter() -> None:
    controls = press(Controls(), "/bq\x7f")
    assert (controls.text, controls.is_typing, controls.is_quit) == ("b", True, False)
    press(controls, "\r")
    assert (names(controls), controls.is_typing) == ("b", False)


def test_escape_removes_the_filter() -> None:
    assert press(Controls(), "/b\x1b").text == ""
    assert press(Controls(text="b"), "\x1b").text == ""


def test_a_filter_has_a_bounded_length_and_no_control_characters() -> None:
    assert press(Controls(), "/" + "\x01" + "x" * 500).text == "x" * 60


def test_v_goes_through_the_views() -> None:
    controls = Controls()
    seen = [press(controls, "v").view for _ in View]
    assert seen == [View.INSTANCE, View.ENDPOINT, View.SERVICE]


def test_q_quits() -> None:
    assert press(Controls(), "xq").is_quit
