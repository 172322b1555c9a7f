"""Imports point down: the floors of src/tidings, held by reading its syntax trees."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import pytest

import tidings

SOURCE = Path(__file__).parents[1] / "src" / "tidings"

# The lowest floor first. A module imports from floors below its own and, on its own floor, from the
# modules to its left. A package stands here as one.
FLOORS = {
    "ground": [
        "version",
        "core",
        "text",
        "log",
        "error_codes",
        "errors",
        "checks",
        "cron",
        "addresses",
        "panini",
        "similar",
        "keywords",
        "functions",
        "subject",
        "stats",
        "deadlines",
        "concurrency",
        "protocol",
        "headers",
        "codec",
        "message",
        "responses",
        "service_errors",
    ],
    "transport": ["transport", "stream_answers", "retries"],
    "work": [
        "flows",
        "handlers",
        "link",
        "current_link",
        "bus",
        "blocking",
        "jetstream",
        "services",
        "declarations",
        "group",
    ],
    "face": [
        "cautions",
        "integrations",
        "plan",
        "lifecycle",
        "launch",
        "process",
        "app",
        "internals",
    ],
    "edges": ["server", "testing", "contrib", "cli", "__main__"],
}
# What is in each package, the lowest first: the same holds inside.
INSIDE = {
    "errors": ["base", "usage", "connection", "handling", "requests", "jetstream"],
    "concurrency": [
        "backoff",
        "durations",
        "failure_log",
        "forks",
        "long_runs",
        "portal",
        "bridge",
        "time_limit",
        "home",
        "pool",
        "threads",
        "work_queue",
    ],
    "protocol": ["auth", "commands", "deadlines", "headers", "flow", "info", "parser"],
    "codec": ["forms", "models", "json", "schema"],
    "transport": [
        "backoff",
        "credentials",
        "dispatch",
        "exchanges",
        "permissions",
        "pings",
        "race",
        "pending_requests",
        "requests",
        "tcp",
        "frame_queue",
        "buffer",
        "patience",
        "tls",
        "websocket",
        "interest",
        "options",
        "contexts",
        "inbox",
        "servers",
        "references",
        "sources",
        "settings",
        "login",
        "dial",
        "handover",
        "seeker",
        "moving",
        "connection",
    ],
    "flows": [
        "follower",
        "limits",
        "wire",
        "window",
        "channel",
        "departure",
        "request_items",
        "lookout",
        "sources",
        "many",
        "item_stream",
        "from_thread",
    ],
    "handlers": [
        "hook_checks",
        "hooks",
        "lifespan",
        "signatures",
        "health",
        "annotations",
        "parameters",
        "shapes",
        "events",
        "middleware",
        "tracing",
        "task_spec",
        "tasks",
        "listener_spec",
        "timing",
        "serving",
        "listener",
        "measured",
        "bursts",
        "queue_groups",
        "request_times",
        "subscriptions",
        "watchdog",
    ],
    "jetstream": [
        "status",
        "start",
        "shapes",
        "api",
        "clock",
        "election",
        "filters",
        "message",
        "responses",
        "names",
        "position",
        "pauses",
        "get",
        "ordered",
        "origins",
        "streams",
        "expected",
        "capability",
        "ttl",
        "resets",
        "counts",
        "delay",
        "latest",
        "batch_get",
        "stored",
        "ordered_queue",
        "roster",
        "reader",
        "bucket",
        "publish",
        "atomic",
        "atomic_batch",
        "commit",
        "publish_batch",
        "counters",
        "dead_letter",
        "kv",
        "objects",
        "fast_batch",
        "fast_ingest",
        "publish_window",
        "consumer",
        "schedule",
        "locks",
        "host",
        "messages",
        "reads",
        "additions",
        "context",
        "dead_letters",
    ],
    "jetstream/consumer": [
        "batch",
        "losses",
        "layout",
        "priority",
        "rate",
        "spec",
        "config",
        "instances",
        "terms",
        "remote",
        "bound",
        "acks",
        "ordered",
        "prefetch",
        "pull",
        "consumer",
        "single",
        "partitions",
        "consumers",
    ],
    "jetstream/consumer/partitions": [
        "members",
        "leases",
        "group",
        "seat",
        "lanes",
        "done",
        "assignment",
        "member",
    ],
    "jetstream/locks": ["turns", "leases", "lease", "locks", "lock", "leader"],
    "jetstream/kv": [
        "codecs",
        "keys",
        "entry",
        "deletes",
        "plain",
        "transaction",
        "key_bucket",
        "watch",
        "key_value",
        "watchers",
    ],
    "jetstream/objects": ["files", "info", "chunks", "prune", "store"],
    "jetstream/schedule": ["late", "spec", "plan", "crons", "jobs"],
    "jetstream/streams": ["drops", "forms", "transform", "source", "stream", "bucket", "plan"],
    "services": [
        "protocol",
        "records",
        "answers",
        "finder",
        "blocking",
        "endpoints",
        "identity",
        "discovery",
    ],
    "process": ["executor", "exits", "loops", "signals", "systemd", "runner"],
    "server": ["ports", "subprocess", "nats_server"],
    "testing": ["consumed", "jobs", "record", "stage", "client", "plugin"],
    "cli": [
        "bodies",
        "console",
        "demo_client",
        "logs",
        "message_trace",
        "failures",
        "flags",
        "context",
        "log_config",
        "log_level",
        "loading",
        "dev",
        "foreground",
        "units",
        "piped",
        "overview",
        "monitoring",
        "child",
        "client",
        "new",
        "server",
        "session",
        "infos",
        "services",
        "dead",
        "consumers",
        "printer",
        "place",
        "sub",
        "fleet",
        "sampler",
        "controls",
        "columns",
        "keyboard",
        "screen",
        "top",
        "exporter",
        "health",
        "streams",
        "cron",
        "trace",
        "supervisor",
        "demo",
        "objects",
        "entries",
        "keys",
        "kv",
        "reload",
        "running",
        "plain",
        "run",
        "root",
    ],
}
PLACES = [module for floor in FLOORS.values() for module in floor]
CORE = [module for floor, modules in FLOORS.items() if floor != "edges" for module in modules]

REQUIRED = {"msgspec"}
OPTIONAL = {
    "aiohttp",
    "cronsim",
    "nats_server",
    "nkeys",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "pytest",
    "pythonjsonlogger",
    "rich",
    "typer",
    "typing_extensions",
    "uvloop",
    "watchfiles",
    "websockets",
}
# Who needs nothing but itself may import it at the top of its file.
AT_HOME = {"cli": {"rich", "typer"}, "testing": {"pytest"}, "contrib": OPTIONAL}


# What `import tidings` leaves for the first use: what runs an app, what is for streams, what is for
# requests with several answers and for the handlers that stream, and the tables for errors.
LATE = {
    "app": {
        "addresses",
        "jetstream",
        "launch",
        "lifecycle",
        "plan",
        "process",
        "services",
        "transport",
    },
    "blocking": {"flows"},
    "bus": {"flows"},
    "declarations": {"cron", "jetstream"},
    "errors": {"error_codes"},
    "handlers": {"handlers", "similar"},
    "link": {"handlers"},
    "keywords": {"panini", "similar"},
    "lifecycle": {"jetstream"},
    "transport": {"transport"},
}


class Import(NamedTuple):
    """One name that a file imports, and where: its line, in a function, for type checkers only."""

    target: str
    line: int
    hidden: bool
    for_types: bool


def imports_of(
    tree: ast.AST, name: str, hidden: bool = False, for_types: bool = False
) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets_of(node, name):
                yield Import(target, node.lineno, hidden, for_types)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports_of(ast.Module(node.body, []), name, hidden, for_types=True)
            yield from imports_of(ast.Module(node.orelse, []), name, hidden, for_types)
        else:
            in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(node, name, hidden or in_function, for_types)


def targets_of(node: ast.Import | ast.ImportFrom, name: str) -> list[str]:
    """The dotted names behind an import, with relative ones written out from `tidings`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    package = ["tidings", *PurePath(name).parts[:-1]]
    start = package[: len(package) + 1 - node.level] if node.level else []
    base = ".".join([*start, *filter(None, [node.module])])
    names_modules = base == "tidings" or node.module is None
    return [f"{base}.{alias.name}" for alias in node.names] if names_modules else [base]


