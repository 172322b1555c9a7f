"""What connection.py takes from nats-py's insides, so that an upgrade that changes it says so.

Three lists stand below: the private (and a few public) attributes of nats-py's client that are read
or written, the methods of it that are overridden or called, and what is used of its other classes.
A test reads connection.py, so that the lists are complete, and another reads nats-py, so that they
are true.
"""

import ast
import dataclasses
import inspect
import textwrap
from importlib.metadata import version
from pathlib import Path
from types import FunctionType

import nats.errors
import pytest
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription
from nats.nuid import NUID

from tidings.transport import connection
from tidings.transport.connection import Connection

SOURCE = Path(connection.__file__).read_text()
TREE = ast.parse(SOURCE)
HINT = "nats-py changed: look at connection.py before the version is raised"
STALE = "connection.py changed: correct the list in this test"

# Set in Client.__init__, read or written here.
ATTRIBUTES = {
    "_auth_configured",
    "_client_id",
    "_current_server",
    "_err",
    "_max_payload",
    "_ping_interval_task",
    "_pings_outstanding",
    "_reconnection_task",
    "_server_info",
    "_server_pool",
    "_sid",
    "_status",
    "_subs",
    "stats",
}

# Overridden, with nats-py's signatures.
OVERRIDDEN = {
    "_attempt_reconnect": "(self) -> None",
    "_close": "(self, status: int, do_cbs: bool = True) -> None",
    "_flush_pending": "(self, force_flush: bool = False) -> Any",
    "_process_err": "(self, err_msg: str) -> None",
    "_process_info": "(self, info: Dict[str, Any], initial_connection: bool = False) -> None",
    "_process_op_err": "(self, e: Exception) -> None",
    "_select_next_server": "(self) -> None",
    "_send_command": "(self, cmd: bytes, priority: bool = False) -> None",
    "_send_ping": "(self, future: Optional[asyncio.Future] = None) -> None",
    "flush": "(self, timeout: int = 10) -> None",
}

# Called.
CALLED = {
    "_connect_command": "(self) -> bytes",
    "_ping_interval": "(self) -> None",
    "_process_msg": (
        "(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None"
    ),
}
CALLED_PROPERTIES = {"ssl_context"}

# The keywords that connect() is given.
CONNECT = {
    "connect_timeout",
    "error_cb",
    "inbox_prefix",
    "max_outstanding_pings",
    "max_reconnect_attempts",
    "name",
    "nkeys_seed_str",
    "password",
    "pending_size",
    "ping_interval",
    "reconnect_time_wait",
    "servers",
    "tls",
    "tls_hostname",
    "token",
    "user",
    "user_credentials",
}

# The states of Client.
STATES = {
    "DISCONNECTED",
    "CONNECTED",
    "CLOSED",
    "RECONNECTING",
    "CONNECTING",
    "DRAINING_SUBS",
    "DRAINING_PUBS",
}

SRV = {"uri", "discovered", "reconnects", "last_attempt", "did_connect", "tls_name"}
SUBSCRIPTION = {"_subject", "_queue", "_pending_next_msgs_calls", "_stop_processing"}


def attributes_of(*names: str) -> set[str]:
    """The attributes that connection.py uses of these variables."""
    return {
        node.attr
        for node in ast.walk(TREE)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in names
    }


