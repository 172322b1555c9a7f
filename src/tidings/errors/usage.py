"""Errors about a call or a declaration that is wrong, or that is made in the wrong place."""

from __future__ import annotations

import re

from tidings.errors.base import TidingsError, seconds
from tidings.text import printable

# The types of JSON in msgspec's messages, and what decodes them. "json" accepts any value.
_NOT_AN_OBJECT = r"Expected `object`, got `(array|str|int|float|bool|null)`$"
_PYTHON_TYPES = {
    "array": "list",
    "str": '"json"',
    "int": "int",
    "float": "float",
    "bool": "bool",
    "null": '"json"',
}


class ConfigError(TidingsError, ValueError):
    """An option, handler or declaration is wrong. Raised at the line of the declaration, before
    anything runs."""


class MissingExtraError(ConfigError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        extra: the extra to install, as in ``pip install 'tidings[extra]'``.
        what: the feature that needs it.
    """

    def __init__(self, extra: str, what: str) -> None:
        self.extra = extra
        self.what = what
        super().__init__(f"{what} needs an optional dependency: pip install 'tidings[{extra}]'")


class LoopThreadError(TidingsError):
    """A blocking call was made on the event loop's own thread, where it would never return.

    Attributes:
        call: the blocking call.
        instead: the code to write instead.
    """

    def __init__(self, call: str, instead: str) -> None:
        self.call = call
        self.instead = instead
        super().__init__(
            f"{call}() on the event loop's own thread would deadlock. Write `{instead}` instead, "
            f"or make the handler a plain `def`, which runs in a worker thread."
        )


class WrongLoopError(TidingsError):
    """A call was made in an event loop that is not the one in which the app runs.

    Attributes:
        call: the call that was made.
        instead: the call to make instead; "" if there is none, because the app's loop belongs to
            this same thread.
    """

    def __init__(self, call: str, instead: str) -> None:
        self.call = call
        self.instead = instead
        if instead:
            advice = f"Use `{instead}` in this thread."
        else:
            advice = (
                "The app's loop cannot run while this one runs. Await the app's calls in the loop "
                "that started the app. Or start the app with `with app:`, which gives it its own "
                "thread, and use the calls that end in _sync."
            )
        super().__init__(
            f"{call} was called in another event loop than the app's; nothing was sent. {advice}"
        )


class NotStartedError(TidingsError):
    """The call needs a running app.

    Attributes:
        call: the call that was made.
    """

    def __init__(self, call: str) -> None:
        self.call = call
        super().__init__(
            f"{call}() needs a running app: call it from a handler, a task or on_startup, or enter "
            f"`async with app:` (in an event loop) or `with app:` (in a plain thread) first."
        )


class ForkedError(NotStartedError):
    """The call was made in a process that was forked while the app ran.

    The app's connection and event loop stay with the parent process. The child can start the same
    app for itself.

    Attributes:
        call: the call that was made.
    """

    def __init__(self, call: str) -> None:
        super().__init__(call)
        text = (
            f"{call}() was called in a process that was forked while the app ran. The connection "
            "stays with the parent. Start the app in the child after the fork: use `with app:`, "
            "or call `app.__enter__()` in a hook such as gunicorn's post_fork"
        )
        self.args = (text,)


class LoopTimeoutError(TidingsError, TimeoutError):
    """A call from another thread did not end in time, for example because a handler blocks the
    app's event loop. tidings cancelled the call; part of it may have been done.

    Attributes:
        call: the call that was made.
        timeout: the timeout in seconds.
    """

    def __init__(self, call: str, timeout: float) -> None:
        self.call = call
        self.timeout = timeout
        super().__init__(
            f"{call}() did not end within {seconds(timeout)}. It was cancelled; part of it may "
            f"have been done. If the log names a handler that blocks the event loop, make it a "
            f"plain `def`"
        )


class SubjectError(TidingsError, ValueError):
    """NATS does not allow this subject, subscription pattern or queue group.

    Attributes:
        subject: the value that was passed.
        reason: what is wrong with it.
    """

    def __init__(self, subject: object, reason: str) -> None:
        self.subject = subject
        self.reason = reason
        shown = repr(subject)
        super().__init__(
            f"bad subject {shown if len(shown) < 120 else shown[:117] + '...'}: {reason}"
        )


class HeaderError(TidingsError, ValueError):
    """A header's name or value cannot be sent.

    Attributes:
        name: the header's name.
        reason: what is wrong with it.
    """

    def __init__(self, name: object, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"bad header {name!r}: {reason}")


class EncodeError(TidingsError, TypeError):
    """A value cannot be encoded as the body of a message.

    Attributes:
        type: the type of the value.
        handler: the name of the handler that returned the value as its answer; "" if the value was
            passed to a call.
    """

    def __init__(self, value: object, reason: str) -> None:
        self.type = type(value)
        self.handler = ""
        name = self.type.__qualname__
        article = "an" if name[0] in "AEIOaeio" else "a"  # a user, but an int
        super().__init__(f"cannot encode {article} {name}: {reason}")

    def __str__(self) -> str:
        text = super().__str__()
        return f"the return value of {self.handler}: {text}" if self.handler else text


class DecodeError(TidingsError, ValueError):
    """A body cannot be decoded to the expected type.

    The text never contains a value of the body, so it is safe to log.

    Attributes:
        wanted: the name of the expected type.
        reason: what is wrong with the body, and the path to the wrong part.
        subject: the subject of the request if the body is the reply to one, else "".
    """

    def __init__(self, wanted: str, reason: str, *, subject: str = "") -> None:
        self.wanted = wanted
        self.reason = reason
        self.subject = subject
        super().__init__(f"the body is not a valid {wanted}: {reason}")

    def __str__(self) -> str:
        if not self.subject:
            return (
                f"{super().__str__()}{_type_advice(self.wanted, self.reason, 'Declare data_type')}"
            )
        # The subject is known only after the error was created.
        return printable(
            f"the reply to {self.subject!r} is not a valid {self.wanted}: {self.reason}"
            f"{_type_advice(self.wanted, self.reason, 'Pass response_data_type')}"
        )


def _type_advice(wanted: str, reason: str, option: str) -> str:
    """Return what to write for a body that is no JSON object, "" for other faults."""
    if wanted != "dict":
        return ""
    if reason.startswith("JSON is malformed"):
        return f". {option}=str for text, or bytes for the raw body"
    found = re.match(_NOT_AN_OBJECT, reason)
    return f". {option}={_PYTHON_TYPES[found[1]]}" if found else ""


class PayloadTooLargeError(TidingsError, ValueError):
    """Body and headers together exceed the limit of the server. Nothing was sent.

    Attributes:
        size: size of body and headers in bytes.
        limit: the server's ``max_payload`` in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the message has {size} bytes, headers included, and the server accepts {limit}. "
            f"Send it in parts, or raise max_payload in the server's configuration"
        )


class SubscriptionNotFoundError(TidingsError, LookupError):
    """No subscription of this app has this subject or ID.

    Attributes:
        wanted: the subject or the ID.
    """

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        super().__init__(f"there is no subscription {wanted!r}")


class ServerStartError(TidingsError):
    """The embedded nats-server did not become ready.

    Attributes:
        output: the last lines that the server wrote.
    """

    def __init__(self, reason: str, output: str = "") -> None:
        self.output = output
        super().__init__(f"{reason}\n{output}" if output else reason)

    def __str__(self) -> str:
        return printable(Exception.__str__(self), keep="\n")
