"""Builds the compiled core and adds the examples. pyproject.toml has all the rest."""

from __future__ import annotations

import platform
import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

SOURCES = Path("src/core")
# What `tidings demo` needs from examples/.
EXAMPLES = ("__init__.py", "orders.py", "data")

# Without a compiler the installation goes on, and tidings runs on its Python modules.
CORE = Extension(
    "tidings._core",
    sources=sorted(map(str, SOURCES.glob("*.c"))),
    depends=[str(SOURCES / "core.h")],
    extra_compile_args=["-O3", "-fvisibility=hidden"],
    optional=True,
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


def can_run_the_core() -> bool:
    """Whether this interpreter is one that the compiled core is written for."""
    is_free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return platform.python_implementation() == "CPython" and not is_free_threaded


setup(
    cmdclass={"build_py": BuildPython},
    ext_modules=[CORE] if can_run_the_core() else [],
)
