"""Runs every Python snippet of README.md and docs/ as a test, against a real nats-server.

CONTRIBUTING.md explains under "Snippets" how to write them. In short: the snippets of a document
share one namespace and one event loop, and `await` works at their top level. Three comments are
markers:

    <!-- run: app -->      starts the app of that name for the rest of the document
    <!-- logs: words -->   expects tidings to log an error that contains these words
    <!-- skip: reason -->  compiles the next snippet but does not run it

A block in the language `output` is compared with what the snippets printed.
"""

import ast
import asyncio
import builtins
import inspect
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.integration.pytest import SybilItem
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from tidings.server import NATSServer
from tidings.server.ports import free_ports
from tidings.transport.sources import VARIABLES

# What the developer has set for other servers must not reach the servers of the tests.
for variable in VARIABLES.values():
    os.environ.pop(variable.removeprefix("$"), None)
os.environ["XDG_CONFIG_HOME"] = os.path.join(tempfile.gettempdir(), "tidings-no-contexts")

pytest_plugins = ["pytester"]

PATIENCE = 20.0  # seconds to wait for output or an error that a document promises
FENCES = RawFencedCodeBlockLexer(re.compile(r"(?P<info>[^\n]*)\n"))
MARKER = re.compile(r"<!--+[ \t]*(?P<word>[a-z]+):[ \t]*(?P<argument>[^\n]*?)[ \t]*-->")
TITLE = re.compile(r'title="([^"]+)"')
# Documents name nats-server's default port. The server of a test run listens on another one.
DOCUMENTED_PORT = re.compile(r"\b4222\b")
# They also name the usual port of a monitor, which several documents use at the same time.
MONITOR_PORT = re.compile(r"\b9464\b")


