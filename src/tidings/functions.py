"""Functions that users pass in: their names for people, and whether they are coroutines."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import PurePath
from typing import Any


def function_name(function: Callable[..., Any]) -> str:
    """A function's name for people: `Orders.created`, without where it was defined locally."""
    function = unwrapped(function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]


def function_place(function: Callable[..., Any]) -> str:
    """A function's name, and where it stands if that is known: `warm_up (service.py:12)`."""
    target = inspect.unwrap(unwrapped(function))
    code = getattr(target, "__code__", None)
    where = f" ({PurePath(code.co_filename).name}:{code.co_firstlineno})" if code else ""
    return f"{function_name(target)}{where}"


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: `async def`, or an object whose `__call__` is one."""
    function = unwrapped(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the method itself is wanted
    )


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function within a functools.partial."""
    while isinstance(function, functools.partial):
        function = function.func
    return function
