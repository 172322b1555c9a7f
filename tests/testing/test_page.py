"""The first example of the testing page, typed into files of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCK = re.compile(r'```python title="(\S+)"\n(.+?)```', re.DOTALL)


def test_the_first_example_passes_as_it_is_typed(tmp_path: Path) -> None:
    """It needs no option, no configuration and no plugin but the one of tidings."""
    first, second = BLOCK.findall(PAGE.read_text())[:2]
    for name, source in (first, second):
        (tmp_path / name).write_text(source)
    assert [first[0], second[0]] == ["billing.py", "test_billing.py"]
    done = subprocess.run(
        [Path(sys.executable).parent / "pytest"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": "-p no:asyncio -p no:anyio"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