class LoopThread(threading.Thread):
    """An event loop that keeps running between snippets, so that a document's apps keep running."""

    def __init__(self) -> None:
        super().__init__(name="snippets", daemon=True)
        self._ready = threading.Event()
        self._closing: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self.start()
        self._ready.wait()

    def run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._closing.wait()

    def complete(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the loop and wait for its result, for at most 30 seconds."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self.join()


class ErrorLog(logging.Handler):
    """The errors that tidings logged, and those that the document announced."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.setFormatter(logging.Formatter("%(message)s"))
        self.announced: set[str] = set()
        self.seen: set[str] = set()
        self.unannounced: list[str] = []
        self.changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        with self.changed:
            matching = {words for words in self.announced if words in text}
            self.seen |= matching
            if not matching:
                self.unannounced.append(text)
            self.changed.notify_all()

    def fault(self) -> str | None:
        """Return a failure text with the errors that the document did not announce, or None."""
        with self.changed:
            texts, self.unannounced = self.unannounced, []
        if texts:
            return "tidings logged an error that no `logs` marker announces:\n" + "\n".join(texts)
        return None

    def missing(self) -> set[str]:
        """Wait for the announced errors and return those that tidings did not log."""
        with self.changed:
            self.changed.wait_for(lambda: self.announced == self.seen, PATIENCE)
            return self.announced - self.seen


class Output:
    """What the snippets printed and no `output` block has matched yet."""

    def __init__(self) -> None:
        self._text = ""
        self._changed = threading.Condition()

    def print(self, *values: object, sep: str = " ", end: str = "\n", **options: Any) -> None:
        builtins.print(*values, sep=sep, end=end, **options)
        with self._changed:
            self._text += sep.join(map(str, values)) + end
            self._changed.notify_all()

    def fault(self, shown: str) -> str | None:
        """Wait for the shown text, in which `...` matches anything, and consume it.

        Returns a failure text if it does not appear, else None.
        """
        parts = [re.escape(part) for part in shown.strip().split("...")]
        pattern = re.compile(r"^" + ".*?".join(parts) + r"$", re.MULTILINE | re.DOTALL)
        with self._changed:
            self._changed.wait_for(lambda: pattern.search(self._text), PATIENCE)
            match = pattern.search(self._text)
            if match is None:
                return f"The document shows:\n{shown}\nThe snippets printed:\n{self._text}"
            self._text = self._text[match.end() :]
        return None


class Stage:
    """The surroundings of one document's snippets: module, files, loop, server and apps."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        # Each document has its own server, so that the streams of two documents cannot collide.
        self.server = NATSServer(jetstream=True)
        self.server.start()
        [self.monitor_port] = free_ports(1)
        self.environment = pytest.MonkeyPatch()
        self.environment.setenv("NATS_URL", self.server.url)
        self.files = tempfile.TemporaryDirectory(prefix="snippets-")
        self.directory = Path(self.files.name)
        self.loop = LoopThread()
        self.output = Output()
        self.errors = ErrorLog()
        self.apps: dict[str, Any] = {}
        module.__dict__["__builtins__"] = {**vars(builtins), "print": self.output.print}
        # Dataclasses and type hints look up names in the module of their class.
        sys.modules[module.__name__] = module
        sys.path.insert(0, str(self.directory))
        logging.getLogger("tidings").addHandler(self.errors)

    def localize(self, source: str) -> str:
        source = DOCUMENTED_PORT.sub(str(self.server.port), source)
        return MONITOR_PORT.sub(str(self.monitor_port), source)

    def write(self, name: str, source: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)

    def execute(self, code: CodeType) -> None:
        if code.co_flags & inspect.CO_COROUTINE:
            self.loop.complete(eval(code, self.module.__dict__))
        else:
            exec(code, self.module.__dict__)

    def start(self, name: str) -> None:
        app = self.module.__dict__[name]
        self.loop.complete(app.__aenter__())
        self.apps[name] = app
        # A document may show the output of a task's first run. Some tasks never end, so this wait
        # has a limit.
        deadline = time.monotonic() + 1.0
        while any(task.runs == 0 for task in app.stats().tasks) and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the apps. Fail for each unannounced error, and for each announced one not logged."""
        try:
            missing = self.errors.missing()
            for app in reversed(self.apps.values()):
                self.loop.complete(app.__aexit__(None, None, None))
            assert not missing, f"The document announces errors that tidings did not log: {missing}"
            fault = self.errors.fault()
            assert not fault, fault
        finally:
            logging.getLogger("tidings").removeHandler(self.errors)
            self.loop.close()
            sys.path.remove(str(self.directory))
            del sys.modules[self.module.__name__]
            for name, module in list(sys.modules.items()):
                if str(getattr(module, "__file__", "")).startswith(f"{self.directory}{os.sep}"):
                    del sys.modules[name]
            self.files.cleanup()
            self.environment.undo()
            self.server.stop()


class SnippetDocument(Document):
    """A Markdown document that uses a module's namespace, and its stage while it runs."""

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text, path)
        self.module = ModuleType("snippets_" + re.sub(r"\W", "_", Path(path).stem))
        self.namespace = self.module.__dict__
        self.namespace["__document__"] = self
        self.stage: Stage | None = None


def stage_of(example: Example) -> Stage:
    """Return the document's stage. The first example sets it up."""
    document = example.document
    assert isinstance(document, SnippetDocument)
    if document.stage is None:
        document.stage = Stage(document.module)
    return document.stage


def close_stage(namespace: dict[str, Any]) -> None:
    document = namespace["__document__"]
    if document.stage is not None:
        document.stage.close()


def compile_snippet(example: Example, source: str) -> CodeType:
    # The padding makes a traceback show the line numbers of the document.
    padded = "\n" * example.line + source
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(padded, example.path, "exec", flags=flags, dont_inherit=True)


