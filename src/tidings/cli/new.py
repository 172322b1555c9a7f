"""`tidings new`: a folder with a service, its test and its README."""

from __future__ import annotations

import importlib.metadata
import keyword
import re
import sys
import unicodedata
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from tidings.errors import ConfigError, TidingsError

from .console import say

# Letters of a name: with `test_` and `.py` it must fit into the 255 bytes of a file's name.
LONGEST = 247

SERVICE = '''\
"""$title: a service on NATS."""

from dataclasses import dataclass

from tidings import App, Message, ServiceError

app = App(service_name="$module")


@dataclass
class Greeting:
    name: str


@app.listen("$module.greet")
async def greet(msg: Message[Greeting]):
    """The value returned is the reply. An error raised here reaches the caller."""
    if not msg.data.name:
        raise ServiceError(422, "a name is missing")
    await app.publish("$module.greeted", msg.data)
    return {"hello": msg.data.name}


@app.task(interval=60)
async def report():
    app.logger.info("%d messages up to now", app.stats().connection.received)


if __name__ == "__main__":
    app.run()
'''

TEST = '''\
"""`pytest` runs these on a real nats-server: the fixture `test_client` comes with tidings."""

import pytest
from tidings import ServiceError

from $module import app


def test_a_name_is_greeted(test_client):
    with test_client(app) as client:
        answer = client.request("$module.greet", {"name": "Ada"})
        assert answer == {"hello": "Ada"}
        [event] = client.wait_for("$module.greeted")
        assert event.data == {"name": "Ada"}


def test_a_missing_name_is_an_error(test_client):
    with test_client(app) as client, pytest.raises(ServiceError, match="missing"):
        client.request("$module.greet", {"name": ""})
'''

README = """\
# $title

A service on [NATS](https://nats.io), made with tidings.

```console
$$ pip install -r requirements.txt
$$ tidings run $module:app --dev
```

`--dev` brings a nats-server along and prints its URL. From a second terminal, with that URL:

```console
$$ tidings req $module.greet '{"name": "Ada"}' --servers URL
{
  "hello": "Ada"
}
```

The tests bring their own server, too:

```console
$$ pytest
```

In production, name the server by `$$NATS_URL` or `tidings run $module:app --servers URL`.
"""

REQUIREMENTS = """\
tidings[all]
pytest
"""


def new(
    name: Annotated[str, typer.Argument(help="The service's name; the folder gets it too.")],
) -> None:
    """Begin a service: a folder with its code, its test and its README."""
    module = module_name(name)
    folder = _current_folder() / module
    _make(folder)
    words = {"module": module, "title": module.replace("_", " ").capitalize()}
    files = {
        f"{module}.py": SERVICE,
        f"test_{module}.py": TEST,
        "README.md": README,
        "requirements.txt": REQUIREMENTS,
    }
    for file_name, text in files.items():
        _write(folder / file_name, Template(text).substitute(words))
    say(f"{module}/: {', '.join(files)}", style="green")
    say(f"\n  cd {module}\n  tidings run {module}:app --dev\n  pytest")


def _write(path: Path, text: str) -> None:
    try:
        # "x": a file that appeared meanwhile is not overwritten, and no link followed.
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise TidingsError(
            f"{path} cannot be written: {error.strerror}. "
            f"Before you try again, empty the folder {path.parent.name}"
        ) from None


def module_name(name: str) -> str:
    """A name for the module and its folder, made of what was typed.

    Raises:
        ConfigError: a path, a name too long for a file, or nothing to make a name of.

    Example:
        ```python
        from tidings.cli.new import module_name

        assert module_name("Order-Prices") == "order_prices"
        assert module_name("queue") == "queue_service"   # the standard library has that one
        ```
    """
    if "/" in name or "\\" in name or name.startswith("."):
        raise ConfigError(f"{name!r} is a path: type a name, and the folder is made right here")
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", plain)
    if not words:
        raise ConfigError(f"{name!r} has no letter to make a module's name of, as in greeter")
    module = "_".join(words)
    if module[0].isdigit():
        module = f"service_{module}"
    elif _is_taken(module):
        module = f"{module}_service"
    if len(module) > LONGEST:
        raise ConfigError(
            f"the name has {len(module)} letters as a module: choose one with at most {LONGEST}"
        )
    return module


def _is_taken(module: str) -> bool:
    """Whether Python or pytest uses it, or an installed package: one would hide the other."""
    installed = importlib.metadata.packages_distributions()
    used = {*sys.stdlib_module_names, *installed, "test", "conftest"}
    return keyword.iskeyword(module) or module in used


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise TidingsError(
            f"the current folder cannot be used: {error.strerror}. Change to another folder"
        ) from None


def _make(folder: Path) -> None:
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ConfigError(f"{folder.name} exists and is no folder: choose another name")
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(
                f"the folder {folder.name} exists and is not empty: choose another name"
            )
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder.name} cannot be made: {error.strerror}") from None
