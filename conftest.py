"""Runs every Python snippet of README.md and docs/ as a test, against a real nats-server.

The rules that authors of snippets follow are in CONTRIBUTING.md, under "Snippets". In short: the
snippets of a document share one namespace and one event loop, `await` works at their top level, and

    <!-- run: app -->      starts the app of that name for the rest of the document
    <!-- logs: words -->   says that the document makes tidings log an error with these words in it
    <!-- skip: reason -->  the next snippet is compiled but not run

are the markers. A block in the language `output` is compared with what the snippets printed.
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

pytest_plugins = ["pytester"]

PATIENCE = 5.0  # seconds until something that a document promises has to have happened
FENCES = RawFencedCodeBlockLexer(re.compile(r"(?P<info>[^\n]*)\n"))
MARKER = re.compile(r"<!--+[ \t]*(?P<word>[a-z]+):[ \t]*(?P<argument>[^\n]*?)[ \t]*-->")
TITLE = re.compile(r'title="([^"]+)"')
# The port that documents name is nats-server's own; the server of a test run has another one.
DOCUMENTED_PORT = re.compile(r"\b4222\b")


class LoopThread(threading.Thread):
    """An event loop that keeps running between snippets, so that the apps of a document live on."""

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
        """Run a coroutine in the loop until it ends; half a minute is the most it gets."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self.join()


class ErrorLog(logging.Handler):
    """What tidings logged as an error, and which of it the document announced."""

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
        """The errors that nobody announced, as the text of a failure."""
        with self.changed:
            texts, self.unannounced = self.unannounced, []
        if texts:
            return "tidings logged an error that no `logs` marker announces:\n" + "\n".join(texts)
        return None

    def missing(self) -> set[str]:
        """The announced errors that have not come, after waiting for them."""
        with self.changed:
            self.changed.wait_for(lambda: self.announced == self.seen, PATIENCE)
            return self.announced - self.seen


class Output:
    """What the snippets printed and no `output` block has shown yet."""

    def __init__(self) -> None:
        self._text = ""
        self._changed = threading.Condition()

    def print(self, *values: object, sep: str = " ", end: str = "\n", **options: Any) -> None:
        builtins.print(*values, sep=sep, end=end, **options)
        with self._changed:
            self._text += sep.join(map(str, values)) + end
            self._changed.notify_all()

    def fault(self, shown: str) -> str | None:
        """Wait for the text that is shown, in which `...` stands for anything, and take it."""
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
    """What the snippets of one document run on: module, files, loop, server and started apps."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        # One server a document: its streams are in no other document's way.
        self.server = NATSServer(jetstream=True)
        self.server.start()
        self.environment = pytest.MonkeyPatch()
        self.environment.setenv("NATS_URL", self.server.url)
        self.files = tempfile.TemporaryDirectory(prefix="snippets-")
        self.directory = Path(self.files.name)
        self.loop = LoopThread()
        self.output = Output()
        self.errors = ErrorLog()
        self.apps: dict[str, Any] = {}
        module.__dict__["__builtins__"] = {**vars(builtins), "print": self.output.print}
        # Dataclasses and type hints are resolved through the module that their class names.
        sys.modules[module.__name__] = module
        sys.path.insert(0, str(self.directory))
        logging.getLogger("tidings").addHandler(self.errors)

    def localize(self, source: str) -> str:
        return DOCUMENTED_PORT.sub(str(self.server.port), source)

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
        # A task's first run is part of what the document shows. One that never ends is not awaited.
        deadline = time.monotonic() + 1.0
        while any(task.runs == 0 for task in app.stats().tasks) and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the apps; fail for what they logged and for what the document announced in vain."""
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
    """A Markdown document whose namespace is that of a module, and its stage while it runs."""

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text, path)
        self.module = ModuleType("snippets_" + re.sub(r"\W", "_", Path(path).stem))
        self.namespace = self.module.__dict__
        self.namespace["__document__"] = self
        self.stage: Stage | None = None


def stage_of(example: Example) -> Stage:
    """The document's stage, set up by its first example."""
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
    # The padding makes the line numbers of a traceback those of the document.
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
        return 'A snippet with tests needs a title="test_....py": pytest runs that file.'
    stage.execute(compile_snippet(example, source))
    return stage.errors.fault()


def run_test_file(stage: Stage, name: str) -> str | None:
    # Hypothesis' plugin imports all of it to say nothing: half of the time that such a run takes.
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
            raise fault(document, place.start(), f"{place[0]!r} is no marker and no plain comment")
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
            document, fence.start, "name the fence's language: `python` runs, `text` is just shown"
        )


def start_of(place: Region | re.Match[str]) -> int:
    return place.start if isinstance(place, Region) else place.start()


def inside(match: re.Match[str], fences: list[Region]) -> bool:
    return any(fence.start < match.start() < fence.end for fence in fences)


def fault(document: Document, position: int, text: str) -> ValueError:
    return ValueError(f"{document.path}, {document.line_column(position)}: {text}")


def traceback_in_document(item: SybilItem, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    return excinfo.traceback.cut(path=item.path)


# Sybil's own filter takes it that its frames are there, which those of a cause are not: the whole
# run would end with an IndexError.
SybilItem._traceback_filter = traceback_in_document

pytest_collect_file = Sybil(
    parsers=[parse_document],
    pattern="*.md",
    document_types={".md": SnippetDocument},
    teardown=close_stage,
).pytest()
