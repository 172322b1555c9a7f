"""`tidings objects`: lists, reads, writes, deletes and prunes the objects of object stores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Annotated, cast

import typer

from tidings.errors import ConfigError, ObjectNotFoundError, TidingsError
from tidings.jetstream.bucket import check_bucket
from tidings.jetstream.objects.files import Source, file_name
from tidings.jetstream.objects.info import ObjectInfo
from tidings.jetstream.objects.store import ObjectStore
from tidings.text import printable

from .console import mention, on_terminal, say, table, until_reader_is_gone, write_bytes
from .dead import parse_age
from .flags import Flags, connects
from .infos import StreamInfo, list_streams
from .piped import is_piped, piped_parts
from .session import AsJson, Host, Yes, app_of, confirm, counted, run_with_api, run_with_host
from .units import length_text, size_text, time_text

objects = typer.Typer(no_args_is_help=True)

Store = Annotated[str, typer.Argument(metavar="STORE", help="Name of the object store.")]
ObjectName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the object.")]

PREFIX = "OBJ_"  # of the streams behind object stores
_STORES = ("store", "description", "storage", "ttl", "last change", "size")
_OBJECTS = ("name", "description", "modified", "size")


class FileError(TidingsError):
    """A file cannot be read or written."""

    def __init__(self, error: OSError) -> None:
        place = f"{error.filename!r}: " if error.filename else ""
        super().__init__(f"{place}{error.strerror or error}")


@objects.callback()
def root() -> None:
    """List, read, write, delete and prune stored objects."""


@objects.command()
@connects
def ls(
    store: Annotated[
        str | None,
        typer.Argument(metavar="[STORE]", help="List the objects of this store."),
    ] = None,
    as_json: AsJson = False,
    *,
    flags: Flags,
) -> None:
    """List the object stores, or the objects of a store, sorted by name."""
    if store is None:
        _list_stores(flags, as_json=as_json)
        return
    check_bucket(store)
    found = run_with_host(app_of(None, flags), lambda host: _store(host, store).list())
    found.sort(key=lambda info: info.name)
    if as_json:
        say(json.dumps([_facts(each) for each in found], indent=2))
    elif found:
        table(_OBJECTS, [_row(each) for each in found], numbers=1)
    else:
        mention("no objects")


@objects.command()
@connects
def get(
    store: Store,
    name: ObjectName,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write to this file or into this folder. Without it, write to a pipe.",
        ),
    ] = None,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Write the content of an object to a file, or exactly its bytes to a pipe.

    A file appears only when it is complete. What is written to a pipe can be trusted only if the
    exit code is 0, because the digest is known at the end.
    """
    check_bucket(store)
    app = app_of(None, flags)
    if output is None:
        if on_terminal():
            raise ConfigError(
                "an object is not written to a terminal, because its bytes can control it: add "
                "--output FILE, or redirect the output to a file or a pipe"
            )
        with until_reader_is_gone():
            run_with_host(app, lambda host: _write_out(_store(host, store), name))
        return
    with _file_errors():
        target = output / file_name(name) if output.is_dir() else output
        if target.exists():
            confirm(f"Replace the file {printable(str(target))}?", yes)
        run_with_host(app, lambda host: _store(host, store).get_file(name, target))
        size = target.stat().st_size
    say(f"{printable(str(target))} has {size_text(size)}")


