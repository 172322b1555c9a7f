"""What JetStream raises: one base for all of it, and one table of the server's numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import tidings
from support.streams import MakeApp
from tidings import App, JetStreamApiError, JetStreamError, errors
from tidings.error_codes import ErrorCode
from tidings.jetstream import Stream

SOURCE = Path(tidings.__file__).parent
_numbers = itertools.count(1)

Call = Callable[[App, str], Awaitable[object]]


async def publish_nowhere(app: App, name: str) -> None:
    await app.js.publish(f"{name}-nowhere.a", 1)


async def publish_too_late(app: App, name: str) -> None:
    await app.js.publish(f"{name}.a", 1)
    await app.js.publish(f"{name}.a", 2, expected_sequence=0)


async def publish_too_much(app: App, name: str) -> None:
    await app.js.publish(f"{name}.a", "x" * 2000)


async def get_a_missing_key(app: App, name: str) -> None:
    await app.js.key_value(f"{name}-a").get("missing")


async def create_a_key_twice(app: App, name: str) -> None:
    bucket = app.js.key_value(f"{name}-b")
    await bucket.create("key", {})
    await bucket.create("key", {})


async def update_a_key_too_late(app: App, name: str) -> None:
    bucket = app.js.key_value(f"{name}-c")
    revision = await bucket.put("key", {})
    await bucket.put("key", {})
    await bucket.update("key", {}, revision)


async def use_a_missing_bucket(app: App, name: str) -> None:
    await app.js.key_value(f"{name}-missing", create=False).put("key", {})


async def change_a_bucket(app: App, name: str) -> None:
    await app.js.key_value(f"{name}-d").put("key", {})
    await app.js.key_value(f"{name}-d", history=7).put("key", {})


async def get_a_missing_object(app: App, name: str) -> None:
    await app.js.object_store(f"{name}-e").get("missing")


async def ask_for_a_missing_stream(app: App, name: str) -> None:
    await app.js.api.call("STREAM.INFO.MISSING")


@pytest.mark.parametrize(
    ("call", "kind", "number"),
    [
        (publish_nowhere, errors.NoStreamError, None),
        (publish_too_late, errors.WrongSequenceError, ErrorCode.WRONG_LAST_SEQUENCE),
        (publish_too_much, errors.JetStreamApiError, ErrorCode.MESSAGE_TOO_LARGE),
        (get_a_missing_key, errors.KeyNotFoundError, None),
        (create_a_key_twice, errors.KeyExistsError, ErrorCode.WRONG_LAST_SEQUENCE),
        (update_a_key_too_late, errors.WrongRevisionError, ErrorCode.WRONG_LAST_SEQUENCE),
        (use_a_missing_bucket, errors.BucketNotFoundError, None),
        (change_a_bucket, errors.BucketChangeError, None),
        (get_a_missing_object, errors.ObjectNotFoundError, None),
        (ask_for_a_missing_stream, errors.JetStreamApiError, ErrorCode.STREAM_NOT_FOUND),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_one_except_clause_catches_whatever_jetstream_raises(
    make_app: MakeApp, call: Call, kind: type[JetStreamError], number: int | None
) -> None:
    name = f"errors{next(_numbers)}"
    app = make_app(streams=[Stream(name, subjects=[f"{name}.>"], max_msg_size=1000)])
    async with app:
        with pytest.raises(JetStreamError) as raised:
            await call(app, name)
    assert type(raised.value) is kind
    assert getattr(raised.value, "err_code", None) == number
    assert isinstance(raised.value, JetStreamApiError) is (number is not None)


@pytest.mark.parametrize(
    "error",
    [
        errors.JetStreamUnavailableError("STREAM.INFO.S"),
        errors.PublishTimeoutError("a", "id", 1),
        errors.StreamChangeError("S", ("subjects",), "no"),
        errors.DigestError("bucket", "name", "no"),
        errors.RedriveError("S", 1, "no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_takes_a_fault_to_raise_has_the_same_base(error: Exception) -> None:
    assert isinstance(error, JetStreamError)
    assert not isinstance(error, JetStreamApiError)


def test_the_servers_numbers_stand_in_one_table_only() -> None:
    numbers = re.compile(r"\b10[0-2]\d{2}\b")
    elsewhere = [
        f"{path.relative_to(SOURCE)}:{number}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "error_codes.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if numbers.search(line)
    ]
    assert elsewhere == []
