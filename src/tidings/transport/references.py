"""References: secrets that a context names, or has in an encoded form, as the command line `nats`
writes them."""

from __future__ import annotations

import base64
import os

VARIABLE = "env://"
INLINE = "data:"


def resolve(reference: str) -> str:
    """Return the secret that a reference stands for, without the end of its last line.

    Args:
        reference: `env://NAME`, or `data:;base64,...`.

    Raises:
        ValueError: it stands for nothing. The text completes a sentence such as "the token ...",
            and shows nothing of the reference.
    """
    if reference.lower().startswith(VARIABLE):
        text = _variable(reference[len(VARIABLE) :])
    else:
        text = _inline(reference[len(INLINE) :])
    return text.rstrip("\r\n")


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"begins with {VARIABLE}, and that environment variable is not set")
    return value


def _inline(rest: str) -> str:
    header, _, payload = rest.partition(",")
    if "base64" not in [part.strip() for part in header.split(";")]:
        raise ValueError(f"begins with {INLINE}, and must continue with ;base64, and the value")
    try:
        return base64.b64decode(payload, validate=True).decode()
    except ValueError:
        raise ValueError(f"begins with {INLINE}, and what follows is not text in base64") from None
