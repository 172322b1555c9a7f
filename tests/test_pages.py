"""What readers can do with the snippets of README.md and docs/: type them in, and run them."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.ports import free_port
from tidings.server import NATSServer

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
SOURCE = ROOT / "src"
MODULES = sorted(SOURCE.rglob("*.py"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# The first line below the title of a page whose snippets need each other, or an event loop.
NOTE = re.compile(
    r"^# .+\n\n\*To try the snippets of this page, paste them in order into \[`python -m asyncio`\]"
    r"\(first-service\.md#try-the-snippets\)\.\*\n"
)
PIECE = re.compile(
    r'^```(?P<language>\w+)(?: +title="(?P<title>[^"]+)")?[^\n]*\n(?P<source>.*?)^```'
    r"|^<!-- run: (?P<app>\w+) -->"
    r"|^<!-- (?P<skip>skip): [^\n]* -->"
    r"|^<!--.*?-->",
    re.MULTILINE | re.DOTALL,
)
DOCSTRING_BLOCK = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# In the console, `__name__` is `"__main__"`.
MAIN = re.compile(r'^if __name__ == "__main__":\n(?: +.*\n)+', re.MULTILINE)


class Snippet(NamedTuple):
    """A block of code that readers see, or an app to start if `app` is set."""

    language: str
    title: str
    source: str
    is_skipped: bool
    app: str


def snippets_of(text: str) -> Iterator[Snippet]:
    is_skipped = False
    for piece in PIECE.finditer(text):
        if piece["skip"]:
            is_skipped = True
        elif piece["language"] or piece["app"]:
            groups = (piece[name] or "" for name in ("language", "title", "source"))
            yield Snippet(*groups, is_skipped, piece["app"] or "")
            is_skipped = False


def python_of(path: Path) -> list[str]:
    """The Python code in a page, in an example, or in the docstrings of a module of tidings."""
    if SOURCE in path.parents:
        return [textwrap.dedent(block) for block in DOCSTRING_BLOCK.findall(path.read_text())]
    if path.suffix == ".py":
        return [path.read_text()]
    return [each.source for each in snippets_of(path.read_text()) if each.language == "python"]


def parse(source: str) -> ast.Module:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, "snippet", "exec", flags)
    assert isinstance(tree, ast.Module)
    return tree


def fragment_fault(source: str) -> str | None:
    """Why code does not run as a file of its own, or None if it does."""
    code = compile(source, "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        return "awaits at the top level"
    missing = used_names(source)
    return f"uses {', '.join(sorted(missing))}" if missing else None


def used_names(source: str) -> set[str]:
    """The names that code uses and does not define."""
    used, defined = set[str](), {*vars(builtins)}
    for node in ast.walk(parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                defined.add(name)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                defined.add(node.name)
            case ast.alias():
                defined.add((node.asname or node.name).partition(".")[0])
    return used - defined - {"__name__", "__file__"}


def deep_imports(source: str) -> list[str]:
    """The names that code imports from a module of tidings although a shorter import has them."""
    return [
        f"write `from {shorter} import {alias.name}`, not `from {node.module} import ...`"
        for node in ast.walk(parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tidings.")
        for alias in node.names
        for shorter in [shorter_place(node.module or "", alias.name)]
        if shorter
    ]


def shorter_place(module: str, name: str) -> str | None:
    parts = module.split(".")
    for length in range(1, len(parts)):
        place = ".".join(parts[:length])
        if name in getattr(importlib.import_module(place), "__all__", ()):
            return place
    return None


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_imported_from_where_they_are_exported(path: Path) -> None:
    assert [fault for source in python_of(path) for fault in deep_imports(source)] == []


def test_docstrings_import_names_from_where_they_are_exported() -> None:
    found = {
        str(path.relative_to(SOURCE)): faults
        for path in MODULES
        for faults in [[fault for source in python_of(path) for fault in deep_imports(source)]]
        if faults
    }
    assert found == {}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_snippet_runs_as_a_file_or_the_page_says_where_it_runs(page: Path) -> None:
    faults = [fault for source in python_of(page) for fault in [fragment_fault(source)] if fault]
    says_so = bool(NOTE.match(page.read_text()))
    assert says_so == bool(faults), faults or "every snippet is whole: remove the line at the top"


def is_left_out(snippet: Snippet) -> bool:
    return snippet.is_skipped or snippet.title.startswith("test_")


def statements_of(source: str) -> Iterator[str]:
    """The statements of a snippet as the console takes them: no empty line within one, and an empty
    line after each."""
    for node in parse(source).body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        lines = source.splitlines()[first - 1 : node.end_lineno]
        yield "\n".join(line for line in lines if line.strip()) + "\n"


NOTED = [page for page in PAGES if NOTE.match(page.read_text())]


def pasted(text: str, folder: Path, port: int) -> str:
    """What a reader of a page types into the console. Blocks with a title become files."""
    monitor_port = free_port()
    lines = ["import logging; logging.disable()  # the errors that handlers log on purpose\n"]
    for snippet in snippets_of(text):
        source = re.sub(r"\b4222\b", str(port), snippet.source)
        source = re.sub(r"\b9464\b", str(monitor_port), source)
        if snippet.title:
            (folder / snippet.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / snippet.title).write_text(source)
        if snippet.app:
            lines.append(f"await {snippet.app}.connect()\n")
        elif snippet.language == "python" and not is_left_out(snippet):
            lines += statements_of(MAIN.sub("", source))
    return "\n".join(lines)


@pytest.mark.parametrize("page", NOTED, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_can_be_pasted_into_the_asyncio_console(
    page: Path, tmp_path: Path
) -> None:
    with NATSServer(jetstream=True) as server:
        done = subprocess.run(
            [sys.executable, "-m", "asyncio"],
            input=pasted(page.read_text(), tmp_path, server.port),
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "NATS_URL": server.url},
        )
    assert "Error" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


# Pages that show files of examples/.


SHOWN = [
    (page, snippet.title, snippet.source)
    for page in PAGES
    for snippet in snippets_of(page.read_text())
    if snippet.title.startswith("examples/")
]


@pytest.mark.parametrize(
    ("page", "name", "source"), SHOWN, ids=[f"{page.stem}: {name}" for page, name, _ in SHOWN]
)
def test_a_page_shows_an_example_as_it_is(page: Path, name: str, source: str) -> None:
    assert source == (ROOT / name).read_text()


def test_the_pages_show_the_examples_for_web_frameworks_and_for_deployment() -> None:
    shown = {name for _, name, _ in SHOWN}
    assert {"examples/fastapi_app.py", "examples/flask_app.py"} < shown
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "examples" / "deployment").iterdir()
        if path.is_file()
    }
    assert files < shown


# The checks find what they look for.


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from tidings import App\n\napp = App('a')\n", None),
        ("def f(x):\n    return [y for y in x if __name__]\n", None),
        ("try:\n    open('x')\nexcept OSError as error:\n    print(error)\n", None),
        ("await app.connect()\n", "awaits at the top level"),
        ("async with open('x'):\n    pass\n", "awaits at the top level"),
        ("@app.listen('x')\nasync def x(msg):\n    return total\n", "uses app, total"),
    ],
)
def test_a_fragment_is_found(source: str, fault: str | None) -> None:
    assert fragment_fault(source) == fault


@pytest.mark.parametrize(
    ("source", "shorter"),
    [
        ("from tidings.errors import ConfigError", "tidings"),
        ("from tidings.jetstream.streams.stream import days", "tidings"),
        ("def f():\n    from tidings.testing.client import TestClient", "tidings.testing"),
        ("from tidings.testing import TestClient", None),
        ("from tidings import App", None),
    ],
)
def test_an_import_from_too_deep_is_found(source: str, shorter: str | None) -> None:
    faults = deep_imports(source)
    assert bool(faults) == (shorter is not None)
    assert all(f"`from {shorter} import" in fault for fault in faults)


def test_comments_and_skipped_blocks_are_told_apart_from_what_readers_paste() -> None:
    text = (
        "```python\na = 1\n```\n<!--\n```python\nhidden = 1\n```\n-->\n"
        "<!-- run: app -->\n<!-- skip: no reason -->\n\n```python\nb = 2\n```\n"
    )
    first, app, skipped = snippets_of(text)
    assert (first.source, first.is_skipped) == ("a = 1\n", False)
    assert app.app == "app"
    assert (skipped.source, skipped.is_skipped) == ("b = 2\n", True)
