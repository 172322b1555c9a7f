"""`tidings kv`: lists, reads, writes and watches the keys of key-value buckets."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from datetime import timedelta
from typing import Annotated

import typer

from tidings.errors import ConfigError, KeyNotFoundError
from tidings.jetstream.bucket import check_bucket
from tidings.jetstream.kv.entry import Entry
from tidings.jetstream.kv.key_value import KeyValue
from tidings.jetstream.kv.keys import check_keys
from tidings.jetstream.ttl import Never
from tidings.text import printable

from .console import (
    mention,
    on_terminal,
    say,
    say_json_array,
    table,
    until_reader_is_gone,
    write_bytes,
)
from .dead import parse_age
from .entries import facts, operation, preview, show_block, show_json, show_line
from .flags import Flags, connects
from .foreground import foreground
from .infos import StreamInfo, list_streams
from .keys import Key, read_keys
from .piped import is_piped, read_piped
from .printer import ItemPrinter
from .session import (
    AsJson,
    BucketName,
    Host,
    Yes,
    app_of,
    confirm,
    counted,
    run_with_api,
    run_with_host,
)
from .units import length_text, size_text, time_text

kv = typer.Typer(no_args_is_help=True)

KeyName = Annotated[str, typer.Argument(metavar="KEY", help="Name of the key.")]

PREFIX = "KV_"  # of the streams behind buckets
# The largest value that is read from standard input. No nats-server takes a larger message.
MOST_BYTES = 64 * 1024 * 1024
_COLUMNS = ("bucket", "description", "storage", "history", "ttl", "last change", "entries", "size")


@kv.callback()
def root() -> None:
    """List, read, write and watch the keys of key-value buckets."""


@kv.command()
@connects
def ls(
    bucket: Annotated[
        str | None,
        typer.Argument(metavar="[BUCKET]", help="List the keys of this bucket."),
    ] = None,
    pattern: Annotated[
        str,
        typer.Argument(metavar="[KEYS]", help="Only keys that match; `*` and `>` are wildcards."),
    ] = ">",
    is_long: Annotated[
        bool, typer.Option("--long", "-l", help="Show revision, time and size of each key.")
    ] = False,
    as_json: AsJson = False,
    *,
    flags: Flags,
) -> None:
    """List the buckets, or the keys of a bucket in the order of their last changes."""
    if bucket is None:
        _list_buckets(flags, as_json=as_json)
        return
    check_bucket(bucket)
    check_keys(pattern)

    async def work(host: Host) -> None:
        keys = read_keys(host, _bucket(host, bucket), pattern)
        async with contextlib.aclosing(keys):
            if as_json:
                await say_json_array(key.facts() async for key in keys)
                return
            async for key in keys:
                say(_line(key) if is_long else printable(key.key))

    with until_reader_is_gone():
        run_with_host(app_of(None, flags), work)


@kv.command()
@connects
def get(
    bucket: BucketName,
    key: KeyName,
    revision: Annotated[
        int | None, typer.Option("--revision", min=1, help="An older revision of the key.")
    ] = None,
    as_json: AsJson = False,
    *,
    flags: Flags,
) -> None:
    """Print the value of a key: for reading on a terminal, in a pipe exactly its bytes.

    If the key has no value, the exit code is 1.
    """
    check_bucket(bucket)

    async def work(host: Host) -> Entry[bytes]:
        return await _bucket(host, bucket).get(key, revision=revision)

    entry = run_with_host(app_of(None, flags), work)
    if as_json:
        show_json(entry)
    elif on_terminal():
        show_block(entry)
    else:
        with until_reader_is_gone():
            write_bytes(entry.body)


@kv.command()
@connects
def put(
    bucket: BucketName,
    key: KeyName,
    value: Annotated[
        str | None,
        typer.Argument(
            help="Value, stored as it is. With `-`, or without a value if input is piped, the"
            " command reads standard input."
        ),
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Fail if the key has a value.")] = False,
    revision: Annotated[
        int | None,
        typer.Option(
            "--revision", min=0, help="Fail unless the key is at this revision; 0: was never set."
        ),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(
            "--ttl",
            help="Let the value expire after 90s, 30m, 12h or 7d, or `never`. The bucket must be"
            " declared with `marker_ttl`.",
        ),
    ] = None,
    *,
    flags: Flags,
) -> None:
    """Set the value of a key. The bucket keeps older values as far as its history reaches."""
    check_bucket(bucket)
    if create and revision is not None:
        raise ConfigError("--create cannot be combined with --revision: leave out one of the two")
    lifetime = _ttl(ttl)
    app = app_of(None, flags)
    body = _value(value)

    async def work(host: Host) -> int:
        values = _bucket(host, bucket)
        if create:
            return await values.create(key, body, ttl=lifetime)
        if revision is not None:
            return await values.update(key, body, revision, ttl=lifetime)
        return await values.put(key, body, ttl=lifetime)

    say(printable(f"{key} has revision {run_with_host(app, work)}"))


@kv.command("del")
@connects
def delete(
    bucket: BucketName,
    key: KeyName,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete the history of the key, too.")
    ] = False,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Delete a key. Shows what it holds, and asks for confirmation.

    If someone writes the key after the question, nothing is deleted.
    """
    check_bucket(bucket)
    app = app_of(None, flags)

    async def find(host: Host) -> list[Entry[bytes]]:
        return await _bucket(host, bucket).history(key)

    entries = run_with_host(app, find)
    if not entries or (entries[-1].is_deleted and not purge):
        raise KeyNotFoundError(bucket, key)
    confirm(printable(_question(entries, purge=purge)), yes)
    # Without a question there is no answer that could be out of date.
    revision = None if yes else entries[-1].revision

    async def work(host: Host) -> None:
        values = _bucket(host, bucket)
        if purge:
            await values.purge(key, revision=revision)
        else:
            await values.delete(key, revision=revision)

    run_with_host(app, work)
    say(printable(f"{key} is {'purged' if purge else 'deleted'}"))


