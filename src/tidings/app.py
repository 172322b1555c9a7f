"""App: decorators and lifecycle only."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import enum
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, TypeVar

from tidings.bus import Bus
from tidings.cautions import warn_of_declarations
from tidings.checks import check_flag, check_seconds, check_text, check_whole
from tidings.concurrency.forks import forget_after_fork, release_signals
from tidings.concurrency.pool import inside
from tidings.concurrency.portal import copy_outcome
from tidings.declarations import Declarations, Group
from tidings.errors import (
    ConfigError,
    ConnectionClosedError,
    DisconnectedError,
    DrainTimeoutError,
    TidingsError,
)
from tidings.functions import function_place
from tidings.handlers.events import EVENTS, ConnectionEvent, EventHooks
from tidings.handlers.hooks import call_hook, let_finish, noted
from tidings.handlers.middleware import Middleware, MiddlewareSpec
from tidings.handlers.queue_groups import queue_groups
from tidings.handlers.signatures import check_handler
from tidings.handlers.subscriptions import Subscriptions
from tidings.handlers.tasks import Task
from tidings.handlers.watchdog import Watchdog
from tidings.jetstream.consumer.consumers import Consumers
from tidings.jetstream.consumer.spec import ConsumerSpec, check_unique
from tidings.jetstream.context import JetStream
from tidings.jetstream.kv.watchers import Watchers
from tidings.jetstream.streams.stream import Stream
from tidings.log import logger
from tidings.process.runner import BackgroundRun, run_until_stopped
from tidings.stats import AppStats
from tidings.subject import check_queue
from tidings.transport.connection import Connection
from tidings.transport.credentials import Secret, SecretFile
from tidings.transport.options import ConnectionOptions, server_urls

F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

# Seconds that on_shutdown hooks have at the least, where the drain timeout is used up, and seconds
# in which they have to follow their cancellation after that.
HOOK_GRACE = 0.75
CANCEL_GRACE = 0.25


class State(enum.Enum):
    """Where an app is in its life."""

    IDLE = "idle"  # declared, or ended; may be started
    STARTING = "starting"  # connecting, then on_startup, then subscribing
    RUNNING = "running"  # listeners and tasks at work
    DRAINING = "draining"  # no new message is taken; what was taken is finished


class App(Declarations):
    """A service on NATS: decorated functions that listen, answer, and run periodically.

    Args:
        service_name: the service's name, in logs, in errors it answers with, and in the server's
            monitoring.
        host: the server's host, with `port`, in place of `servers`.
        port: the server's port.
        servers: a URL or several; `$NATS_URL` where None, else nats://127.0.0.1:4222.
        queue: first word of the queue groups of listeners that name none: `orders` gives
            `orders.<handler>`. The service's name where None; "" for no groups, so that every
            instance handles every message.
        version: the service's version.
        description: what it does, in a line.
        concurrency: handlers of one listener at work at a time.
        request_timeout: default timeout of `request`, in seconds.
        drain_timeout: seconds that shutdown waits for work in progress; `run` ends the process two
            seconds after that, whatever blocks.
        lifespan: an async context manager made with the app: entered before the first message,
            left after the last.
        streams: streams to create, or bring to what is declared, at start.
        user: user name, with `password`.
        password: the password, or a function that returns it, called at each connect.
        token: a token in their place, or a function that returns it.
        credentials: a credentials file (JWT and seed): its path, its content, or a function that
            returns one of them.
        nkey_seed: an nkey seed, the path of a file with it, or a function that returns one of them.
        tls: TLS context; TLS is then never optional.
        tls_hostname: the name expected in the server's certificate.
        tls_cert: path of the client's certificate, with `tls_key`, in place of `tls`.
        tls_key: path of its key.
        tls_ca: path of the authorities of the server's certificate, in place of `tls`.
        tls_handshake_first: begin with the TLS handshake, before the server's greeting.
        ignore_discovered_servers: connect to `servers` only, not to those that the cluster
            announces.
        randomize_servers: try the servers in random order.
        inbox_prefix: first tokens of reply subjects.
        connect_timeout: seconds to reach one server and be accepted.
        reconnect_time_wait: seconds between two rounds over the servers, at the most.
        max_reconnect_attempts: rounds before giving up; -1 never does.
        ping_interval: seconds between PINGs.
        max_outstanding_pings: unanswered PINGs before the connection counts as dead.
        pending_size: bytes that may wait to be sent.
        wait_for_server: wait at start until a server is there.
        use_uvloop: let `run` and `with app` use uvloop where it is installed.

    Raises:
        ConfigError: an option that cannot work. A misspelt one is a TypeError.

    Attributes:
        js: JetStream: publish to streams, key-value, objects.
        nats: the `Bus`: every call of it stands on the app too.
        state: a namespace for what handlers share.
        logger: the logger `tidings`.
        drain_timeout: seconds that shutdown waits for work in progress.
        queue: first word of the queue groups of listeners that name none; None for the service's
            name, "" for no groups.
        use_uvloop: whether `run` and `with app` use uvloop where it is installed.

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
        queue: str | None = None,
        version: str = "0.0.0",
        description: str = "",
        concurrency: int = 100,
        request_timeout: float = 10.0,
        drain_timeout: float = 8.0,
        lifespan: Lifespan | None = None,
        streams: Sequence[Stream] = (),
        user: str | None = None,
        password: Secret | None = None,
        token: Secret | None = None,
        credentials: SecretFile | None = None,
        nkey_seed: SecretFile | None = None,
        tls: ssl.SSLContext | None = None,
        tls_hostname: str | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        tls_ca: str | Path | None = None,
        tls_handshake_first: bool = False,
        ignore_discovered_servers: bool = False,
        randomize_servers: bool = True,
        inbox_prefix: str = "_INBOX",
        connect_timeout: float = 5.0,
        reconnect_time_wait: float = 2.0,
        max_reconnect_attempts: int = -1,
        ping_interval: float = 10.0,
        max_outstanding_pings: int = 2,
        pending_size: int = 32 * 1024 * 1024,
        wait_for_server: bool = False,
        use_uvloop: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(service_name, str) or not service_name.strip():
            raise ConfigError("service_name is a word for this service, as App('billing')")
        check_text("version", version, may_be_empty=True)
        check_text("description", description, may_be_empty=True)
        check_flag("use_uvloop", use_uvloop)
        if lifespan is not None and not callable(lifespan):
            raise ConfigError(
                f"lifespan={lifespan!r}: what makes an async context manager of the app"
            )
        check_whole("concurrency", concurrency)
        request_timeout = check_seconds("request_timeout", request_timeout)
        if queue is not None:
            check_queue(queue)
        self.service_name = service_name
        self.queue = queue
        self.version = version
        self.description = description
        self.state = SimpleNamespace()
        self.logger = logging.getLogger("tidings")
        self.drain_timeout = drain_timeout
        self._at_shutdown = ""  # what runs at the end; "" once everything has ended
        self._lifespan = lifespan
        self.use_uvloop = use_uvloop
        self._options = ConnectionOptions(
            servers=server_urls(servers, host, port),
            name=service_name,
            user=user,
            password=password,
            token=token,
            credentials=credentials,
            nkey_seed=nkey_seed,
            tls=tls,
            tls_hostname=tls_hostname,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            tls_handshake_first=tls_handshake_first,
            ignore_discovered_servers=ignore_discovered_servers,
            randomize_servers=randomize_servers,
            inbox_prefix=inbox_prefix,
            connect_timeout=connect_timeout,
            reconnect_time_wait=reconnect_time_wait,
            max_reconnect_attempts=max_reconnect_attempts,
            ping_interval=ping_interval,
            max_outstanding_pings=max_outstanding_pings,
            pending_size=pending_size,
            wait_for_server=wait_for_server,
        )
        self.nats = Bus(
            service_name,
            concurrency=concurrency,
            request_timeout=request_timeout,
            tell=self._on_event,
        )
        self.js = JetStream(self.nats, streams)
        self._middleware_specs: list[MiddlewareSpec] = []
        self._startup_hooks: list[Callable[[], Any]] = []
        self._shutdown_hooks: list[Callable[[], Any]] = []
        self._events = EventHooks()
        self._lifecycle = State.IDLE
        self._tasks: list[Task] = []
        self._ending: asyncio.Task[None] | None = None
        self._stopping: asyncio.Event | None = None
        self._fatal: TidingsError | None = None
        self._consumers: Consumers | None = None
        self._watchers: Watchers | None = None
        self._background: BackgroundRun | None = None
        self._stack = AsyncExitStack()
        # The bus's own methods, so that a call through the app costs nothing more.
        self.publish = self.nats.publish
        self.publish_sync = self.nats.publish_sync
        self.publish_from_another_thread = self.nats.publish_from_another_thread
        self.request = self.nats.request
        self.request_sync = self.nats.request_sync
        self.request_from_another_thread = self.nats.request_from_another_thread
        self.subscribe_new_subject = self.nats.subscribe_new_subject
        self.subscribe_new_subject_sync = self.nats.subscribe_new_subject_sync
        self.unsubscribe_subject = self.nats.unsubscribe_subject
        self.unsubscribe_subject_sync = self.nats.unsubscribe_subject_sync
        self.unsubscribe_ssid = self.nats.unsubscribe_ssid
        self.unsubscribe_ssid_sync = self.nats.unsubscribe_ssid_sync
        self.flush = self.nats.flush

    # Declaring.

    def include(self, group: Group) -> None:
        """Add a group's listeners, under its prefix, and its tasks.

        Raises:
            ConfigError: no Group; the app runs already; or a consumer of the group has the stream
                and durable name of another one.
        """
        if not isinstance(group, Group):
            raise ConfigError(f"include takes a Group, not {type(group).__name__}")
        self._declaring("include")
        for spec in group.consumers:
            check_unique(spec, self._consumer_specs)
        self._listener_specs.extend(group.listeners)
        self._consumer_specs.extend(group.consumers)
        self._watch_specs.extend(group.watches)
        self._task_specs.extend(group.tasks)
        group.include_done()

    def add_middleware(self, cls: type[Middleware], *args: Any, **kwargs: Any) -> None:
        """Add a middleware around what is sent and handled; the last added is outermost.

        Args:
            cls: a subclass of `Middleware`.
            args: arguments of its `__init__`.
            kwargs: keyword arguments of its `__init__`.

        Raises:
            ConfigError: no subclass of Middleware, one with a hook that would not run, or the app
                runs already.
            TypeError: arguments that its `__init__` does not take.
        """
        self._declaring("add_middleware")
        self._middleware_specs.append(MiddlewareSpec(cls, args, kwargs))

    @property
    def drain_timeout(self) -> float:
        """Seconds that shutdown waits for work in progress. May be set until the app stops.

        Raises:
            ConfigError: when it is set to anything but a number of seconds above 0.
        """
        return self._drain_timeout

    @drain_timeout.setter
    def drain_timeout(self, seconds: float) -> None:
        self._drain_timeout = check_seconds("drain_timeout", seconds)

    @property
    def middlewares(self) -> tuple[MiddlewareSpec, ...]:
        """The middlewares added, innermost first."""
        return tuple(self._middleware_specs)

    def on_startup(self, function: F) -> F:
        """Run the decorated function when the app is connected, before the first message.

        An `async def` function runs on the event loop, a `def` function in a thread.
        """
        check_handler(function, "")
        self._declaring("on_startup")
        self._startup_hooks.append(function)
        return function

    def on_shutdown(self, function: F) -> F:
        """Run the decorated function after the last message, while the app is still connected.

        An `async def` function runs on the event loop, a `def` function in a thread. One that does
        not end within the drain timeout is left behind.
        """
        check_handler(function, "")
        self._declaring("on_shutdown")
        self._shutdown_hooks.append(function)
        return function

    def on(self, event: str) -> Callable[[F], F]:
        """Call the decorated function, `def` or `async def`, on an event of the connection.

        Args:
            event: "connected", "disconnected", "reconnected", "lame_duck" (the server will shut
                down soon), "slow_consumer", "error" or "closed".

        Raises:
            ConfigError: another event, or a function that does not take one argument (the
                ConnectionEvent).

        Example:
            ```python
            @app.on("disconnected")
            def tell(event):
                print("lost the server:", event.error)
            ```
        """
        if event not in EVENTS:
            raise ConfigError(f"on({event!r}): the events are {', '.join(EVENTS)}")

        def declare(function: F) -> F:
            check_handler(function, "the event")
            self._events.add(event, function)
            return function

        return declare

    def set_servers(self, servers: str | Sequence[str]) -> None:
        """Use other servers than those given at first. For command lines and tests.

        Raises:
            ConfigError: the app runs already, or a URL that is none.
        """
        self._declaring("set_servers")
        self._options = self._options.with_servers(server_urls(servers))

    def _declaring(self, call: str) -> None:
        if self._lifecycle is not State.IDLE:
            raise ConfigError(
                f"{call}: the app runs already; declare before it starts, or subscribe with "
                f"subscribe_new_subject"
            )

    # Running: three ways, one lifecycle.

    def run(self) -> None:
        """Run until SIGTERM, SIGINT, SIGHUP or `disconnect()`, then drain and return.

        At most `drain_timeout` and two seconds after the first signal the process has ended or this
        returns, even if a handler blocks the event loop. A second signal, at least one second after
        the first, ends the process at once.

        Raises:
            SystemExit: with 1, when work was abandoned or the connection was given up.
            ConnectError: no server could be reached.
            ConfigError: called inside a running event loop, where `async with app` works; outside
                the main thread, where `with app` works; or while `tidings run` imports the module,
                which would end up with two runs.
        """
        run_until_stopped(self, use_uvloop=self.use_uvloop)

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
        await asyncio.shield(self.begin_disconnect())

    def __enter__(self) -> Self:
        self._background = BackgroundRun(self, use_uvloop=self.use_uvloop)
        self._background.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        background, self._background = self._background, None
        if background is not None:
            background.stop()

    async def disconnect(self) -> None:
        """Drain and close: tasks stop, what was taken is finished and answered; `run` returns.

        Called in one of the app's own handlers, tasks or on_startup it begins this and returns at
        once, since it cannot wait for its caller.

        Raises:
            WrongLoopError: awaited in another event loop than the app's.
            ForkedError: the app runs in the process that this one was forked from.
            DrainTimeoutError: work was abandoned after `drain_timeout`.
        """
        if self._is_over("app.disconnect"):
            return
        starting = self._lifecycle is State.STARTING
        ending = self.begin_disconnect()
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
        ended = self.nats.portal.run(work, "disconnect_sync", "await app.disconnect()")
        if not inside.get():
            ended.result()

    def _is_over(self, call: str) -> bool:
        if self.nats.is_forked:
            raise self.nats.not_running(call)
        return self._lifecycle is State.IDLE

    async def _begin_for_thread(self) -> concurrent.futures.Future[None]:
        # A coroutine that waited here for the end would be work that the end waits for.
        ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.begin_disconnect().add_done_callback(lambda ending: copy_outcome(ending, ended))
        return ended

    async def wait_stopped(self) -> None:
        """Return when the app has ended, by `disconnect()` or because the connection was given up.

        Raises:
            DrainTimeoutError: work was abandoned.
            ConnectionClosedError: the connection was given up.
            NotStartedError: the app was never started.
            WrongLoopError: awaited in another event loop than the app's.
        """
        if self._stopping is None:
            raise self.nats.not_running("wait_stopped")
        if self._lifecycle in (State.RUNNING, State.DRAINING):
            self.nats.check("wait_stopped")
        await self._stopping.wait()
        assert self._ending is not None
        await asyncio.shield(self._ending)

    # The lifecycle.

    async def _start(self) -> None:
        if self._lifecycle is not State.IDLE:
            raise ConfigError(f"the app is {self._lifecycle.value} already")
        self._lifecycle = State.STARTING
        forget_after_fork(self)
        self._ending = self._fatal = self._consumers = self._watchers = None
        self._started, self._stopping = asyncio.Event(), asyncio.Event()
        self._connection = Connection(self._options, self._on_event)
        try:
            await self._connection.open()
            warn_of_declarations(
                *(self._listener_specs, self._consumer_specs, self._watch_specs, self.js.streams)
            )
            middlewares = [spec.make() for spec in self._middleware_specs]
            self.nats.attach(self._connection, middlewares)
            self.js.attach(self._connection, middlewares)
            await self.js.apply()
            await self.js.open_buckets()
            if self._lifespan is not None:
                with noted("the lifespan", self._lifespan):
                    await self._stack.enter_async_context(self._lifespan(self))
            for hook in self._startup_hooks:
                with noted("on_startup", hook):
                    await call_hook(hook)
            await self._subscribe_listeners()
            self._consumers = Consumers(
                self.js.api,
                self._subscriptions.pool,
                middlewares,
                service=self.service_name,
                restore_stream=self.js.restore_stream,
            )
            await self._consumers.start(self._consumer_specs, self.nats.concurrency)
            self._watchers = Watchers(self.js, self._subscriptions.pool, middlewares)
            await self._watchers.start(self._watch_specs, self.js.bucket_types)
            self._watchdog = Watchdog()
            self._watchdog.start()
        except BaseException:
            await self._abort_start()
            raise
        self._connection.waits = False
        self._tasks = [Task(spec) for spec in self._task_specs]
        self._lifecycle = State.RUNNING
        for task in self._tasks:
            task.start()
        self._started.set()
        parts = [f"listens ({len(self._listener_specs)})"]
        if self._consumer_specs:
            parts.append(f"consumes ({len(self._consumer_specs)})")
        what = " and ".join(parts)
        logger.info("%s %s on %s", self.service_name, what, self._connection.url)

    async def _subscribe_listeners(self) -> None:
        """Subscribe the listeners, and return when the server has the subscriptions."""
        specs = self._listener_specs
        sids: list[int] = []
        for spec, queue in zip(
            specs, queue_groups(self.service_name, self.queue, specs), strict=True
        ):
            sids += self.nats.subscribe(spec, queue)
        while True:
            try:
                await self._subscriptions.confirm(sids, self.nats.request_timeout)
                return
            except DisconnectedError:
                if not self._connection.waits:
                    raise
            await self._connection.connected()

    async def _abort_start(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if self._consumers is not None:
            with contextlib.suppress(TidingsError):  # what stopped the start is told already
                await self._consumers.stop(self.nats.request_timeout)
            self._consumers.abandon()
        if self._watchers is not None:
            self._watchers.abandon()
        if self.nats.subscriptions is not None:
            await self._subscriptions.close()
        try:
            await self._leave_lifespan()
        finally:
            await self._connection.close()
            self.nats.detach()
            self.js.detach()
            self._lifecycle = State.IDLE

    async def _leave_lifespan(self) -> None:
        """Leave what the start entered, within the drain timeout."""
        leaving = asyncio.create_task(self._stack.aclose(), name="tidings lifespan")
        if await _ends_by(leaving, asyncio.get_running_loop().time() + self.drain_timeout):
            leaving.result()
        else:
            logger.error("the lifespan did not end within the drain timeout; it is left behind")

    def begin_disconnect(self) -> asyncio.Task[None]:
        """Begin to drain, in the app's own event loop; returns what to await."""
        if self._lifecycle in (State.RUNNING, State.DRAINING):
            self.nats.check("disconnect")
        if self._ending is None:
            if self._lifecycle is State.IDLE or self._stopping is None:
                raise self.nats.not_running("disconnect")
            self._ending = asyncio.create_task(self._drain(), name="tidings drain")
            self._stopping.set()
        return self._ending

    async def _drain(self) -> None:
        await self._started.wait()  # disconnect() in on_startup ends the app once it runs
        self._lifecycle = State.DRAINING
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.drain_timeout
        await asyncio.gather(*(task.stop() for task in self._tasks))
        try:
            async with asyncio.timeout_at(deadline):
                await self._finish_work()
        except TimeoutError:
            pass  # what is left is counted now
        assert self._consumers is not None
        assert self._watchers is not None
        abandoned = self._consumers.abandon() + self._watchers.abandon()
        abandoned += await self._subscriptions.close()
        await self._run_shutdown_hooks(max(deadline, loop.time() + HOOK_GRACE))
        unsent = await self._send_rest(deadline)
        await self._connection.close()
        self.nats.detach()
        self.js.detach()
        self._watchdog.stop()
        self._lifecycle = State.IDLE
        left = f"{self._at_shutdown} did not end" if self._at_shutdown else ""
        if abandoned or unsent or left:
            raise DrainTimeoutError(self.drain_timeout, abandoned, unsent, left)
        if self._fatal is not None:
            raise self._fatal
        logger.info("%s has ended", self.service_name)

    async def _finish_work(self) -> None:
        assert self._consumers is not None
        assert self._watchers is not None
        self.js.end_watches()  # a handler may be waiting for what comes next
        await self.nats.take_published()
        for stop in (self._consumers.stop, self._watchers.stop, self._subscriptions.end_all):
            try:
                await stop(self.nats.request_timeout)
            except TidingsError as error:
                logger.warning("messages under way may be lost at shutdown: %s", error)
        await self._subscriptions.finish()
        await self._consumers.finish()
        await self._watchers.finish()
        await self.nats.portal.finish()

    async def _run_shutdown_hooks(self, deadline: float) -> None:
        running = asyncio.create_task(self._call_shutdown_hooks(), name="tidings on_shutdown")
        if await _ends_by(running, deadline):
            self._at_shutdown = ""

    async def _call_shutdown_hooks(self) -> None:
        for hook in self._shutdown_hooks:
            self._at_shutdown = f"on_shutdown: {function_place(hook)}"
            await let_finish(call_hook(hook), self._at_shutdown)
        self._at_shutdown = "the end of the lifespan"
        await let_finish(self._stack.aclose(), self._at_shutdown)

    async def _send_rest(self, deadline: float) -> int:
        """Have the server confirm what is sent, waiting if it is away. Returns bytes left."""
        connection, outbox = self._connection, self._connection.outbox
        loop = asyncio.get_running_loop()
        while (outbox.unsent_bytes or outbox.unconfirmed) and not connection.is_closed:
            if loop.time() >= deadline:
                break
            try:
                await connection.confirm(max(deadline - loop.time(), 0.01))
            except TidingsError:
                await asyncio.sleep(0.02)
        return outbox.unsent_bytes

    def forget(self) -> None:
        """Count as not started in a forked child: the run goes on in the parent. For forks."""
        if self._lifecycle is State.IDLE:
            return
        self._lifecycle = State.IDLE
        self._background = self._ending = self._fatal = self._consumers = self._watchers = None
        self._tasks = []
        self._stack = AsyncExitStack()  # what the lifespan holds is the parent's
        self.nats.forget()
        self.js.forget()
        release_signals()

    # What the app knows.

    @property
    def is_running(self) -> bool:
        """Whether listeners and tasks are at work."""
        return self._lifecycle is State.RUNNING

    def unfinished(self) -> tuple[int, int]:
        """Messages that are queued or being handled, and bytes that are not sent. (0, 0) while the
        app does not run. May be called from any thread.
        """
        if self._lifecycle is State.IDLE or self.nats.subscriptions is None:
            return 0, 0
        stats = self.stats()
        messages = sum(each.pending + each.running for each in stats.listeners)
        messages += sum(each.pending + each.running for each in stats.consumers)
        messages += sum(each.pending + each.running for each in stats.watchers)
        return messages, self._connection.outbox.unsent_bytes

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers' URLs, as they were given."""
        return self._options.servers

    @property
    def connection_options(self) -> ConnectionOptions:
        """How it connects. For command lines."""
        return self._options

    @property
    def consumers(self) -> tuple[ConsumerSpec, ...]:
        """The consumers declared, those of included groups among them. For command lines."""
        return tuple(self._consumer_specs)

    @property
    def connected_url(self) -> str | None:
        """The URL of the server connected to, without credentials; None where there is none."""
        return self._connection.url if self._lifecycle is not State.IDLE else None

    def stats(self) -> AppStats:
        """What was counted up to now.

        Raises:
            NotStartedError: the app is not running.
        """
        subscriptions = self._subscriptions
        return AppStats(
            connection=self._connection.snapshot(),
            listeners=tuple(listener.snapshot() for listener in subscriptions.listeners),
            ended=subscriptions.ended,
            tasks=tuple(task.snapshot() for task in self._tasks),
            consumers=self._consumers.snapshot() if self._consumers is not None else (),
            watchers=self._watchers.snapshot() if self._watchers is not None else (),
        )

    @property
    def _subscriptions(self) -> Subscriptions:
        if self.nats.subscriptions is None:
            raise self.nats.not_running("subscriptions")
        return self.nats.subscriptions

    def _on_event(self, event: str, error: Exception | None) -> None:
        self._events.tell(ConnectionEvent(event, error))
        if event == "closed" and self._lifecycle is State.RUNNING:
            self._fatal = ConnectionClosedError("the app", str(error or "given up"))
            self.begin_disconnect()

    def __repr__(self) -> str:
        return f"<App {self.service_name!r} {self._lifecycle.value}>"


async def _ends_by(task: asyncio.Task[None], deadline: float) -> bool:
    """Wait for a task until the deadline, then cancel it. Returns whether it ended by itself.

    One that ignores its cancellation is left: the end of the app must not depend on it.
    """
    try:
        await asyncio.wait([task], timeout=deadline - asyncio.get_running_loop().time())
        if task.done():
            return True
    finally:
        task.cancel()
    await asyncio.wait([task], timeout=CANCEL_GRACE)
    return False
