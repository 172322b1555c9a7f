"""Credentials: reads a secret that the user passes as a text, a file or a function."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

# A secret, or a function that returns it. The function, `def` or `async def`, runs at each connect.
Secret = str | Callable[[], str | Awaitable[str]]
# The path of a file, its content, or a function that returns one of them.
SecretFile = str | Path | Callable[[], str | Path | Awaitable[str | Path]]

_PATH_ENDINGS = (".creds", ".nk", ".nkey", ".seed", ".txt", ".pem", ".crt", ".cer", ".key")
_LIKE_A_SECRET = re.compile(r"eyJ|\bS[A-Z2-7]{30,}|-----")


def read_secret_file(name: str, value: object, is_text: Callable[[str], bool]) -> str:
    """Return the text of a secret that is passed as a text or as the path of a file.

    Args:
        name: the option's name.
        value: the option's value.
        is_text: returns whether a str is the text itself and not a path.

    Raises:
        ValueError: if the file cannot be read. The error never shows a value that may be a secret.
    """
    if isinstance(value, str) and is_text(value):
        return value
    if not isinstance(value, (str, Path)):
        raise ValueError(f"{name}= must be a path or a text, got {type(value).__name__}")
    try:
        return Path(value).expanduser().read_text(errors="replace")
    except OSError as error:
        raise ValueError(f"{name}={shown_path(value)}: {error.strerror}") from None
    except (ValueError, RuntimeError):  # it contains a NUL, or the home of an unknown user
        raise ValueError(f"{name}={shown_path(value)}: this is not a path") from None


def shown_path(path: object) -> str:
    """Return a path as an error may show it. A text that does not look like a path is not shown: it
    may be the secret itself."""
    text = str(path)
    is_plain = len(text) < 256 and text.isprintable() and not _LIKE_A_SECRET.search(text)
    if is_plain and text.endswith(_PATH_ENDINGS):
        return repr(text)
    return f"(a text of {len(text)} characters, not shown)"
