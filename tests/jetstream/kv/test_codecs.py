"""Codecs of keys and values: buckets shared with other clients that write keys in another form."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import App, ConfigError, DecodeError, Group, KeyExistsError, SubjectError
from tidings.errors import KeyNotFoundError
from tidings.jetstream import Base64Codec, ChainCodec, KeyCodec, PathCodec

BOTH = ChainCodec(PathCodec(), Base64Codec())

MakeApp = Callable[..., App]

_numbers = itertools.count(1)


@pytest.fixture
def bucket() -> str:
    """A bucket that no other test uses."""
    return f"coded{next(_numbers)}"


@pytest.fixture
def app(make_app: MakeApp) -> App:
    return make_app()


class Prefixed:
    """A codec of somebody's own, which allows no patterns."""

    def encode_key(self, key: str) -> str:
        if "!" in key:
            raise ValueError("no exclamation")
        return f"x-{key}"

    def decode_key(self, key: str) -> str:
        if not key.startswith("x-"):
            raise ValueError("no prefix")
        return key[2:]


# What they write: the forms are those of kvcodec of orbit.go, taken from its tests.


@pytest.mark.parametrize(
    ("codec", "key", "stored"),
    [
        (
            Base64Codec(),
            "test.key.with.special.chars!@#$%^&*()",
            "dGVzdA.a2V5.d2l0aA.c3BlY2lhbA.Y2hhcnMhQCMkJV4mKigp",
        ),
        (PathCodec(), "/foo/bar", "_root_.foo.bar"),
        (PathCodec(), "foo/bar", "foo.bar"),
        (PathCodec(), "/foo", "_root_.foo"),
        (PathCodec(), "/", "_root_"),
        (BOTH, "/foo bar", "X3Jvb3Rf.Zm9vIGJhcg"),
        (Prefixed(), "a", "x-a"),
    ],
)
def test_a_key_is_stored_as_the_field_stores_it_and_comes_back(
    codec: KeyCodec, key: str, stored: str
) -> None:
    assert codec.encode_key(key) == stored
    assert codec.decode_key(stored) == key


@pytest.mark.parametrize(
    ("codec", "pattern", "stored"),
    [
        (Base64Codec(), "user.123", "dXNlcg.MTIz"),
        (Base64Codec(), "user.*", "dXNlcg.*"),
        (Base64Codec(), "user.>", "dXNlcg.>"),
        (Base64Codec(), "app.*.config.>", "YXBw.*.Y29uZmln.>"),
        (PathCodec(), "/user/123", "_root_.user.123"),
        (PathCodec(), "/user/*", "_root_.user.*"),
        (PathCodec(), "/app/*/config/>", "_root_.app.*.config.>"),
        (PathCodec(), "user/*", "user.*"),
        (BOTH, "/user/*", "X3Jvb3Rf.dXNlcg.*"),
    ],
)
def test_a_pattern_keeps_its_wildcards(codec: Any, pattern: str, stored: str) -> None:
    assert codec.encode_pattern(pattern) == stored


def test_a_trailing_slash_of_a_path_is_left_out_as_the_field_does() -> None:
    assert PathCodec().encode_key("/foo/bar/") == "_root_.foo.bar"


