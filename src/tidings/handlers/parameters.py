"""Parameters: decides from its signature what a handler is called with: the message, the decoded
data, or both."""

from __future__ import annotations

import enum
import inspect
import typing
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from tidings import codec
from tidings.codec.forms import type_name
from tidings.errors import ConfigError
from tidings.functions import function_place
from tidings.handlers.annotations import (
    Given,
    Meaning,
    evaluated,
    meanings,
    named_message,
    text_of,
    without_none,
)
from tidings.handlers.signatures import signature_of


class Form(enum.Enum):
    """What a handler is called with."""

    MESSAGE = "message"  # handler(msg)
    DATA = "data"  # handler(order)
    DATA_FIRST = "data and message"  # handler(order, msg)
    DATA_LAST = "message and data"  # handler(msg, order)
    NOTHING = "nothing"  # handler(items): what it takes besides is no part of this


class Parameters(msgspec.Struct, frozen=True):
    """What a handler takes.

    Attributes:
        form: what it is called with.
        wanted_type: the type of the data: `data_type=`, or the one in the signature; None if
            neither names one.
        given: what its decorator has for it.
    """

    form: Form
    wanted_type: Any
    given: Given

    def adapt(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that takes the message and calls the handler as it is declared.

        A handler that takes just the message is returned unchanged. The other functions are no
        coroutines, so that a call costs one plain frame more.
        """
        data_of = self.given.data_of()
        if self.form is Form.DATA:
            return lambda msg: call(data_of(msg))
        if self.form is Form.DATA_FIRST:
            return lambda msg: call(data_of(msg), msg)
        if self.form is Form.DATA_LAST:
            return lambda msg: call(msg, data_of(msg))
        if self.form is Form.NOTHING:
            return lambda msg: call()
        return call


class _Role(msgspec.Struct, frozen=True):
    """What a parameter stands for, and the type of the data that its annotation names."""

    shown: str  # the parameter as text
    is_data: bool
    data_type: Any = None  # None if the annotation names none


def read_parameters(
    handler: Callable[..., Any], data_type: Any, given: Given, items: str = ""
) -> Parameters:
    """Read from a handler's signature what it is called with, and the type of its data.

    A parameter that is annotated with the class of the messages, or not at all, gets the message.
    Any other annotation is a data type: its parameter gets the decoded data. Parameters with a
    default keep it, unless no other parameter takes the message.

    Args:
        handler: the handler.
        data_type: the option `data_type=`, or None.
        given: what the decorator has for its handlers.
        items: the parameter that takes a stream of items, which is left out; "" for none.

    Raises:
        ConfigError: if the handler takes something else, if its signature can be read in two ways
            or not at all, if it contradicts `data_type`, or if the type cannot be checked.
    """
    try:
        signature = signature_of(handler, may_stream=given.may_stream)
    except NameError as error:  # Python 3.14 evaluates annotations only now
        _not_found(handler, "an annotation", error)
    if signature is None:
        roles = [_Role("", is_data=False)]
    elif list(signature.parameters) == [items]:
        roles = []
    else:
        signature = _without(signature, items)
        taken, rest = _taken(handler, signature, given)
        roles = [_role(handler, each, given, data_type) for each in taken]
        _check_roles(handler, signature, roles, rest, given)
    wanted = _wanted_type(handler, roles, data_type)
    _check_type(handler, roles, wanted)
    return Parameters(_form(roles), wanted, given)


def _without(signature: inspect.Signature, items: str) -> inspect.Signature:
    if not items:
        return signature
    rest = [each for each in signature.parameters.values() if each.name != items]
    return signature.replace(parameters=rest)


def _form(roles: list[_Role]) -> Form:
    if not roles:
        return Form.NOTHING
    if not any(role.is_data for role in roles):
        return Form.MESSAGE
    if len(roles) == 1:
        return Form.DATA
    return Form.DATA_FIRST if roles[0].is_data else Form.DATA_LAST


# Which parameters are filled.


def _taken(
    handler: Callable[..., Any], signature: inspect.Signature, given: Given
) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """Return the parameters that a call fills, and the positional ones that keep their default."""
    every = list(signature.parameters.values())
    positional = [
        each for each in every if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    required = [each for each in positional if each.default is each.empty]
    variable = [each for each in every if each.kind is each.VAR_POSITIONAL]
    taken = required or positional[:1] or variable
    named = [
        each for each in every if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    ]
    if taken and taken[0].name in ("self", "cls"):
        raise ConfigError(
            f"{function_place(handler)} takes {taken[0].name}: it is a method, and in the body of "
            f"its class there is no instance yet. Declare the method of an instance, for example "
            f"app.listen('orders')(Orders().created)"
        )
    if named or len(taken) not in (1, 2):
        _refuse_count(handler, signature, given)
    return taken, [each for each in positional if each not in taken]


def _refuse_count(
    handler: Callable[..., Any], signature: inspect.Signature, given: Given
) -> NoReturn:
    example = f"(order: {given.shown('Order')}, msg: {given.shown(given.kind.__name__)})"
    raise ConfigError(
        f"{function_place(handler)}: {signature} must take one argument, {given.noun} or its "
        f"data, or both, as in {example}"
    )


def _check_roles(
    handler: Callable[..., Any],
    signature: inspect.Signature,
    roles: list[_Role],
    rest: list[inspect.Parameter],
    given: Given,
) -> None:
    data = [role for role in roles if role.is_data]
    if len(data) == 2:
        raise ConfigError(
            f"{function_place(handler)}: {data[0].shown} and {data[1].shown} both take the data. "
            f"Keep one of them, and annotate the other as {given.shown(given.kind.__name__)} if it "
            f"takes {given.noun}"
        )
    if len(roles) == 2 and not data:
        _refuse_count(handler, signature, given)
    for each in rest if data else ():
        if named_message(each.annotation, given):
            raise ConfigError(
                f"{function_place(handler)}: {each.name} has a default, so it does not get "
                f"{given.noun}. Remove the default"
            )


# What an annotation means.


def _role(
    handler: Callable[..., Any], parameter: inspect.Parameter, given: Given, data_type: Any
) -> _Role:
    if parameter.annotation is parameter.empty:
        return _Role(parameter.name, is_data=False)
    try:
        hint = evaluated(handler, parameter)
    except Exception as error:  # to evaluate an annotation may raise anything
        return _unread_role(handler, parameter, given, data_type, error)
    shown = f"{parameter.name}: {type_name(hint)}"
    found = list(meanings(hint, given))
    messages, data, foreign = (
        [member for meaning, member in found if meaning is wanted] for wanted in Meaning
    )
    if messages and data:
        raise ConfigError(
            f"{function_place(handler)}: {shown} can mean {given.noun} or its data. Choose one of "
            f"them, or take both as two arguments"
        )
    if messages:
        return _Role(shown, False, _inner_type(handler, shown, messages))
    if foreign or (given.is_batch and len(data) > 1):
        raise ConfigError(
            f"{function_place(handler)}: {shown} is not what {given.call} passes. Annotate it as "
            f"{given.shown(given.kind.__name__)} to get {given.noun}, or as "
            f"{given.shown('Order')}, with a type of your own, to get the data"
        )
    if given.is_batch:
        return _Role(shown, True, data[0])
    return _Role(shown, True, without_none(hint) if given.may_be_none else hint)


def _inner_type(handler: Callable[..., Any], shown: str, messages: list[Any]) -> Any:
    """Return T of `Message[T]`; None if the annotation names no type."""
    inner = [argument for each in messages for argument in typing.get_args(each)]
    named = [each for each in inner if not isinstance(each, typing.TypeVar)]
    if any(each != named[0] for each in named):
        raise ConfigError(
            f"{function_place(handler)}: {shown} names several types for the data. Write a union "
            f"of them inside the brackets, as in Message[A | B]"
        )
    return named[0] if named else None


def _unread_role(
    handler: Callable[..., Any],
    parameter: inspect.Parameter,
    given: Given,
    data_type: Any,
    error: Exception,
) -> _Role:
    """Return the role of a parameter whose annotation cannot be evaluated, for example because
    `Message` is imported under TYPE_CHECKING only."""
    shown = f"{parameter.name}: {text_of(parameter.annotation)}"
    named = named_message(parameter.annotation, given)
    if named is None or (named["bracket"] and data_type is None):
        _not_found(handler, shown, error)
    return _Role(shown, False)


def _not_found(handler: Callable[..., Any], shown: str, error: Exception) -> NoReturn:
    raise ConfigError(
        f"{function_place(handler)}: {shown} cannot be found from the function's module ({error}). "
        f"Import or define the type at the top of the module, outside of `if TYPE_CHECKING`. Or "
        f"leave the annotation out, so that the parameter gets the message. Pass data_type= to "
        f"name the type of its data"
    ) from None


# The type of the data.


def _wanted_type(handler: Callable[..., Any], roles: list[_Role], data_type: Any) -> Any:
    named = [role for role in roles if role.data_type is not None]
    exact = [role for role in named if role.data_type is not Any]
    for role in exact[1:]:
        if role.data_type != exact[0].data_type:
            raise ConfigError(
                f"{function_place(handler)}: {exact[0].shown} and {role.shown} name different "
                f"types for the data. Write the same type in both, or leave one out"
            )
    if data_type is None:
        return next((role.data_type for role in (*exact, *named)), None)
    declared = codec.resolve(data_type)
    if exact and exact[0].data_type != declared:
        raise ConfigError(
            f"{function_place(handler)}: data_type={data_type!r} and {exact[0].shown} in the "
            f"signature differ; one is enough. Remove one of them"
        )
    return declared


def _check_type(handler: Callable[..., Any], roles: list[_Role], wanted: Any) -> None:
    if wanted is None:
        return
    try:
        codec.decoder(wanted)
    except ConfigError as error:
        shown = [role.shown for role in roles if role.is_data]
        if not shown:
            raise
        raise ConfigError(
            f"{function_place(handler)}: {shown[0]} takes the data of the message, but {error}"
        ) from None