def faults_of(name: str, source: str) -> list[str]:
    """What the imports of a file in src/tidings do against the rules, as sentences."""
    module = PurePath(name).parts[0].removesuffix(".py")
    if module not in ["__init__", *PLACES]:
        return [f"{name} stands on no floor: give it its place in FLOORS, in {Path(__file__).name}"]
    found = [
        (imported, fault_of(module, imported) or inside_fault(name, imported))
        for imported in imports_of(ast.parse(source), name)
    ]
    return [f"{name}, line {imported.line}: {fault}" for imported, fault in found if fault]


def inside_fault(name: str, imported: Import) -> str | None:
    """What an import does against the order inside the packages around its file."""
    parts = PurePath(name).with_suffix("").parts
    if parts[-1] == "__init__" or parts[0] == "contrib":  # integrations do not know each other
        return None
    for depth in range(1, len(parts)):
        package, module = "/".join(parts[:depth]), parts[depth]
        order = INSIDE.get(package)
        if order is None or module not in order:
            return f"{module} has no place in {package}: give it one in INSIDE"
        prefix = f"tidings.{package.replace('/', '.')}."
        target = imported.target.removeprefix(prefix).partition(".")[0]
        is_inside = imported.target.startswith(prefix) and target in order
        if is_inside and order.index(target) > order.index(module):
            return f"imports {target}, which stands above it: imports point down"
    return None