def set_in_init(cls: type) -> set[str]:
    """The attributes that a class sets on itself in __init__."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def members(cls: type) -> dict[str, object]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("__")}


def own_attributes() -> set[str]:
    """What Connection sets on itself and Client does not know."""
    return set_in_init(Connection) - set_in_init(Client)


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("nats-py").split(".")[:2] == ["2", "16"], HINT


def test_the_attributes_in_use_are_in_the_list() -> None:
    used = attributes_of("self") & set_in_init(Client)
    assert used == ATTRIBUTES, STALE


def test_nats_py_has_the_attributes() -> None:
    assert set_in_init(Client) >= ATTRIBUTES, HINT


def test_no_attribute_is_used_that_neither_side_defines() -> None:
    known = set_in_init(Client) | own_attributes() | set(dir(Client)) | set(members(Connection))
    assert attributes_of("self") <= known, "a typing error, or nats-py lost it"


def test_no_attribute_of_its_own_shadows_one_of_nats_py() -> None:
    ours = set_in_init(Connection)
    assert not ours & (set(dir(Client)) | set_in_init(Client)), "Client uses that name itself"


def test_the_overridden_methods_are_in_the_list() -> None:
    found = {name for name in members(Connection) if hasattr(Client, name)}
    properties = {name for name in found if isinstance(vars(Connection)[name], property)}
    assert found - properties == set(OVERRIDDEN), STALE
    for name in properties:
        assert isinstance(inspect.getattr_static(Client, name), property), HINT


@pytest.mark.parametrize("name", sorted(OVERRIDDEN | CALLED))
def test_a_method_has_the_signature_that_was_read(name: str) -> None:
    method = inspect.getattr_static(Client, name, None)
    assert isinstance(method, FunctionType), f"{name} is gone. {HINT}"
    assert str(inspect.signature(method)).replace("'", "") == (OVERRIDDEN | CALLED)[name], HINT


@pytest.mark.parametrize("name", sorted(OVERRIDDEN))
def test_an_override_can_be_called_as_nats_py_calls_it(name: str) -> None:
    theirs = inspect.signature(getattr(Client, name)).parameters.values()
    ours = inspect.signature(getattr(Connection, name)).parameters.values()
    assert [(p.name, p.kind) for p in ours] == [(p.name, p.kind) for p in theirs]
    assert [p.default is p.empty for p in ours] == [p.default is p.empty for p in theirs]
    both = (getattr(Client, name), getattr(Connection, name))
    assert len(set(map(inspect.iscoroutinefunction, both))) == 1


def test_the_methods_called_are_in_the_list() -> None:
    used = attributes_of("self") & set(dir(Client))
    expected = {*CALLED, *CALLED_PROPERTIES, *OVERRIDDEN, "connect"}
    properties = {name for name in used if isinstance(vars(Connection).get(name), property)}
    assert used - properties <= expected, STALE
    assert {*CALLED, *CALLED_PROPERTIES, "connect"} <= used, STALE
    for name in CALLED_PROPERTIES:
        assert isinstance(inspect.getattr_static(Client, name), property), HINT


def test_connect_takes_its_options_by_these_names_and_ends_in_the_method_that_stops_it() -> None:
    calls = [
        node
        for node in ast.walk(TREE)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.connect"
    ]
    assert {keyword.arg for call in calls for keyword in call.keywords} == CONNECT, STALE
    assert set(inspect.signature(Client.connect).parameters) >= CONNECT, HINT
    # connect() is left where it looks for a server: nothing may be opened or awaited before that.
    body = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(Client.connect))))
    awaited = [node for node in body if isinstance(node, ast.Await)]
    first = min(awaited, key=lambda node: node.lineno)
    assert ast.unparse(first.value) == "self._select_next_server()", HINT


def test_the_states_are_the_ones_known() -> None:
    used = attributes_of("Client")
    assert used == STATES, STALE
    values = {name: value for name, value in vars(Client).items() if name.isupper()}
    assert set(values) == STATES, HINT
    assert len(set(values.values())) == len(STATES), HINT


def test_a_server_of_the_pool_has_its_fields() -> None:
    assert attributes_of("server") == SRV, STALE
    assert {field.name for field in dataclasses.fields(Srv)} >= SRV, HINT


def test_a_subscription_of_nats_py_has_its_names() -> None:
    assert attributes_of("sub") == SUBSCRIPTION, STALE
    known = set_in_init(Subscription) | set(dir(Subscription))
    assert known >= SUBSCRIPTION, HINT
    assert str(inspect.signature(Subscription._stop_processing)).startswith("(self)"), HINT


def test_the_client_writes_by_the_methods_that_are_replaced_and_no_other_way() -> None:
    """What nats-py would write past the outbox is lost: `_transport` is never set here."""
    calls = ("_send_publish", "_send_subscribe", "_send_unsubscribe")
    for name in calls:
        source = inspect.getsource(getattr(Client, name))
        assert "self._send_command(" in source, HINT
        assert "_transport" not in source, HINT


def test_the_errors_of_nats_py_in_use_exist() -> None:
    used = attributes_of("nats_errors")
    assert used == {
        "InvalidUserCredentialsError",
        "ProtocolError",
        "SecureConnWantedError",
    }, STALE
    assert used <= set(vars(nats.errors)), HINT


def test_a_nuid_is_a_token() -> None:
    token = NUID().next().decode()
    assert token.isalnum(), HINT
    assert len(token) == 22, HINT
