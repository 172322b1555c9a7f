"""Every command that a document tells its reader to type exists, with its options."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PATTERNS = ["*.md", "docs/**/*.md", "examples/**/*.md", "bench/*.md"]
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))

FENCE = re.compile(
    r"^ *```(?P<language>console|bash|sh|shell)[^\n]*\n(?P<text>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`((?:tidings|make) [^`\n]+)`")
BETWEEN_COMMANDS = re.compile(r"^[();<>|&]+$")
ASSIGNMENT = re.compile(r"^\w+=")


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each command in the console blocks, and in the inline code, of a document."""
    for fence in FENCE.finditer(text):
        lines = fence["text"].replace("\\\n", " ").splitlines()
        prompt = "$ " if fence["language"] == "console" else ""
        for line in lines:
            if line.strip().startswith(prompt):
                yield from split(line.strip().removeprefix(prompt))
    for inline in INLINE.finditer(FENCE.sub("", text)):
        yield from split(inline[1])


def split(line: str) -> Iterator[list[str]]:
    """A shell line as its simple commands, without redirections and variables set in front."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if BETWEEN_COMMANDS.match(word):
            if command:
                yield command
            command = []
        elif command or not ASSIGNMENT.match(word):
            command.append(word)


def fault_in(command: list[str], cli: Any, targets: set[str], extras: set[str]) -> str | None:
    """What a reader who types the command would stumble over."""
    program, *words = command
    name = program.rpartition("/")[2]
    if name == "tidings":
        return cli_fault(words, cli, "tidings")
    if name == "make":
        unknown = {word for word in words if not ASSIGNMENT.match(word)} - targets
        return f"make has no target {', '.join(sorted(unknown))}" if unknown else None
    named = {extra for word in words for extra in re.findall(r"^tidings\[(.+)\]", word)}
    unknown = {extra for extras in named for extra in extras.split(",")} - extras
    return f"tidings has no extra {', '.join(sorted(unknown))}" if unknown else None


def cli_fault(words: list[str], command: Any, path: str) -> str | None:
    """Walk the tree of commands, as the command line itself would."""
    options = {
        name: param for param in command.params for name in param.opts + param.secondary_opts
    }
    rest = iter(words)
    for word in rest:
        if word == "--":
            return None
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            if name == "--help":
                continue
            if name not in options:
                return f"{path} has no option {name}"
            if not getattr(options[name], "is_flag", False) and "=" not in word:
                next(rest, None)
        elif getattr(command, "commands", None):
            if word not in command.commands:
                return f"{path} has no command {word}"
            return cli_fault(list(rest), command.commands[word], f"{path} {word}")
    return None


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def extras_of_the_package() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


@pytest.fixture(scope="module")
def cli() -> Any:
    import typer.main

    from tidings.cli import app

    return typer.main.get_command(app)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_documented_command_exists_with_its_options(path: Path, cli: Any) -> None:
    targets, extras = targets_of_make(), extras_of_the_package()
    faults = [
        f"{shlex.join(command)}: {fault}"
        for command in commands_in(path.read_text())
        for fault in [fault_in(command, cli, targets, extras)]
        if fault
    ]
    assert faults == []


@pytest.fixture
def small_cli() -> SimpleNamespace:
    """`tidings run TARGET [--dev] [--port N]` in the shape that Typer's commands have."""
    dev = SimpleNamespace(opts=["--dev"], secondary_opts=["--no-dev"], is_flag=True)
    port = SimpleNamespace(opts=["--port", "-p"], secondary_opts=[], is_flag=False)
    run = SimpleNamespace(params=[dev, port])
    return SimpleNamespace(params=[], commands={"run": run})


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("tidings run greeter:app --dev", None),
        ("NATS_URL=nats://127.0.0.1 .venv/bin/tidings run -p 4222 greeter:app && make test", None),
        ("tidings run --help", None),
        ("tidings run greeter:app --port=4222 > log", None),
        ("tidings walk", "tidings has no command walk"),
        ("tidings run --prod", "tidings run has no option --prod"),
        ("true; tidings --dev run", "tidings has no option --dev"),
        ("make test PYTHON=python3.13", None),
        ("make tests", "make has no target tests"),
        ("pip install 'tidings[all]'", None),
        ("pip install 'tidings[al]'", "tidings has no extra al"),
    ],
)
def test_a_command_that_does_not_exist_is_found(
    line: str, fault: str | None, small_cli: SimpleNamespace
) -> None:
    faults = [fault_in(command, small_cli, {"test"}, {"all"}) for command in split(line)]
    assert [found for found in faults if found] == ([fault] if fault else [])


def test_commands_are_found_in_console_blocks_and_in_the_text() -> None:
    text = """
Type `tidings run`, or

```console
$ make test \\
    PYTHON=python3.13
make: this is output
```

```bash
tidings demo  # here the whole line is a command
```
"""
    expected = [["make", "test", "PYTHON=python3.13"], ["tidings", "demo"], ["tidings", "run"]]
    assert list(commands_in(text)) == expected
