"""A request on a subject that a stream stores: the stream acknowledges it, and the requester
learns that it has no answer."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from tidings import App, Message, Middleware, Stream, StreamAnsweredError
from tidings.errors import NoRespondersError
from tidings.testing import NATSServer


class Around(Middleware):
    """A middleware that only hands on."""

    async def send_any(self, subject, message, send_func, *args, **kwargs):
        return await send_func(subject, message, *args, **kwargs)


@pytest.fixture
def app(nats_server: NATSServer, subject: str) -> App:
    """An app whose stream stores everything under the subject."""
    name = subject.replace(".", "-")
    return App("shop", servers=nats_server.url, streams=[Stream(name, subjects=[f"{subject}.>"])])


@pytest.mark.parametrize("wanted", [None, dict, bytes, Message])
@pytest.mark.parametrize("hooks", [False, True])
async def test_the_acknowledgement_of_a_stream_is_no_answer(
    app: App, subject: str, wanted: Any, hooks: bool
) -> None:
    if hooks:
        app.add_middleware(Around)
    async with app:
        with pytest.raises(StreamAnsweredError) as caught:
            await app.request(f"{subject}.price", {"id": 1}, response_data_type=wanted)
    error = caught.value
    assert (error.subject, error.stream) == (f"{subject}.price", app.js.streams[0].name)
    assert error.sequence == 1
    assert "app.js.publish" in str(error)


def test_the_other_forms_of_request_raise_it_too(app: App, subject: str) -> None:
    with app:
        with pytest.raises(StreamAnsweredError):
            app.request_sync(f"{subject}.price")
        with pytest.raises(StreamAnsweredError):
            asyncio.run(app.request_from_another_thread(f"{subject}.price"))


async def test_the_refusal_of_a_stream_is_no_answer_either(
    nats_server: NATSServer, subject: str
) -> None:
    stream = Stream(subject.replace(".", "-"), subjects=[f"{subject}.>"], max_msgs=1, discard="new")
    async with App("shop", servers=nats_server.url, streams=[stream]) as app:
        for sequence in (1, 0):
            with pytest.raises(StreamAnsweredError) as caught:
                await app.request(f"{subject}.price")
            assert caught.value.sequence == sequence


@pytest.mark.parametrize(
    "answer",
    [
        {"stream": "river", "seq": 4},
        {"stream": "river", "seq": 4, "duplicate": True},
        {"stream": "river", "length": 4},
        {"error": {"code": 404}, "stream": "river", "seq": 0},
        {"error": "none"},
        {"stream": 1},
    ],
)
async def test_a_service_may_answer_what_looks_like_an_acknowledgement(
    app: App, subject: str, answer: Any
) -> None:
    app.listen(f"elsewhere.{subject}")(lambda msg: answer)
    async with app:
        assert await app.request(f"elsewhere.{subject}") == answer


async def test_without_jetstream_no_stream_can_have_answered(subject: str) -> None:
    with NATSServer() as server:
        app = App("shop", servers=server.url)
        app.listen(subject)(lambda msg: {"stream": "river", "seq": 4})
        async with app:
            assert await app.request(subject) == {"stream": "river", "seq": 4}
            with pytest.raises(NoRespondersError):
                await app.request(f"{subject}.nobody")


async def test_where_jetstream_cannot_be_asked_the_answer_counts_as_a_streams(
    tmp_path: Path, subject: str
) -> None:
    config = """
    authorization { users = [
        {user: all, password: all}
        {user: few, password: few, permissions: {publish: ["%s.>"], subscribe: ["_INBOX.>"]}}
    ] }
    """
    (tmp_path / "server.conf").write_text(config % subject)
    with NATSServer(config=tmp_path / "server.conf", jetstream=True) as server:
        url = server.url.replace("://", "://{0}:{0}@")
        shop = App(
            "shop", servers=url.format("all"), streams=[Stream("STORED", subjects=[f"{subject}.>"])]
        )
        async with shop, App("few", servers=url.format("few")) as few:
            with pytest.raises(StreamAnsweredError):
                await few.request(f"{subject}.price")


async def test_a_listener_that_answers_on_a_subject_of_an_own_stream_is_a_warning(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def price(msg):
        return {}

    async def observe(msg):
        return None

    app.listen(f"{subject}.*")(price)
    app.listen(f"{subject}.*", no_reply=True)(observe)
    app.listen(f"elsewhere.{subject}")(observe)
    with caplog.at_level(logging.WARNING, "tidings"):
        async with app:
            pass
    (text,) = caplog.messages
    assert text.startswith(f"price answers requests on '{subject}.*', which the stream")
    assert "no_reply=True" in text
