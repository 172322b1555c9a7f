"""`make fuzz`: tests on a compiled core that checks its own memory accesses and arithmetic.

    python tests/fuzz/sanitize.py [PYTEST ARGUMENT ...]

Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer in a temporary folder, and
runs the tests that use it most. Without arguments, these are TESTS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW_CONSUMER = (
    "tests/handlers/test_failures.py"
    "::test_a_slow_consumer_keeps_within_its_bounds_and_counts_each_drop"
)
TESTS = [
    *("tests/fuzz", "tests/protocol", "tests/test_core.py", "tests/test_publish.py"),
    *("tests/transport/test_buffer.py", "tests/transport/test_requests.py"),
    *(
        "tests/transport/test_poison.py",
        "tests/test_interface.py",
        "tests/handlers/test_replies.py",
    ),
    *("tests/handlers/test_concurrency.py", "tests/handlers/test_failures.py"),
    # It measures memory, and a sanitizer keeps what was freed.
    f"--deselect={SLOW_CONSUMER}",
]
FLAGS = [
    *("-shared", "-fPIC", "-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Werror"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
]
# For each compiler: its own flags, and the library that has to be loaded before Python.
COMPILERS = {
    "clang": (["-shared-libasan"], f"libclang_rt.asan-{os.uname().machine}.so"),
    "gcc": ([], "libasan.so"),
}
MISSING = (
    "make fuzz needs clang or gcc with the libraries of its sanitizers, and the headers of Python. "
    "Debian, Ubuntu: apt install gcc python3-dev"
)


def find_compiler() -> tuple[str, list[str], str]:
    """Return a compiler, its flags, and the path of its AddressSanitizer.

    Raises:
        SystemExit: if there is none.
    """
    for name, (flags, library) in COMPILERS.items():
        if shutil.which(name) is None:
            continue
        command = [name, f"-print-file-name={library}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if Path(path).is_absolute() and Path(path).exists():
            return name, flags, path
    sys.exit(MISSING)


def build(folder: Path) -> str:
    """Copy tidings into a folder and build the extension there. Return what to preload."""
    compiler, flags, library = find_compiler()
    headers = sysconfig.get_paths()["include"]
    if not Path(headers, "Python.h").exists():
        sys.exit(MISSING)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src" / "tidings", folder / "tidings", ignore=ignored)
    target = folder / "tidings" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = sorted(map(str, (ROOT / "src" / "core").glob("*.c")))
    command = [compiler, *FLAGS, *flags, f"-I{headers}", *sources, "-o", str(target)]
    subprocess.run(command, check=True)
    return library


def run(folder: Path, library: str, arguments: list[str]) -> int:
    """Run pytest on the extension in the folder."""
    # pytest captures what a sanitizer prints, and is dead afterwards. So it writes to files.
    reports = folder / "report"
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "TIDINGS_CORE": "compiled",
        "LD_PRELOAD": library,
        # Python keeps memory until it ends, which is no leak: leaks.py looks for those.
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={reports}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={reports}",
        "PYTHONMALLOC": "malloc",  # so that the sanitizer sees every object
    }
    command = [sys.executable, "-m", "pytest", "--quiet", "--timeout=300", *arguments]
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    found = sorted(folder.glob("report.*"))
    for path in found:
        sys.stderr.write(path.read_text(errors="replace"))
    return code or len(found)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="tidings-sanitized-") as name:
        folder = Path(name)
        return run(folder, build(folder), arguments or TESTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
