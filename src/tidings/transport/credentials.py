"""Credentials as users give them: secrets as text, as files, and as functions that return them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

# A secret, or a function that returns it: `def` or `async def`, called at each connect.
Secret = str | Callable[[], str | Awaitable[str]]
# The path of a file, its content, or a function that returns one of them.
SecretFile = str | Path | Callable[[], str | Path | Awaitable[str | Path]]

_PATH_ENDINGS = (".creds", ".nk", ".nkey", ".seed", ".txt", ".pem", ".crt", ".cer", ".key")
_LIKE_A_SECRET = re.compile(r"eyJ|\bS[A-Z2-7]{30,}|-----")


def read_secret_file(name: str, value: object, is_text: Callable[[str], bool]) -> str:
    """The text of a secret that is given as text or as the path of a file.

    Args:
        name: the option.
        value: what was given for it.
        is_text: whether a str is the text itself, and not a path.

    Raises:
        ValueError: no file can be read there. What may be a secret is not shown.
    """
    if isinstance(value, str) and is_text(value):
        return value
    if not isinstance(value, (str, Path)):
        raise ValueError(f"{name}= must be a path or a text, got a {type(value).__name__}")
    try:
        return Path(value).expanduser().read_text(errors="replace")
    except OSError as error:
        raise ValueError(f"{name}={shown_path(value)}: {error.strerror}") from None
    except (ValueError, RuntimeError):  # a NUL in it; the home of a user that does not exist
        raise ValueError(f"{name}={shown_path(value)}: this is not a path") from None


def shown_path(path: object) -> str:
    """A path as an error may show it. What does not look like one may be the secret itself."""
    text = str(path)
    is_plain = len(text) < 256 and text.isprintable() and not _LIKE_A_SECRET.search(text)
    if is_plain and text.endswith(_PATH_ENDINGS):
        return repr(text)
    return f"(a text of {len(text)} characters, not shown)"