def fault_of(module: str, imported: Import) -> str | None:
    top, _, rest = imported.target.partition(".")
    if top == "tidings":
        return own_fault(module, rest.partition(".")[0], imported)
    if top in sys.stdlib_module_names:
        return f"imports {top} inside a function: move it to the top" if imported.hidden else None
    return foreign_fault(module, top, imported)


def own_fault(module: str, target: str, imported: Import) -> str | None:
    if module == "__init__":
        return None if target in CORE else f"the package imports {target}, which is no core module"
    if target not in PLACES:
        return "imports from the package itself: name the module" if module in CORE else None
    if PLACES.index(target) > PLACES.index(module):
        return f"imports {target}, which stands above it: imports point down"
    if imported.hidden and module in CORE and target not in LATE.get(module, ()):
        return f"imports {target} inside a function: move it to the top"
    return None


def foreign_fault(module: str, top: str, imported: Import) -> str | None:
    if top not in REQUIRED | OPTIONAL:
        return f"imports {top}, which is no dependency of this package"
    late = imported.hidden or imported.for_types
    if top in OPTIONAL - AT_HOME.get(module, set()) and not late:
        return f"imports {top}, an optional dependency, at the top: import it where it is used"
    if top in REQUIRED and imported.hidden:
        return f"imports {top} inside a function: move it to the top"
    return None


FILES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name: str) -> None:
    assert faults_of(name, FILES[name].read_text()) == []


def test_the_core_names_an_integration_only_where_it_is_asked_for() -> None:
    """As a string for importlib, which the other tests do not see."""
    named = {
        (name, node.value)
        for name, path in FILES.items()
        if PurePath(name).parts[0].removesuffix(".py") in CORE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if node.value.startswith("tidings.contrib")
    }
    assert named == {
        ("app.py", "tidings.contrib.monitor"),
        ("integrations.py", "tidings.contrib.tracing.setup"),
    }
    for _, module in named:
        assert importlib.import_module(module)


