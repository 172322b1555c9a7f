"""Builds the compiled core and adds the examples. pyproject.toml has all the rest.

$TIDINGS_CORE chooses here as it does when tidings runs: "pure" builds without the compiled core,
"compiled" fails if it cannot be built. If it is not set, an installation without a C compiler goes
on, and tidings runs on its Python modules.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sysconfig
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

CHOICE = os.environ.get("TIDINGS_CORE", "")
SOURCES = Path("src/core")
# What `tidings demo` needs from examples/.
EXAMPLES = ("__init__.py", "orders.py", "data")

CORE = Extension(
    "tidings._core",
    sources=sorted(map(str, SOURCES.glob("*.c"))),
    depends=sorted(map(str, SOURCES.glob("*.h"))),
    extra_compile_args=["-O3", "-fvisibility=hidden"],
    optional=CHOICE != "compiled",
)


class BuildPython(build_py):
    """Copies the examples too. An editable installation finds them in the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "tidings", "examples")
        target.mkdir(parents=True, exist_ok=True)
        for name in EXAMPLES:
            source = Path("examples", name)
            if source.is_dir():
                shutil.copytree(source, target / name, dirs_exist_ok=True)
            else:
                shutil.copy(source, target / name)


def extensions() -> list[Extension]:
    """The compiled core, unless it is not wanted or this interpreter is not one it is written for.

    Without the GIL, and on PyPy, tidings runs on its Python modules.
    """
    is_free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    is_cpython = platform.python_implementation() == "CPython"
    return [CORE] if CHOICE != "pure" and is_cpython and not is_free_threaded else []


def description() -> str:
    """README.md for a package index, where a link needs the address of the repository."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    text = Path("README.md").read_text()
    text = re.sub(r"\]\((?!https?://|#)([^)]+)\)", rf"]({project['urls']['Source']}\1)", text)
    return re.sub(r"<!--.*?-->\n\n?", "", text)  # markers of the tests


setup(
    cmdclass={"build_py": BuildPython},
    ext_modules=extensions(),
    long_description=description(),
    long_description_content_type="text/markdown",
)