@kv.command()
@connects
def history(bucket: BucketName, key: KeyName, as_json: AsJson = False, *, flags: Flags) -> None:
    """Show the revisions of a key that the bucket keeps, the oldest first."""
    check_bucket(bucket)

    async def work(host: Host) -> list[Entry[bytes]]:
        return await _bucket(host, bucket).history(key)

    entries = run_with_host(app_of(None, flags), work)
    if not entries:
        raise KeyNotFoundError(bucket, key)
    if as_json:
        say(json.dumps([facts(entry) for entry in entries], indent=2))
        return
    rows = [
        [
            str(entry.revision),
            time_text(entry.created),
            operation(entry),
            preview(entry),
            size_text(len(entry.body)),
        ]
        for entry in entries
    ]
    table(("revision", "time", "operation", "value", "size"), rows, numbers=1)


@kv.command()
@connects
def watch(
    bucket: BucketName,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEYS]...", help="Only keys that match; `*` and `>` are wildcards."
        ),
    ] = None,
    initial: Annotated[
        bool,
        typer.Option("--initial/--no-initial", help="Begin with the entries that are there."),
    ] = True,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Exit after this many entries.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object on each line.")
    ] = False,
    *,
    flags: Flags,
) -> None:
    """Print the entries of a bucket and then every change, until Ctrl-C.

    In a pipe, each line has the revision, the operation, the key and the value.
    """
    check_bucket(bucket)
    patterns = tuple(keys or (">",))
    check_keys(patterns)
    app = app_of(None, flags)
    run_with_host(app, lambda host: _bucket(host, bucket).open())  # is there such a bucket?
    show = show_json if as_json else show_block if on_terminal() else show_line
    printer = ItemPrinter(app, show, count=count)

    @app.watch(bucket, patterns, initial=initial)
    def on_entry(entry: Entry[bytes]) -> None:
        printer.show(entry)  # in a thread, so that a slow reader does not block the connection

    @app.task()
    async def announce() -> None:
        what = printable(f"watching {' '.join(patterns)} in the bucket {bucket}")
        print(f"{what}; Ctrl-C to stop", file=sys.stderr, flush=True)

    foreground(app).run()
    if printer.failure is not None:
        raise printer.failure


def _bucket(host: Host, name: str) -> KeyValue[bytes]:
    return KeyValue(host, name, type=bytes, create=False)


def _value(value: str | None) -> bytes:
    """Return the value that the arguments name, or what is piped into the command.

    Raises:
        ConfigError: there is none.
    """
    if value == "-" or (value is None and is_piped()):
        return read_piped(MOST_BYTES)
    if value is None:
        raise ConfigError("there is no value: write it after the key, or pipe it into the command")
    # Python decodes arguments that are not valid UTF-8 to surrogates; this restores their bytes.
    return os.fsencode(value)


def _ttl(text: str | None) -> timedelta | Never | None:
    if text == "never":
        return "never"
    return None if text is None else parse_age(text, "--ttl")


def _question(entries: list[Entry[bytes]], *, purge: bool) -> str:
    last = entries[-1]
    if purge:
        return (
            f"Delete {last.key} of {last.bucket} and {counted(len(entries), 'revision')} for good?"
        )
    return f"Delete {last.key} of {last.bucket}, which has {size_text(len(last.body))}?"


def _line(key: Key) -> str:
    return printable(
        f"{key.revision:>8}  {time_text(key.created)}  {size_text(key.size):>9}  {key.key}"
    )


def _list_buckets(flags: Flags, *, as_json: bool) -> None:
    infos = run_with_api(app_of(None, flags), list_streams)
    found = [each for each in infos if each.name.startswith(PREFIX)]
    if as_json:
        say(json.dumps([_summary(each) for each in found], indent=2))
    elif found:
        table(_COLUMNS, [_row(each) for each in found], numbers=2)
    else:
        mention("no buckets")


def _row(info: StreamInfo) -> list[str]:
    config, state = info.config, info.state
    return [
        printable(info.name.removeprefix(PREFIX)),
        printable(config.description or ""),
        printable(config.storage),
        str(max(config.max_msgs_per_subject, 1)),
        length_text(config.max_age / 1e9) if config.max_age else "-",
        time_text(state.last_time),
        str(state.messages),
        size_text(state.bytes),
    ]


def _summary(info: StreamInfo) -> dict[str, object]:
    config, state = info.config, info.state
    return {
        "bucket": info.name.removeprefix(PREFIX),
        "description": config.description or "",
        "storage": config.storage,
        "replicas": config.num_replicas,
        "history": max(config.max_msgs_per_subject, 1),
        "ttl": config.max_age / 1e9 or None,
        "entries": state.messages,
        "bytes": state.bytes,
        "last_time": state.last_time.isoformat() if state.last_time else None,
        "mirror_of": (config.mirror or {}).get("name"),
    }
