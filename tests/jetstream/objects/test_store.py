"""Object stores: objects in and out by path, bytes and stream; the same store seen by nats-py."""

import asyncio
import base64
import hashlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.errors import ObjectNotFoundError as NotFoundThere

from support.tcp_proxy import TcpProxy
from support.waits import PATIENCE, until
from tidings import App, ConfigError
from tidings.errors import (
    BucketChangeError,
    BucketNotFoundError,
    ConnectionLostError,
    DecodeError,
    DigestError,
    EncodeError,
    JetStreamError,
    ObjectExistsError,
    ObjectNotFoundError,
    PayloadTooLargeError,
    PublishTimeoutError,
)
from tidings.jetstream import ObjectStore, Pruned
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.objects.chunks import WINDOW
from tidings.jetstream.objects.files import file_name
from tidings.jetstream.objects.info import ObjectInfo
from tidings.jetstream.reader import Reader
from tidings.server import NATSServer

BYTES = os.urandom(700_001)  # six chunks, the last one short

_numbers = itertools.count(1)


@pytest.fixture
def bucket() -> str:
    """A store that no other test uses."""
    return f"objects-{next(_numbers)}"


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app()


@pytest.fixture
def files(app: App, bucket: str) -> ObjectStore:
    return app.js.object_store(bucket)


