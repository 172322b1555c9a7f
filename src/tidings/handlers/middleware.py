"""Middlewares: hooks around what is sent and what is handled, folded into one chain at start."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from tidings.errors import ConfigError, RequestTimeoutError
from tidings.handlers.hook_checks import check_hooks, check_instance
from tidings.log import logger
from tidings.message import Message
from tidings.text import printable

Handler = Callable[[Message[Any]], Awaitable[Any]]
Send = Callable[..., Awaitable[Any]]


class Middleware:
    """Base of middlewares. Override what you need; what you do not override costs nothing.

    `send_any` stands in for `send_publish`, `send_request` and `send_stream` where not overridden,
    `listen_any` for `listen_publish`, `listen_request` and `listen_stream`. Each hook must await
    the function it is given, or nothing goes further. The last middleware added is outermost.

    A public method called `send_...` or `listen_...` that is no hook, or has nearly the name of
    one, is refused where the middleware is added.

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
        """Around `publish`; `kwargs` are reply_to, force, headers and data_type."""
        return await publish_func(subject, message, *args, **kwargs)

    async def send_request(
        self, subject: str, message: Any, request_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        """Around `request`; returns the decoded response."""
        return await request_func(subject, message, *args, **kwargs)

    async def send_stream(
        self, subject: str, message: Any, publish_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        """Around `app.js.publish`; returns the acknowledgement."""
        return await publish_func(subject, message, *args, **kwargs)

    async def send_any(
        self, subject: str, message: Any, send_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        """Around everything that is sent; returns what `send_func` returned."""
        return await send_func(subject, message, *args, **kwargs)

    async def listen_publish(self, msg: Message[Any], callback: Handler) -> Any:
        """Around the handler, for a message that is no request."""
        return await callback(msg)

    async def listen_request(self, msg: Message[Any], callback: Handler) -> Any:
        """Around the handler, for a request; returns the answer."""
        return await callback(msg)

    async def listen_stream(self, msg: Any, callback: Handler) -> Any:
        """Around the handler of a stream's message, or of a list of them with `batch=`."""
        return await callback(msg)

    async def listen_any(self, msg: Message[Any], callback: Handler) -> Any:
        """Around the handler, for any message."""
        return await callback(msg)


class ErrorMiddleware(Middleware):
    """Calls back when a handler or a send raises one kind of error, and swallows it.

    The callback's return value stands in for the handler's or the request's: a request is answered
    with it.

    Args:
        error: the exception class, or several.
        callback: `def` or `async def`, called with the exception.

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
    """Calls back when a request gets no reply in time; the error still reaches the requester.

    Args:
        callback: `def` or `async def`, called with the RequestTimeoutError (it has `subject` and
            `timeout`).

    Example:
        ```python
        from tidings import App, TimeoutMiddleware

        app = App("billing")
        app.add_middleware(TimeoutMiddleware, lambda error: print("no reply from", error.subject))
        ```
    """

    def __init__(self, callback: Callable[[RequestTimeoutError], Any]) -> None:
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
    """Logs each message sent and handled, and each answer, with its data: for development only.

    Args:
        level: the logging level to log at.

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
        messages = msg if isinstance(msg, list) else [msg]  # with `batch=` it is a list
        for each in messages:
            logger.log(self.level, "received %s %s", printable(each.subject), _Shown(each.data))
        answer = await callback(msg)
        if answer is not None:
            subject = printable(messages[0].subject)
            logger.log(self.level, "answer to %s %s", subject, _Shown(answer))
        return answer


class _Shown(msgspec.Struct, frozen=True):
    """A value in a log line: escaped, and not looked at before the line is written."""

    value: Any

    def __str__(self) -> str:
        return printable(repr(self.value))


class MiddlewareSpec(msgspec.Struct, frozen=True):
    """A middleware as it was added: made when the app starts, checked when it is written down.

    Raises:
        ConfigError: no Middleware subclass, or one with a hook that would not run.
        TypeError: arguments that its `__init__` does not take.
    """

    cls: type[Middleware]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        if not (isinstance(self.cls, type) and issubclass(self.cls, Middleware)):
            raise ConfigError(
                f"add_middleware takes a subclass of Middleware and its arguments, not {self.cls!r}"
            )
        check_hooks(self.cls, Middleware)
        inspect.signature(self.cls).bind(*self.args, **self.kwargs)

    def make(self) -> Middleware:
        """The middleware itself.

        Raises:
            ConfigError: its `__init__` sets a hook on the instance, which would not run.
        """
        made = self.cls(*self.args, **self.kwargs)
        check_instance(made)
        return made


def fold_listen(middlewares: Sequence[Middleware], handler: Handler, *, request: bool) -> Handler:
    """The handler with the hooks around it, for requests or for other messages."""
    name = "listen_request" if request else "listen_publish"
    for middleware in middlewares:
        hook = _hook(middleware, name, "listen_any")
        if hook is not None:
            handler = _around_handler(hook, handler)
    return handler


def fold_stream(middlewares: Sequence[Middleware], handler: Handler) -> Handler:
    """The handler of a stream's messages with the hooks around it."""
    for middleware in middlewares:
        hook = _hook(middleware, "listen_stream", "listen_any")
        if hook is not None:
            handler = _around_handler(hook, handler)
    return handler


def fold_send(middlewares: Sequence[Middleware], send: Send, hook_name: str) -> Send | None:
    """The send function with the hooks around it, or None where no middleware has one.

    Args:
        middlewares: innermost first.
        send: the function.
        hook_name: "send_publish", "send_request" or "send_stream".
    """
    folded = None
    for middleware in middlewares:
        hook = _hook(middleware, hook_name, "send_any")
        if hook is not None:
            folded = _around_send(hook, folded or send)
    return folded


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
