"""ListenerSpec: the declaration of a listener."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from tidings.checks import check_flag, check_name, check_whole
from tidings.concurrency.time_limit import check_timeout
from tidings.errors import ConfigError
from tidings.functions import function_name, function_place, is_async
from tidings.handlers.annotations import Given
from tidings.handlers.middleware import Middleware
from tidings.handlers.parameters import Form, Parameters, read_parameters
from tidings.handlers.shapes import Answers, Shape, read_shape
from tidings.message import Message
from tidings.subject import check_pattern, check_queue

DEFAULT_PENDING_MSGS = 65_536
DEFAULT_PENDING_BYTES = 64 * 1024 * 1024

GIVEN = Given("listen()", Message, may_stream=True)

# What NATS ADR-32 allows as the name of an endpoint.
ENDPOINT_NAME = re.compile(r"[a-zA-Z0-9_-]+")


class ListenerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of a listener. Creating it checks the handler and every option.

    The attributes are the arguments of `App.listen`, and two of the listener's `Group`.

    Attributes:
        endpoint: the option `name=`, the name of the listener's endpoint.
        group_queue: the group's `queue`.
        prefix: the group's prefix; `subjects` already start with it.
        dynamic: whether it is subscribed while the app runs, not declared.

    Raises:
        ConfigError: if the handler has the wrong signature, an option has a wrong value or the data
            type is not known.
        SubjectError: if NATS does not allow a subject or the queue group.
    """

    handler: Callable[..., Any]
    subjects: tuple[str, ...]
    endpoint: str | None = None
    queue: str | None = None
    group_queue: str | None = None
    prefix: str = ""
    data_type: Any = None
    concurrency: int | None = None
    no_reply: bool = False
    pending_msgs_limit: int = DEFAULT_PENDING_MSGS
    pending_bytes_limit: int = DEFAULT_PENDING_BYTES
    timeout: float | None = None
    cancel_expired: bool = False
    middlewares: tuple[Middleware, ...] = ()
    dynamic: bool = False

    def __post_init__(self) -> None:
        if not self.subjects:
            raise ConfigError("listen() needs a subject")
        for subject in self.subjects:
            check_pattern(subject)
        check_queue(self.queue or "")
        if self.endpoint is not None:
            check_name("name", self.endpoint, ENDPOINT_NAME, "letters, digits, - and _")
        for name in ("concurrency", "pending_msgs_limit", "pending_bytes_limit"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value)
        check_flag("no_reply", self.no_reply)
        check_timeout(self.timeout)
        shape = self.shape
        self._check_shape(shape)
        can_be_cancelled = is_async(self.handler) or shape.answers is Answers.ASYNC_GENERATOR
        if check_flag("cancel_expired", self.cancel_expired) and not can_be_cancelled:
            raise ConfigError(
                f"cancel_expired=True requires an `async def` handler, because a thread cannot be "
                f"stopped: make {self.name} async, or let it look at msg.deadline"
            )
        read_parameters(self.handler, self.data_type, GIVEN, shape.items_name)

    def _check_shape(self, shape: Shape) -> None:
        if self.no_reply and not shape.is_plain:
            what = "streams its reply" if shape.streams else "takes items, and answers after them"
            raise ConfigError(
                f"{function_place(self.handler)} {what}, and no_reply=True forbids it to reply. "
                f"Remove no_reply=True"
            )

    @property
    def shape(self) -> Shape:
        """Whether the handler streams: its `request_item_type` and `response_item_type`.

        Raises:
            ConfigError: see `read_shape`.
        """
        return read_shape(self.handler)

    @property
    def name(self) -> str:
        """The handler's name, for logs and statistics."""
        return function_name(self.handler)

    @property
    def wanted_type(self) -> Any:
        """The type of `msg.data`: `data_type=`, else the type in the signature, else dict."""
        return wanted_type_of(self.parameters)

    @property
    def parameters(self) -> Parameters:
        """What the handler is called with.

        Raises:
            ConfigError: see `read_parameters`.
        """
        return read_parameters(self.handler, self.data_type, GIVEN, self.shape.items_name)


def wanted_type_of(parameters: Parameters) -> Any:
    """Return the type of `msg.data` of a listener whose handler is called with these."""
    if parameters.form is Form.NOTHING:
        return bytes  # the body is the first item, if it is not empty
    return dict if parameters.wanted_type is None else parameters.wanted_type
