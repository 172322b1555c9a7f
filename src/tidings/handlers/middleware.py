"""Middlewares: hooks around sending and handling. They are folded into one function at start."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from tidings.errors import ConfigError, RequestTimeoutError
from tidings.functions import function_name
from tidings.handlers.hook_checks import check_hooks, check_instance
from tidings.handlers.signatures import check_handler
from tidings.keywords import refuse_arguments
from tidings.log import logger
from tidings.message import Message
from tidings.text import printable

Handler = Callable[[Message[Any]], Awaitable[Any]]
Send = Callable[..., Awaitable[Any]]


class Middleware:
    """Base class of middlewares. Override the hooks that you need; the others cost nothing.

    `send_any` replaces each of `send_publish`, `send_request` and `send_stream` that you do not
    override. `listen_any` does the same for `listen_publish`, `listen_request` and `listen_stream`.
    A hook must await the function that it gets, or the message is not sent or handled. The last
    middleware that you add is the outermost.

    `add_middleware` refuses a public method whose name starts with `send_` or `listen_` but is not
    the name of a hook, and a name that is almost the name of a hook.

    Example:
        ```python
        from tidings import App, Middleware

        class Stamp(Middleware):
            def __init__(self, name: str) -> None:
                self.name = name

            async def send_any(self, subject, message, send_func, *args, **kwargs):
                headers = {"Sent-By": self.name, **(kwargs.pop("headers", None) or {})}
                return await send_func(subject, message, *args, headers=headers, **kwargs)

            async def listen_any(self, msg, callback):
                return await callback(msg)

        app = App("billing")
        app.add_middleware(Stamp, "billing")
        ```
    """

    async def send_publish(
        self, subject: str, message: Any, publish_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        """Wraps `publish`. `kwargs` contains reply_to, force, headers and data_type."""
        return await publish_func(subject, message, *args, **kwargs)

    async def send_request(
        self, subject: str, message: Any, request_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        """Wraps `request`. Returns the decoded response."""
        return await request_func(subject, message, *args, **kwargs)

    async def send_stream(
        self, subject: str, message: Any, publish_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        """Wraps `app.js.publish`. Returns the acknowledgement."""
        return await publish_func(subject, message, *args, **kwargs)

    async def send_any(
        self, subject: str, message: Any, send_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        """Wraps everything that is sent. Returns the result of `send_func`."""
        return await send_func(subject, message, *args, **kwargs)

    async def listen_publish(self, msg: Message[Any], callback: Handler) -> Any:
        """Wraps the handler for a message that is not a request."""
        return await callback(msg)

    async def listen_request(self, msg: Message[Any], callback: Handler) -> Any:
        """Wraps the handler for a request. Returns the answer."""
        return await callback(msg)

    async def listen_stream(self, msg: Any, callback: Handler) -> Any:
        """Wraps the handler of a stream. With `batch=`, `msg` is a list of messages."""
        return await callback(msg)

    async def listen_any(self, msg: Message[Any], callback: Handler) -> Any:
        """Wraps the handler for any message."""
        return await callback(msg)


class ErrorMiddleware(Middleware):
    """Catches errors of a class in handlers and sends, and calls a function with each of them.

    The return value of the function replaces the return value of the handler or of the send. If
    the message is a request, it becomes the answer.

    Args:
        error: the exception class, or a tuple of classes.
        callback: a function, `def` or `async def`, that gets the exception.

    Example:
        ```python
        from tidings import App, ErrorMiddleware

        app = App("billing")
        app.add_middleware(ErrorMiddleware, KeyError, lambda error: {"missing": str(error)})
        ```
    """

    def __init__(
        self,
        error: type[Exception] | tuple[type[Exception], ...],
        callback: Callable[[Exception], Any],
    ) -> None:
        check_handler(callback, "the error")
        self.error = error
        self.callback = callback

    async def send_any(
        self, subject: str, message: Any, send_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        try:
            return await send_func(subject, message, *args, **kwargs)
        except self.error as error:
            return await self._call_back(error)

    async def listen_any(self, msg: Message[Any], callback: Handler) -> Any:
        try:
            return await callback(msg)
        except self.error as error:
            return await self._call_back(error)

    async def _call_back(self, error: Exception) -> Any:
        result = self.callback(error)
        return await result if inspect.isawaitable(result) else result


class TimeoutMiddleware(Middleware):
    """Calls a function when a request gets no reply in time. `request` still raises the error.

    Args:
        callback: a function, `def` or `async def`, that gets the RequestTimeoutError with its
            `subject` and `timeout`.

    Example:
        ```python
        from tidings import App, TimeoutMiddleware

        app = App("billing")
        app.add_middleware(TimeoutMiddleware, lambda error: print("no reply from", error.subject))
        ```
    """

    def __init__(self, callback: Callable[[RequestTimeoutError], Any]) -> None:
        check_handler(callback, "the error")
        self.callback = callback

    async def send_request(
        self, subject: str, message: Any, request_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        try:
            return await request_func(subject, message, *args, **kwargs)
        except RequestTimeoutError as error:
            result = self.callback(error)
            if inspect.isawaitable(result):
                await result
            raise


class DebugMiddleware(Middleware):
    """Logs each sent and handled message and each answer, with its data. Use it in development
    only: the log contains every body.

    Args:
        level: the level of the log lines.

    Example:
        ```python
        import logging
        from tidings import App, DebugMiddleware

        app = App("billing")
        app.add_middleware(DebugMiddleware, level=logging.INFO)
        ```
    """

    def __init__(self, *, level: int = logging.DEBUG) -> None:
        self.level = level

    async def send_any(
        self, subject: str, message: Any, send_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        logger.log(self.level, "send %s %s", printable(subject), _Shown(message))
        response = await send_func(subject, message, *args, **kwargs)
        if response is not None:
            logger.log(self.level, "response of %s %s", printable(subject), _Shown(response))
        return response

    async def listen_any(self, msg: Any, callback: Handler) -> Any:
        messages = msg if isinstance(msg, list) else [msg]  # a list with `batch=`
        for each in messages:
            logger.log(self.level, "received %s %s", printable(each.subject), _Shown(each.data))
        answer = await callback(msg)
        if answer is not None:
            subject = printable(messages[0].subject)
            logger.log(self.level, "answer to %s %s", subject, _Shown(answer))
        return answer


class _Shown(msgspec.Struct, frozen=True):
    """A value of a log line. It is formatted and escaped only if the line is written."""

    value: Any

    def __str__(self) -> str:
        return printable(repr(self.value))


class MiddlewareSpec(msgspec.Struct, frozen=True):
    """A middleware as it was added. It is checked when it is added, and created when the app
    starts.

    Raises:
        ConfigError: if the class is no subclass of Middleware, or has a hook that would not run.
        TypeError: if its `__init__` does not accept the arguments.
    """

    cls: type[Middleware]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        if not (isinstance(self.cls, type) and issubclass(self.cls, Middleware)):
            raise ConfigError(
                f"add_middleware takes a subclass of Middleware and its arguments, got {self.cls!r}"
            )
        check_hooks(self.cls, Middleware)
        refuse_arguments(self.cls.__name__, self.cls, self.args, self.kwargs)

    def make(self) -> Middleware:
        """Create the middleware.

        Raises:
            ConfigError: if its `__init__` sets a hook on the instance, where it would not run.
        """
        made = self.cls(*self.args, **self.kwargs)
        check_instance(made)
        return made


def fold_listen(middlewares: Sequence[Middleware], handler: Handler, *, request: bool) -> Handler:
    """Return the handler wrapped in the hooks for requests, or in those for other messages.

    Args:
        middlewares: the middlewares, innermost first.
        handler: the handler.
        request: whether the messages are requests.
    """
    name = "listen_request" if request else "listen_publish"
    for middleware in middlewares:
        hook = _hook(middleware, name, "listen_any")
        if hook is not None:
            handler = _around_handler(hook, handler)
    return handler


def fold_stream(middlewares: Sequence[Middleware], handler: Handler) -> Handler:
    """Return the handler of a stream wrapped in the hooks of the middlewares."""
    for middleware in middlewares:
        hook = _hook(middleware, "listen_stream", "listen_any")
        if hook is not None:
            handler = _around_handler(hook, handler)
    return handler


def fold_send(middlewares: Sequence[Middleware], send: Send, hook_name: str) -> Send | None:
    """Return the send function wrapped in the hooks, or None if no middleware has such a hook.

    Args:
        middlewares: the middlewares, innermost first.
        send: the function that sends.
        hook_name: "send_publish", "send_request" or "send_stream".
    """
    folded = None
    for middleware in middlewares:
        hook = _hook(middleware, hook_name, "send_any")
        if hook is not None:
            folded = _around_send(hook, folded or send)
    return folded


def request_hooks(middlewares: Sequence[Middleware]) -> list[str]:
    """Return the names of the hooks around the handler of a request, such as
    `Timing.listen_any`."""
    found = (_hook(middleware, "listen_request", "listen_any") for middleware in middlewares)
    return [function_name(hook) for hook in found if hook is not None]


def _hook(middleware: Middleware, name: str, fallback: str) -> Callable[..., Any] | None:
    for candidate in (name, fallback):
        if getattr(type(middleware), candidate) is not getattr(Middleware, candidate):
            hook: Callable[..., Any] = getattr(middleware, candidate)
            return hook
    return None


def _around_handler(hook: Callable[..., Any], handler: Handler) -> Handler:
    def call(msg: Message[Any]) -> Awaitable[Any]:
        return hook(msg, handler)  # type: ignore[no-any-return]  # hooks are the user's

    return call


def _around_send(hook: Callable[..., Any], send: Send) -> Send:
    def call(subject: str, message: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        return hook(subject, message, send, *args, **kwargs)  # type: ignore[no-any-return]  # the user's

    return call
