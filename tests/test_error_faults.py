"""The error tree: every error of nats-py has its place, and a requester gets the remote one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

import nats.errors
import pytest

import tidings
from support.fake_peer import FakePeer, info_line
from support.waits import until
from tidings import App, ServiceError, errors
from tidings.server import NATSServer

MakeApp = Callable[..., App]

# Each error of nats-py, and what stands for it here; "" where what raises it there is replaced here
# and cannot be reached, with the reason beside it.
MAPPED = {
    "Error": "ConnectError",
    "TimeoutError": "RequestTimeoutError",
    "NoRespondersError": "NoRespondersError",
    "StaleConnectionError": "ConnectionLostError",
    "OutboundBufferLimitError": "BufferFullError",
    "UnexpectedEOF": "ConnectionLostError",
    "FlushTimeoutError": "FlushTimeoutError",
    "ConnectionClosedError": "ConnectionClosedError",
    "SecureConnRequiredError": "ConnectError",
    "SecureConnWantedError": "TlsError",
    "SecureConnFailedError": "TlsError",
    "BadSubscriptionError": "SubscriptionNotFoundError",
    "BadSubjectError": "SubjectError",
    "BadHeaderError": "HeaderError",
    "SlowConsumerError": "",  # an event and a count: nothing is raised
    "BadTimeoutError": "ConfigError",
    "AuthorizationError": "AuthError",
    "NoServersError": "ConnectError",
    "JsonParseError": "ConnectError",
    "MaxPayloadError": "PayloadTooLargeError",
    "DrainTimeoutError": "DrainTimeoutError",
    "ConnectionDrainingError": "",  # draining is App's: what is called meanwhile still works
    "ConnectionReconnectingError": "DisconnectedError",
    "InvalidUserCredentialsError": "AuthError",
    "InvalidCallbackTypeError": "ConfigError",
    "ProtocolError": "ProtocolError",
    "ServerNotInPoolError": "",  # of choosing a server by hand, which is not offered
    "NotJSMessageError": "",  # of acknowledgements, which belong to streams
    "MsgAlreadyAckdError": "",  # as above
}


def of_nats_py() -> set[str]:
    return {
        name
        for name, value in inspect.getmembers(nats.errors, inspect.isclass)
        if issubclass(value, Exception) and value.__module__ == "nats.errors"
    }


def test_every_error_of_nats_py_has_its_place() -> None:
    assert of_nats_py() == set(MAPPED)


@pytest.mark.parametrize("name", sorted({*MAPPED.values()} - {""}))
def test_what_stands_for_an_error_of_nats_py_is_an_error_of_tidings(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.TidingsError)
    assert name in tidings.__all__


async def test_what_the_public_calls_raise_is_never_an_error_of_nats_py(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, pending_size=1000)
    calls: list[Callable[[], object]] = [
        lambda: app.publish("numbers", b"x" * 2000),
        lambda: app.publish("num bers"),
        lambda: app.publish("numbers", headers={"a b": "c"}),
        lambda: app.publish("numbers", b"x" * 2_000_000),
        lambda: app.publish("numbers", force=True),
        lambda: app.request("numbers", timeout=0.05),
        lambda: app.request("numbers", timeout=-1),
        lambda: app.flush(timeout=0.05),
        lambda: app.subscribe_new_subject("a..b", print),
        lambda: app.unsubscribe_subject("numbers"),
        lambda: app.unsubscribe_ssid("17"),
        lambda: app.unsubscribe_ssid("x"),
    ]
    raised = set()

    async def try_all() -> None:
        for call in calls:
            try:
                await call()  # type: ignore[misc]  # each is a coroutine function's
            except errors.TidingsError as error:
                raised.add(type(error).__name__)

    async with app:
        await try_all()
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        await try_all()
        await asyncio.to_thread(server.restart)
        client = app._run.connection
    await try_all()
    with pytest.raises(errors.ConnectionClosedError):
        await client.confirm(1)
    assert {"SubjectError", "HeaderError", "PayloadTooLargeError", "NoRespondersError"} <= raised
    assert {"DisconnectedError", "NotStartedError", "SubscriptionNotFoundError"} <= raised


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Authorization Violation", errors.AuthError),
        ("Authentication Timeout", errors.ConnectError),
        ("User Authentication Expired", errors.AuthError),
        ("User Authentication Revoked", errors.AuthError),
        ("Account Authentication Expired", errors.AuthError),
        ("maximum connections exceeded", errors.ConnectError),
        ("maximum account active connections exceeded", errors.ConnectError),
        ("Unknown Protocol Operation", errors.ConnectError),
        ("Secure Connection - TLS Required", errors.ConnectError),
        ("Connection throttling is active", errors.ConnectError),
    ],
)
async def test_what_a_server_says_while_greeting_is_an_error_of_its_kind(
    make_app: MakeApp, words: str, kind: type[errors.ConnectError]
) -> None:
    async with FakePeer(info_line(), refusal=words) as peer:
        with pytest.raises(errors.ConnectError) as caught:
            await make_app(peer).__aenter__()
    assert type(caught.value) is kind
    assert words in caught.value.reason


async def test_over_two_hops_each_service_answers_for_itself_and_the_logs_connect_them(
    nats_server: NATSServer, make_app: MakeApp, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tidings")
    far = make_app(nats_server, "far")
    near = make_app(nats_server, "near")

    @far.listen(f"{subject}.far")
    async def fail(msg):
        raise ServiceError(409, "taken")

    @near.listen(f"{subject}.near")
    async def ask(msg):
        return await near.request(f"{subject}.far")

    async with far, near:
        with pytest.raises(ServiceError) as caught:
            await near.request(f"{subject}.near")
    # The text of another service is not passed off as this one's own; the logs connect the two.
    assert (caught.value.code, caught.value.description) == (502, "ServiceError")
    assert "taken" not in caught.value.body.decode()
    (far_id,) = [record.error_id for record in caplog.records if "409 taken" in record.message][:1]
    (line,) = [text for text in caplog.messages if caught.value.error_id in text]
    assert far_id in line
    assert f"{subject}.far" in line
    assert caught.value.service == "near"
    assert caught.value.subject == f"{subject}.near"
    assert caught.value.error_id in caplog.text