def run_snippet(example: Example) -> str | None:
    stage, source, title = stage_of(example), *example.parsed
    source = stage.localize(source)
    if title:
        stage.write(title, source)
    if title.startswith("test_"):
        return run_test_file(stage, title)
    if re.search(r"^(async )?def test_", source, re.MULTILINE):
        return 'A snippet with tests needs title="test_....py", so that pytest runs it as a file.'
    stage.execute(compile_snippet(example, source))
    return stage.errors.fault()


def run_test_file(stage: Stage, name: str) -> str | None:
    # Importing Hypothesis for its plugin would take half of the time of such a run.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:hypothesispytest"]
    command += ["-o", "asyncio_mode=auto", name]
    done = subprocess.run(
        command, cwd=stage.directory, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout + done.stderr if done.returncode else None


def skip_snippet(example: Example) -> None:
    source, _, reason = example.parsed
    compile_snippet(example, source)
    pytest.skip(reason)


def check_output(example: Example) -> str | None:
    stage = stage_of(example)
    return stage.output.fault(stage.localize(example.parsed)) or stage.errors.fault()


def start_app(example: Example) -> str | None:
    stage = stage_of(example)
    stage.start(example.parsed)
    return stage.errors.fault()


def announce_error(example: Example) -> None:
    stage_of(example).errors.announced.add(example.parsed)


MARKERS = {"run": start_app, "logs": announce_error, "skip": None}


def parse_document(document: Document) -> Iterator[Region]:
    """Sybil's parser for snippets, their output and the markers."""
    fences = sorted(FENCES(document), key=lambda region: region.start)
    markers = [match for match in MARKER.finditer(document.text) if not inside(match, fences)]
    skips: list[re.Match[str]] = []
    for place in sorted([*fences, *markers], key=start_of):
        if isinstance(place, Region):
            yield from parse_fence(document, place, skips.pop() if skips else None)
        elif not place["argument"] or place["word"] not in MARKERS:
            raise fault(
                document,
                place.start(),
                f"{place[0]!r} is not a marker; write `run: app`, `logs: words` or `skip: reason`",
            )
        elif place["word"] == "skip":
            skips.append(place)
        else:
            yield Region(
                place.start(), place.end(), place["argument"].strip("`"), MARKERS[place["word"]]
            )
    if skips:
        raise fault(document, skips[0].start(), "there is no snippet to skip")


def parse_fence(document: Document, fence: Region, skip: re.Match[str] | None) -> Iterator[Region]:
    language, _, attributes = fence.lexemes["info"].strip().partition(" ")
    source = fence.lexemes["source"]
    if language == "python":
        title = TITLE.search(attributes)
        parsed = (source, title[1] if title else "")
        if skip:
            yield Region(fence.start, fence.end, (*parsed, skip["argument"]), skip_snippet)
        else:
            yield Region(fence.start, fence.end, parsed, run_snippet)
    elif skip:
        raise fault(document, skip.start(), "there is no snippet to skip")
    elif language == "output":
        yield Region(fence.start, fence.end, source, check_output)
    elif not language or language.lstrip("{.").startswith("py"):
        raise fault(
            document, fence.start, "name the block's language: `python` runs, `text` is only shown"
        )


def start_of(place: Region | re.Match[str]) -> int:
    return place.start if isinstance(place, Region) else place.start()


def inside(match: re.Match[str], fences: list[Region]) -> bool:
    return any(fence.start < match.start() < fence.end for fence in fences)


def fault(document: Document, position: int, text: str) -> ValueError:
    return ValueError(f"{document.path}, {document.line_column(position)}: {text}")


def traceback_in_document(item: SybilItem, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    return excinfo.traceback.cut(path=item.path)


# Sybil's own filter expects Sybil's frames in every traceback. The traceback of a cause has none,
# so the filter would end the whole test run with an IndexError.
SybilItem._traceback_filter = traceback_in_document

pytest_collect_file = Sybil(
    parsers=[parse_document],
    pattern="*.md",
    document_types={".md": SnippetDocument},
    teardown=close_stage,
).pytest()
