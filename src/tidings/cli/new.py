"""`tidings new`: creates a folder with a service, its test and its README."""

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

# Maximum length of a name: with `test_` and `.py` it must fit into a file name of 255 bytes.
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
    """The return value is the reply. The caller gets an error that is raised here."""
    if not msg.data.name:
        raise ServiceError(422, "a name is missing")
    await app.publish("$module.greeted", msg.data)
    return {"hello": msg.data.name}


@app.task(interval=60)
async def report():
    app.logger.info("%d messages received so far", app.stats().connection.received)


if __name__ == "__main__":
    app.run()
'''

TEST = '''\
"""These tests use a real nats-server. The fixture `test_client` is part of tidings."""

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

A service on [NATS](https://nats.io), built with tidings. Run it:

```console
$$ pip install -r requirements.txt
$$ tidings run $module:app --dev
```

`--dev` starts a nats-server. Send a request in a second terminal:

```console
$$ tidings req $module.greet '{"name": "Ada"}'
{
  "hello": "Ada"
}
```

If port 4222 is in use, `tidings run` prints the command with the URL of its own server.

The tests start their own server:

```console
$$ pytest
```

In production, name the server in `$$NATS_URL`, or call `tidings run $module:app --servers URL`.
"""

REQUIREMENTS = """\
tidings[all]
pytest
"""


COMMANDS = """
Run it:

  cd $module
  pip install -r requirements.txt
  tidings run $module:app --dev

In a second terminal, send it a request:

  tidings req $module.greet '{"name": "Ada"}'

Run its tests:

  pytest"""


def new(
    name: Annotated[str, typer.Argument(help="Name of the service and of its folder.")],
) -> None:
    """Create a folder with a service, its test and README."""
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
    say(Template(COMMANDS).substitute(words))


def _write(path: Path, text: str) -> None:
    try:
        # Mode "x" overwrites no file that was created meanwhile and follows no link.
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise TidingsError(
            f"{path} cannot be written: {error.strerror}. "
            f"Empty the folder {path.parent.name} before you try again"
        ) from None


def module_name(name: str) -> str:
    """Convert the name that the user typed into a name for the module and its folder.

    Raises:
        ConfigError: the name is a path, is too long for a file, or contains no letter or digit.

    Example:
        ```python
        from tidings.cli.new import module_name

        assert module_name("Order-Prices") == "order_prices"
        assert module_name("queue") == "queue_service"   # the standard library has a queue
        ```
    """
    if "/" in name or "\\" in name or name.startswith("."):
        raise ConfigError(
            f"{name!r} is a path: write a name only, and run the command in the parent folder"
        )
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", plain)
    if not words:
        raise ConfigError(
            f"{name!r} contains no letter from a to z and no digit: choose a name like greeter"
        )
    module = "_".join(words)
    if module[0].isdigit():
        module = f"service_{module}"
    elif _is_taken(module):
        module = f"{module}_service"
    if len(module) > LONGEST:
        raise ConfigError(
            f"the name is {len(module)} letters long: choose one with at most {LONGEST}"
        )
    return module


def _is_taken(module: str) -> bool:
    """Whether Python, pytest or an installed package uses this name, so that one module would hide
    the other."""
    installed = importlib.metadata.packages_distributions()
    used = {*sys.stdlib_module_names, *installed, "test", "conftest"}
    return keyword.iskeyword(module) or module in used


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise TidingsError(
            f"the current folder cannot be used ({error.strerror}): change to another folder"
        ) from None


def _make(folder: Path) -> None:
    try:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ConfigError(f"{folder.name} exists and is not a folder: choose another name")
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(
                f"the folder {folder.name} exists and is not empty: choose another name"
            )
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder {folder.name} cannot be created ({error.strerror}): run the command in a "
            "folder that you may write to"
        ) from None