@objects.command()
@connects
def put(
    store: Store,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="File to store. With `-`, or without a file if input is piped, the command reads"
            " standard input.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name of the object. Default: that of the file.")
    ] = "",
    description: Annotated[
        str, typer.Option("--description", help="Text to store with the object.")
    ] = "",
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Store a file as an object. Asks for confirmation if this replaces another object."""
    check_bucket(store)
    app = app_of(None, flags)
    source, name = _source(file, name)

    async def find(host: Host) -> ObjectInfo | None:
        try:
            return await _store(host, store).info(name)
        except ObjectNotFoundError:
            return None

    found = None if yes else run_with_host(app, find)
    if found is not None:
        confirm(printable(f"Replace {_words(found)}?"), yes)
    with _file_errors():
        info = run_with_host(
            app, lambda host: _store(host, store).put(name, source, description=description)
        )
    say(printable(f"{name} has {size_text(info.size)}, digest {info.digest}"))


@objects.command()
@connects
def rm(store: Store, name: ObjectName, yes: Yes = False, *, flags: Flags) -> None:
    """Delete an object for good. Shows its size, and asks for confirmation."""
    check_bucket(store)
    app = app_of(None, flags)
    if not yes:
        found = run_with_host(app, lambda host: _store(host, store).info(name))
        confirm(printable(f"Delete {_words(found)}?"), yes)
    run_with_host(app, lambda host: _store(host, store).delete(name))
    say(printable(f"{name} is deleted"))


@objects.command()
@connects
def prune(
    store: Store,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, but do not delete it.")
    ] = False,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            help="Only puts whose last chunk is older than this, such as 90s, 30m, 12h or 7d. A"
            " younger put may still be running.",
        ),
    ] = "1h",
    *,
    flags: Flags,
) -> None:
    """Delete chunks that belong to no object. A put whose process was killed leaves such chunks."""
    seconds = parse_age(older_than).total_seconds()

    pruned = run_with_host(
        app_of(None, flags),
        lambda host: _store(host, store).prune(older_than=seconds, dry_run=dry_run),
    )
    done = "would delete" if dry_run else "deleted"
    left = f"{counted(pruned.chunks, 'chunk')} of {counted(pruned.puts, 'put')}"
    say(f"{done}: {left}, {counted(pruned.size, 'byte')}")
    if pruned.recent:
        say(f"left alone: {counted(pruned.recent, 'chunk')}, younger than {older_than}")


def _store(host: Host, name: str) -> ObjectStore:
    return ObjectStore(host, name, create=False)


async def _write_out(store: ObjectStore, name: str) -> None:
    stream = cast("AsyncGenerator[bytes, None]", store.stream(name))
    async with contextlib.aclosing(stream) as parts:
        async for part in parts:
            write_bytes(part)


def _source(file: str | None, name: str) -> tuple[Source, str]:
    """Return what to store, and its name.

    Raises:
        ConfigError: there is nothing to store, or no name for it.
    """
    path = None if file is None or file == "-" else Path(file)
    if file is None and not is_piped():
        raise ConfigError("there is nothing to store: name a file, or pipe something in")
    found = name or ("" if path is None else path.name)
    if not found:
        what = "what is piped in" if path is None else repr(file)
        raise ConfigError(f"{what} has no name that the object could get: add --name")
    return path or piped_parts(), found


def _words(info: ObjectInfo) -> str:
    size = f"{size_text(info.size)} of {time_text(info.modified)}"
    return f"the object {info.name} in {info.bucket}, {size}"


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    """Turn the error of a file into one that a command reports."""
    try:
        yield
    except TidingsError:  # some are an OSError, too
        raise
    except OSError as error:
        raise FileError(error) from None


def _row(info: ObjectInfo) -> list[str]:
    link = f"link to {'/'.join(info.link)}" if info.link else ""
    return [
        printable(info.name),
        printable(link or info.description),
        time_text(info.modified),
        "" if info.link else size_text(info.size),
    ]


def _facts(info: ObjectInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "description": info.description,
        "size": info.size,
        "chunks": info.chunks,
        "digest": info.digest,
        "modified": info.modified.isoformat(),
        "headers": [list(pair) for pair in info.headers.pairs()],
        "metadata": dict(info.metadata),
        "link": list(info.link) if info.link else None,
    }


def _list_stores(flags: Flags, *, as_json: bool) -> None:
    infos = run_with_api(app_of(None, flags), list_streams)
    found = [each for each in infos if each.name.startswith(PREFIX)]
    if as_json:
        say(json.dumps([_summary(each) for each in found], indent=2))
    elif found:
        table(_STORES, [_store_row(each) for each in found], numbers=1)
    else:
        mention("no object stores")


def _store_row(info: StreamInfo) -> list[str]:
    config, state = info.config, info.state
    return [
        printable(info.name.removeprefix(PREFIX)),
        printable(config.description or ""),
        printable(config.storage),
        length_text(config.max_age / 1e9) if config.max_age else "-",
        time_text(state.last_time),
        size_text(state.bytes),
    ]


def _summary(info: StreamInfo) -> dict[str, object]:
    config, state = info.config, info.state
    return {
        "store": info.name.removeprefix(PREFIX),
        "description": config.description or "",
        "storage": config.storage,
        "replicas": config.num_replicas,
        "ttl": config.max_age / 1e9 or None,
        "bytes": state.bytes,
        "last_time": state.last_time.isoformat() if state.last_time else None,
        "mirror_of": (config.mirror or {}).get("name"),
    }
