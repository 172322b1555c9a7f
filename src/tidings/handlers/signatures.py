"""Signatures: checks whether tidings can call a function of the user."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tidings.errors import ConfigError
from tidings.functions import function_place


def check_handler(handler: Callable[..., Any], argument: str) -> None:
    """Check that tidings can call a hook, a task or another function with one argument or none.

    Args:
        handler: the function.
        argument: a description of its one argument; "" if it takes none.

    Raises:
        ConfigError: if the function is not callable, is a generator or takes other arguments.
    """
    signature = signature_of(handler)
    if signature is None:
        return
    first = next(iter(signature.parameters), "")
    if first in ("self", "cls"):
        raise ConfigError(
            f"{function_place(handler)} takes {first}: it is a method, and in the body of its "
            f"class there is no instance yet. Pass the method of an instance, for example "
            f"app.on_startup(Orders().load)"
        )
    try:
        signature.bind(*((None,) if argument else ()))
    except TypeError:
        takes = f"one argument, {argument}" if argument else "no arguments"
        name = getattr(handler, "__qualname__", repr(handler))
        raise ConfigError(f"{name}{signature} must take {takes}") from None


def signature_of(
    handler: Callable[..., Any], *, may_stream: bool = False
) -> inspect.Signature | None:
    """Return the signature of a user's function; None for a builtin that has none.

    Args:
        handler: the function.
        may_stream: whether it may be a generator, which streams its reply.

    Raises:
        ConfigError: if it is not callable, or if it is a generator and must not be.
    """
    if not callable(handler):
        raise ConfigError(f"{handler!r} is not callable: decorate a function")
    is_generator = inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler)
    if is_generator and not may_stream:
        raise ConfigError(
            f"{handler.__qualname__} is a generator, because it contains `yield`. Only a handler "
            f"of listen() may stream its answer: write `return`"
        )
    try:
        return inspect.signature(handler)
    except (TypeError, ValueError):
        return None
