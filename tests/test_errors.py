"""Errors: each says what to do next and carries what it knows, and foreign ones are mapped."""

import asyncio
import builtins
import concurrent.futures
import copy
import inspect
import multiprocessing
import pickle
import re
import ssl
from collections.abc import Callable
from typing import Any

import nats.errors
import pytest

import tidings
from support.waits import until
from tidings import App, errors
from tidings.error_codes import ErrorCode
from tidings.protocol.info import read_error
from tidings.server import NATSServer
from tidings.transport.dial import Attempt, _connect_error
from tidings.transport.options import ConnectionOptions
from tidings.transport.servers import Server

EVERY = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.TidingsError)
]
MakeApp = Callable[..., App]
SERVERS = ("nats://h:4222",)


@pytest.mark.parametrize("error", EVERY)
def test_an_error_is_public_and_stands_in_the_drawn_tree(error: type) -> None:
    assert getattr(tidings, error.__name__) is error
    assert re.search(rf"^ *{error.__name__}\b", errors.__doc__ or "", re.MULTILINE)
    assert error.__doc__


def example_of(error: type[Exception]) -> Exception:
    """An error of this class, with a value of its own for each argument."""
    values: dict[str, Any] = {
        "int": 7,
        "float": 0.5,
        "tuple[str, ...]": ("first", "second"),
        "object": "value",
        "float | timedelta": 3.0,
    }
    parameters = inspect.signature(error.__init__).parameters.values()
    needed = [each for each in parameters if each.default is each.empty and each.name != "self"]
    if any(each.kind is each.VAR_POSITIONAL for each in needed):
        return error("the text")
    made = error(*(values.get(each.annotation, f"the {each.name}") for each in needed))
    made.add_note("a note")
    return made


@pytest.mark.parametrize("error", [*EVERY, tidings.Reject, tidings.Retry])
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],
    ids=["copied", "deeply copied", "pickled"],
)
def test_an_error_can_be_copied_and_pickled(
    error: type[Exception], duplicate: Callable[[Exception], Exception]
) -> None:
    made = example_of(error)
    again = duplicate(made)
    assert type(again) is error
    assert (str(again), again.args, vars(again)) == (str(made), made.args, vars(made))


async def test_the_task_that_a_timeout_has_left_behind_is_not_copied() -> None:
    task = asyncio.current_task()
    again = copy.copy(errors.HandlerTimeoutError("report", 1.5, task))
    assert (again.handler, again.timeout, again.rest) == ("report", 1.5, None)


def fail_in_another_process() -> None:
    raise errors.ServiceError(404, "no such order", subject="orders.get", service="shop")


def test_an_error_comes_out_of_a_pool_of_processes_as_it_was() -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as processes:
        caught = processes.submit(fail_in_another_process).exception()
    assert isinstance(caught, errors.ServiceError)
    assert (caught.code, caught.service) == (404, "shop")
    assert str(caught) == "404 no such order from shop on 'orders.get'"


def test_an_error_is_named_as_users_import_it() -> None:
    assert {error.__module__ for error in EVERY} == {"tidings.errors"}
    assert set(errors.__all__) == {error.__name__ for error in EVERY} | {"Reject", "Retry"}


def test_the_code_of_a_wrong_revision_is_that_of_the_server() -> None:
    assert errors.WrongRevisionError("b", "k", 1).err_code == ErrorCode.WRONG_LAST_SEQUENCE


