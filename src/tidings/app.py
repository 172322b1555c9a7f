"""App: what users declare, and the calls on it. A `Run` does the work."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from tidings.blocking import AppBus, BlockingBus
from tidings.checks import (
    Seconds,
    check_flag,
    check_metadata,
    check_seconds,
    check_text,
    check_version,
    check_whole,
)
from tidings.concurrency.home import check_asyncio
from tidings.concurrency.pool import inside
from tidings.concurrency.portal import copy_outcome
from tidings.current_link import CurrentLink
from tidings.deadlines import working_until
from tidings.declarations import Declarations
from tidings.errors import ConfigError
from tidings.functions import caller_place
from tidings.group import Group
from tidings.handlers.events import EVENTS, EventHooks
from tidings.handlers.health import DEFAULT_TIMEOUT, HealthCheck
from tidings.handlers.middleware import Middleware, MiddlewareSpec
from tidings.handlers.signatures import check_handler
from tidings.keywords import add_hint, called, former_names, refuse_options
from tidings.log import logger
from tidings.subject import check_queue

# `import tidings` is quick: what runs an app and what is for streams is imported at the first use.
if TYPE_CHECKING:
    from tidings.jetstream.consumer.spec import ConsumerSpec
    from tidings.jetstream.context import JetStream
    from tidings.jetstream.host import JetStreamHost
    from tidings.jetstream.kv.watchers import WatchSpec
    from tidings.jetstream.locks.lock import Lock
    from tidings.jetstream.streams.bucket import Bucket, ObjectBucket
    from tidings.jetstream.streams.stream import Stream
    from tidings.lifecycle import Observer, Outcome, Run
    from tidings.plan import Plan
    from tidings.process.runner import BackgroundRun
    from tidings.services import AppServices
    from tidings.stats import AppStats
    from tidings.transport.options import ConnectionKeywords, ConnectionOptions

F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]
# What others call the hooks of the lifecycle, which are no events of the connection.
_HOOKS = {
    "startup": "write @app.on_startup",
    "ready": "write @app.on_ready",
    "shutdown": "write @app.on_shutdown",
}


@called("App", hint='App("billing")')
@former_names(
    "App",
    "add_filters",
    "check_connection",
    "client",
    "client_id",
    "client_nats_name",
    "http",
    "http_server",
    "js_listen",
    "logger_files_path",
    "logger_in_separate_process",
    "logger_required",
    "loop",
    "on_start_task",
    "publish_js",
    "set_logger",
    "setup_web_server",
    "timer_task",
)
class App(Declarations, BlockingBus):
    """A service on NATS: decorated functions that listen, answer and run periodically.

    Args:
        service_name: the name of the service, in logs, in the errors that it answers with and in
            the monitoring of the server.
        host: the host of the server, with `port`, instead of `servers`.
        port: the port of the server.
        servers: a URL or several. Without servers and context, the app uses `$NATS_URL`, else the
            context in `$NATS_CONTEXT`, else nats://127.0.0.1:4222. For the login and TLS it uses
            variables such as `$NATS_CREDS`, too, if no argument says otherwise.
        context: the name of a context of the command line `nats`, instead of `servers`. (NATS
            ADR-21)
        queue: the first word of the queue groups of listeners that name none: `orders` gives
            `orders.<handler>`. If None, the name of the service; "" for no groups, so that every
            instance handles every message.
        version: the version of the service, a semantic version such as "1.2.0".
        description: what the service does, in a line.
        metadata: what NATS tools show of the service besides: a dict of str.
        discoverable: whether NATS tools find the service, by the `micro` protocol (NATS ADR-32).
        concurrency: how many handlers of one listener may work at a time.
        request_timeout: default timeout of `request`, in seconds.
        drain_timeout: seconds that shutdown waits for work in progress. `run` ends the process two
            seconds later, whatever blocks.
        lifespan: a function that takes the app and returns an async context manager. The app enters
            it before the first message and leaves it after the last one.
        streams: streams to create at start, or to change to what is declared.
        buckets: key-value buckets and object stores to create or change likewise, each a `Bucket`
            or an `ObjectBucket`.
        user: the user name, with `password`.
        password: the password, or a function that returns it, called at each connect.
        token: a token instead of user and password, or a function that returns it.
        credentials: a credentials file (JWT and seed): its path, its content, or a function that
            returns one of them. The app reads a file at each connect.
        nkey_seed: an nkey seed ("SU..."), the path of a file that holds it, or a function that
            returns one of them.
        tls: a TLS context. With it the connection always uses TLS.
        tls_hostname: the name expected in the certificate of the server.
        tls_cert: the path of the client's certificate, with `tls_key`, instead of `tls`.
        tls_key: the path of its key.
        tls_ca: the path of the authorities that sign the server's certificate, instead of `tls`.
        tls_handshake_first: begin with the TLS handshake, before the greeting of the server. False
            by default.
        ignore_discovered_servers: connect only to `servers`, not to the servers that the cluster
            announces. False by default.
        randomize_servers: try the servers in random order. True by default.
        inbox_prefix: the first tokens of reply subjects; "_INBOX" by default.
        js_domain: the JetStream domain of the streams, buckets and consumers, if it is not that of
            the server.
        js_prefix: the prefix of the JetStream API, instead of `js_domain`, for an API that another
            account exports; "$JS.API" by default.
        connect_timeout: seconds to reach one server and be accepted; 5 by default.
        reconnect_time_wait: the longest pause between two rounds over the servers, in seconds; 2 by
            default.
        max_reconnect_attempts: rounds before the app gives up. -1, the default, never does.
        ping_interval: seconds between PINGs; 10 by default.
        max_outstanding_pings: unanswered PINGs before the connection counts as dead; 2 by default.
        pending_size: bytes that may wait to be sent; 32 MiB by default.
        wait_for_server: at start, wait until a server can be reached. False by default.
        use_uvloop: let `run` and `with app` use uvloop if it is installed.
        monitor: the address on which the app serves metrics and its health over HTTP while it runs,
            such as "127.0.0.1:9464". ":9464" and 9464 mean the same; write "0.0.0.0:9464" to listen
            on all interfaces. None for no such endpoint.

    Raises:
        ConfigError: an option that cannot work.
        TypeError: an option that does not exist.

    Attributes:
        nats: what sends and subscribes. Each of its calls is also a method of the app.
        state: a namespace for what handlers share.
        logger: the logger `tidings`.
        drain_timeout: seconds that shutdown waits for work in progress.
        queue: the first word of the queue groups of listeners that name none.
        use_uvloop: whether `run` and `with app` use uvloop if it is installed.

    Example:
        ```python
        from tidings import App

        app = App("greeter", servers="nats://127.0.0.1:4222")

        @app.listen("greet")
        async def greet(msg):
            return {"hello": msg.data["name"]}

        if __name__ == "__main__":
            app.run()
        ```
    """

    def __init__(
        self,
        service_name: str,
        *,
        host: str | None = None,
        port: int | None = None,
        servers: str | Sequence[str] | None = None,
        context: str | None = None,
        queue: str | None = None,
        version: str = "0.0.0",
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        discoverable: bool = True,
        concurrency: int = 100,
        request_timeout: Seconds = 10.0,
        drain_timeout: Seconds = 8.0,
        lifespan: Lifespan | None = None,
        streams: Sequence[Stream] = (),
        buckets: Sequence[Bucket | ObjectBucket] = (),
        use_uvloop: bool = True,
        monitor: str | int | None = None,
        **connection: Unpack[ConnectionKeywords],
    ) -> None:
        from tidings.launch import Launch
        from tidings.transport.options import ConnectionKeywords
        from tidings.transport.settings import settings_of

        current = CurrentLink()
        Declarations.__init__(self)
        BlockingBus.__init__(self, current)
        refuse_options("App", connection, ConnectionKeywords.__annotations__, App)
        _check_identity(service_name, version, description, metadata, discoverable)
        check_flag("use_uvloop", use_uvloop)
        if lifespan is not None and not callable(lifespan):
            raise ConfigError(
                f"lifespan must be a function that takes the app and returns an async context "
                f"manager, got {lifespan!r}"
            )
        check_whole("concurrency", concurrency)
        if queue is not None:
            check_queue(queue)
        self._run: Run | None = None  # the run that goes on
        self.service_name = service_name
        self.queue = queue
        self.version = version
        self.description = description
        self.metadata = dict(metadata or {})
        self.discoverable = discoverable
        self.state = SimpleNamespace()
        self.logger = logging.getLogger("tidings")
        self.drain_timeout = drain_timeout
        self.use_uvloop = use_uvloop
        self._lifespan = lifespan
        self._concurrency = concurrency
        self._request_timeout = check_seconds("request_timeout", request_timeout)
        settings = settings_of(
            service_name, host=host, port=port, servers=servers, context=context, options=connection
        )
        self._launch = Launch(connection=settings)
        if monitor is not None:
            from tidings.addresses import listen_address

            self._launch.monitor = listen_address("monitor", monitor)
        self._middleware_specs: list[MiddlewareSpec] = []
        self._included: dict[Group, str] = {}  # the groups, and where they were included
        self._startup_hooks: list[Callable[[], Any]] = []
        self._ready_hooks: list[Callable[[], Any]] = []
        self._shutdown_hooks: list[Callable[[], Any]] = []
        self._health_checks: list[HealthCheck] = []
        self._events = EventHooks()
        self._streams = streams
        self._buckets = buckets
        if streams or buckets:
            self._host  # noqa: B018 - refuses what is not a Stream where it is written
        self._last: Outcome | None = None  # what is left of the run before
        self._instance = _new_instance()
        self._background: BackgroundRun | None = None
        self.nats = AppBus(current, self.disconnect, self.disconnect_sync)

    # JetStream.

    @functools.cached_property
    def js(self) -> JetStream:
        """JetStream: publish to streams, key-value buckets, object stores."""
        from tidings.jetstream.context import JetStream

        return JetStream(self._host)

    @functools.cached_property
    def _host(self) -> JetStreamHost:
        from tidings.jetstream.host import JetStreamHost

        return JetStreamHost(self._current, self._streams, self._buckets)

    @called("lock()")
    def lock(
        self,
        name: str,
        *,
        lease: Seconds = 10,
        timeout: Seconds | None = None,
        bucket: str = "tidings-locks",
    ) -> Lock:
        """A lock that one task of all instances and services holds at a time.

        Use it in `async with`, or in a thread in `with`, once for each block. The holder has a
        lease in a key-value bucket, which the app renews while the block runs. The end of the block
        releases the lock, and the next one gets it at once. If the process is killed, the next one
        gets it when the lease has ended. It needs nats-server 2.11. (NATS ADR-8, ADR-48)

        If the lease cannot be renewed in time, the block is cancelled, and raises `LockLostError`.
        A process that was stopped, or whose event loop is blocked, learns that too late. Where two
        writers would do harm, pass `lock.token` on: it is larger for each holder than for all
        before it.

        Args:
            name: the name of the lock: letters, digits and the signs `-`, `_`, `=`, `/`, in words
                that dots separate.
            lease: seconds after which another task gets the lock when this process is gone; whole
                seconds, or a `timedelta`. It is renewed three times as often.
            timeout: seconds to wait for the lock; None to wait as long as it takes, or until the
                deadline.
            bucket: the name of the bucket. It is created if it does not exist.

        Raises:
            ConfigError: an option is wrong; or, when the block begins, the server or the bucket
                cannot hold leases, or this task holds the lock already.
            LockTimeoutError: when the block begins: the lock was not acquired within `timeout`.
            LockLostError: when the block ends: the lock was lost.
            TidingsError: when the block begins: JetStream is off, or refuses.

        Example:
            ```python
            async with app.lock("report", timeout=5) as lock:
                await app.publish("reports.begin", {"token": lock.token})
            ```
        """
        from tidings.jetstream.locks.lock import Lock

        def holder() -> str:  # when the block begins: a forked process is another instance
            return f"{self.service_name}/{self.instance_id}"

        return Lock(self._host, name, holder=holder, lease=lease, timeout=timeout, bucket=bucket)

    # Other services.

    @functools.cached_property
    def services(self) -> AppServices:
        """Finds services and their instances, in any language (NATS ADR-32)."""
        from tidings.services import AppServices

        return AppServices(self._current)

    # Declaring.

    @called("include()", hint="app.include(group)")
    def include(self, group: Group) -> None:
        """Add the listeners of a group, under its prefix, and everything else that it declares.

        Raises:
            ConfigError: this is not a Group, the app is already running, another consumer has the
                same stream and durable name as one of the group, or another job or leader has the
                same name.
        """
        if not isinstance(group, Group):
            raise ConfigError(
                f"include() takes a Group, got a {type(group).__name__}: write Group('prefix'), "
                f"declare with its decorators, and include it"
            )
        self._declaring("include")
        self._warn_of_second_include(group)
        declared = group.declared()
        for spec in declared.consumers:
            spec.check_unique(self._consumer_specs)
        for cron in declared.crons:
            cron.check_unique(self._cron_specs)
        for leader in declared.leaders:
            leader.check_unique(self._leader_specs)
        self._listener_specs.extend(declared.listeners)
        self._consumer_specs.extend(declared.consumers)
        self._watch_specs.extend(declared.watches)
        self._task_specs.extend(declared.tasks)
        self._cron_specs.extend(declared.crons)
        self._leader_specs.extend(declared.leaders)
        group.include_done()

    def _warn_of_second_include(self, group: Group) -> None:
        place = caller_place()
        if group in self._included:
            logger.warning(
                "the group %r is included twice, at %s and at %s, so each of its handlers runs "
                "twice for each message; remove one of the two calls",
                *(group.prefix, self._included[group], place),
            )
        self._included[group] = place

    def add_middleware(self, cls: type[Middleware], *args: Any, **kwargs: Any) -> None:
        """Add a middleware around everything that is sent and handled. The last one is outermost.

        Args:
            cls: a subclass of `Middleware`. The app makes an instance at each start.
            args: arguments of its `__init__`.
            kwargs: keyword arguments of its `__init__`.

        Raises:
            ConfigError: the class is not a subclass of Middleware, one of its hooks would not run,
                or the app is already running.
            TypeError: its `__init__` does not take these arguments.
        """
        self._declaring("add_middleware")
        self._middleware_specs.append(MiddlewareSpec(cls, args, kwargs))

    @property
    def drain_timeout(self) -> float:
        """Seconds that shutdown waits for work in progress. You may set it while the app runs.

        Raises:
            ConfigError: the new value is not a positive number.
        """
        return self._drain_timeout

    @drain_timeout.setter
    def drain_timeout(self, seconds: Seconds) -> None:
        self._drain_timeout = check_seconds("drain_timeout", seconds)
        if self._run is not None:
            self._run.drain_timeout = self._drain_timeout

    @property
    def middlewares(self) -> tuple[MiddlewareSpec, ...]:
        """The middlewares that were added, innermost first."""
        return tuple(self._middleware_specs)

    @called("on_startup()", hint="@app.on_startup, without parentheses")
    def on_startup(self, function: F) -> F:
        """Run the decorated function when the app is connected, before the first message.

        An `async def` function runs on the event loop, a `def` function in a thread.
        """
        check_handler(function, "")
        self._declaring("on_startup")
        self._startup_hooks.append(function)
        return function

    @called("on_ready()", hint="@app.on_ready, without parentheses")
    def on_ready(self, function: F) -> F:
        """Run the decorated function once the app receives messages, before its tasks start.

        The server has confirmed every subscription, and the consumers and watches have started, so
        a request to the app's own listeners is answered. An `async def` function runs on the event
        loop, a `def` function in a thread. If the function raises, the start fails: the app
        finishes the messages that it has received, closes, and raises the error.

        Example:
            ```python
            @app.on_ready
            async def announce():
                await app.publish("services.started", {"name": app.service_name})
            ```
        """
        check_handler(function, "")
        self._declaring("on_ready")
        self._ready_hooks.append(function)
        return function

    @called("on_shutdown()", hint="@app.on_shutdown, without parentheses")
    def on_shutdown(self, function: F) -> F:
        """Run the decorated function after the last message, while the app is still connected.

        An `async def` function runs on the event loop, a `def` function in a thread. If it does not
        end within the drain timeout, the app ends without it.
        """
        check_handler(function, "")
        self._declaring("on_shutdown")
        self._shutdown_hooks.append(function)
        return function

    @overload
    def health(self, function: F, /) -> F: ...

    @overload
    def health(
        self, /, *, name: str | None = None, timeout: Seconds = DEFAULT_TIMEOUT
    ) -> Callable[[F], F]: ...

    @called("health()", hint="@app.health")
    def health(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        timeout: Seconds = DEFAULT_TIMEOUT,
    ) -> Any:
        """Add a check to the health of the app. The app is ready while every check succeeds.

        A check succeeds if it returns True or None. It fails if it returns False, raises, or takes
        too long. It runs each time that somebody asks whether the app is ready: an `async def`
        function on the event loop, a `def` function in a thread. `/livez` does not ask it: the
        process is not restarted because a database is down.

        Args:
            function: the check, without arguments.
            name: its name in the answer; None for the name of the function.
            timeout: the limit of one check, in seconds.

        Raises:
            ConfigError: a wrong function, name or timeout, a second check with the same name, or
                the app is already running.

        Example:
            ```python
            @app.health
            async def database():
                await app.state.pool.execute("SELECT 1")

            @app.health(name="disk", timeout=1)
            def has_space():
                return shutil.disk_usage("/").free > 1e9
            ```
        """

        def declare(function: F) -> F:
            self._declaring("health")
            check = HealthCheck.of(function, name, check_seconds("timeout", timeout))
            if any(each.name == check.name for each in self._health_checks):
                raise ConfigError(
                    f"health: there is a check {check.name!r} already; give this one another "
                    f"name=, as in @app.health(name='database')"
                )
            self._health_checks.append(check)
            return function

        return declare if function is None else declare(function)

    @called("on()", hint='@app.on("disconnected")')
    def on(self, event: str) -> Callable[[F], F]:
        """Call the decorated function, `def` or `async def`, on an event of the connection.

        Args:
            event: "connected", "disconnected", "reconnected", "lame_duck" (the server will shut
                down soon), "slow_consumer", "error" or "closed".

        Raises:
            ConfigError: there is no such event, or the function does not take one argument, the
                ConnectionEvent.

        Example:
            ```python
            @app.on("disconnected")
            def on_disconnected(event):
                print("lost the server:", event.error)
            ```
        """
        if callable(event):
            raise ConfigError('on needs an event: @app.on("disconnected")')
        if event not in EVENTS:
            hint = _HOOKS.get(str(event), f"write one of {', '.join(EVENTS)}")
            raise ConfigError(f"on({event!r}): there is no such event; {hint}")

        def declare(function: F) -> F:
            check_handler(function, "the event")
            self._events.add(event, function)
            return function

        return declare

    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Connect to other servers than those given at first. For command lines and tests.

        The arguments of the app still count, for example its credentials. The environment and
        contexts no longer do.

        Raises:
            ConfigError: the app is already running, or this is not a URL.
        """
        from tidings.transport.options import server_urls

        if self._run is not None:
            raise ConfigError(
                "the app is already running: set its servers, or enter its test client, before it "
                "starts"
            )
        launch = self._launch
        launch.connection = launch.connection.with_servers(server_urls(servers))

    def _declaring(self, call: str) -> None:
        if self._run is not None:
            raise ConfigError(
                f"{call}: the app is already running; declare before it starts, or subscribe with "
                f"subscribe_new_subject"
            )

    def _add_consumer(self, spec: ConsumerSpec) -> None:
        if self._run is None:
            super()._add_consumer(spec)
        else:
            self._host.consume_soon(spec)

    def _add_watch(self, spec: WatchSpec) -> None:
        if self._run is None:
            super()._add_watch(spec)
        else:
            self._host.watch_soon(spec)

    # Running: several ways, one lifecycle.

    def run(self) -> None:
        """Run until SIGTERM, SIGINT, SIGHUP or `disconnect()`, then drain and return.

        This returns, or the process ends, at most `drain_timeout` and two seconds after the first
        signal, even if a handler blocks the event loop. A second signal, at least one second after
        the first, ends the process at once.

        If the program has not configured logging, this writes one line to standard error when the
        app has started.

        Raises:
            SystemExit: with 1, if no server could be reached, work was abandoned or the connection
                was given up. The log says which; without a configuration of logging, Python
                writes it to standard error.
            ConfigError: an event loop runs here already (write `async with app`), this is not the
                main thread (write `with app`), or `tidings run` is importing the module and will
                run the app itself.
        """
        from tidings.process.runner import run_program

        run_program(
            self._start, drain_timeout=lambda: self.drain_timeout, use_uvloop=self.use_uvloop
        )

    start = run

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if error is not None:
            add_hint(error)
        if self._run is None and self._last is not None:
            await self._last.wait()
        else:
            await asyncio.shield(self._begin_end("disconnect"))

    def __enter__(self) -> Self:
        from tidings.process.runner import BackgroundRun

        self._background = BackgroundRun(
            self._start, drain_timeout=lambda: self.drain_timeout, use_uvloop=self.use_uvloop
        )
        self._background.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if error is not None:
            add_hint(error)
        background, self._background = self._background, None
        if background is not None:
            background.stop()

    async def connect(self) -> None:
        """Start in the running event loop, and return when listeners and tasks are at work.

        `disconnect` is its counterpart: `async with app` calls both. Use these two where the start
        and the end of your program are in different places, such as the hooks of a framework. The
        app installs no signal handlers; the owner of the event loop decides when it ends.

        If the call raises or is cancelled, everything is closed again. After `disconnect` the app
        may connect again.

        Raises:
            ConfigError: the app has started already and has not ended yet.
            ConnectError: no server could be reached.
            Exception: whatever else stopped the start, such as an error in `on_startup`.

        Example:
            ```python
            import asyncio

            async def main():
                await app.connect()
                try:
                    print(await app.request("greet", {"name": "Ada"}))
                finally:
                    await app.disconnect()
            ```
        """
        await self._start()

    async def disconnect(self) -> None:
        """Drain and close: stop the tasks, finish and answer what was taken. Then `run` returns.

        In a handler, task or on_startup function of the app, this begins the end and returns at
        once, because it cannot wait for its caller.

        Raises:
            WrongLoopError: awaited in another event loop than the app's.
            ForkedError: the app runs in the process from which this one was forked.
            DrainTimeoutError: work was abandoned after `drain_timeout`.
        """
        if self._is_over("app.disconnect"):
            return
        starting = self._run is not None and self._run.is_starting
        ending = self._begin_end("disconnect")
        if not inside.get() and not starting:
            await asyncio.shield(ending)

    def disconnect_sync(self) -> None:
        """`disconnect` from synchronous code.

        Raises:
            LoopThreadError: on the event loop's own thread.
            DrainTimeoutError: as `disconnect`.
        """
        if self._is_over("app.disconnect_sync"):
            return
        work = self._begin_for_thread()
        ended = self._current.run(work, "disconnect_sync", "await app.disconnect()")
        if not inside.get():
            ended.result()

    def _is_over(self, call: str) -> bool:
        if self._current.is_forked:
            raise self._current.error(call)
        return self._run is None

    def _begin_end(self, call: str) -> asyncio.Task[None]:
        """Begin to drain, in the app's own event loop. Returns what to await."""
        if self._run is None:
            raise self._current.error(call)
        self._run.link.home.check(call)
        return self._run.begin_end()

    async def _begin_for_thread(self) -> concurrent.futures.Future[None]:
        # A coroutine that waited here for the end would be work that the end waits for.
        ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        ending = self._begin_end("disconnect")
        ending.add_done_callback(lambda done: copy_outcome(done, ended))
        return ended

    async def wait_stopped(self) -> None:
        """Return when the app has ended, through `disconnect()` or a connection that was given up.

        Raises:
            DrainTimeoutError: work was abandoned.
            ConnectionClosedError: the connection was given up.
            NotStartedError: the app was never started.
            WrongLoopError: awaited in another event loop than the app's.
        """
        if self._run is not None:
            self._run.link.home.check("wait_stopped")
            await self._run.wait_stopped()
        elif self._last is not None:
            await self._last.wait()
        else:
            raise self._current.error("wait_stopped")

    async def _start(self) -> Run:
        """Start, and return the run when listeners and tasks are at work."""
        from tidings.lifecycle import Run

        if self._run is not None:
            raise ConfigError(
                f"the app is {self._run.state.value} already. It can start again when it has "
                f"ended: await app.disconnect() first"
            )
        check_asyncio()
        # What the run starts works for others, too, and longer than a deadline of the caller.
        with working_until(None):
            plan = self._plan(self._launch.connection.resolve())
            observers = self._observers()
            run = self._run = Run(plan, self._current, self._host, observers, self._on_end)
            await run.begin()
        return run

    def _plan(self, connection: ConnectionOptions) -> Plan:
        from tidings.plan import Plan

        lifespan = self._lifespan
        return Plan(
            service_name=self.service_name,
            instance_id=self.instance_id,
            version=self.version,
            description=self.description,
            metadata=self.metadata,
            discoverable=self.discoverable,
            queue=self.queue,
            concurrency=self._concurrency,
            request_timeout=self._request_timeout,
            drain_timeout=self._drain_timeout,
            connection=connection,
            middlewares=tuple(self._middleware_specs),
            listeners=tuple(self._listener_specs),
            consumers=(
                *self._consumer_specs,
                *(spec.consumer(self.service_name) for spec in self._cron_specs),
            ),
            crons=tuple(self._cron_specs),
            watches=tuple(self._watch_specs),
            tasks=tuple(self._task_specs),
            leaders=tuple(self._leader_specs),
            lifespan=None if lifespan is None else functools.partial(lifespan, self),
            startup=tuple(self._startup_hooks),
            ready=tuple(self._ready_hooks),
            shutdown=tuple(self._shutdown_hooks),
            events=self._events,
            health=tuple(self._health_checks),
            is_measured=self._launch.monitor is not None or self._launch.is_measured,
        )

    def _observers(self) -> list[Callable[[Run], Observer]]:
        launch = self._launch
        if launch.monitor is None:
            return launch.observers
        # The monitor is an integration, which the core does not import.
        monitor = importlib.import_module("tidings.contrib.monitor")
        return [*launch.observers, functools.partial(monitor.serve, address=launch.monitor)]

    def _on_end(self, outcome: Outcome | None) -> None:
        """Let go of the run. An outcome of None leaves nothing to ask for."""
        self._run, self._last = None, outcome
        if outcome is None:
            self._background = None

    # What the app knows.

    @property
    def is_running(self) -> bool:
        """Whether listeners and tasks are at work."""
        return (run := self._run) is not None and run.is_running

    @property
    def instance_id(self) -> str:
        """The ID of this instance of the service, 22 characters, in logs and for discovery.

        It is random, and another one in each process.

        Example:
            ```python
            assert len(app.instance_id) == 22
            ```
        """
        if self._instance[0] != os.getpid():  # a forked child is another instance
            self._instance = _new_instance()
        return self._instance[1]

    @property
    def servers(self) -> tuple[str, ...]:
        """The URLs of the servers, as they were given.

        Raises:
            ConfigError: the environment or a context names servers that cannot be used.
        """
        return self._launch.connection.servers

    @property
    def connected_url(self) -> str | None:
        """The URL of the server that the app is connected to, without credentials, or None."""
        return None if (run := self._run) is None else run.connection.url

    def stats(self) -> AppStats:
        """What was counted up to now; before the start zeros, after the end the last counts.

        Raises:
            ForkedError: the app runs in the process from which this one was forked.

        Example:
            ```python
            @app.listen("greet")
            async def greet(msg):
                return {"hello": msg.data["name"]}

            print(app.stats().listeners[0].handled)    # 0
            ```
        """
        if (run := self._run) is not None:  # another thread than the loop's may ask
            return run.stats()
        if self._current.is_forked:
            raise self._current.error("stats")
        if self._last is not None:
            return self._last.stats
        return self._plan(self._launch.connection.arguments).stats()

    def __repr__(self) -> str:
        state = "idle" if (run := self._run) is None else run.state.value
        return f"<App {self.service_name!r} {state}>"


def _check_identity(
    name: object,
    version: str,
    description: str,
    metadata: Mapping[str, str] | None,
    discoverable: bool,
) -> None:
    """Check what an app says of itself.

    Raises:
        ConfigError: an argument that cannot work.
    """
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(
            f"service_name must be a name for this service, as in App('billing'), got {name!r}"
        )
    if check_flag("discoverable", discoverable):
        check_version(version)
    check_text("version", version, may_be_empty=True)
    check_text("description", description, may_be_empty=True)
    if metadata is not None:
        check_metadata("metadata", metadata)


def _new_instance() -> tuple[int, str]:
    """Return the ID of this process and a new ID of an instance in it."""
    return os.getpid(), os.urandom(11).hex()
