"""`make fuzz`: the targets under atheris, which looks for bytes that reach new lines of the code.

    python tests/fuzz/run_atheris.py [SECONDS]       every target for that long, one after another
    python tests/fuzz/run_atheris.py TARGET [FILE]   one target, with libFuzzer's own arguments

What makes a target fail is written to a file and shown: give it as FILE to see the failure again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tidings", "targets"]):
    from targets import SEEDS, TARGETS


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fuzz_one(name: str, arguments: list[str]) -> None:
    atheris.Setup([name, *arguments], TARGETS[name])
    atheris.Fuzz()


def fuzz_all(seconds: int) -> int:
    failed = []
    for name in TARGETS:
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as folder:
            for number, seed in enumerate(SEEDS[name]):
                Path(folder, f"seed-{number}").write_bytes(seed)
            say(f"fuzzing {name} for {seconds} s")
            command = [sys.executable, __file__, name, folder, f"-max_total_time={seconds}"]
            found = Path(tempfile.gettempdir(), f"tidings-fuzz-{name}-")
            command += [
                f"-artifact_prefix={found}",
                "-timeout=10",
                "-rss_limit_mb=1024",
                "-print_final_stats=0",
                "-verbosity=0",
            ]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
    say(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return len(failed)


if __name__ == "__main__":
    first = sys.argv[1] if len(sys.argv) > 1 else "30"
    if first in TARGETS:
        fuzz_one(first, sys.argv[2:])
    else:
        sys.exit(fuzz_all(int(first)))
