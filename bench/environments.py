"""The contenders' environments in bench/.venvs: for Python and Node, and the compiled C client."""

import hashlib
import importlib.util
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tidings import core

from .workloads import Contender

HERE = Path(__file__).parent
CACHE = HERE / ".venvs"
SCRIPTS = HERE / "contenders"


class UnavailableError(Exception):
    """A contender cannot run here. The text says why."""


def prepare(contender: Contender, say: Callable[[str], None]) -> list[str]:
    """Install or compile a contender if necessary, and return the command that runs it.

    Raises:
        UnavailableError: the contender cannot be installed, compiled or imported here.
    """
    script = SCRIPTS / contender.script
    if contender.environment == "libnats":
        return [str(_compile(script, say))]
    if contender.environment == "node":
        return _node(script, say)
    if contender.core == core.NAME:
        raise UnavailableError(f"`tidings` itself runs without the compiled core: {core.REASON}")
    python = _python(contender, say)
    return [str(python), str(script)]


def _python(contender: Contender, say: Callable[[str], None]) -> Path:
    if contender.environment != "own":
        return _virtual_environment(contender.environment, say)
    if contender.uvloop and importlib.util.find_spec("uvloop") is None:
        raise UnavailableError("uvloop is not installed: pip install 'tidings[uvloop]'")
    return Path(sys.executable)


def _virtual_environment(name: str, say: Callable[[str], None]) -> Path:
    """Return the environment's Python. Reuse it if requirements and Python have not changed."""
    requirements = HERE / "requirements" / f"{name}.txt"
    folder, mark = CACHE / name, CACHE / name / "made-of"
    python = folder / "bin" / "python"
    wanted = _digest(requirements.read_bytes() + sys.version.encode())
    if mark.exists() and mark.read_text() == wanted:
        return python
    say(f"installing {name}")
    shutil.rmtree(folder, ignore_errors=True)
    _call([sys.executable, "-m", "venv", str(folder)])
    _call([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
    mark.write_text(wanted)
    return python


def _node(script: Path, say: Callable[[str], None]) -> list[str]:
    """Install the packages if necessary, and copy the script there, where Node finds them."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise UnavailableError("no Node: install Node 20 or newer, with npm")
    requirements = HERE / "requirements" / "package.json"
    folder, mark = CACHE / "node", CACHE / "node" / "made-of"
    wanted = _digest(requirements.read_bytes())
    if not mark.exists() or mark.read_text() != wanted:
        say("installing the packages for Node")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(requirements, folder)
        _call([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)])
        mark.write_text(wanted)
    return [node, str(shutil.copy(script, folder))]


def _compile(source: Path, say: Callable[[str], None]) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise UnavailableError("no C compiler: install gcc")
    program = CACHE / "libnats" / _digest(source.read_bytes())[:16]
    if not program.exists():
        say("compiling libnats.c")
        program.parent.mkdir(parents=True, exist_ok=True)
        flags = _libnats_flags()
        _call([compiler, "-O2", "-o", str(program), str(source), *flags, "-lpthread"])
    return program


def _libnats_flags() -> list[str]:
    """Return the flags from pkg-config. Without pkg-config, look for the header in /usr/include."""
    hint = "libnats is not installed (Debian, Ubuntu: apt install libnats-dev)"
    if shutil.which("pkg-config") is None:
        if not Path("/usr/include/nats/nats.h").exists():
            raise UnavailableError(hint)
        return ["-lnats"]
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libnats"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise UnavailableError(hint)
    return shlex.split(found.stdout)


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise UnavailableError(f"{Path(command[0]).name} failed: {' '.join(last)}")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
