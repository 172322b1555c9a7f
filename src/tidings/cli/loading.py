"""Imports the app that `module:app` names from the current folder."""

from __future__ import annotations

import importlib
import keyword
import os
import re
import sys
import traceback
from types import ModuleType, TracebackType
from typing import NoReturn

from tidings.app import App
from tidings.errors import ConfigError
from tidings.process.runner import importing

from . import logs


def load_app(target: str) -> App:
    """Import a module and return its app.

    Args:
        target: `module:app`, or `module` if the app is called `app`.

    Raises:
        ConfigError: there is no such module, or no such app in it. The text lists the apps that
            there are.
        SystemExit: the user's module raised. Its traceback is printed, and the code is 1.
    """
    name, attribute = split_target(target)
    folder = os.getcwd()
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)
    module = _import(name, folder, attribute)
    _check_place(module, name, folder)
    return _app_of(module, name, attribute)


def split_target(target: str) -> tuple[str, str]:
    """Split a target into the names of the module and of the attribute.

    Raises:
        ConfigError: the target does not have the form `module:app`.
    """
    name, mark, attribute = target.partition(":")
    if name.endswith(".py") or "/" in target or "\\" in target:
        raise ConfigError(_advice_for_path(target))
    words = [*name.split("."), attribute if mark else "app"]
    if not all(word.isidentifier() and not keyword.iskeyword(word) for word in words):
        raise ConfigError(
            f"{target!r} does not have the form module:app: write greeter:app, for example"
        )
    return name, attribute or "app"


def _advice_for_path(target: str) -> str:
    """Say what to write in place of the path of a file, such as `app/orders.py:app`."""
    path, _, attribute = target.rstrip(":").rpartition(":")
    if not path or not attribute.isidentifier():  # such as the drive of C:\\app\\orders.py
        path, attribute = target.rstrip(":"), "app"
    words = path.removesuffix(".py").replace("\\", "/").removeprefix("./").split("/")
    what = f"{path!r} is a {'file' if path.endswith('.py') else 'path'}, not a module"
    if not words[-1].isidentifier():
        name = re.sub(r"\W|^(?=\d)", "_", words[-1]) or "service"
        return f"{what}: rename the file to {name}.py, and write {name}:{attribute}"
    if all(word.isidentifier() for word in words):
        return f"{what}: write {'.'.join(words)}:{attribute}"
    return f"{what}: change to its folder, and write {words[-1]}:{attribute}"


def _import(name: str, folder: str, attribute: str) -> ModuleType:
    token = importing.set(True)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if _users_frames(error.__traceback__) is not None:
            _show_users_error(name, error)
        if name.partition(".")[0] == error.name or "." not in name:
            found = f"there is no module {error.name!r} in {folder} or among the installed packages"
        else:
            found = (
                f"there is no module {name!r} in {folder} or among the installed packages ({error})"
            )
        raise ConfigError(f"{found}: correct the name, or change to the module's folder") from None
    except Exception as error:
        parent, package = os.path.split(folder)
        if "no known parent package" in str(error) and package.isidentifier():
            raise ConfigError(
                f"{name!r} uses a relative import, which works only in a package: change to "
                f"{parent}, and write {package}.{name}:{attribute}"
            ) from None
        _show_users_error(name, error)
    finally:
        importing.reset(token)


def _show_users_error(name: str, error: Exception) -> NoReturn:
    """Print or log the traceback without the frames of the import system."""
    error = error.with_traceback(_users_frames(error.__traceback__))
    if not logs.report_exception(f"{name!r} cannot be imported", error):
        traceback.print_exception(error)
    raise SystemExit(1)


def _users_frames(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and _is_machinery(tb.tb_frame.f_code.co_filename):
        tb = tb.tb_next
    return tb


def _is_machinery(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")


def _check_place(module: ModuleType, name: str, folder: str) -> None:
    """Check that the import found the user's file, and not another module of the same name."""
    path = os.path.join(folder, *name.split(".")) + ".py"
    if os.path.isfile(path) and not os.path.samefile(
        path, getattr(module, "__file__", None) or "/"
    ):
        place = _place(module)
        raise ConfigError(f"{name!r} imports another module ({place}): rename {path}")


def _app_of(module: ModuleType, name: str, attribute: str) -> App:
    found = getattr(module, attribute, None)
    if isinstance(found, App):
        return found
    if hasattr(module, attribute):
        fault = f"{name}:{attribute} is of type {type(found).__name__}, not an App"
    else:
        fault = f"the module {name!r} ({_place(module)}) has no attribute {attribute!r}"
    apps = [word for word, value in vars(module).items() if isinstance(value, App)]
    if apps:
        choices = " or ".join(f"{name}:{word}" for word in apps)
        raise ConfigError(f"{fault}. Did you mean {choices}?")
    raise ConfigError(f'{fault}, and it contains no App. Write: app = App("{name}")')


def _place(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "built in"
