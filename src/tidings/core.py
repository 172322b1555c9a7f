"""Core: the one place that chooses between the compiled core and the Python modules.

The extension `tidings._core` is optional: an installation has it if there was a compiler or a
wheel. It holds a faster form of the few classes and functions that run for every message. Each of
them is also written in Python, marked with `replaceable`; this form is the reference.

`$TIDINGS_CORE` chooses: "pure" for the Python modules, "compiled" for the extension and an error
without it. If it is not set, tidings uses the extension if it can.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

VARIABLE = "TIDINGS_CORE"
# The number of the contract with the extension: CORE_API in src/core/core.h.
API = 3


def load(choice: str) -> tuple[ModuleType | None, str]:
    """Return the extension, or None to use the Python modules, and why.

    Args:
        choice: "pure", "compiled", or "" for the extension if it can be used.

    Raises:
        ImportError: if the choice is "compiled" and the extension cannot be used.
        ValueError: if there is no such choice.
    """
    if choice not in ("", "pure", "compiled"):
        raise ValueError(f"${VARIABLE} must be pure or compiled, or not set; got {choice!r}")
    if choice == "pure":
        return None, f"${VARIABLE} is pure"
    try:
        extension = importlib.import_module("tidings._core")
    except ModuleNotFoundError:
        reason = "the extension is not built"
    except ImportError as error:  # built for another Python, or in a subinterpreter
        reason = f"the extension cannot be loaded: {error}"
    else:
        if getattr(extension, "API", None) == API:
            return extension, "the extension is built"
        reason = "the extension is built from other sources"
    if choice == "compiled":
        raise ImportError(
            f"${VARIABLE} is compiled, but {reason}. Install tidings again where there is a C "
            f"compiler, or unset the variable"
        )
    return None, reason


_extension, REASON = load(os.environ.get(VARIABLE, ""))
# What runs: "compiled" or "pure".
NAME = "pure" if _extension is None else "compiled"
# The Python forms, by their names, whatever runs.
PURE: dict[str, Any] = {}


def replaceable(pure: T) -> T:
    """Return the compiled form of a class or function if the compiled core runs, else the argument.

    The two forms have the same name and do the same. Tests find the Python form in `PURE`.
    """
    name: str = pure.__name__  # type: ignore[attr-defined]  # every class and function has one
    PURE[name] = pure
    return pure if _extension is None else getattr(_extension, name)


def compiled(name: str) -> Any:
    """Return a function of the compiled core that has no Python form, or None if it does not run.

    Only code that `choose` selects with the compiled core may call it.
    """
    return None if _extension is None else getattr(_extension, name)


def choose(pure: T, compiled: T) -> T:
    """Return what fits the core that runs. Both arguments are written in Python."""
    return pure if _extension is None else compiled