def test_the_drawn_tree_is_the_tree() -> None:
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"( *)(\w+Error)(?: {2,}|$)", line):
            path[len(match[1]) // 2 :] = [match[2]]
            for child, parent in zip(path[1:], path, strict=False):
                assert issubclass(getattr(errors, child), getattr(errors, parent)), line
            if also := re.search(r"\(also an? (\w+)\)", line):
                assert issubclass(getattr(errors, match[2]), getattr(builtins, also[1]))


@pytest.mark.parametrize(
    ("error", "fields", "text"),
    [
        (
            errors.MissingExtraError("server", "NATSServer"),
            {"extra": "server", "what": "NATSServer"},
            "NATSServer needs an optional dependency: pip install 'tidings[server]'",
        ),
        (
            errors.LoopThreadError("request_sync", "await app.request(...)"),
            {"call": "request_sync", "instead": "await app.request(...)"},
            "Write `await app.request(...)` instead",
        ),
        (errors.NotStartedError("publish"), {"call": "publish"}, "`async with app:`"),
        (
            errors.SubjectError("a..b", "empty token"),
            {"subject": "a..b", "reason": "empty token"},
            "bad subject 'a..b': empty token",
        ),
        (errors.HeaderError("A B", "no"), {"name": "A B", "reason": "no"}, "bad header 'A B': no"),
        (errors.EncodeError(1j, "no"), {"type": complex}, "cannot encode a complex: no"),
        (errors.EncodeError(1, "no"), {"type": int}, "cannot encode an int: no"),
        (
            errors.RequestTimeoutError("a", 0.199983),
            {"subject": "a", "timeout": 0.199983},
            "no reply to 'a' within 0.2 s",
        ),
        (
            errors.RequestTimeoutError("a", 0.0001),
            {"subject": "a", "timeout": 0.0001},
            "no reply to 'a' within 0.0001 s",
        ),
        (
            errors.DecodeError("Order", "no id"),
            {"wanted": "Order", "reason": "no id", "subject": ""},
            "the body is not a valid Order: no id",
        ),
        (
            errors.DecodeError("dict", "JSON is malformed: invalid character (byte 0)"),
            {"wanted": "dict"},
            "(byte 0). Declare data_type=str for text, or bytes for the raw body",
        ),
        (
            errors.DecodeError("dict", "Expected `object`, got `array`"),
            {"wanted": "dict"},
            "got `array`. Declare data_type=list",
        ),
        (
            errors.PayloadTooLargeError(11, 10),
            {"size": 11, "limit": 10},
            "11 bytes, headers included, and the server accepts 10",
        ),
        (
            errors.SubscriptionNotFoundError("7"),
            {"wanted": "7"},
            "there is no subscription '7'",
        ),
        (
            errors.ServerStartError("it ended", "port in use"),
            {"output": "port in use"},
            "it ended\nport in use",
        ),
        (
            errors.ConnectError(SERVERS, "refused"),
            {"servers": SERVERS, "reason": "refused"},
            "cannot connect to nats://h:4222: refused. Is nats-server running there?",
        ),
        (errors.AuthError(SERVERS, "no"), {"reason": "no"}, "Check user and password"),
        (errors.TlsError(SERVERS, "no"), {"reason": "no"}, "tls://"),
        (errors.DisconnectedError("flush"), {"call": "flush"}, "flush: the connection to the"),
        (errors.ConnectionLostError("flush"), {"call": "flush"}, "may or may not have the message"),
        (
            errors.BufferFullError("publish", 9, 10),
            {"call": "publish", "size": 9, "limit": 10},
            "App(pending_size=)",
        ),
        (
            errors.ConnectionClosedError("publish", "given up"),
            {"call": "publish"},
            "publish: the connection is closed: given up",
        ),
        (
            errors.SubjectPermissionError("publish", "a"),
            {"operation": "publish", "subject": "a"},
            "the server denies publish to 'a'",
        ),
        (errors.FlushTimeoutError(2.5), {"timeout": 2.5}, "did not confirm within 2.5 s"),
        (
            errors.DrainTimeoutError(30, 2, 5),
            {"abandoned": 2, "unsent": 5},
            "drain_timeout of 30 s passed: 2 messages abandoned, 5 bytes unsent",
        ),
        (
            errors.RequestTimeoutError("a", 2),
            {"subject": "a", "timeout": 2},
            "no reply to 'a' within 2 s",
        ),
        (errors.NoRespondersError("a"), {"subject": "a"}, "nobody listens on 'a'"),
        (
            errors.ServiceError(404, "no such order", error_id="7f", subject="a", service="shop"),
            {"code": 404, "description": "no such order", "error_id": "7f", "service": "shop"},
            "404 no such order from shop on 'a' (id 7f)",
        ),
        (errors.ServiceError(500, "x"), {"subject": "", "body": b""}, "500 x"),
    ],
)
def test_an_error_carries_its_fields_and_says_what_to_do(
    error: Exception, fields: dict[str, Any], text: str
) -> None:
    assert {name: getattr(error, name) for name in fields} == fields
    assert text in str(error)


def connect_error(error: Exception) -> errors.ConnectError:
    server = Server.from_url("nats://user:secret@h:4222")
    attempt = Attempt(server, ConnectionOptions(servers=SERVERS))
    return _connect_error(attempt, error, 2.0)


def tls_error(kind: type[ssl.SSLError]) -> ssl.SSLError:
    error = kind(1, "[SSL: WRONG] wrong (_ssl.c:1)")
    error.reason = "WRONG"
    return error


@pytest.mark.parametrize(
    ("foreign", "expected", "reason"),
    [
        (ConnectionRefusedError(111, "Connect call failed"), errors.ConnectError, "Connect call"),
        (OSError(113, "No route to host"), errors.ConnectError, "No route"),
        (ConnectionError("the server closed the connection"), errors.ConnectError, "closed"),
        (TimeoutError(), errors.ConnectError, r"connect_timeout \(2 s\)"),
        (asyncio.IncompleteReadError(b"", 1), errors.ConnectError, "0 bytes read"),
        (tls_error(ssl.SSLError), errors.TlsError, "TLS failed"),
        (tls_error(ssl.SSLCertVerificationError), errors.TlsError, "TLS failed"),
        (read_error(b"'Authorization Violation'"), errors.AuthError, "Authorization Violation"),
        (read_error(b"'Authentication Timeout'"), errors.ConnectError, "Authentication Timeout"),
        (read_error(b"'User Authentication Expired'"), errors.AuthError, "Expired"),
        (read_error(b"'maximum connections exceeded'"), errors.ConnectError, "maximum"),
        (errors.AuthError(SERVERS, "as it is"), errors.AuthError, "as it is"),
    ],
)
async def test_what_connecting_raises_is_mapped_once(
    foreign: Exception, expected: type[errors.ConnectError], reason: str
) -> None:
    mapped = connect_error(foreign)
    assert type(mapped) is expected
    assert re.search(reason, mapped.reason)
    assert "secret" not in str(mapped)


@pytest.mark.parametrize(
    ("words", "operation", "subject"),
    [
        (b"'Permissions Violation for Publish to \"a.b\"'", "publish", "a.b"),
        (b"'Permissions Violation for Subscription to \"a.*\"'", "subscription", "a.*"),
        (
            b'\'Permissions Violation for Subscription to "a.*" using queue "q"\'',
            "subscription",
            "a.*",
        ),
    ],
)
def test_a_permission_violation_names_operation_and_subject(
    words: bytes, operation: str, subject: str
) -> None:
    error = read_error(words)
    assert isinstance(error, errors.SubjectPermissionError)
    assert (error.operation, error.subject) == (operation, subject)


@pytest.mark.parametrize("words", [b"'Permissions Violation for Publish to ", b"'"])
def test_an_endless_error_of_a_server_is_cut_and_read_at_once(words: bytes) -> None:
    # With a search at each of its quotes, this would take hours.
    error = read_error(words + b'"\\' * 500_000)
    assert 1_000 < len(str(error)) < 20_000


@pytest.mark.parametrize(
    "words", [b"", b"'Stale Connection'", b"\xff", b"'Maximum Payload Violation'"]
)
def test_other_words_of_the_server_are_kept_in_a_protocol_error(words: bytes) -> None:
    error = read_error(words)
    assert type(error) is errors.ProtocolError
    assert str(error) == words.decode("utf-8", "replace").strip("'")


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
    ("body", "advice"),
    [
        (b"[1]", "Expected `object`, got `array`. Pass response_data_type=list"),
        (b"1", "Expected `object`, got `int`. Pass response_data_type=int"),
        (b"1.5", "Expected `object`, got `float`. Pass response_data_type=float"),
        (b"true", "Expected `object`, got `bool`. Pass response_data_type=bool"),
        (b'"s3cret"', 'Expected `object`, got `str`. Pass response_data_type="json"'),
        (b"null", 'Expected `object`, got `null`. Pass response_data_type="json"'),
        (b"s3cret", "(byte 0). Pass response_data_type=str for text, or bytes for the raw body"),
    ],
)
async def test_a_reply_that_is_no_object_names_the_subject_and_the_type_to_ask_for(
    nats_server: NATSServer, subject: str, body: bytes, advice: str
) -> None:
    app = App("errors", servers=nats_server.url)
    app.listen(subject)(lambda msg: body)
    async with app:
        with pytest.raises(errors.DecodeError) as caught:
            await app.request(subject)
    text = str(caught.value)
    assert text.startswith(f"the reply to {subject!r} is not a valid dict: ")
    assert text.endswith(advice)
    assert "s3cret" not in text
    wanted = {"list": list, "int": int, "float": float, "bool": bool, '"json"': "json"}
    if kind := wanted.get(text.rpartition("response_data_type=")[2]):
        async with app:  # the advice works
            await app.request(subject, response_data_type=kind)


def test_without_asyncio_the_start_says_what_to_write() -> None:
    """Under trio a coroutine runs without an event loop of asyncio, as it does here."""
    app = App("errors")
    starting = app.__aenter__()
    with pytest.raises(errors.ConfigError, match=r"asyncio\.run\(\).*`with app:`"):
        starting.send(None)  # type: ignore[attr-defined]  # it is a coroutine
    assert not app.is_running


def test_run_in_another_thread_says_what_to_write() -> None:
    with (
        concurrent.futures.ThreadPoolExecutor() as threads,
        pytest.raises(errors.ConfigError, match=r"main thread.*`with app:`"),
    ):
        threads.submit(App("errors").run).result()
