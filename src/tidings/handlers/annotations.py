"""Annotations: what the annotation of a handler's parameter means: the message, its data, or
something that a handler never gets."""

from __future__ import annotations

import enum
import functools
import inspect
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, MutableSequence, Sequence
from typing import Any

import msgspec

from tidings.functions import unwrapped
from tidings.message import Message

# Annotations for the list of a batch.
_LISTS: tuple[object, ...] = (list, Sequence, MutableSequence, Collection, Iterable)
# The modules of our classes that might stand in a handler's signature. None of them is a data type.
_NEVER_DATA = frozenset(
    {
        "tidings.app",
        "tidings.handlers.events",
        "tidings.headers",
        "tidings.jetstream.kv.entry",
        "tidings.jetstream.message",
        "tidings.message",
    }
)


class Given(msgspec.Struct, frozen=True):
    """What a decorator has for its handlers.

    Attributes:
        call: the decorator's name.
        kind: the class of its messages.
        attribute: the name of the decoded data in a message.
        is_batch: whether a handler gets a list of messages.
        may_be_none: whether a message may have no data. `T | None` then means `T`.
        may_stream: whether a handler may be a generator.
    """

    call: str
    kind: type
    attribute: str = "data"
    is_batch: bool = False
    may_be_none: bool = False
    may_stream: bool = False

    @property
    def noun(self) -> str:
        """The words for the message in errors."""
        if self.is_batch:
            return "the list of messages"
        return "the message" if issubclass(self.kind, Message) else "the entry"

    def shown(self, inner: str) -> str:
        """Return an annotation as text: `Order`, or `list[Order]` for a batch."""
        return f"list[{inner}]" if self.is_batch else inner

    def fits(self, hint: Any) -> bool:
        """Whether a type is the class of the messages, or one of its base classes."""
        return hint is Any or (typing.get_origin(hint) or hint) in self.kind.__mro__

    def data_of(self) -> Callable[[Any], Any]:
        """Return the function that takes the data out of what a handler would get."""
        take = operator.attrgetter(self.attribute)
        if self.is_batch:
            return lambda messages: [take(message) for message in messages]
        return take


class Meaning(enum.Enum):
    """What one alternative of an annotation means."""

    MESSAGE = "the message"
    DATA = "its data"
    FOREIGN = "something that the handler never gets"


def meanings(hint: Any, given: Given) -> Iterator[tuple[Meaning, Any]]:
    """Yield each alternative of an annotation with its meaning, without None. In a batch, these are
    the alternatives for the items of the list."""
    for member in _members(hint):
        if not given.is_batch or member in (Any, object):
            yield _meaning(member, given), member
        elif (typing.get_origin(member) or member) not in _LISTS:
            yield Meaning.FOREIGN, member
        else:
            [item] = typing.get_args(member) or (Any,)
            inner = [(_meaning(each, given), each) for each in _members(item)]
            yield from (each for each in inner if each[0] is not Meaning.DATA)
            if any(meaning is Meaning.DATA for meaning, _ in inner):
                yield Meaning.DATA, item


def _meaning(member: Any, given: Given) -> Meaning:
    if given.fits(member):
        return Meaning.MESSAGE
    never = any(map(_is_never_data, (member, *typing.get_args(member))))
    return Meaning.FOREIGN if never else Meaning.DATA


def _is_never_data(hint: Any) -> bool:
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and kind.__module__ in _NEVER_DATA


def _members(hint: Any) -> Iterator[Any]:
    """Yield the alternatives of a type, without None: the members of a union, of the target of an
    alias, or of the bound of a type variable."""
    hint = _target(hint)
    if isinstance(hint, typing.TypeVar) and hint.__bound__ is not None:
        hint = hint.__bound__
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from _members(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        for each in arguments:
            yield from _members(each)
    elif hint is not types.NoneType:
        yield hint


def _target(hint: Any) -> Any:
    """Return the type behind an alias, such as `type OrderMessage = Message[Order]`."""
    while hasattr(hint, "__value__"):
        hint = hint.__value__
    return hint


def without_none(hint: Any) -> Any:
    """Return a union without None; any other type unchanged."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    rest = [each for each in typing.get_args(hint) if each is not types.NoneType]
    return functools.reduce(operator.or_, rest)


def evaluated(handler: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the annotation of one parameter, with names in quotes and aliases resolved.

    Each parameter is evaluated by itself, because the others may be unresolvable.

    Raises:
        Exception: whatever evaluating the annotation raises.
    """
    function = _function(handler)
    alone = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    own = {each.__name__: each for each in getattr(function, "__type_params__", ())}
    hints = typing.get_type_hints(alone, _names_around(function), own, include_extras=True)
    return _target(hints[parameter.name])


def returned(handler: Callable[..., Any]) -> Any:
    """Return the type that a handler's annotation names for its answer, without None, or None if
    it names none or cannot be evaluated. No answer is checked against it."""
    try:
        signature = inspect.signature(handler)
        if signature.return_annotation is signature.empty:
            return None
        parameter = inspect.Parameter(
            "answer",
            inspect.Parameter.POSITIONAL_ONLY,
            annotation=signature.return_annotation,
        )
        hint = without_none(evaluated(handler, parameter))
    except Exception:  # a builtin, or a name that is imported for type checkers only
        return None
    return None if hint is types.NoneType else hint


def _names_around(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the names of the module in which a function or a class was defined."""
    if hasattr(function, "__globals__"):
        return function.__globals__
    module = sys.modules.get(getattr(function, "__module__", ""))
    return {} if module is None else vars(module)


def _function(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function whose annotations `inspect.signature` shows."""
    target: Any = unwrapped(handler)
    if not inspect.isroutine(target) and not isinstance(target, type):
        target = getattr(target, "__call__", target)  # noqa: B004 - this needs the method itself
    function: Callable[..., Any] = inspect.unwrap(target)
    return function


def named_message(annotation: Any, given: Given) -> re.Match[str] | None:
    """Find the name of the message's class in an annotation."""
    ours = [kind.__name__ for kind in given.kind.__mro__ if _is_never_data(kind)]
    return re.search(rf"\b({'|'.join(ours)})\b(?P<bracket>\[?)", text_of(annotation))


def text_of(annotation: Any) -> str:
    """Return an annotation as it was written, without evaluating it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
