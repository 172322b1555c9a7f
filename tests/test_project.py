"""What holds for the project as a whole: its metadata, its files and what an import costs."""

import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import tidings
import tidings.jetstream
from support.command import Start

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tidings"

OPTIONAL = {
    "nats",
    "nkeys",
    "pydantic",
    "pytest",
    "pythonjsonlogger",
    "rich",
    "typer",
    "uvloop",
    "watchfiles",
    "websockets",
}

EXCUSE = re.compile(r"#\s*(?:type:\s*ignore|noqa)\b(?P<rest>.*)")
CODES = re.compile(r"^(\[[\w\-, ]+\]|:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)")


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def imported_modules(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter has imported after the statement."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines[1:]}


def test_importing_tidings_imports_no_optional_dependency() -> None:
    assert imported_modules("import tidings") & OPTIONAL == set()


def test_importing_tidings_imports_nothing_that_msgspec_does_not() -> None:
    needed = imported_modules("import msgspec, msgspec.json, copy")
    extra = imported_modules("import tidings") - needed - {"tidings"} - sys.stdlib_module_names
    assert extra == set()


def test_tidings_requires_msgspec_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [re.split(r"\W", name)[0] for name in project["dependencies"]] == ["msgspec"]


def test_pip_refuses_an_older_python_and_every_python_that_is_promised_is_accepted() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    accepted = SpecifierSet(project["requires-python"])  # pip compares with it before it installs
    prefix = "Programming Language :: Python :: 3."
    promised = [
        name.removeprefix("Programming Language :: Python :: ")
        for name in project["classifiers"]
        if name.startswith(prefix)
    ]
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in promised
    assert all(accepted.contains(version) for version in promised)
    oldest = min(int(version.removeprefix("3.")) for version in promised)
    assert not accepted.contains(f"3.{oldest - 1}.99")
    assert f"Python 3.{oldest} or newer" in (ROOT / "README.md").read_text()
    assert f"sys.version_info >= (3, {oldest})" in (ROOT / "Makefile").read_text()


def test_the_changelog_starts_with_the_version_of_the_package() -> None:
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == tidings.__version__


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = "\n".join(p.read_text() for p in tracked_files() if p.suffix == ".md")
    commands = re.findall(r"(?:`|^\$ )make ([^`\n#]+)", documents, re.MULTILINE)
    commands += re.findall(r"^make (.+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    words = {word for command in commands for word in command.split()}
    named = {word for word in words if re.fullmatch(r"[a-z][a-z-]*", word)}
    assert {"check", "demo", "docs", "test"} <= named
    assert named - targets == set()


def test_no_file_names_a_path_of_one_machine_or_a_package_registry() -> None:
    words = [
        r"(?<![\w.])/wo" + "rk/",
        r"(?<![\w.])/ro" + "ot/",
        r"py" + r"pi\.org",
        "python" + "hosted",
    ]
    forbidden = re.compile("|".join(words))
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


def comments_of(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def excuse_fault(comment: str) -> str | None:
    """What a comment that silences a tool lacks: its code, its reason or nothing."""
    excuse = EXCUSE.search(comment)
    if not excuse:
        return None
    codes = CODES.match(excuse["rest"])
    if not codes:
        return "names no code"
    return None if re.search(r"\w{2,}", excuse["rest"][codes.end() :]) else "gives no reason"


def test_every_silenced_warning_names_its_code_and_gives_its_reason() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {comment} {excuse_fault(comment)}"
        for path in tracked_files()
        if path.suffix == ".py"
        for number, comment in comments_of(path)
        if excuse_fault(comment)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("comment", "fault"),
    [
        ("# type: " + "ignore", "names no code"),
        ("# no" + "qa", "names no code"),
        ("# type: " + "ignore[arg-type]", "gives no reason"),
        ("# no" + "qa: S101, B008", "gives no reason"),
        ("# type: " + "ignore[arg-type]  # nats-py's stub is wrong", None),
        ("# no" + "qa: S101, B008 - the default is frozen", None),
        ("# an ordinary comment", None),
    ],
)
def test_a_silenced_warning_without_code_or_reason_is_found(
    comment: str, fault: str | None
) -> None:
    assert excuse_fault(comment) == fault


def test_the_licence_is_apache_2_and_names_the_authors() -> None:
    text = (ROOT / "LICENSE").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert re.search(r"Copyright \d{4} The tidings authors", text)


def described() -> str:
    """The description that a package index shows."""
    command = [sys.executable, "setup.py", "--quiet", "--long-description"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_links_of_the_readme_lead_to_files_of_the_repository() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / "README.md").read_text())
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_the_links_of_the_description_on_a_package_index_are_absolute() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    shown = described()
    assert re.findall(r"\]\((?!https://)[^)]*\)", shown) == []
    assert f"]({urls['Source']}docs/listen.md)" in shown
    assert all(url.startswith(urls["Source"]) for url in urls.values())
    assert "<!--" not in shown


def test_the_first_block_of_the_readme_works_as_written(start: Start, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (_, install), (_, source), (_, command), (_, output) = blocks[:4]
    assert install == "$ pip install 'tidings[all]'\n"
    assert "`pip install '.[all]'`" in text
    (tmp_path / "greeter.py").write_text(source)
    words = command.split()
    assert words[:2] == ["$", "tidings"]
    process = start(*words[2:], cwd=tmp_path, env={"NATS_URL": ""})
    process.wait_for(rf"^{re.escape(output.strip())}$")
    assert process.stop() == 0


def test_type_checkers_of_users_see_the_types() -> None:
    assert (PACKAGE / "py.typed").is_file()


PUBLIC = [f"tidings.{name}" for name in tidings.__all__ if name != "__version__"]
PUBLIC += [
    f"tidings.jetstream.{name}"
    for name in tidings.jetstream.__all__
    if name not in tidings.__all__  # there under its shorter name
]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_in_the_reference(name: str) -> None:
    assert f"::: {name}" in (ROOT / "docs" / "reference.md").read_text().splitlines()


def test_the_extra_named_all_holds_every_other_that_users_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    (everything,) = extras.pop("all")
    del extras["dev"], extras["bench"]
    assert set(everything.removeprefix("tidings[").removesuffix("]").split(",")) == set(extras)