def test_no_floor_names_a_module_twice() -> None:
    assert len(PLACES) == len(set(PLACES))


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("weather.py", "import os", "stands on no floor"),
        ("message.py", "from tidings.app import App", "stands above it"),
        ("message.py", "from .bus import Bus", "stands above it"),
        ("message.py", "from . import bus", "stands above it"),
        ("handlers/listener.py", "from tidings.bus import Bus", "stands above it"),
        ("app.py", "import tidings.contrib.http", "stands above it"),
        ("app.py", "from tidings import Message", "from the package itself"),
        ("bus.py", "def f():\n    from tidings.codec import encode", "inside a function"),
        ("bus.py", "async def f():\n    import json", "inside a function"),
        ("bus.py", "import nats", "no dependency"),
        ("bus.py", "import websockets", "optional dependency"),
        ("codec/models.py", "import pydantic", "optional dependency"),
        (
            "codec/models.py",
            "try:\n    import pydantic\nexcept ImportError:\n    pass",
            "optional dependency",
        ),
        ("cli/demo.py", "import aiohttp", "optional dependency"),
        ("contrib/http.py", "from ..cli import main", "stands above it"),
        ("bus.py", "import psutil", "no dependency"),
        ("protocol/headers.py", "from tidings.protocol.parser import Frame", "stands above it"),
        ("transport/tcp.py", "from tidings.transport.dial import dial", "stands above it"),
        ("transport/weather.py", "import os", "has no place"),
        ("__init__.py", "from tidings.testing import TestClient", "no core module"),
    ],
)
def test_a_wrong_import_is_named(name: str, source: str, words: str) -> None:
    (fault,) = faults_of(name, source)
    assert words in fault
    assert name in fault


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("app.py", "from tidings.bus import Bus\nfrom .errors import ConfigError\nimport asyncio"),
        ("codec/models.py", "def f():\n    import pydantic"),
        (
            "codec/models.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pydantic",
        ),
        ("protocol/auth.py", "def f():\n    import nkeys"),
        ("cli/run.py", "import typer\nfrom tidings import App\nfrom .demo import demo"),
        ("cli/run.py", "def f():\n    from ..contrib.http import gateway"),
        ("contrib/http.py", "import aiohttp\nfrom tidings import Middleware"),
        ("__init__.py", "from tidings.app import App\nfrom tidings import errors"),
    ],
)
def test_a_right_import_passes(name: str, source: str) -> None:
    assert faults_of(name, source) == []


@pytest.mark.parametrize("name", tidings.__all__)
def test_a_public_name_exists_and_is_documented(name: str) -> None:
    public = getattr(tidings, name)
    if callable(public) or inspect.ismodule(public):
        assert (public.__doc__ or "").strip(), f"tidings.{name} has no docstring"


def test_public_names_are_sorted_and_complete() -> None:
    constants_first = sorted(tidings.__all__, key=lambda name: (not name.isupper(), name))
    assert list(tidings.__all__) == constants_first
    bound = {
        name
        for name, value in vars(tidings).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert bound - {"TYPE_CHECKING"} <= set(tidings.__all__)


WRITTEN = sorted({PurePath(name).parts[0].removesuffix(".py") for name in FILES} - {"__init__"})


@pytest.mark.parametrize("module", WRITTEN)
def test_a_module_has_what_it_exports(module: str) -> None:
    loaded = importlib.import_module(f"tidings.{module}")
    for name in getattr(loaded, "__all__", []):
        assert hasattr(loaded, name)


def test_importing_tidings_loads_nothing_of_streams_or_of_running() -> None:
    code = "import sys, tidings; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    late = (
        *("tidings.jetstream", "tidings.lifecycle", "tidings.process", "tidings.services"),
        *("tidings.flows.", "tidings.handlers.serving", "tidings.transport", "tidings.link"),
        *("tidings.concurrency.work_queue", "pathlib", "urllib"),
        *("tidings.handlers.tracing", "tidings.integrations", "tidings.contrib"),
        *("tidings.error_codes", "tidings.addresses"),
    )
    assert [name for name in shown.stdout.split() if name.startswith(late)] == []


def test_only_these_files_import_by_name() -> None:
    callers = {name for name, path in FILES.items() if "import_module(" in path.read_text()}
    assert {name for name in callers if not name.startswith("cli/")} == {
        "__init__.py",
        "app.py",  # the monitor
        "core.py",  # the compiled core
        "integrations.py",
    }


def test_a_name_imported_late_is_the_same_object_and_is_listed() -> None:
    from tidings.jetstream.streams.stream import Stream

    assert tidings.Stream is Stream
    assert set(tidings.__all__) <= set(dir(tidings))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tidings' has no attribute 'Strem'"):
        tidings.Strem  # type: ignore[attr-defined]  # noqa: B018 - a name that does not exist
