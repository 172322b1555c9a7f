"""What the server says about streams and consumers, when it says it in pages or badly."""

from __future__ import annotations

from typing import Any

import pytest

from tidings.cli import infos
from tidings.cli.infos import ConsumerInfo, StreamInfo, list_consumers, list_streams, read
from tidings.errors import JetStreamApiError


class Api:
    """Answers calls from a list, and keeps what was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.asked: list[Any] = []
        self._answers = list(answers)

    async def call(self, operation: str, payload: Any = None) -> dict[str, Any]:
        self.asked.append(payload)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def stream(name: str) -> dict[str, Any]:
    return {"config": {"name": name}, "state": {"messages": 1}}


async def test_a_list_is_asked_for_page_by_page() -> None:
    pages = [{"streams": [stream(name)], "total": 3} for name in "cab"]
    api: Any = Api(*pages)
    assert [info.name for info in await list_streams(api)] == ["a", "b", "c"]
    assert api.asked == [{"offset": 0}, {"offset": 1}, {"offset": 2}]


async def test_a_list_that_shrinks_meanwhile_ends() -> None:
    api: Any = Api({"streams": [stream("a")], "total": 3}, {"streams": None, "total": 3})
    assert len(await list_streams(api)) == 1


async def test_an_endless_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infos, "MOST", 5)
    api: Any = Api({"streams": [stream("a")], "total": 10**9})
    with pytest.raises(JetStreamApiError, match="more than 5 entries"):
        await list_streams(api)


async def test_streams_without_a_leader_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    api: Any = Api({"streams": [], "total": 0, "missing": ["lost\x1b[2J"]})
    assert await list_streams(api) == []
    assert capsys.readouterr().err == (
        "tidings: no server answers for lost\\x1b[2J, so it is not in the list\n"
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"streams": "all", "total": 1},
        {"streams": [stream("a")], "total": "many"},
        {"streams": [{"config": {}, "state": {}}], "total": 1},
        {"streams": [{"config": {"name": "a"}, "state": {"messages": -1}}], "total": 1},
    ],
    ids=str,
)
async def test_a_list_that_is_none_is_refused(answer: dict[str, Any]) -> None:
    api: Any = Api(answer)
    with pytest.raises(JetStreamApiError):
        await list_streams(api)


async def test_consumers_come_in_pages_too() -> None:
    pages = [
        {"consumers": [{"stream_name": "S", "name": name, "config": {}}], "total": 2}
        for name in "ba"
    ]
    api: Any = Api(*pages)
    assert [info.name for info in await list_consumers(api, "S")] == ["a", "b"]


@pytest.mark.parametrize("kind", [StreamInfo, ConsumerInfo])
def test_an_answer_that_is_something_else_is_refused(kind: type) -> None:
    with pytest.raises(JetStreamApiError, match=f"is no {kind.__name__}"):
        read({"stream_name": "S", "name": "c", "config": 7}, kind)
