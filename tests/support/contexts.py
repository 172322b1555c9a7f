"""Contexts of the command line `nats`, in a folder of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WriteContext = Callable[..., Path]


@pytest.fixture
def write_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteContext:
    """Writes a context, and selects it if asked to. A str is the content of its file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "nats"

    def write(
        name: str, content: str | None = None, *, select: bool = False, **fields: Any
    ) -> Path:
        path = folder / "context" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fields) if content is None else content)
        if select:
            (folder / "context.txt").write_text(name)
        return path

    return write
