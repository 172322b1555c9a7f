"""Key-value buckets: typed values, revisions, watches; the same bucket seen by nats-py's client."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext, api
from nats.js.errors import KeyNotFoundError as NotFoundThere

from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import App, ConfigError, DecodeError, EncodeError, Group, Middleware, SubjectError
from tidings.errors import (
    BucketChangeError,
    BucketNotFoundError,
    KeyExistsError,
    KeyNotFoundError,
    LoopThreadError,
    NotStartedError,
    WrongRevisionError,
)
from tidings.jetstream import Entry
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.kv.entry import Operation
from tidings.jetstream.latest import read_last
from tidings.jetstream.ordered import READ_AHEAD, OrderedConsumer
from tidings.jetstream.reader import Reader
from tidings.testing import NATSServer

Work = Callable[[], Awaitable[None]]

_numbers = itertools.count(1)


@dataclass
class Session:
    user: str
    visits: int = 0


@pytest.fixture
def bucket() -> str:
    """A bucket that no other test uses."""
    return f"kv-{next(_numbers)}"


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app()


@pytest.fixture
async def foreign(nats_server: NATSServer) -> AsyncIterator[JetStreamContext]:
    """JetStream as nats-py's own client does it."""
    client = await nats.connect(nats_server.url)
    yield client.jetstream()
    await client.close()


async def take(entries: Any, count: int) -> list[Any]:
    """The next entries of a watch."""
    taken: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        async for entry in entries:
            taken.append(entry)
            if len(taken) == count:
                break
    return taken


class Seen:
    """A watch's handler that keeps what it gets."""

    def __init__(self) -> None:
        self._entries: asyncio.Queue[Entry[Any]] = asyncio.Queue()

    async def __call__(self, entry: Entry[Any]) -> None:
        self._entries.put_nowait(entry)

    async def next(self) -> Entry[Any]:
        async with asyncio.timeout(PATIENCE):
            return await self._entries.get()


# One key.


async def test_a_value_comes_back_with_its_type_and_revision(app: App, bucket: str) -> None:
    sessions = app.js.key_value(bucket, type=Session)
    async with app:
        revision = await sessions.put("user.1", Session("ada", 3))
        entry = await sessions.get("user.1")
    assert entry.value == Session("ada", 3)
    assert (entry.bucket, entry.key, entry.revision) == (bucket, "user.1", revision)
    assert entry.operation is Operation.PUT
    assert entry.created.tzinfo is not None
    assert "ada" not in repr(entry)


@pytest.mark.parametrize(
    ("data_type", "value"),
    [(dict, {"a": [1]}), (int, 7), (str, "text"), (bytes, b"\0\xff"), (list, []), ("json", None)],
)
async def test_what_is_put_is_what_is_got(
    app: App, bucket: str, data_type: Any, value: object
) -> None:
    things = app.js.key_value(bucket, type=data_type)
    async with app:
        await things.put("a", value)
        assert (await things.get("a")).value == value


