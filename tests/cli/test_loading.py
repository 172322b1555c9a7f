"""`module:app`: what is found, and what is said where nothing is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tidings import App, ConfigError
from tidings.cli.loading import load_app

if TYPE_CHECKING:
    from support.command import Call

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, whose modules are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def fault_of(target: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_app(target)
    return str(caught.value)


def test_an_app_is_found_in_the_current_folder(write: Write) -> None:
    write()
    assert isinstance(load_app("service:app"), App)
    assert load_app("service").service_name == "echo"


def test_an_app_is_found_in_a_package(folder: Path) -> None:
    (folder / "pack" / "deep").mkdir(parents=True)
    (folder / "pack" / "deep" / "mod.py").write_text("from tidings import App\nit = App('deep')")
    assert load_app("pack.deep.mod:it").service_name == "deep"


def test_the_current_folder_comes_before_installed_packages(folder: Path) -> None:
    (folder / "mkdocs.py").write_text("from tidings import App\napp = App('mine')")
    assert load_app("mkdocs").service_name == "mine"


def test_a_file_called_as_a_module_in_use_is_told_to_take_another_name(folder: Path) -> None:
    (folder / "queue.py").write_text("from tidings import App\napp = App('queue')")
    assert fault_of("queue:app").endswith(f"rename {folder / 'queue.py'}")


@pytest.mark.parametrize("target", ["nowhere:app", "nowhere.deep:app"])
def test_a_missing_module_is_named_with_the_folder_searched(target: str, folder: Path) -> None:
    assert fault_of(target).startswith(f"there is no module 'nowhere' in {folder}")


def test_a_missing_module_of_a_package_is_named(folder: Path) -> None:
    (folder / "pack").mkdir()
    assert fault_of("pack.nowhere:app").startswith(f"there is no module 'pack.nowhere' in {folder}")


def test_a_module_that_is_no_package_is_named(write: Write) -> None:
    write()
    assert "'service' is not a package" in fault_of("service.app")


@pytest.mark.parametrize(
    ("target", "module"),
    [
        ("service.py", "service:app"),
        ("./a/service.py:it", "a.service:it"),
        ("a\\service.py:it", "a.service:it"),
    ],
)
def test_a_file_in_place_of_a_module_is_answered_with_the_module(target: str, module: str) -> None:
    assert fault_of(target) == (
        f"{target.partition(':')[0]!r} is a file, not a module: write {module}"
    )


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/srv/a/service.py", "'/srv/a/service.py' is a file"),
        ("../a/service.py:it", "'../a/service.py' is a file"),
        (r"C:\a\service.py", r"'C:\\a\\service.py' is a file"),
        ("my-app/service:it", "'my-app/service' is a path"),
    ],
)
def test_a_file_elsewhere_is_answered_with_its_folder(target: str, path: str) -> None:
    attribute = "it" if target.endswith(":it") else "app"
    assert fault_of(target) == (
        f"{path}, not a module: change to its folder, and write service:{attribute}"
    )


@pytest.mark.parametrize(
    ("target", "name"), [("my-app.py", "my_app"), ("a/my-app.py:app", "my_app"), ("1.py:", "_1")]
)
def test_a_file_that_no_import_can_name_is_told_to_take_another_name(
    target: str, name: str
) -> None:
    assert fault_of(target).endswith(f"rename the file to {name}.py, and write {name}:app")


@pytest.mark.parametrize("target", ["", ":app", "service:", "a b:app", "class:app", "..x:app"])
def test_what_is_no_target_is_told_the_form(target: str) -> None:
    assert "module:app" in fault_of(target)


def test_a_relative_import_outside_of_a_package_is_answered_with_the_package(
    write: Write, folder: Path
) -> None:
    write("from .prices import app")
    assert fault_of("service:app") == (
        "'service' uses a relative import, which works only in a package: change to "
        f"{folder.parent}, and write {folder.name}.service:app"
    )


def test_a_missing_attribute_lists_the_apps_there_are(write: Write) -> None:
    write("from tidings import App\none = App('one')\ntwo = App('two')")
    assert fault_of("service:app").endswith("Did you mean service:one or service:two?")


def test_an_attribute_that_is_no_app_lists_the_apps_there_are(write: Write) -> None:
    write("from tidings import App\none = App('one')\napp = 3")
    assert (
        fault_of("service") == "service:app is of type int, not an App. Did you mean service:one?"
    )


def test_a_module_without_any_app_is_told_how_to_write_one(write: Write) -> None:
    write("x = 1")
    assert fault_of("service").endswith('it contains no App. Write: app = App("service")')


def test_the_faults_of_a_target_end_with_code_2_and_without_traceback(call: Call) -> None:
    code, _, shown = call("run", "nowhere:app")
    assert code == 2
    assert shown.startswith("tidings: there is no module 'nowhere'")
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere", "No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("from tidings import App\nApp('x').listen('bad subject')", "SubjectError"),
    ],
)
def test_what_the_users_own_module_raises_is_shown_from_its_own_line_on(
    source: str, words: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(source)
    with pytest.raises(SystemExit) as caught:
        load_app("service")
    shown = capsys.readouterr().err
    assert caught.value.code == 1
    assert words in shown
    assert f'File "{path}", line' in shown.splitlines()[1 if "Traceback" in shown else 0]
    assert "importlib" not in shown


@pytest.mark.parametrize("call", ["run", "start"])
def test_a_module_that_runs_its_app_at_once_is_told_the_guard(
    call: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(f"from tidings import App\napp = App('x', servers='127.0.0.1:1')\napp.{call}()")
    with pytest.raises(SystemExit) as caught:
        load_app("service")
    shown = capsys.readouterr().err
    assert caught.value.code == 1
    assert f'File "{path}", line 3' in shown
    assert shown.rstrip().endswith('Write the call under `if __name__ == "__main__":`')


def test_a_module_missing_inside_a_package_named_alike_is_the_users_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text("import pack.gone")
    with pytest.raises(SystemExit):
        load_app("pack.gone:app")
    assert "import pack.gone" in capsys.readouterr().err