@given(st.text(min_size=1).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_any_text_comes_back_from_base64(key: str) -> None:
    codec = Base64Codec()
    assert codec.decode_key(codec.encode_key(key)) == key


@given(st.text(alphabet="AQgw.-_=+/ ~\n"))
def test_two_stored_keys_are_never_one_key(stored: str) -> None:
    codec = Base64Codec()
    try:
        key = codec.decode_key(stored)
    except ValueError:
        return
    assert codec.encode_key(key) == stored


# Buckets.


async def test_keys_of_any_characters_can_do_all_that_others_can(app: App, bucket: str) -> None:
    profiles = app.js.key_value(bucket, type=int, history=5, key_codec=Base64Codec())
    async with app:
        first = await profiles.put("Acme Inc.contact", 1)
        await profiles.create("Ünïcode *.>", 2)
        with pytest.raises(KeyExistsError, match=r"Ünïcode \*"):
            await profiles.create("Ünïcode *.>", 3)
        await profiles.update("Acme Inc.contact", 4, first)
        entry = await profiles.get("Acme Inc.contact")
        assert (entry.key, entry.value) == ("Acme Inc.contact", 4)
        assert (await profiles.get("Acme Inc.contact", revision=first)).value == 1
        history = await profiles.history("Acme Inc.contact")
        assert [(each.key, each.value) for each in history] == [
            ("Acme Inc.contact", 1),
            ("Acme Inc.contact", 4),
        ]
        assert sorted(await profiles.keys()) == ["Acme Inc.contact", "Ünïcode *.>"]
        assert await profiles.keys("Acme Inc.*") == ["Acme Inc.contact"]
        await profiles.delete("Acme Inc.contact")
        with pytest.raises(KeyNotFoundError, match=r"Acme Inc\.contact"):
            await profiles.get("Acme Inc.contact")
        assert [each.key for each in await profiles.entries()] == ["Ünïcode *.>"]
        raw = app.js.key_value(bucket, type=int)
        assert await raw.keys() == ["w5xuw69jb2RlICo.Pg"]


async def test_what_other_clients_wrote_with_base64_for_keys_and_values_is_read(
    app: App, bucket: str
) -> None:
    raw = app.js.key_value(bucket, type=bytes)
    decoded = app.js.key_value(bucket, type=str, key_codec=Base64Codec(), value_codec=Base64Codec())
    async with app:
        await raw.put("QWNtZSBJbmM.Y29udGFjdA", b"aW5mb0BhY21lLmNvbQ")
        entry = await decoded.get("Acme Inc.contact")
        assert (entry.value, entry.body) == ("info@acme.com", b"aW5mb0BhY21lLmNvbQ")
        await decoded.put("Acme Inc.phone", "1")
        assert await raw.value("QWNtZSBJbmM.cGhvbmU") == b"MQ"
        await raw.put("QWNtZSBJbmM.Y29udGFjdA", b"~~~")
        with pytest.raises(DecodeError, match=r"value of Base64Codec.*key 'Acme Inc\.contact'"):
            await decoded.get("Acme Inc.contact")


async def test_paths_are_listed_and_watched_as_paths(app: App, bucket: str) -> None:
    config = app.js.key_value(bucket, type=int, key_codec=PathCodec())
    async with app:
        await config.put("/app/port", 1)
        await config.put("/app/db/port", 2)
        await config.put("other", 3)
        assert await config.keys("/app/*") == ["/app/port"]
        assert await config.keys(["/app/>", "other"]) == ["/app/port", "/app/db/port", "other"]
        async with asyncio.timeout(PATIENCE), config.watch(["/app/db/*", "other"]) as watch:
            entries = aiter(watch)
            assert [(await anext(entries)).key for _ in range(2)] == ["/app/db/port", "other"]
            await config.put("/app/db/user", 4)
            assert (await anext(entries)).key == "/app/db/user"


async def test_a_transaction_stores_keys_and_values_with_the_codecs(app: App, bucket: str) -> None:
    codecs: dict[str, Any] = {"key_codec": Base64Codec(), "value_codec": Base64Codec()}
    profiles = app.js.key_value(bucket, type=int, atomic=True, **codecs)
    async with app:
        await profiles.put("Acme Inc.a", 1)
        await profiles.put("Acme Inc.b", 2)
        await profiles.delete("Acme Inc.b")
        async with profiles.transaction() as changes:
            changes.put("Acme Inc.a", 3)
            changes.create("Acme Inc.b", 4)
        assert {entry.key: entry.value for entry in await profiles.entries()} == {
            "Acme Inc.a": 3,
            "Acme Inc.b": 4,
        }
        with pytest.raises(KeyExistsError, match="Acme Inc"):
            async with profiles.transaction() as changes:
                changes.create("Acme Inc.a", 5)


async def test_a_watch_of_a_bucket_takes_its_type_and_its_codecs(
    make_app: MakeApp, bucket: str
) -> None:
    app = make_app()
    profiles = app.js.key_value(
        bucket, type=int, key_codec=Base64Codec(), value_codec=Base64Codec()
    )
    given, by_name, grouped = Inbox(), Inbox(), Inbox()
    app.watch(profiles, ["Acme Inc.*", "Other Inc.*"])(given)
    app.watch(bucket)(by_name)
    group = Group("g")
    group.watch(profiles, "Acme Inc.*")(grouped)
    app.include(group)
    async with app:
        await profiles.put("Acme Inc.a", 7)
        for inbox in (given, by_name, grouped):
            entry = await inbox.next()
            assert (entry.key, entry.value) == ("Acme Inc.a", 7)
        assert app.stats().watchers[0].bucket == bucket


async def test_a_watch_that_is_added_while_the_app_runs_takes_the_codecs(
    app: App, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Inbox()
    async with app:
        paths = app.js.key_value(bucket, type=int, key_codec=PathCodec())
        await paths.put("/app/port", 1)
        watch = await app.js.add_watch(seen, paths, "/app/*")
        entry = await seen.next()
        assert (entry.key, entry.value) == ("/app/port", 1)
        await watch.stop()
    assert "literally" not in caplog.text


async def test_a_pattern_of_paths_is_no_doubtful_declaration(
    make_app: MakeApp, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    paths = app.js.key_value(bucket, type=int, key_codec=PathCodec())
    seen = Inbox()
    app.watch(bucket, "/app/*")(seen)
    async with app:
        await paths.put("/app/port", 1)
        assert (await seen.next()).key == "/app/port"
    assert "literally" not in caplog.text


# Keys that a codec cannot decode.


async def test_a_key_that_does_not_decode_is_left_out_with_a_warning(
    app: App, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = app.js.key_value(bucket, type=int)
    coded = app.js.key_value(bucket, type=int, key_codec=Base64Codec())
    async with app:
        await raw.put("not-base64=", 1)
        await raw.put("x", 1)
        await coded.put("a b", 2)
        for read in (coded.keys, coded.entries):
            caplog.clear()
            assert len(await read()) == 1  # type: ignore[operator]  # one of two calls
            assert "left out 2 of the keys" in caplog.text
            assert "not-base64=" in caplog.text
        async with asyncio.timeout(PATIENCE):
            async for entry in coded.watch():
                assert entry.key == "a b"
                break


async def test_a_watch_handler_counts_a_key_that_does_not_decode_as_failed(
    make_app: MakeApp, bucket: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    coded = app.js.key_value(bucket, type=int, key_codec=Base64Codec())
    raw = app.js.key_value(bucket, type=int)
    seen = Inbox()
    app.watch(coded)(seen)
    async with app:
        await raw.put("not-base64=", 1)
        await coded.put("a b", 2)
        assert (await seen.next()).key == "a b"
        await until(lambda: app.stats().watchers[0].handled == 1)
        assert app.stats().watchers[0].failed == 1
    assert f"key 'not-base64=' of bucket {bucket!r}" in caplog.text


# What is refused.


@pytest.mark.parametrize(
    ("codec", "key", "words"),
    [
        (Base64Codec(), "a..b", "empty token"),
        (Base64Codec(), "", "is stored as ''"),
        (Base64Codec(), "\ud800", "Base64Codec cannot encode it"),
        (Base64Codec(), 7, "a key must be a str"),
        (PathCodec(), "app.conf", "would come back as 'app/conf'"),
        (PathCodec(), "app/", "would come back as 'app'"),
        (PathCodec(), "_root_/app", "would come back as '/app'"),
        (PathCodec(), "a b", "is stored as 'a b'"),
        (Prefixed(), "a!", "no exclamation"),
    ],
)
async def test_a_key_that_cannot_be_stored_or_would_come_back_as_another_is_not_put(
    app: App, bucket: str, codec: KeyCodec, key: Any, words: str
) -> None:
    coded = app.js.key_value(bucket, type=int, key_codec=codec)
    async with app:
        with pytest.raises(SubjectError, match=words):
            await coded.put(key, 1)
        assert await coded.keys() == []


async def test_a_codec_without_patterns_takes_full_keys_and_all_keys(app: App, bucket: str) -> None:
    coded = app.js.key_value(bucket, type=int, key_codec=Prefixed())
    chained = app.js.key_value(bucket, type=int, key_codec=ChainCodec(PathCodec(), Prefixed()))
    async with app:
        await coded.put("a", 1)
        assert await coded.keys() == await coded.keys("a") == ["a"]
        for each in (coded, chained):
            with pytest.raises(ConfigError, match=r"Prefixed allows no pattern such as 'b\.\*'"):
                await each.keys("b.*")
    with pytest.raises(ConfigError, match="encode_pattern"):
        app.watch(coded, "b.*")(Inbox())


def test_a_pattern_for_a_codec_is_checked_where_it_is_written(app: App) -> None:
    coded = app.js.key_value("profiles", key_codec=Base64Codec())
    for keys in ("a..b", ["a.*", "a.b"], 7):
        with pytest.raises(SubjectError):
            app.watch(coded, keys)(Inbox())  # type: ignore[arg-type]  # 7 is the point
    with pytest.raises(SubjectError):
        app.watch("profiles", "Acme Inc.*")(Inbox())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key_codec": Base64Codec}, r"got the class Base64Codec: write Base64Codec\(\)"),
        ({"key_codec": "base64"}, "key_codec must be a codec with the methods encode_key"),
        ({"value_codec": PathCodec()}, "value_codec must be a codec with the methods encode_value"),
    ],
)
def test_what_is_no_codec_is_refused(app: App, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        app.js.key_value("profiles", **options)


def test_a_chain_needs_codecs() -> None:
    with pytest.raises(ConfigError, match="needs codecs"):
        ChainCodec()
    with pytest.raises(ConfigError, match="ChainCodec must be a codec"):
        ChainCodec("base64")  # type: ignore[arg-type]  # the wrong type is the point
