"""Every example in a docstring runs, against a real server."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tidings import App
from tidings.jetstream import Stream
from tidings.server import NATSServer

SOURCE = Path(__file__).parents[1] / "src" / "tidings"
BLOCK = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """A block of Python in the docstring of a module, a class or a function."""

    place: str
    source: str


def examples_in(path: Path) -> Iterator[Example]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(path.read_text())):
        text = (ast.get_docstring(node, clean=False) or "") if isinstance(node, documented) else ""
        for block in BLOCK.finditer(text):
            name = getattr(node, "name", "")
            yield Example(f"{path.relative_to(SOURCE)}:{name}", textwrap.dedent(block[1]))


EXAMPLES = [example for path in sorted(SOURCE.rglob("*.py")) for example in examples_in(path)]


def example_app() -> App:
    """The app that the examples of methods speak of, with the services that they call."""
    app = App(
        "example",
        streams=[
            Stream("ORDERS", subjects=["orders.created"]),
            Stream("REMINDERS", subjects=["orders.remind"], schedules=True),
            Stream("LEDGER", subjects=["ledger.*"], atomic=True),
            Stream("HITS", subjects=["hits.*"], counters=True),
        ],
    )

    @app.listen("greet")
    async def greet(msg: Any) -> Any:
        return {"hello": msg.data["name"]}

    @app.listen("orders.total", data_type=dict)
    async def total(msg: Any) -> Any:
        return 12

    return app


@pytest.fixture(scope="module")
def server() -> Iterator[NATSServer]:
    """A server for the examples alone: the stream that they use would catch others' messages."""
    with NATSServer(jetstream=True) as server:
        yield server


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.place)
async def test_an_example_of_a_docstring_runs(
    example: Example, server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", server.url)
    source = example.source.replace("4222", str(server.port))
    code = compile(source, example.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True)
    names = {"__name__": "example", "app": example_app()}
    if code.co_flags & inspect.CO_COROUTINE:
        async with names["app"]:
            await eval(code, names)
    else:
        exec(code, names)
        async with names["app"]:  # what was declared is accepted when the app starts
            pass


def test_the_docstrings_have_examples() -> None:
    assert len(EXAMPLES) > 10
