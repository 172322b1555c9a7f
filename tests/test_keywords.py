"""Options are keyword-only. Only the arguments of the interface's table have an order."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import tidings
from tidings import App, DebugMiddleware, Message
from tidings.jetstream import JetStream, KeyValue, ObjectStore, PublishWindow, StreamMessage
from tidings.server import NATSCluster, NATSServer
from tidings.testing import SyncTestClient, TestClient

# What may be given by position and left out. The first rows are the interface's table.
IN_ORDER = {
    "publish": ["message", "reply_to", "force"],
    "publish_sync": ["message", "reply_to", "force"],
    "publish_from_another_thread": ["message", "reply_to", "force"],
    "request": ["message", "timeout", "response_data_type"],
    "request_sync": ["message", "timeout", "response_data_type"],
    "request_from_another_thread": ["message", "timeout", "headers"],
    "request_many": ["message"],
    "request_many_sync": ["message"],
    "stream": ["message"],
    "stream_sync": ["message"],
    "task": ["interval"],
    # The one thing that a call is about.
    "watch": ["keys"],
    "keys": ["keys"],
    "value": ["default"],
    "messages": ["subject"],
    "count": ["subject"],
    "respond": ["value"],
    "respond_sync": ["value"],
    "nak": ["delay"],
    "term": ["reason"],
    "NATSCluster": ["size"],
    "TestClient": ["server"],
}
CLASSES = [
    *(App, tidings.Group, DebugMiddleware, JetStream, KeyValue, ObjectStore, PublishWindow),
    *(NATSCluster, NATSServer, TestClient, SyncTestClient),
]
METHODS = [*CLASSES, type(App("any").nats), Message, StreamMessage]


def calls() -> list[tuple[str, Callable[..., Any]]]:
    made = [(kind.__name__, kind) for kind in CLASSES]
    for kind in METHODS:
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                made.append((f"{kind.__name__}.{name}", member))
    return made


@pytest.mark.parametrize(("name", "call"), calls(), ids=[name for name, _ in calls()])
def test_options_are_keyword_only(name: str, call: Callable[..., Any]) -> None:
    by_position = [
        parameter.name
        for parameter in inspect.signature(call).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.default is not parameter.empty
    ]
    allowed = IN_ORDER.get(name.rpartition(".")[2], [])
    assert by_position == allowed[: len(by_position)]