async def test_a_key_without_a_value_is_an_error_or_the_default(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        with pytest.raises(KeyNotFoundError, match=rf"'{bucket}' has no key 'ada'") as caught:
            await limits.get("ada")
        assert isinstance(caught.value, LookupError)
        assert await limits.value("ada") is None
        assert await limits.value("ada", 10) == 10
        await limits.put("ada", 12)
        assert await limits.value("ada", 10) == 12


async def test_a_deleted_key_has_no_value_and_can_be_created_again(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        first = await limits.create("ada", 1)
        await limits.delete("ada")
        with pytest.raises(KeyNotFoundError):
            await limits.get("ada")
        assert await limits.create("ada", 2) > first
        assert await limits.value("ada") == 2


async def test_of_several_that_create_a_key_one_does(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        tries = [limits.create("ada", number) for number in range(20)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        created = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, int)]
        assert [await limits.value("ada")] == created
        failed = [outcome for outcome in outcomes if not isinstance(outcome, int)]
        assert {type(outcome) for outcome in failed} == {KeyExistsError}


async def test_an_update_with_an_old_revision_changes_nothing(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        first = await limits.put("ada", 1)
        second = await limits.update("ada", 2, first)
        with pytest.raises(WrongRevisionError, match="someone else wrote first") as caught:
            await limits.update("ada", 3, first)
        assert (caught.value.bucket, caught.value.key) == (bucket, "ada")
        with pytest.raises(WrongRevisionError):
            await limits.delete("ada", revision=first)
        with pytest.raises(WrongRevisionError):
            await limits.purge("ada", revision=first)
        assert (await limits.get("ada")).revision == second


@pytest.mark.parametrize("revision", [None, -1, "1", True, 1.0, 2**64])
async def test_a_revision_that_is_none_is_refused(app: App, bucket: str, revision: Any) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        await limits.put("ada", 1)
        with pytest.raises(ConfigError, match="revision must be a whole number"):
            await limits.update("ada", 2, revision)
        if revision is not None:
            with pytest.raises(ConfigError, match="revision must be a whole number"):
                await limits.get("ada", revision=revision)
            with pytest.raises(ConfigError, match="revision must be a whole number"):
                await limits.delete("ada", revision=revision)
        with pytest.raises(KeyNotFoundError):
            await limits.get("ada", revision=0)
        assert await limits.value("ada") == 1


async def test_a_counter_that_many_update_loses_no_update(app: App, bucket: str) -> None:
    counters = app.js.key_value(bucket, type=int)

    async def count() -> None:
        while True:
            entry = await counters.get("visits")
            with contextlib.suppress(WrongRevisionError):
                await counters.update("visits", entry.value + 1, entry.revision)
                return

    async with app:
        await counters.put("visits", 0)
        await asyncio.gather(*(count() for _ in range(10)))
        assert await counters.value("visits") == 10


async def test_history_holds_the_last_revisions_the_oldest_first(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int, history=3)
    async with app:
        revisions = [await limits.put("ada", number) for number in range(4)]
        await limits.put("bob", 9)
        await limits.delete("ada")
        entries = await limits.history("ada")
        assert [entry.value for entry in entries] == [2, 3, None]
        assert [entry.operation.value for entry in entries] == ["put", "put", "delete"]
        assert (await limits.get("ada", revision=revisions[3])).value == 3
        with pytest.raises(KeyNotFoundError):
            await limits.get("ada", revision=revisions[0])  # no longer kept
        with pytest.raises(KeyNotFoundError):
            await limits.get("bob", revision=revisions[3])  # of another key
        assert await limits.history("eve") == []


async def test_a_purge_takes_the_history_along(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int, history=5)
    async with app:
        for number in range(3):
            await limits.put("ada", number)
        await limits.purge("ada")
        (entry,) = await limits.history("ada")
        assert entry.operation is Operation.PURGE
        assert await limits.keys() == []


async def test_keys_are_those_with_a_value(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int, history=5)
    async with app:
        assert await limits.keys() == []
        for key in ("user.1", "user.2", "team.1", "user.1"):
            await limits.put(key, 1)
        await limits.delete("user.2")
        assert sorted(await limits.keys()) == ["team.1", "user.1"]
        assert await limits.keys("user.*") == ["user.1"]


async def test_more_keys_than_are_read_ahead_are_all_there(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        await asyncio.gather(*(limits.put(f"user.{number}", number) for number in range(700)))
        assert len(set(await limits.keys())) == 700


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """Has something done in the middle of a reading, when the first part of it has come."""

    def declare(work: Work) -> None:
        start = Reader.start

        async def start_and_work(self: Reader) -> int:
            pending = await start(self)
            monkeypatch.setattr(Reader, "start", start)
            await until(lambda: len(self._messages) == READ_AHEAD)
            await work()
            return pending

        monkeypatch.setattr(Reader, "start", start_and_work)

    return declare


async def test_a_key_that_is_written_while_keys_are_read_is_there_once_as_it_is(
    app: App, bucket: str, meanwhile: Callable[[Work], None]
) -> None:
    limits = app.js.key_value(bucket, type=int, history=2)

    async def write() -> None:
        await limits.put("user.0", 7)
        await limits.delete("user.1")

    async with app:
        for number in range(300):
            await limits.put(f"user.{number}", number)
        meanwhile(write)
        keys = await limits.keys()
    assert keys == ["user.0", *(f"user.{number}" for number in range(2, 300))]


async def test_keys_come_to_an_end_where_the_bucket_is_emptied_meanwhile(
    app: App, bucket: str, meanwhile: Callable[[Work], None]
) -> None:
    limits = app.js.key_value(bucket, type=int)

    async def empty() -> None:
        await app.js.api.call(f"STREAM.PURGE.KV_{bucket}")

    async def remove() -> None:
        await app.js.api.call(f"STREAM.DELETE.KV_{bucket}")

    async with app:
        for number in range(300):
            await limits.put(f"user.{number}", number)
        meanwhile(empty)
        assert len(await limits.keys()) == READ_AHEAD
        for number in range(300):
            await limits.put(f"user.{number}", number)
        meanwhile(remove)
        # The bucket is declared, so that it is there again. Keys are those of before or of now.
        assert len(await limits.keys()) in (READ_AHEAD, 0)
        assert await limits.keys() == []


@pytest.mark.parametrize("key", ["", ".a", "a.", "a..b", "a b", "a.*", ">", "a\r\n", 7, "x" * 5000])
async def test_a_key_that_nats_does_not_allow_is_refused(app: App, bucket: str, key: Any) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        for call in (limits.get(key), limits.put(key, 1), limits.delete(key), limits.history(key)):
            with pytest.raises(SubjectError):
                await call


@pytest.mark.parametrize("key", ["ä", "a:b", "a*", "a+b"])
async def test_a_key_of_another_client_can_be_read_listed_watched_changed_and_deleted(
    app: App, bucket: str, key: str
) -> None:
    """Only new keys need names that every client accepts."""
    limits = app.js.key_value(bucket, type=int, history=5)
    async with app:
        for write in (limits.put(key, 1), limits.create(key, 1), limits.update(key, 1, 0)):
            with pytest.raises(SubjectError, match="letters, digits"):
                await write
        await app.js.publish(f"$KV.{bucket}.{key}", 1)
        assert (await limits.get(key)).value == 1
        assert (await limits.get(key, revision=1)).value == 1
        assert [entry.value for entry in await limits.history(key)] == [1]
        assert await limits.keys() == await limits.keys(key) == [key]
        async with limits.watch(key) as watch:
            assert [entry.key for entry in await take(watch, 1)] == [key]
        await limits.update(key, 2, 1)
        assert await limits.value(key) == 2
        await limits.delete(key)
        assert await limits.value(key) is None
        await limits.purge(key)
        assert len(await limits.history(key)) == 1


async def test_a_bucket_of_another_client_may_have_any_name(app: App, bucket: str) -> None:
    name = f"{bucket}:ä"
    with pytest.raises(ConfigError, match="letters, digits"):
        app.js.key_value(name)
    limits = app.js.key_value(name, type=int, create=False)
    seen = Inbox()
    app.watch(name, data_type=int)(seen)
    async with App("other", servers=app.servers) as other:
        made = {"name": f"KV_{name}", "subjects": [f"$KV.{name}.>"], "max_msgs_per_subject": 1}
        await other.js.api.call(f"STREAM.CREATE.KV_{name}", made)
    async with app:
        await limits.put("a", 1)
        assert await limits.value("a") == 1
        assert await limits.keys() == ["a"]
        assert (await seen.next()).value == 1


@pytest.mark.parametrize("keys", ["", "a b", "a.>.b", None])
def test_a_pattern_that_nats_does_not_allow_is_refused(app: App, bucket: str, keys: Any) -> None:
    with pytest.raises(SubjectError):
        app.js.key_value(bucket).watch(keys)


async def test_a_value_of_another_type_is_not_put(app: App, bucket: str) -> None:
    sessions = app.js.key_value(bucket, type=Session)
    async with app:
        with pytest.raises(EncodeError, match="Session"):
            await sessions.put("a", 7)  # type: ignore[arg-type]  # the wrong type is the point
        assert await sessions.keys() == []


async def test_a_bucket_without_a_type_says_how_to_put_what_is_no_dict(
    app: App, bucket: str
) -> None:
    plain = app.js.key_value(bucket)
    with pytest.raises(EncodeError, match=f"has values of type dict.*'{bucket}', type=int"):
        await plain.put("a", 7)


async def test_a_value_that_does_not_decode_names_its_key(app: App, bucket: str) -> None:
    sessions = app.js.key_value(bucket, type=Session, history=2)
    plain = app.js.key_value(bucket, type=bytes)
    async with app:
        await plain.put("user.1", b"{no json")
        with pytest.raises(DecodeError, match=rf"key 'user.1' of bucket '{bucket}'"):
            await sessions.get("user.1")
        (entry,) = await sessions.history("user.1")  # the others are still readable
        assert entry.body == b"{no json"


# Buckets.


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": "1"},
        {"ttl": float("inf")},
        {"history": 0},
        {"history": 65},
        {"history": True},
        {"storage": "tape"},
        {"replicas": 9},
        {"max_bytes": -1},
        {"max_value_size": 1.5},
        {"description": 7},
        {"type": "no such name"},
    ],
)
def test_a_bad_option_is_found_where_it_is_written(app: App, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        app.js.key_value("sessions", **options)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ä", ">", None])
def test_a_bad_name_is_found_where_it_is_written(app: App, name: Any) -> None:
    with pytest.raises(ConfigError, match="bucket"):
        app.js.key_value(name)


async def test_a_declared_bucket_is_made_when_the_app_starts(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    app.js.key_value(
        bucket, ttl=60, history=5, description="who", storage="memory", max_value_size=100
    )
    async with app:
        made = (await foreign.stream_info(f"KV_{bucket}")).config
    assert (made.max_age, made.max_msgs_per_subject, made.max_msg_size) == (60, 5, 100)
    assert (made.description, made.storage) == ("who", "memory")
    assert made.allow_rollup_hdrs
    assert made.deny_delete
    assert made.allow_direct
    assert made.discard == "new"
    assert made.duplicate_window == 60


async def test_a_bucket_named_while_the_app_runs_is_made_at_its_first_use(
    app: App, bucket: str
) -> None:
    async with app:
        await app.js.key_value(bucket, type=int).put("a", 1)
        assert await app.js.key_value(bucket, type=int, create=False).value("a") == 1


async def test_a_bucket_with_other_options_says_what_differs(
    make_app: Callable[..., App], bucket: str
) -> None:
    first, second, third = make_app(), make_app(), make_app()
    first.js.key_value(bucket, ttl=60, history=2)
    async with first:
        pass
    second.js.key_value(bucket, ttl=30, history=5)
    with pytest.raises(BucketChangeError) as caught:
        async with second:
            pass
    assert caught.value.differences == (
        "ttl is 60 s there, 30 s here",
        "history is 2 there, 5 here",
    )
    third.js.key_value(bucket)  # says nothing of them
    async with third:
        pass


async def test_a_bucket_that_is_not_to_be_made_has_to_be_there(app: App, bucket: str) -> None:
    app.js.key_value(bucket, create=False)
    with pytest.raises(BucketNotFoundError, match=bucket):
        async with app:
            pass


async def test_a_declared_bucket_that_is_gone_is_made_again_at_its_first_use(
    app: App, bucket: str, foreign: JetStreamContext, caplog: pytest.LogCaptureFixture
) -> None:
    limits = app.js.key_value(bucket, type=int, history=3)
    async with app:
        await limits.put("a", 1)
        uses: list[Callable[[], Awaitable[Any]]] = [
            lambda: limits.value("a"),
            lambda: limits.put("a", 1),
            lambda: limits.create("a", 1),
            lambda: limits.delete("a"),
            limits.keys,
            lambda: limits.history("a"),
            lambda: anext(aiter(limits.watch(initial=False))),
        ]
        for use in uses[:-1]:
            await foreign.delete_key_value(bucket)
            caplog.clear()
            await use()
            gone = [line for line in caplog.messages if f"KV_{bucket} was gone" in line]
            assert len(gone) == 1
        await foreign.delete_key_value(bucket)
        watching = asyncio.ensure_future(uses[-1]())
        await until(lambda: app._host.readers)
        await limits.put("b", 1)
        assert (await watching).key == "b"
        config = (await app.js.api.call(f"STREAM.INFO.KV_{bucket}"))["config"]
        assert config["max_msgs_per_subject"] == 3


async def test_a_wrong_revision_says_which_one_would_have_been_right(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        await limits.put("other", 1)
        last = await limits.put("a", 1)
        with pytest.raises(WrongRevisionError) as wrong:
            await limits.update("a", 2, last + 5)
        assert (wrong.value.revision, wrong.value.last) == (last + 5, last)


async def test_a_deleted_key_is_created_again_though_a_replica_has_the_value_yet(
    app: App, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = app.js.key_value(bucket, type=int, history=5)
    async with app:
        await limits.put("a", 1)
        behind = await read_last(app.js.api, f"KV_{bucket}", f"$KV.{bucket}.a")
        await limits.delete("a")

        async def read_behind(*target: Any) -> Any:
            return behind

        monkeypatch.setattr("tidings.jetstream.latest.read_last", read_behind)
        assert await limits.create("a", 2) == 3


async def test_a_revision_of_a_lost_bucket_is_a_wrong_one(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        revision = await limits.put("a", 1)
        await foreign.delete_key_value(bucket)
        with pytest.raises(WrongRevisionError):
            await limits.update("a", 2, revision)
        assert await limits.value("a") is None


async def test_a_bucket_that_is_not_declared_stays_gone(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    limits = app.js.key_value(bucket, type=int, create=False)
    await foreign.create_key_value(api.KeyValueConfig(bucket=bucket))
    async with app:
        await limits.put("a", 1)
        await foreign.delete_key_value(bucket)
        for _ in range(2):
            for call in (limits.get("a"), limits.put("a", 1), limits.keys(), limits.history("a")):
                with pytest.raises(BucketNotFoundError):
                    await call


async def test_a_bucket_needs_a_running_app(app: App) -> None:
    limits = app.js.key_value("limits", type=int)
    with pytest.raises(NotStartedError):
        await limits.get("a")
    with pytest.raises(NotStartedError):
        app.js.run_sync(limits.get("a"))


async def test_a_bucket_serves_one_run_of_the_app_after_another(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        await limits.put("a", 1)
    async with app:
        assert await limits.value("a") == 1


async def test_a_value_is_gone_when_its_time_is_over(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int, ttl=1.5)
    async with app:
        await limits.put("a", 1)
        async with asyncio.timeout(PATIENCE):
            while await limits.value("a") is not None:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.05)
        await limits.create("a", 2)
        assert await limits.value("a") == 2


async def test_a_bucket_without_direct_reads_is_read_from_its_leader(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    await foreign.create_key_value(api.KeyValueConfig(bucket=bucket, direct=False, history=3))
    limits = app.js.key_value(bucket, type=int)
    async with app:
        first = await limits.put("a", 1)
        await limits.put("a", 2)
        assert await limits.value("a") == 2
        assert (await limits.get("a", revision=first)).value == 1
        assert await limits.value("b") is None


# Synchronous code.


async def test_a_def_handler_uses_a_bucket_through_run_sync(
    app: App, bucket: str, subject: str
) -> None:
    limits = app.js.key_value(bucket, type=int)

    @app.listen(subject)
    def raise_limit(msg: Any) -> int:
        app.js.run_sync(limits.put("ada", msg.data["limit"]))
        return app.js.run_sync(limits.get("ada")).value

    async with app:
        assert await app.request(subject, {"limit": 7}, response_data_type=int) == 7
        with pytest.raises(LoopThreadError):
            app.js.run_sync(limits.get("ada"))


# Watching in a loop.


async def test_a_watch_tells_what_is_there_and_then_what_comes(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int, history=3)
    async with app:
        for number in range(3):
            await limits.put("user.1", number)
        await limits.put("team.1", 7)
        async with limits.watch("user.*") as watch:
            assert not watch.is_current
            (entry,) = await take(watch, 1)
            assert (entry.key, entry.value) == ("user.1", 2)
            assert watch.is_current
            await limits.put("user.2", 5)
            await limits.put("team.1", 8)
            await limits.delete("user.1")
            entries = await take(watch, 2)
    assert [(entry.key, entry.value) for entry in entries] == [("user.2", 5), ("user.1", None)]
    assert entries[1].is_deleted


async def test_a_watch_of_changes_only_begins_with_the_next(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        await limits.put("a", 1)
        async with limits.watch(initial=False) as watch:
            assert watch.is_current
            await limits.put("b", 2)
            assert [entry.key for entry in await take(watch, 1)] == ["b"]


async def test_a_watch_with_history_begins_with_every_revision(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int, history=3)
    async with app:
        for number in range(3):
            await limits.put("a", number)
        entries = await take(limits.watch(history=True), 3)
    assert [entry.value for entry in entries] == [0, 1, 2]


async def test_a_watch_may_leave_out_what_was_deleted(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        await limits.put("a", 1)
        await limits.delete("a")
        await limits.put("b", 2)
        (entry,) = await take(limits.watch(deletes=False), 1)
        assert entry.key == "b"


@pytest.mark.parametrize("there", [["a", "b"], ["a"], []])
async def test_a_watch_that_leaves_out_deletions_knows_when_it_is_current(
    app: App, bucket: str, there: list[str]
) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        for key in ("a", "x", "b", "y"):
            await limits.put(key, 1)
        for key in {"a", "b", "x", "y"} - {*there}:
            await limits.delete(key)
        told = []
        async with asyncio.timeout(PATIENCE), limits.watch(deletes=False) as watch:
            entries = aiter(watch)
            while not watch.is_current:
                told.append((await anext(entries)).key)
            assert told == there
            await limits.put("x", 2)
            assert (await anext(entries)).key == "x"
            assert watch.is_current


async def test_a_watch_that_is_cancelled_while_it_begins_leaves_nothing_at_the_server(
    app: App, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        await limits.put("a", 1)
        call = JetStreamApi.call

        async def never_return(self: Any, operation: str, *args: Any, **options: Any) -> Any:
            answer = await call(self, operation, *args, **options)
            if operation.startswith("CONSUMER.CREATE"):
                beginning.cancel()
                await asyncio.Event().wait()
            return answer

        monkeypatch.setattr(JetStreamApi, "call", never_return)
        beginning = asyncio.create_task(limits.watch().__aenter__())
        with pytest.raises(asyncio.CancelledError):
            await beginning
        names = await app.js.api.call(f"CONSUMER.NAMES.KV_{bucket}")
        assert not names["consumers"]


async def test_a_value_that_does_not_decode_does_not_end_a_watch(app: App, bucket: str) -> None:
    plain = app.js.key_value(bucket, type=bytes)
    async with app:
        for key, body in (("a", b"1"), ("b", b"no"), ("c", b"3")):
            await plain.put(key, body)
        entries = await take(app.js.key_value(bucket, type=int).watch(), 3)
    assert [entries[0].value, entries[2].value] == [1, 3]
    with pytest.raises(DecodeError, match="key 'b'"):
        entries[1].value  # noqa: B018 - the reading is the point


async def test_a_watch_that_is_left_leaves_nothing_at_the_server(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    limits = app.js.key_value(bucket, type=int)

    async def consumers() -> int:
        return (await foreign.stream_info(f"KV_{bucket}")).state.consumer_count

    async with app:
        await limits.put("a", 1)
        await take(limits.watch(), 1)
        await limits.keys()
        async with asyncio.timeout(PATIENCE):
            while await consumers():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.02)
        assert not app._host.readers


async def test_a_watch_ends_when_the_app_does(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    seen = []

    async def follow() -> None:
        async for entry in limits.watch():
            seen.append(entry.value)
            first.set()

    first = asyncio.Event()
    async with app:
        await limits.put("a", 1)
        following = asyncio.create_task(follow())
        async with asyncio.timeout(PATIENCE):
            await first.wait()
    async with asyncio.timeout(PATIENCE):
        await following
    assert seen == [1]


async def test_a_slow_watch_gets_everything_in_order(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int, history=1)
    async with app, limits.watch() as watch:
        for number in range(1000):
            await limits.put(f"a.{number}", number)
        entries = await take(watch, 1000)
    assert [entry.value for entry in entries] == list(range(1000))


async def test_a_watch_loses_and_repeats_nothing_over_restarts_of_the_server(
    tmp_path: Any, make_app: Callable[..., App], bucket: str
) -> None:
    async with NATSServer(store_dir=tmp_path) as server:
        app = App("watch", servers=server.url, reconnect_time_wait=0.05)
        limits = app.js.key_value(bucket, type=int)
        async with app, limits.watch() as watch, limits.watch(initial=False) as later:
            for number in range(3):
                await limits.put(f"a.{number}", number)
                if number < 2:
                    server.kill()
                    await asyncio.to_thread(server.start)
            entries = await take(watch, 3)
            assert [entry.value for entry in entries] == [0, 1, 2]
            assert [entry.revision for entry in entries] == [1, 2, 3]
            assert [entry.value for entry in await take(later, 3)] == [0, 1, 2]
            await limits.put("end", 9)
            assert [entry.key for entry in await take(watch, 1)] == ["end"]


async def test_a_watch_goes_on_in_a_bucket_that_was_made_anew(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    limits = app.js.key_value(bucket, type=int)
    async with app:
        for number in range(3):
            await limits.put("a", number)
        async with limits.watch() as watch:
            await take(watch, 1)
            await foreign.delete_key_value(bucket)
            await foreign.create_key_value(bucket=bucket)
            await limits.put("b", 7)
            (entry,) = await take(watch, 1)
            assert (entry.key, entry.value, entry.revision) == ("b", 7, 1)


@pytest.mark.parametrize("others", [0, 5])
async def test_a_watch_goes_on_in_a_bucket_that_its_server_lost(
    others: int, app: App, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster a bucket in memory whose server restarts is as old as before, but its revisions
    begin with 1 again. Here it is made anew, and said to be as old: an election takes 10 s."""
    may_go_on = asyncio.Event()
    begin_again = OrderedConsumer._begin_again
    call = JetStreamApi.call

    async def wait(self: OrderedConsumer, reason: str) -> bool:
        await may_go_on.wait()
        return await begin_again(self, reason)

    async def as_old(self: JetStreamApi, operation: str, *args: Any, **options: Any) -> Any:
        answer = await call(self, operation, *args, **options)
        return (
            {**answer, "created": "2026-01-01T00:00:00Z"} if "STREAM.INFO" in operation else answer
        )

    monkeypatch.setattr(JetStreamApi, "call", as_old)
    monkeypatch.setattr(OrderedConsumer, "_begin_again", wait)
    limits = app.js.key_value(bucket, type=int, storage="memory")
    async with app:
        for number in range(3):
            await limits.put(f"a.{number}", number)
        async with limits.watch() as watch, limits.watch(initial=False) as later:
            await take(watch, 3)
            await app.js.api.call(f"STREAM.DELETE.KV_{bucket}")
            assert await app.js.api.restore_stream(f"KV_{bucket}")
            for number in range(others):
                await limits.put(f"b.{number}", number)
            may_go_on.set()
            await limits.put("end", 7)
            for each in watch, later:
                keys = [entry.key for entry in await take(each, others + 1)]
                assert keys == [*(f"b.{number}" for number in range(others)), "end"]


# Watching with a handler.


async def test_a_handler_sees_what_is_there_and_then_what_comes(
    make_app: Callable[..., App], bucket: str
) -> None:
    writer, app, seen = make_app(), make_app(), Seen()
    sessions = writer.js.key_value(bucket, type=Session)
    app.js.key_value(bucket, type=Session)
    app.watch(bucket, "user.*")(seen)
    async with writer:
        await sessions.put("user.1", Session("ada"))
        async with app:
            assert (await seen.next()).value == Session("ada")
            await sessions.put("team.1", Session("all"))
            await sessions.delete("user.1")
            entry = await seen.next()
            assert (entry.key, entry.operation) == ("user.1", Operation.DELETE)
            (stats,) = app.stats().watchers
    assert (stats.bucket, stats.keys, stats.received, stats.handled) == (bucket, "user.*", 2, 2)


async def test_the_type_of_a_value_may_stand_in_the_signature(
    app: App, bucket: str, make_app: Callable[..., App]
) -> None:
    seen: asyncio.Queue[Session] = asyncio.Queue()
    watcher = make_app("watcher")

    @watcher.watch(bucket)
    async def on_session(entry: Entry[Session]) -> None:
        seen.put_nowait(entry.value)

    sessions = app.js.key_value(bucket, type=Session)
    async with app:
        await sessions.put("a", Session("ada", 3))
        async with watcher, asyncio.timeout(PATIENCE):
            assert await seen.get() == Session("ada", 3)


def test_a_signature_and_a_data_type_that_differ_are_refused(app: App, bucket: str) -> None:
    async def on_session(entry: Entry[Session]) -> None: ...

    with pytest.raises(ConfigError, match="differ; one is enough"):
        app.watch(bucket, data_type=int)(on_session)
    app.watch(bucket, data_type=Session)(on_session)


async def test_a_handler_that_raises_and_a_value_that_does_not_decode_cost_themselves_only(
    app: App, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = app.js.key_value(bucket, type=bytes)
    seen: asyncio.Queue[int] = asyncio.Queue()

    @app.watch(bucket, data_type=int)
    def on_limit(entry: Entry[int]) -> None:
        if entry.value < 0:
            raise ValueError("no words of this reach anybody but the log")
        app.js.run_sync(seen.put(entry.value))

    async with app:
        for key, body in (("a", b"-1"), ("b", b"{secret"), ("c", b"3")):
            await plain.put(key, body)
        async with asyncio.timeout(PATIENCE):
            assert await seen.get() == 3
        while app.stats().watchers[0].running:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
        (stats,) = app.stats().watchers
    assert (stats.received, stats.handled, stats.failed) == (3, 1, 2)
    assert "on_limit failed on key 'a'" in caplog.text
    assert "not a valid int" in caplog.text
    assert "secret" not in caplog.text


async def test_a_request_that_fails_in_a_watch_is_no_fault_of_the_entry(
    app: App, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = app.js.key_value(bucket, type=int)
    asked = f"{bucket}-names"
    app.listen(asked)(lambda msg: "no dict")

    @app.watch(bucket, data_type=int)
    async def on_limit(entry: Entry[int]) -> None:
        await app.request(asked)

    async with app:
        await limits.put("a", 1)
        async with asyncio.timeout(PATIENCE):
            while not app.stats().watchers[0].failed:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
    (record,) = [record for record in caplog.records if "on_limit failed" in record.message]
    assert f"its request failed: the reply to {asked!r} is not a valid dict" in record.message
    assert record.exc_info is not None


async def test_entries_are_handled_one_after_another(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int, history=64)
    running, order = 0, []
    done = asyncio.Event()

    @app.watch(bucket)
    async def on_limit(entry: Entry[int]) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        order.append(entry.value)
        running -= 1
        if entry.value == 49:
            done.set()

    async with app:
        for number in range(50):
            await limits.put("a", number)
        async with asyncio.timeout(PATIENCE):
            await done.wait()
    assert order == list(range(50))


async def test_shutdown_finishes_the_entries_that_were_taken(app: App, bucket: str) -> None:
    limits = app.js.key_value(bucket, type=int)
    begun, done = asyncio.Event(), []

    @app.watch(bucket)
    async def on_limit(entry: Entry[int]) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        done.append(entry.key)

    async with app:
        await limits.put("a", 1)
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
    assert done == ["a"]


async def test_middlewares_stand_around_a_watchs_handler(app: App, bucket: str) -> None:
    calls: list[tuple[str, Any]] = []

    class Spy(Middleware):
        async def listen_any(self, msg: Any, callback: Any) -> Any:
            calls.append((msg.subject, msg.data))
            msg.data = 2 * msg.data
            return await callback(msg)

    limits, seen = app.js.key_value(bucket, type=int), Seen()
    group = Group("prefix", middlewares=[Spy])
    group.watch(bucket)(seen)
    app.include(group)
    app.add_middleware(Spy)
    async with app:
        await limits.put("a", 1)
        assert (await seen.next()).value == 4
    assert calls == [(f"$KV.{bucket}.a", 1), (f"$KV.{bucket}.a", 2)]


async def test_a_watch_of_a_bucket_that_nobody_made_fails_the_start(app: App, bucket: str) -> None:
    app.watch(bucket)(Seen())
    with pytest.raises(BucketNotFoundError, match=bucket):
        async with app:
            pass


def test_a_watch_that_cannot_be_is_found_where_it_is_written(app: App) -> None:
    with pytest.raises(ConfigError, match="needs a bucket"):
        app.watch(Seen())  # type: ignore[arg-type]  # parentheses forgotten
    for bucket, keys in (("a.b", ">"), ("a", "x y"), ("a", "")):
        with pytest.raises((ConfigError, SubjectError)):
            app.watch(bucket, keys)(Seen())
    with pytest.raises(ConfigError):
        app.watch("a")(lambda: None)


# The same bucket, seen by another client.


async def test_another_client_reads_what_is_written_here(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    limits = app.js.key_value(bucket, type=int, history=5)
    async with app:
        first = await limits.put("a", 1)
        await limits.update("a", 2, first)
        await limits.put("gone", 1)
        await limits.delete("gone")
        await limits.put("purged", 1)
        await limits.purge("purged")
        theirs = await foreign.key_value(bucket)
        assert (await theirs.get("a")).value == b"2"
        assert [entry.value for entry in await theirs.history("a")] == [b"1", b"2"]
        assert await theirs.keys() == ["a"]
        for key, operation in (("gone", "DEL"), ("purged", "PURGE")):
            with pytest.raises(NotFoundThere) as caught:
                await theirs.get(key)
            assert caught.value.op == operation
        status = await theirs.status()
        assert status.history == 5


async def test_what_another_client_writes_is_read_here(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    theirs = await foreign.create_key_value(bucket=bucket, history=5)
    limits = app.js.key_value(bucket, type=int, history=5)
    async with app:
        revision = await theirs.put("a", b"1")
        assert (await limits.get("a")).revision == revision
        await limits.update("a", 2, revision)
        assert (await theirs.get("a")).value == b"2"
        await theirs.put("gone", b"1")
        await theirs.delete("gone")
        await theirs.put("purged", b"1")
        await theirs.purge("purged")
        entries = await take(limits.watch(), 3)
        assert [entry.operation.value for entry in entries] == ["put", "delete", "purge"]
        assert await limits.keys() == ["a"]
        await limits.create("gone", 7)
        assert (await theirs.get("gone")).value == b"7"


def test_a_marker_of_the_server_is_a_deletion() -> None:
    for reason, operation in (
        ("MaxAge", Operation.PURGE),
        ("Purge", Operation.PURGE),
        ("Remove", Operation.DELETE),
        ("Other", Operation.PUT),
    ):
        assert Operation.of({"Nats-Marker-Reason": reason}) is operation
