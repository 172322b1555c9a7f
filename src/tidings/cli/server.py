"""`tidings server`: runs the embedded nats-server in the foreground."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from tidings.errors import ConfigError, ServerStartError, TidingsError
from tidings.process.signals import Request, StopRequests, stop_signals
from tidings.server import NATSCluster, NATSServer
from tidings.text import printable

from .console import mention


def server(
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", min=0, max=65535, help="Port, 4222 by default; 0 uses a free port."
        ),
    ] = None,
    jetstream: Annotated[
        bool,
        typer.Option(
            "--jetstream/--no-jetstream", help="Turn JetStream (streams and buckets) on or off."
        ),
    ] = True,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder for JetStream's data; a temporary one by default."),
    ] = None,
    cluster: Annotated[
        int | None,
        typer.Option(
            "--cluster", min=2, max=9, help="Start a cluster of this many servers, on free ports."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="NATS_TOKEN",
            help="Token that clients must present. Every user of the machine can read arguments, so"
            " prefer the variable.",
        ),
    ] = None,
) -> None:
    """Run a nats-server on this machine until Ctrl-C."""
    if store is not None and not jetstream:
        raise ConfigError(
            "--store is the folder of JetStream, which --no-jetstream turns off: leave out one"
        )
    if cluster is not None and (port is not None or store is not None):
        raise ConfigError(
            "--cluster uses free ports and temporary folders: leave out --port and --store"
        )
    if cluster is not None and token:
        raise ConfigError(
            "--cluster does not support a token: leave out --token and unset $NATS_TOKEN"
        )
    port = 4222 if port is None else port
    servers = (
        NATSServer(port=port, jetstream=jetstream, store_dir=store, token=token or None)
        if cluster is None
        else NATSCluster(cluster, jetstream=jetstream)
    )
    stop = _Stop()
    for number in stop_signals():
        signal.signal(number, stop)
    try:
        code = _serve(servers, stop)
    except KeyboardInterrupt:
        code = 0
    except ServerStartError as error:
        if cluster is not None or "address already in use" not in error.output:
            raise
        raise TidingsError(
            f"port {port} is already in use, perhaps by another nats-server: stop that server, or "
            "use a free port with --port 0"
        ) from None
    raise typer.Exit(code)


class _Stop:
    """Handles a stop signal: it interrupts the start at any moment, and later ends the wait."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.is_serving = False
        self._requests = StopRequests()

    def __call__(self, number: int, frame: object) -> None:
        request = self._requests.add()
        if request is Request.FORCE:
            os._exit(128 + number)  # the reaper kills a server that does not end
        # Python ignores an exception in a finalizer, so the event is set too.
        self.asked.set()
        if request is Request.STOP and not self.is_serving:
            raise KeyboardInterrupt


def _serve(servers: NATSServer | NATSCluster, stop: _Stop) -> int:
    with servers:
        members = servers.servers if isinstance(servers, NATSCluster) else (servers,)
        mention(",".join(member.url for member in members))
        if members[0].url_with_token != members[0].url:
            mention(f"clients need the token: NATS_URL=nats://TOKEN@127.0.0.1:{members[0].port}")
        stop.is_serving = True
        return _wait(members, stop.asked)


def _wait(servers: tuple[NATSServer, ...], ended: threading.Event) -> int:
    while all(server.is_running for server in servers):
        if ended.wait(0.2):
            return 0
    for server in servers:
        if not server.is_running:
            log = printable(server.log, keep="\n")
            print(f"tidings: a nats-server ended unexpectedly. Its log:\n{log}", file=sys.stderr)
    return 1
