"""Hook checks: `add_middleware` refuses a middleware with a wrong hook, before the hook can run."""

from __future__ import annotations

import dis
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from tidings.errors import ConfigError
from tidings.functions import is_async

# The calls that each hook must accept: the number of positional arguments, and the keywords.
_PUBLISH = (3, ("reply_to", "force", "headers", "data_type"))
_REQUEST = (
    3,
    ("timeout", "response_data_type", "headers", "data_type", "retries", "idempotent"),
)
_STREAM = (
    3,
    (
        *("msg_id", "headers", "data_type", "expected_stream", "expected_sequence"),
        *("expected_subject_sequence", "expected_msg_id", "delay", "at", "ttl", "timeout"),
    ),
)
_LISTEN: tuple[int, tuple[str, ...]] = (2, ())
HOOKS = {
    "send_publish": (_PUBLISH,),
    "send_request": (_REQUEST,),
    "send_stream": (_STREAM,),
    "send_any": (_PUBLISH, _REQUEST, _STREAM),
    "listen_publish": (_LISTEN,),
    "listen_request": (_LISTEN,),
    "listen_stream": (_LISTEN,),
    "listen_any": (_LISTEN,),
}
# The hooks whose result goes to a requester or to the caller of `request` or `js.publish`.
_ANSWERING = ("listen_request", "listen_any", "send_request", "send_stream", "send_any")
_NO_STEPS = ("NOP", "CACHE", "EXTENDED_ARG")
_PREFIXES = ("send_", "listen_")
CLOSE = 0.8  # a name at least this similar to a hook's (of 1) is taken for a typing error


def check_hooks(cls: type, base: type) -> None:
    """Check the hooks of a middleware class.

    Args:
        cls: the class.
        base: the class `Middleware`.

    Raises:
        ConfigError: if a method looks like a hook but is none, if a hook is not `async def`, or if
            a hook does not accept the arguments that it will get.
    """
    for name in _own_names(cls, base):
        if name in HOOKS:
            _check_hook(cls, name)
        elif callable(getattr(cls, name)):
            _refuse_lookalike(cls, name)


def check_instance(middleware: object) -> None:
    """Check that a middleware has no hook that is set on the instance: it would never run.

    Raises:
        ConfigError: if the instance has such an attribute.
    """
    for name in HOOKS:
        if name in getattr(middleware, "__dict__", {}):
            raise ConfigError(
                f"{type(middleware).__qualname__}: {name} is set on the instance and would never "
                f"run. Define it as a method of the class"
            )


def silent_hooks(cls: type, base: type) -> list[str]:
    """Return the hooks of a middleware class that never return a value, although one is needed: the
    answer of a handler, or the result of a call.

    Args:
        cls: the class.
        base: the class `Middleware`.
    """
    overridden = (name for name in _ANSWERING if getattr(cls, name) is not getattr(base, name))
    return [name for name in overridden if _returns_only_none(inspect.unwrap(getattr(cls, name)))]


def _returns_only_none(function: Callable[..., Any]) -> bool:
    if not hasattr(function, "__code__"):
        return False
    steps = [step for step in dis.get_instructions(function) if step.opname not in _NO_STEPS]
    returned: list[object] = []
    for before, step in itertools.pairwise(steps):
        if step.opname == "RETURN_CONST":  # Python 3.12 and 3.13
            returned.append(step.argval)
        elif step.opname == "RETURN_VALUE":
            is_constant = before.opname == "LOAD_CONST"
            returned.append(before.argval if is_constant else before)
    return bool(returned) and all(value is None for value in returned)


def _own_names(cls: type, base: type) -> Iterator[str]:
    """Yield the public names that a class and its parents define, except those of the base."""
    parents = [parent for parent in cls.__mro__ if parent not in base.__mro__]
    yield from {name: None for parent in parents for name in vars(parent) if name[0] != "_"}


def _refuse_lookalike(cls: type, name: str) -> None:
    from tidings.similar import similar

    meant = similar(name.lower(), HOOKS, cutoff=CLOSE)
    if not meant and not name.startswith(_PREFIXES):
        return
    advice = f"did you mean {meant}?" if meant else f"the hooks are {', '.join(HOOKS)}."
    raise ConfigError(
        f"{cls.__qualname__}.{name} looks like a hook of a middleware but is none, so it would "
        f"never run: {advice} Give a method of your own another name, such as _{name}"
    )


def _check_hook(cls: type, name: str) -> None:
    hook = _bound(cls, name)
    if not callable(hook) or not is_async(inspect.unwrap(hook)):
        raise ConfigError(f"{cls.__qualname__}.{name} must be `async def`: tidings awaits it")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return  # a builtin without a signature
    for count, keywords in HOOKS[name]:
        try:
            signature.bind(*range(count), **dict.fromkeys(keywords))
        except TypeError as error:
            raise ConfigError(
                f"{cls.__qualname__}.{name}{signature} does not accept the arguments of this hook "
                f"({error}); write {_model(name, count)}"
            ) from None


def _bound(cls: type, name: str) -> Callable[..., Any]:
    """Return the hook bound to a stand-in, because the class cannot be instantiated yet."""
    raw = inspect.getattr_static(cls, name)
    bound: Callable[..., Any] = raw.__get__(object(), cls) if hasattr(raw, "__get__") else raw
    return bound


def _model(name: str, count: int) -> str:
    if count == 2:
        return f"async def {name}(self, msg, callback)"
    return f"async def {name}(self, subject, message, send_func, *args, **kwargs)"
