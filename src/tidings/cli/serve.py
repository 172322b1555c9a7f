"""`tidings server`: the embedded nats-server in the foreground."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from tidings.errors import ConfigError, ServerStartError, TidingsError
from tidings.server import NATSCluster, NATSServer
from tidings.text import printable

from .console import mention


def server(
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", min=0, max=65535, help="4222 where left out; 0 takes a free one."
        ),
    ] = None,
    jetstream: Annotated[
        bool, typer.Option("--jetstream/--no-jetstream", help="Streams and buckets.")
    ] = True,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder that JetStream keeps; a temporary one otherwise."),
    ] = None,
    cluster: Annotated[
        int | None,
        typer.Option("--cluster", min=2, max=9, help="That many servers, on free ports."),
    ] = None,
) -> None:
    """Run a nats-server on this machine until Ctrl-C."""
    if store is not None and not jetstream:
        raise ConfigError("--store is JetStream's folder: leave --no-jetstream out")
    if cluster is not None and (port is not None or store is not None):
        raise ConfigError("--cluster takes free ports and temporary folders: leave the rest out")
    # SIGTERM ends it as Ctrl-C does, and at any moment: while it starts, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = _serve(cluster, port, jetstream, store)
    except KeyboardInterrupt:
        code = 0
    raise typer.Exit(code)


def _serve(cluster: int | None, port: int | None, jetstream: bool, store: Path | None) -> int:
    if cluster is not None:
        with NATSCluster(cluster, jetstream=jetstream) as servers:
            mention(",".join(servers.urls))
            return _wait(servers.servers)
    port = 4222 if port is None else port
    try:
        with NATSServer(port=port, jetstream=jetstream, store_dir=store) as own:
            mention(own.url)
            return _wait((own,))
    except ServerStartError as error:
        if "address already in use" not in error.output:
            raise
        raise TidingsError(
            f"port {port}: address already in use, perhaps by a nats-server that runs already. "
            f"--port 0 takes a free one"
        ) from None


def _wait(servers: tuple[NATSServer, ...]) -> int:
    # An exception raised by a signal gets lost where it falls into a finalizer; an event does not.
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while all(server.is_running for server in servers):
        if ended.wait(0.2):
            return 0
    for server in servers:
        if not server.is_running:
            log = printable(server.log, keep="\n")
            print(f"tidings: a nats-server ended by itself:\n{log}", file=sys.stderr)
    return 1