@pytest.fixture
async def foreign(nats_server: NATSServer) -> AsyncIterator[JetStreamContext]:
    """JetStream as nats-py's own client does it."""
    client = await nats.connect(nats_server.url)
    yield client.jetstream()
    await client.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def parts_of(data: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


async def subjects(app: App, files: ObjectStore) -> dict[str, int]:
    """What lies in the store's stream: messages by subject."""
    info = await app.js.api.call(f"STREAM.INFO.OBJ_{files.name}", {"subjects_filter": ">"})
    return info["state"].get("subjects") or {}


async def chunks(app: App, files: ObjectStore) -> int:
    """Chunks in the store, of whatever object."""
    found = await subjects(app, files)
    return sum(count for name, count in found.items() if ".C." in name)


async def purge_chunks(app: App, files: ObjectStore) -> None:
    operation = f"STREAM.PURGE.OBJ_{files.name}"
    await app.js.api.call(operation, {"filter": f"$O.{files.name}.C.>"})


async def spoil(app: App, files: ObjectStore, name: str, /, **changes: Any) -> None:
    """Change a description behind the store's back; None leaves a field out."""
    subject = f"$O.{files.name}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"
    info = await files.info(name)
    meta = {**json.loads(info.encode()), **changes}
    meta = {field: value for field, value in meta.items() if value is not None}
    await app.js.publish(subject, meta, headers={"Nats-Rollup": "sub"})


# In and out.


@pytest.mark.parametrize("size", [0, 1, 131_072, 131_073, 700_001])
async def test_bytes_come_back_as_they_were_put(app: App, files: ObjectStore, size: int) -> None:
    async with app:
        info = await files.put("a name / with anything é", BYTES[:size])
        assert await files.get("a name / with anything é") == BYTES[:size]
        assert (info.size, info.chunks) == (size, -(-size // 131_072))
        digest = base64.urlsafe_b64encode(hashlib.sha256(BYTES[:size]).digest()).decode()
        assert info.digest == f"SHA-256={digest}"


async def test_a_file_is_put_and_written(app: App, files: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(BYTES)
    async with app:
        info = await files.put("report", source)
        assert info.size == len(BYTES)
        (tmp_path / "out").mkdir()
        assert await files.get_file("report", tmp_path / "out") == tmp_path / "out" / "report"
        assert await files.get_file("report", str(tmp_path / "copy")) == tmp_path / "copy"
    assert (tmp_path / "out" / "report").read_bytes() == BYTES
    assert (tmp_path / "copy").read_bytes() == BYTES
    assert names_in(tmp_path) == ["copy", "out", "source.bin"]


@pytest.mark.parametrize("size", [1000, 131_072, 500_000])
async def test_a_stream_is_put_and_read_part_by_part(
    app: App, files: ObjectStore, size: int
) -> None:
    async with app:
        info = await files.put("a", parts_of(BYTES, size))
        assert (info.size, info.chunks) == (len(BYTES), 6)
        parts = [part async for part in files.stream("a")]
    assert b"".join(parts) == BYTES
    assert len(parts) == 6


async def test_progress_tells_the_bytes_done_and_all_there_are(
    app: App, files: ObjectStore, tmp_path: Path
) -> None:
    told: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        told.append((done, total))

    async with app:
        await files.put("a", BYTES, progress=progress)
        assert told[-1] == (len(BYTES), len(BYTES))
        await files.put("b", parts_of(BYTES, 1000), chunk_size=10_000, progress=progress)
        assert told[-1] == (len(BYTES), None)
        told.clear()
        await files.get("a", progress=progress)
        assert [done for done, _ in told] == [131_072 * n for n in range(1, 6)] + [len(BYTES)]
        assert {total for _, total in told} == {len(BYTES)}
        told.clear()
        await files.get_file("b", tmp_path, progress=progress)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert len(told) == 71


async def test_description_headers_and_metadata_are_kept(app: App, files: ObjectStore) -> None:
    async with app:
        await files.put(
            *("a", b"1"),
            description="the first",
            headers={"Tag": ["x", "y"]},
            metadata={"owner": "infra"},
        )
        info = await files.info("a")
    assert info.description == "the first"
    assert info.metadata == {"owner": "infra"}
    assert info.headers.get_all("Tag") == ["x", "y"]
    assert info.modified.tzinfo is not None
    assert (info.bucket, info.name) == (files.name, "a")


async def test_a_large_object_leaves_the_loop_and_the_memory_free(
    app: App, files: ObjectStore
) -> None:
    made = taken = most = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(400):
            made += 131_072
            yield bytes(131_072)

    async with app:
        waiting = app._run.connection.outbox

        def progress(done: int, total: int | None) -> None:
            nonlocal most
            most = max(most, made - done, waiting.unsent_bytes)

        await files.put("large", source(), progress=progress)
        assert most < 4 * 1024 * 1024
        async for part in files.stream("large"):
            taken += len(part)
    assert taken == 400 * 131_072


LARGE = """
import asyncio, sys
from pathlib import Path
import psutil
from tidings import App

app = App("large", servers=sys.argv[1])
files = app.js.object_store(sys.argv[2])
folder = Path(sys.argv[3])
size = int(sys.argv[4])
memory = psutil.Process().memory_info
most = 0

def measure(done, total):
    global most
    most = max(most, memory().rss)

async def parts():
    for _ in range(size // 1_000_000):
        yield bytes(1_000_000)

async def main():
    async with app:
        before = memory().rss
        await files.put("by-path", folder / "large", progress=measure)
        await files.put("by-iterator", parts(), progress=measure)
        await files.get_file("by-iterator", folder / "back", progress=measure)
        taken = 0
        async for part in files.stream("by-path", progress=measure):
            taken += len(part)
        assert taken == size
        print(most - before)
        for info in await files.list():  # the server is shared
            await files.delete(info.name)

asyncio.run(main())
"""
LARGE_SIZE = 100_000_000


async def test_100_mb_by_path_and_by_iterator_need_a_few_mb_of_memory_up_and_down(
    nats_server: NATSServer, bucket: str, tmp_path: Path
) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGE_SIZE)
    arguments = (nats_server.url, bucket, str(tmp_path), str(LARGE_SIZE))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LARGE, *arguments), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    assert 0 < int(output) < 24 * 1024 * 1024
    assert (tmp_path / "back").stat().st_size == LARGE_SIZE


async def test_chunks_are_no_larger_than_the_server_takes(tmp_path: Path) -> None:
    config = tmp_path / "small.conf"
    config.write_text("max_payload: 8192")
    with NATSServer(jetstream=True, config=config) as server:
        app = App("small", servers=server.url)
        files = app.js.object_store("files")
        async with app:
            await files.put("a", BYTES)
            assert await files.get("a") == BYTES


# Replacing and deleting.


async def test_a_put_replaces_and_leaves_no_chunk_of_the_one_before(
    app: App, files: ObjectStore
) -> None:
    async with app:
        await files.put("a", BYTES)
        await files.put("a", b"small")
        assert await files.get("a") == b"small"
        assert await chunks(app, files) == 1
        assert [info.size for info in await files.list()] == [5]


async def test_of_several_puts_at_once_one_stays_whole_and_no_chunk_of_the_others(
    app: App, files: ObjectStore
) -> None:
    async with app:
        sources = [bytes([number]) * 300_000 for number in range(6)]
        await asyncio.gather(*(files.put("a", source) for source in sources))
        assert await files.get("a") in sources
        assert await chunks(app, files) == 3


async def test_a_put_that_fails_leaves_the_object_and_no_chunk_of_its_own(
    app: App, files: ObjectStore
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield BYTES
        raise RuntimeError("the source broke")

    async def wrong() -> AsyncIterator[Any]:
        yield BYTES
        yield "text"

    def angry(done: int, total: int | None) -> None:
        raise RuntimeError("the callback broke")

    async with app:
        await files.put("a", b"before")
        with pytest.raises(RuntimeError, match="source"):
            await files.put("a", broken())
        with pytest.raises(RuntimeError, match="callback"):
            await files.put("a", BYTES, progress=angry)
        with pytest.raises(EncodeError):
            await files.put("a", wrong())
        assert await files.get("a") == b"before"
        assert await chunks(app, files) == 1


async def test_a_put_that_is_cancelled_leaves_no_chunk(app: App, files: ObjectStore) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield BYTES
        begun.set()
        await asyncio.Event().wait()

    async with app:
        putting = asyncio.create_task(files.put("a", endless()))
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert await subjects(app, files) == {}


@pytest.mark.parametrize("cut", ["$O.", "$JS.API.STREAM.PURGE."])
async def test_a_put_that_is_cancelled_at_its_end_leaves_the_chunks_of_one_object(
    app: App, files: ObjectStore, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = JetStreamApi.request

    async def cancel_and_ask(self: JetStreamApi, subject: str, *args: Any, **more: Any) -> Any:
        if subject.startswith(cut):
            putting.cancel()
        return await request(self, subject, *args, **more)

    async with app:
        await files.put("a", b"before")
        with monkeypatch.context() as patch:
            patch.setattr(JetStreamApi, "request", cancel_and_ask)
            putting = asyncio.create_task(files.put("a", b"after"))
            with pytest.raises(asyncio.CancelledError):
                await putting
        async with asyncio.timeout(PATIENCE):
            while await chunks(app, files) != 1 or await files.get("a") != b"after":
                pass


async def test_a_put_goes_through_a_restart_of_the_server_before_its_last_message(
    tmp_path: Path,
) -> None:
    restarting: list[asyncio.Task[Any]] = []

    with NATSServer(store_dir=tmp_path) as server:
        app = App("files", servers=server.url, reconnect_time_wait=0.05)
        files = app.js.object_store("files")

        def restart(done: int, total: int | None) -> None:
            if done == total and not restarting:
                server.kill()
                restarting.append(asyncio.create_task(asyncio.to_thread(server.start)))

        async with app:
            await files.put("a", b"before")
            await files.put("a", b"after", progress=restart)
            await asyncio.gather(*restarting)
            assert await files.get("a") == b"after"
            assert await chunks(app, files) == 1


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("\udce4.txt", {}, ConfigError),
        ("a", {"description": "\udce4"}, ConfigError),
        ("a", {"description": 7}, ConfigError),
        ("a", {"description": "x" * 2_000_000}, PayloadTooLargeError),
        ("a", {"headers": {"A": "x" * 2_000_000}}, PayloadTooLargeError),
    ],
)
async def test_an_object_that_cannot_be_described_leaves_no_chunk(
    app: App, files: ObjectStore, name: str, options: dict[str, Any], error: type[Exception]
) -> None:
    async with app:
        with pytest.raises(error):
            await files.put(name, BYTES, **options)
        assert await subjects(app, files) == {}


async def test_a_full_store_refuses_and_keeps_what_it_has(app: App, bucket: str) -> None:
    files = app.js.object_store(bucket, max_bytes=1_000_000)
    async with app:
        await files.put("a", BYTES)
        with pytest.raises(JetStreamError, match="maximum bytes"):
            await files.put("a", BYTES)
        assert await files.get("a") == BYTES
        assert await chunks(app, files) == 6


async def test_a_deleted_object_is_gone_with_its_chunks(app: App, files: ObjectStore) -> None:
    async with app:
        await files.put("a", BYTES)
        await files.put("b", b"1")
        await files.delete("a")
        for call in (files.get("a"), files.info("a"), files.delete("a")):
            with pytest.raises(ObjectNotFoundError, match="no object 'a'"):
                await call
        assert await chunks(app, files) == 1
        assert [info.name for info in await files.list()] == ["b"]
        await files.put("a", b"again")
        assert await files.get("a") == b"again"


async def test_an_object_that_is_not_there_is_a_lookup_error(
    app: App, files: ObjectStore, tmp_path: Path
) -> None:
    async with app:
        with pytest.raises(LookupError):
            await files.get_file("nothing", tmp_path)
        with pytest.raises(ObjectNotFoundError):
            async for _ in files.stream("nothing"):
                pass
        assert await files.list() == []
    assert names_in(tmp_path) == []


# Acknowledgements that do not come.


@pytest.mark.parametrize("sent", [False, True], ids=["not sent", "acknowledgement lost"])
@pytest.mark.parametrize("which", [1, 3, 6])
async def test_chunks_keep_their_order_where_one_is_not_acknowledged(
    app: App, files: ObjectStore, monkeypatch: pytest.MonkeyPatch, sent: bool, which: int
) -> None:
    async with app:
        connection = app._run.connection
        start, tries = connection.start_request, itertools.count(1)

        def lossy(subject: str, *rest: Any) -> Any:
            if ".C." not in subject or next(tries) != which:
                return start(subject, *rest)
            if sent:
                start(subject, *rest)
            lost = asyncio.get_running_loop().create_future()
            lost.set_exception(ConnectionLostError("publish"))
            return 0, lost

        await files.list()
        monkeypatch.setattr(connection, "start_request", lossy)
        await files.put("a", BYTES)
        assert await files.get("a") == BYTES
        assert await chunks(app, files) == 6


async def test_a_put_and_a_get_go_through_restarts_of_the_server(tmp_path: Path) -> None:
    async with NATSServer(store_dir=tmp_path) as server:
        app = App("objects", servers=server.url, reconnect_time_wait=0.05)
        files = app.js.object_store("files")

        async def source() -> AsyncIterator[bytes]:
            for number in range(40):
                if number in (10, 30):
                    server.kill()
                    await asyncio.to_thread(server.start)
                yield bytes([number]) * 131_072

        async with app:
            await files.put("a", source())
            parts = []
            async for part in files.stream("a"):
                parts.append(part[0])
                if len(parts) == 10:
                    server.kill()
                    await asyncio.to_thread(server.start)
            assert parts == list(range(40))


async def test_a_slow_link_whose_acknowledgements_are_late_but_regular_gets_each_chunk_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidings.jetstream.objects.chunks.QUIET", 1.0)
    async with NATSServer(jetstream=True) as server, TcpProxy(server.port) as proxy:
        app = App("objects", servers=proxy.url)
        files = app.js.object_store("files")
        async with app:
            await files.list()
            proxy.latency = 0.1  # for each 64 KiB: 16 chunks take more than three seconds
            data = bytes(4_000_000)
            await files.put("a", data)
            proxy.latency = 0
            assert app.stats().connection.sent_bytes < 1.1 * len(data)
            assert (await files.info("a")).size == len(data)


async def test_a_put_ends_soon_after_the_server_has_fallen_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tidings.jetstream.objects.chunks.QUIET", 0.1)
    monkeypatch.setattr("tidings.jetstream.objects.chunks.SILENT", 0.5)
    loop = asyncio.get_running_loop()
    silent_since: list[float] = []
    async with NATSServer(jetstream=True) as server:
        app = App("objects", servers=server.url)
        files = app.js.object_store("files")

        async def source() -> AsyncIterator[bytes]:
            for number in range(40):
                if number == 20:
                    server.pause()
                    silent_since.append(loop.time())
                yield bytes(131_072)

        async with app:
            with pytest.raises(PublishTimeoutError, match=r"within 0\.5 s"):
                await files.put("a", source())
            assert loop.time() - silent_since[0] < 5
            server.resume()
            assert await files.list() == []


# What does not come back as it was.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"digest": f"SHA-256={base64.urlsafe_b64encode(bytes(32)).decode()}"}, "digest"),
        ({"digest": "MD5=0"}, "digest"),
        ({"digest": None}, "digest"),
        ({"size": 700_000}, "more than its 700000 bytes"),
        ({"size": 700_002}, "700001 of its 700002 bytes"),
        ({"chunks": 7}, "6 of its 7 chunks"),
        ({"chunks": 5}, "6 of its 5 chunks"),
        ({"nuid": "another"}, "0 of its 6 chunks"),
    ],
)
async def test_an_object_that_is_not_what_it_says_is_refused_and_leaves_no_file(
    app: App, files: ObjectStore, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    (tmp_path / "a").write_text("before")
    async with app:
        await files.put("a", BYTES)
        await spoil(app, files, "a", **changes)
        with pytest.raises(DigestError, match=reason) as caught:
            await files.get("a")
        assert (caught.value.bucket, caught.value.name) == (files.name, "a")
        with pytest.raises(DigestError, match=reason):
            await files.get_file("a", tmp_path)
        with pytest.raises(DigestError, match=reason):
            async for _ in files.stream("a"):
                pass
    assert names_in(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"size": 10**400},
        {"chunks": "6"},
        {"nuid": ">"},
        {"nuid": "a b"},
        {"nuid": None},
        {"name": "b"},
    ],
    ids=lambda changes: str(changes)[:30],
)
async def test_a_description_that_cannot_be_read_names_its_object(
    app: App, files: ObjectStore, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    async with app:
        await files.put("a", BYTES)
        await files.put("b", b"1")
        await spoil(app, files, "a", **changes)
        with pytest.raises(DecodeError, match=rf"object 'a' of '{files.name}'"):
            await files.get("a")
        assert [info.name for info in await files.list()] == ["b"]
        assert "could not read the description of an object" in caplog.text
        await files.put("a", b"whole again")
        assert await files.get("a") == b"whole again"


async def test_many_descriptions_that_cannot_be_read_do_not_flood_the_log(
    app: App, files: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with app:
        await files.put("good", b"1")
        for number in range(30):
            await app.js.publish(f"$O.{files.name}.M.{number}", b"no description")
        assert [info.name for info in await files.list()] == ["good"]
    assert caplog.text.count("could not read the description") == 10
    assert "could not read 30 descriptions" in caplog.text


async def test_a_description_with_the_name_of_another_object_does_not_delete_that_one(
    app: App, files: ObjectStore
) -> None:
    async with app:
        await files.put("a", b"1")
        await files.put("b", b"2")
        await spoil(app, files, "a", name="b")
        with pytest.raises(DecodeError, match="names another object"):
            await files.delete("a")
        assert await files.get("b") == b"2"


async def test_an_object_replaced_under_its_reader_is_read_again(
    app: App, files: ObjectStore, tmp_path: Path
) -> None:
    replaced = False

    async with app:
        await files.put("a", bytes(6_000_000))
        loop = asyncio.get_running_loop()

        def replace(done: int, total: int | None) -> None:
            nonlocal replaced
            if not replaced:
                replaced = True
                putting.append(loop.create_task(files.put("a", BYTES)))

        putting: list[asyncio.Task[ObjectInfo]] = []
        path = await files.get_file("a", tmp_path, progress=replace)
        await putting[0]
        assert path.read_bytes() in (BYTES, bytes(6_000_000))

        await files.put("b", bytes(6_000_000))
        stream = files.stream("b")
        assert await anext(stream) == bytes(131_072)
        await files.put("b", BYTES)
        with pytest.raises(DigestError, match="replaced while it was read"):
            async for _ in stream:
                pass


async def test_an_object_is_read_of_a_replica_that_is_behind(
    app: App, files: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Reader.start

    async def know_less(self: Reader) -> int:
        return await start(self) - 1

    monkeypatch.setattr(Reader, "start", know_less)
    async with app:
        await files.put("a", BYTES)
        assert await files.get("a") == BYTES


async def test_an_object_whose_chunks_went_away_ends_in_an_error(
    app: App, files: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.jetstream.objects.chunks.READ_TIMEOUT", 0.5)
    monkeypatch.setattr("tidings.jetstream.objects.chunks.LOOK", 0.2)
    async with app:
        await files.put("a", bytes(6_000_000))
        stream = files.stream("a")
        await anext(stream)
        await purge_chunks(app, files)
        with pytest.raises(TimeoutError):
            async for _ in stream:
                pass


# Names and places.


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("report 7.pdf", "report 7.pdf"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("..", "%2E."),
        (".", "%2E"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        (".bashrc", "%2Ebashrc"),
        ("a\\b", "a%5Cb"),
        ("a\0b\n", "a%00b%0A"),
        ("100%", "100%25"),
        ("é.txt", "é.txt"),
        ("~/x", "%7E%2Fx"),
        ("C:x", "C%3Ax"),
    ],
)
async def test_an_object_stays_in_the_folder_it_is_written_to(
    app: App, files: ObjectStore, tmp_path: Path, name: str, file: str
) -> None:
    folder = tmp_path / "inner" / "folder"
    folder.mkdir(parents=True)
    async with app:
        await files.put(name, b"1")
        assert await files.get(name) == b"1"
        written = await files.get_file(name, folder)
    assert written == folder / file
    assert names_in(folder) == [file]
    assert names_in(tmp_path / "inner") == ["folder"]


def test_different_names_are_different_files() -> None:
    names = ["a/b", "a%2Fb", "a%2fb", "a_b", "a b", ".a", "%2Ea"]
    assert len({file_name(name) for name in names}) == len(names)


async def test_a_file_is_not_written_through_a_link(
    app: App, files: ObjectStore, tmp_path: Path
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_text("before")
    folder.mkdir()
    (folder / "a").symlink_to(outside)
    async with app:
        await files.put("a", b"1")
        await files.get_file("a", folder)
    assert outside.read_text() == "before"
    assert (folder / "a").read_bytes() == b"1"


async def test_a_get_that_is_cancelled_while_it_opens_its_file_leaves_none(
    app: App, files: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_open = threading.Event()
    opening = threading.Event()
    open_file = Path.open

    def open_slowly(self: Path, *args: Any, **options: Any) -> Any:
        opening.set()
        assert may_open.wait(PATIENCE)
        return open_file(self, *args, **options)

    async with app:
        await files.put("a", b"here")
        monkeypatch.setattr(Path, "open", open_slowly)
        getting = asyncio.create_task(files.get_file("a", tmp_path))
        assert await asyncio.to_thread(opening.wait, PATIENCE)
        getting.cancel()
        await asyncio.sleep(0)
        may_open.set()
        with pytest.raises(asyncio.CancelledError):
            await getting
    await asyncio.get_running_loop().shutdown_default_executor()  # the file is opened by now
    assert names_in(tmp_path) == []


async def test_what_cannot_be_put_is_refused_before_anything_is_sent(
    app: App, files: ObjectStore, tmp_path: Path
) -> None:
    async with app:
        for source in ("text", "/a/path", 7, None, [b"1"]):
            with pytest.raises(ConfigError, match=r"bytes, a pathlib\.Path or an async iterator"):
                await files.put("a", source)  # type: ignore[arg-type]  # the wrong type is the point
        for name in ("", None, 7):
            with pytest.raises(ConfigError, match="name must be a str"):
                await files.put(name, b"1")  # type: ignore[arg-type]  # as above
            with pytest.raises(ConfigError, match="name must be a str"):
                await files.get_file(name, tmp_path)  # type: ignore[arg-type]  # as above
        for size in (0, -1, True, 1.5):
            with pytest.raises(ConfigError, match="chunk_size"):
                await files.put("a", b"1", chunk_size=size)  # type: ignore[arg-type]  # as above
        for metadata in ("text", {"a": 1}, [("a", "b")]):
            with pytest.raises(ConfigError, match="metadata"):
                await files.put("a", b"1", metadata=metadata)  # type: ignore[arg-type]  # as above
        with pytest.raises(FileNotFoundError):
            await files.put("a", tmp_path / "nothing")
        assert await subjects(app, files) == {}


# Stores.


async def test_a_store_is_made_as_it_is_declared(
    app: App, bucket: str, make_app: Callable[..., App], foreign: JetStreamContext
) -> None:
    app.js.object_store(bucket, ttl=60, description="who", storage="memory", max_bytes=10_000)
    async with app:
        made = (await foreign.stream_info(f"OBJ_{bucket}")).config
    assert (made.max_age, made.description, made.storage) == (60, "who", "memory")
    assert made.subjects == [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"]
    assert made.allow_rollup_hdrs
    assert made.discard == "new"
    other = make_app()
    other.js.object_store(bucket, ttl=30, storage="file")
    with pytest.raises(BucketChangeError) as caught:
        async with other:
            pass
    assert caught.value.differences == (
        "ttl is 60 s there, 30 s here",
        "storage is 'memory' there, 'file' here",
    )


async def test_a_declared_store_that_is_gone_is_made_again_at_its_first_use(
    app: App,
    files: ObjectStore,
    foreign: JetStreamContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app:
        for call in (files.get("a"), files.info("a"), files.delete("a")):
            await foreign.delete_object_store(files.name)
            caplog.clear()
            with pytest.raises(ObjectNotFoundError):
                await call
            assert f"OBJ_{files.name} was gone" in caplog.text
        await foreign.delete_object_store(files.name)
        assert await files.list() == []
        await foreign.delete_object_store(files.name)
        await files.put("a", b"1")
        assert await files.get("a") == b"1"


async def test_a_store_that_is_not_declared_stays_gone(app: App, bucket: str) -> None:
    async with app:
        files = app.js.object_store(bucket, create=False)
        for call in (files.put("a", b"1"), files.get("a"), files.list(), files.info("a")):
            with pytest.raises(BucketNotFoundError):
                await call


@pytest.mark.parametrize("is_restored", [False, True])
async def test_a_put_into_a_store_that_is_lost_meanwhile_does_not_succeed(
    app: App,
    files: ObjectStore,
    foreign: JetStreamContext,
    is_restored: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stored: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(WINDOW + 2):
            yield b"1" * 50
        await until(lambda: stored)
        await foreign.delete_object_store(files.name)
        if is_restored:
            await app.js.api.restore_stream(f"OBJ_{files.name}")
        yield b"2" * 50

    async with app:
        with pytest.raises((BucketNotFoundError, JetStreamError)) as raised:
            await files.put(
                "a", parts(), chunk_size=50, progress=lambda done, of: stored.append(done)
            )
        assert ("was recreated while" in str(raised.value)) is is_restored
        assert await files.list() == []
    assert "could not delete the unused chunks" not in caplog.text, "they are gone with the stream"


async def test_run_sync_puts_and_gets_from_synchronous_code(
    make_app: Callable[..., App], bucket: str, tmp_path: Path
) -> None:
    app = make_app()
    files = app.js.object_store(bucket)

    def work() -> bytes:
        with app:
            app.js.run_sync(files.put("a", BYTES))
            app.js.run_sync(files.get_file("a", tmp_path))
            return app.js.run_sync(files.get("a"))

    assert await asyncio.to_thread(work) == BYTES
    assert (tmp_path / "a").read_bytes() == BYTES


# The same store, seen by another client.


async def test_another_client_reads_what_is_put_here(
    app: App, files: ObjectStore, foreign: JetStreamContext
) -> None:
    async with app:
        kept = {"headers": {"Tag": "x"}, "metadata": {"owner": "infra"}}
        await files.put("a/b é", BYTES, description="the first", **kept)
        await files.put("gone", b"1")
        await files.delete("gone")
        theirs = await foreign.object_store(files.name)
        result = await theirs.get("a/b é")
        assert result.data == BYTES
        assert (result.info.name, result.info.size, result.info.chunks) == ("a/b é", 700_001, 6)
        assert result.info.description == "the first"
        assert result.info.headers == {"Tag": ["x"]}
        assert result.info.options.max_chunk_size == 131_072
        assert [info.name for info in await theirs.list(ignore_deletes=True)] == ["a/b é"]
        with pytest.raises(NotFoundThere):
            await theirs.get("gone")


async def test_what_another_client_puts_is_read_here(
    app: App, bucket: str, foreign: JetStreamContext
) -> None:
    theirs = await foreign.create_object_store(bucket)
    await theirs.put("a", BYTES)
    await theirs.put("gone", b"1")
    await theirs.delete("gone")
    files = app.js.object_store(bucket)
    async with app:
        assert await files.get("a") == BYTES
        assert [info.name for info in await files.list()] == ["a"]
        await files.put("a", b"ours")
        assert (await theirs.get("a")).data == b"ours"
        await files.delete("a")
        with pytest.raises(NotFoundThere):
            await theirs.get("a")
        assert await chunks(app, files) == 0


async def test_a_link_of_another_client_leads_to_its_object(
    app: App, files: ObjectStore, make_app: Callable[..., App]
) -> None:
    target = app.js.object_store(f"{files.name}-target")
    async with app:
        await target.put("real", BYTES)
        await files.put("alias", b"")
        link = {"link": {"bucket": target.name, "name": "real"}}
        await spoil(app, files, "alias", options=link, digest=None)
        assert (await files.info("alias")).link == (target.name, "real")
        assert await files.get("alias") == BYTES
        assert b"".join([part async for part in files.stream("alias")]) == BYTES


async def test_a_link_without_an_id_is_read_replaced_and_deleted(
    app: App, files: ObjectStore
) -> None:
    async with app:  # nats.js stores links with nothing but these three fields
        await files.put("real", BYTES)
        for name in ("alias", "other", "third"):
            encoded = base64.urlsafe_b64encode(name.encode()).decode()
            options = {"link": {"bucket": files.name, "name": "real"}}
            meta = {"name": name, "bucket": files.name, "options": options}
            rollup = {"Nats-Rollup": "sub"}
            await app.js.publish(f"$O.{files.name}.M.{encoded}", meta, headers=rollup)
        assert await files.get("alias") == BYTES
        assert {info.name for info in await files.list()} == {"real", "alias", "other", "third"}
        await files.link("alias", "real")
        await files.put("other", b"1")
        await files.delete("third")
        assert {info.name for info in await files.list()} == {"real", "alias", "other"}
        assert (await files.prune(older_than=0)).puts == 0
        assert await files.get("alias") == BYTES
        assert await files.get("other") == b"1"


@pytest.mark.parametrize("metadata", [[{"owner": "infra"}], {"owner": "infra", "size": 1}, "text"])
async def test_metadata_that_is_not_text_by_name_loses_no_object(
    app: App, files: ObjectStore, metadata: object
) -> None:
    async with app:
        await files.put("a", BYTES)
        await spoil(app, files, "a", metadata=metadata)
        info = await files.info("a")
        assert info.metadata == ({"owner": "infra"} if isinstance(metadata, dict) else {})
        assert await files.get("a") == BYTES


async def test_a_link_to_a_link_leads_to_the_object_behind_it(app: App, files: ObjectStore) -> None:
    async def link(name: str, to: str) -> None:
        await files.put(name, b"")
        options = {"link": {"bucket": files.name, "name": to}}
        await spoil(app, files, name, options=options, digest=None)

    async with app:
        await files.put("real", BYTES)
        await link("second", "real")
        await link("first", "second")
        assert await files.get("first") == BYTES
        await link("endless", "endless")
        with pytest.raises(DigestError, match="chain of 10 or more links"):
            await files.get("endless")
        await link("all", "")
        with pytest.raises(DigestError, match="link to the store"):
            await files.get("all")


# Links.


async def test_a_link_reads_the_object_as_it_is_now(app: App, files: ObjectStore) -> None:
    async with app:
        await files.put("real", b"first")
        made = await files.link("alias", "real")
        assert made.link == (files.name, "real")
        await files.put("real", BYTES)
        assert await files.get("alias") == BYTES
        assert b"".join([part async for part in files.stream("alias")]) == BYTES
        found = await files.info("alias")
        assert (found.link, found.size, found.chunks) == ((files.name, "real"), 0, 0)
        assert await files.prune(older_than=0) == Pruned()


async def test_a_link_leads_to_an_object_of_another_store(app: App, files: ObjectStore) -> None:
    other = app.js.object_store(f"{files.name}-other")
    async with app:
        info = await other.put("real", BYTES)
        await files.link("alias", info)
        assert await files.get("alias") == BYTES


async def test_a_link_to_a_store_names_it_and_has_no_content(app: App, files: ObjectStore) -> None:
    other = app.js.object_store(f"{files.name}-other")
    async with app:
        info = await files.link("all", other)
        assert (await files.info("all")).link == (other.name, "")
        assert json.loads(info.encode())["options"] == {"link": {"bucket": other.name}}
        with pytest.raises(DigestError, match="link to the store"):
            await files.get("all")


@pytest.mark.parametrize("name", [None, ""])  # the libraries for Rust and JavaScript
async def test_a_link_to_a_store_by_another_client_is_read(
    app: App, files: ObjectStore, name: str | None
) -> None:
    async with app:
        await files.put("all", b"")
        await spoil(app, files, "all", options={"link": {"bucket": "other", "name": name}})
        assert (await files.info("all")).link == ("other", "")
        assert [info.name for info in await files.list()] == ["all"]


async def test_a_link_is_replaced_by_a_link_or_an_object_and_deleted(
    app: App, files: ObjectStore
) -> None:
    async with app:
        await files.put("a", b"of a")
        await files.put("b", b"of b")
        await files.link("alias", "a")
        await files.link("alias", "b")
        assert await files.get("alias") == b"of b"
        await files.delete("alias")
        with pytest.raises(ObjectNotFoundError):
            await files.get("alias")
        assert await files.get("b") == b"of b"
        await files.link("alias", "a")
        await files.put("alias", b"its own")
        assert await files.get("alias") == b"its own"
        assert await chunks(app, files) == 3


async def test_a_link_replaces_no_object(app: App, files: ObjectStore) -> None:
    async with app:
        await files.put("a", b"of a")
        await files.put("b", b"of b")
        with pytest.raises(ObjectExistsError, match="delete the object first"):
            await files.link("a", "b")
        assert await files.get("a") == b"of a"
        await files.delete("a")
        await files.link("a", "b")
        assert await files.get("a") == b"of b"


async def test_what_cannot_be_linked_to_is_refused(app: App, files: ObjectStore) -> None:
    async with app:
        gone = await files.put("gone", b"1")
        await files.delete("gone")
        await files.put("real", b"1")
        await files.link("alias", "real")
        with pytest.raises(ObjectNotFoundError):
            await files.link("x", "gone")
        with pytest.raises(ObjectNotFoundError):
            await files.link("x", replace(gone, is_deleted=True))
        with pytest.raises(ConfigError, match="link to what it points to"):
            await files.link("x", "alias")
        with pytest.raises(ConfigError, match="not to int"):
            await files.link("x", 7)  # type: ignore[arg-type]  # the error of this test
        with pytest.raises(ConfigError, match="name"):
            await files.link("", "real")


async def test_a_link_whose_object_was_deleted_says_which_object_is_gone(
    app: App, files: ObjectStore
) -> None:
    async with app:
        await files.put("real", b"1")
        await files.link("alias", "real")
        await files.delete("real")
        with pytest.raises(ObjectNotFoundError, match="real"):
            await files.get("alias")


async def test_another_client_follows_a_link_that_was_made_here(
    app: App, files: ObjectStore, foreign: JetStreamContext
) -> None:
    async with app:
        await files.put("real", BYTES)
        await files.link("alias", "real")
        theirs = await foreign.object_store(files.name)
        assert (await theirs.get("alias")).data == BYTES
        info = await theirs.get_info("alias")
        assert info.is_link()
        assert (info.options.link.bucket, info.options.link.name) == (files.name, "real")


# Pruning what a kill has left.


KILLED = """
import asyncio, os, signal, sys
from tidings import App

app = App("killed", servers=sys.argv[1])
files = app.js.object_store(sys.argv[2])

def kill(done, total):
    if done >= 3_000:
        os.kill(os.getpid(), signal.SIGKILL)

async def parts():
    while True:
        yield bytes(1_000)
        await asyncio.sleep(0)

async def main():
    async with app:
        await files.put("a", parts(), chunk_size=1_000, progress=kill)

asyncio.run(main())
"""


async def test_chunks_that_a_killed_put_left_are_pruned_and_nothing_else(
    app: App, files: ObjectStore, nats_server: NATSServer
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, nats_server.url, files.name
    )
    assert await process.wait() == -signal.SIGKILL
    async with app:
        left = await chunks(app, files)
        assert left >= 3
        await files.put("b", BYTES)
        await files.put("c", b"")
        await files.put("d", b"deleted")
        await files.delete("d")

        found = await files.prune()
        assert (found.puts, found.chunks, found.recent) == (0, 0, left)  # it may be under way
        for dry_run in (True, False):
            found = await files.prune(older_than=0, dry_run=dry_run)
            assert (found.puts, found.chunks, found.size) == (1, left, left * 1_000)
        assert await files.prune(older_than=0) == Pruned()
        assert await files.get("b") == BYTES
        assert [info.name for info in await files.list()] == ["b", "c"]


async def test_objects_of_another_client_and_links_keep_their_chunks(
    app: App, files: ObjectStore, foreign: JetStreamContext
) -> None:
    async with app:
        await files.open()
        store = await foreign.object_store(files.name)
        await store.put("theirs", BYTES)
        link = {"name": "link", "options": {"link": {"bucket": files.name, "name": "theirs"}}}
        meta = json.dumps({**link, "bucket": files.name, "nuid": "L1"})
        await app.js.publish(f"$O.{files.name}.M.bGluaw==", meta.encode())
        assert await files.prune(older_than=0) == Pruned()
        assert await files.get("link") == await files.get("theirs") == BYTES


async def test_a_put_under_way_keeps_its_chunks(app: App, files: ObjectStore) -> None:
    going_on = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(WINDOW + 4):
            yield b"1" * 50
        await going_on.wait()
        yield b"2" * 50

    async with app:
        putting = asyncio.create_task(files.put("a", parts(), chunk_size=50))
        async with asyncio.timeout(PATIENCE):
            while not await chunks(app, files):
                pass
        found = await files.prune()
        assert found.chunks == 0
        assert found.recent > 0
        going_on.set()
        await putting
        assert len(await files.get("a")) == 50 * (WINDOW + 5)


@pytest.mark.parametrize("claimed", ["1", "many"])
async def test_a_size_that_a_publisher_claims_is_not_believed(
    app: App, files: ObjectStore, claimed: str
) -> None:
    async with app:
        await files.open()
        headers = {"Nats-Msg-Size": claimed}
        await app.js.publish(f"$O.{files.name}.C.left", b"x" * 70, headers=headers)
        assert (await files.prune(older_than=0, dry_run=True)).size == 70


async def test_nothing_is_pruned_where_a_description_cannot_be_read(
    app: App, files: ObjectStore
) -> None:
    """Nobody knows which chunks it names."""
    async with app:
        await files.put("a", b"1")
        await app.js.publish(f"$O.{files.name}.C.left", b"x")
        await app.js.publish(f"$O.{files.name}.M.YQ==", b"no description")
        with pytest.raises(DecodeError):
            await files.prune(older_than=0)
        assert await chunks(app, files) == 2


@pytest.mark.parametrize("older_than", [-1, float("inf"), float("nan"), True, "1h"])
async def test_an_age_that_is_none_is_refused(
    app: App, files: ObjectStore, older_than: Any
) -> None:
    async with app:
        with pytest.raises(ConfigError, match="older_than must be a number of seconds, 0 or more"):
            await files.prune(older_than=older_than)
