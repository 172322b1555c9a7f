"""Functions of users: their names and places for messages, and whether they are async."""

from __future__ import annotations

import functools
import inspect
import os.path
import sys
from collections.abc import Callable
from typing import Any


def function_name(function: Callable[..., Any]) -> str:
    """Return a function's name for messages, such as `Orders.created`. If it was defined inside
    another function, that function's name is left out."""
    function = unwrapped(function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]


def function_place(function: Callable[..., Any]) -> str:
    """Return a function's name and, if known, its place: `warm_up (service.py:12)`."""
    target = inspect.unwrap(unwrapped(function))
    code = getattr(target, "__code__", None)
    where = f" ({os.path.basename(code.co_filename)}:{code.co_firstlineno})" if code else ""
    return f"{function_name(target)}{where}"


def caller_place() -> str:
    """Return the place at which the user called tidings: `service.py:12`. "" if there is none."""
    frame = sys._getframe(1)
    while str(frame.f_globals.get("__name__", "")).partition(".")[0] == "tidings":
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a function is `async def`, or an object whose `__call__` is."""
    function = unwrapped(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - this needs the method itself
    )


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside a functools.partial."""
    while isinstance(function, functools.partial):
        function = function.func
    return function
