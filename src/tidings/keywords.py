"""Keywords: a call with a wrong option says which one was meant.

Python's own error names the function as it is called inside tidings, and before Python 3.13 it does
not say which option was meant.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

C = TypeVar("C", bound=Callable[..., Any])

# Compiled when it is first needed, as only an error needs it.
_UNKNOWN = r"([\w.]+)\(\) got an unexpected keyword argument '(\w+)'"
# The calls that keep Python's error, by the name that the error shows.
_quick: dict[str, Callable[..., Any]] = {}


def called(shown: str, *, hint: str = "") -> Callable[[C], C]:
    """Let a function or a class refuse wrong arguments under the name by which users know it.

    This costs one more call, so it is for declarations. `known_as` is for the calls that must be
    quick.

    Args:
        shown: the name, such as "listen()".
        hint: what to write, for an error about an argument that is missing.

    Example:
        ```python
        from tidings.keywords import called

        class Internal:
            @called("listen()")
            def listen(self, subject, *, queue=None):
                return subject

        try:
            Internal().listen("orders", queu="billing")
        except TypeError as error:
            assert str(error) == "listen() has no option 'queu'; did you mean 'queue'?"
        ```
    """

    def decorate(function: C) -> C:
        if isinstance(function, type):
            kind: Any = function
            kind.__init__ = called(shown, hint=hint)(kind.__init__)
            return function

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                if error.__traceback__ is None or error.__traceback__.tb_next is not None:
                    raise  # raised inside the function
                text = _fault(shown, function, args, kwargs, hint)
                if text is None:
                    raise
            raise TypeError(text)  # outside the except clause, so that it stands alone

        @functools.wraps(function)
        async def call_and_wait(*args: Any, **kwargs: Any) -> Any:
            return await call(*args, **kwargs)

        # Both take and return what the function does.
        wrapped: Any = call_and_wait if inspect.iscoroutinefunction(function) else call
        return wrapped  # type: ignore[no-any-return]  # a C, see above

    return decorate


def known_as(shown: str) -> Callable[[C], C]:
    """Let Python's errors about a function, or the public methods of a class, show another name.

    It costs nothing when one of them is called. `add_hint` completes the errors.

    Args:
        shown: the name by which users know the function or the class, such as "App".
    """

    def decorate(target: C) -> C:
        if not isinstance(target, type):
            _show_as(target, shown)
            return target
        for name, method in vars(target).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                _show_as(method, f"{shown}.{name}")
        return target

    return decorate


def _show_as(function: Callable[..., Any], shown: str) -> None:
    function.__qualname__ = shown
    _quick[shown] = function


def add_hint(error: BaseException) -> None:
    """Add a note to the error of a call with a misspelt option: which one was meant."""
    if not isinstance(error, TypeError) or getattr(error, "__notes__", None):
        return
    found = re.match(_UNKNOWN, str(error))
    if found and found[1] in _quick:
        known = [name for name in inspect.signature(_quick[found[1]]).parameters if name != "self"]
        error.add_note(unknown_option(f"{found[1]}()", found[2], known))


def refuse_options(
    shown: str, given: Iterable[str], known: Iterable[str], call: Callable[..., Any]
) -> None:
    """Refuse the first option that is not known.

    Args:
        shown: the name by which users know the call.
        given: the names of the options.
        known: the options that `call` takes in its `**kwargs`.
        call: the function or class. Its own options are named too, if one of them was meant.

    Raises:
        TypeError: if there is one. Its value is not shown, because it may be a secret.
    """
    for name in given:
        if name not in known:
            own = inspect.signature(call).parameters.values()
            options = [each.name for each in own if each.kind is each.KEYWORD_ONLY]
            raise TypeError(unknown_option(shown, name, [*options, *known]))


def unknown_option(shown: str, name: str, known: Iterable[str]) -> str:
    """Return the text of an error: this call has no such option, and what to write instead."""
    if advice := _panini_advice("OPTIONS", shown, name):
        return f"{shown} has no option {name!r}: {advice}"
    from tidings.similar import meant

    option = meant(name, known)
    return f"{shown} has no option {name!r}{f'; did you mean {option!r}?' if option else ''}"


def former_names(shown: str, *names: str) -> Callable[[C], C]:
    """Let each of these names of Panini raise an AttributeError that says what to write instead.

    Unlike a `__getattr__` of the class, this costs nothing when other attributes are read.

    Args:
        shown: the name by which users know the class, such as "App".
        names: the names, each with its advice in `tidings.panini`.
    """

    def decorate(cls: C) -> C:
        for name in names:
            setattr(cls, name, _Former(shown, name))
        kind: Any = cls
        kind.__dir__ = lambda self: [name for name in object.__dir__(self) if name not in names]
        return cls

    return decorate


class _Former:
    """A name that an object had in Panini."""

    def __init__(self, shown: str, name: str) -> None:
        self._owner = shown
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        advice = _panini_advice("ATTRIBUTES", self._owner, self._name)
        raise AttributeError(
            f"{self._owner} has no attribute {self._name!r}: {advice}",
            name=self._name,
            obj=owner if instance is None else instance,
        )


def _panini_advice(table: str, shown: str, name: str) -> str:
    from tidings import panini

    advice: dict[str, dict[str, str]] = getattr(panini, table)
    return advice.get(shown, {}).get(name, "")


def refuse_arguments(
    shown: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse arguments with which a function or a class cannot be called.

    Raises:
        TypeError: if it cannot.
    """
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        text = _fault(shown, function, args, kwargs, "") or f"{shown}: {error}"
    else:
        return
    raise TypeError(text)


def _fault(
    shown: str, function: Callable[..., Any], args: Any, kwargs: Any, hint: str
) -> str | None:
    """Return what is wrong with the arguments of a call, or None if nothing is."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters and parameters[0].name == "self":
        parameters, args = parameters[1:], args[1:]
    by_position = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    named = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    known = [each.name for each in by_position + named]
    if not takes_any and (unknown := [name for name in kwargs if name not in known]):
        return unknown_option(shown, unknown[0], known)
    if len(args) > len(by_position):
        most = ", ".join(each.name for each in by_position) or "nothing"
        wanted = f", such as {named[0].name}=" if named else ""
        return f"{shown} takes {most} by position, and the rest by name{wanted}"
    given = {each.name for each in by_position[: len(args)]}
    if twice := given & kwargs.keys():
        return f"{shown} got {min(twice)} twice: by position and by name"
    given |= kwargs.keys()
    missing = [
        each.name
        for each in by_position + named
        if each.default is each.empty and each.name not in given
    ]
    if missing:
        return f"{shown} needs {' and '.join(missing)}{f': write {hint}' if hint else ''}"
    return None
