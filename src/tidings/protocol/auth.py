"""Authentication: NKeys, JWTs and the signature of the server's nonce.

The errors raised here never contain any part of a secret.
"""

from __future__ import annotations

import base64
import importlib.util
import re
from typing import Any

from tidings.errors import MissingExtraError

_JWT = re.compile(r"-----BEGIN NATS USER JWT-+\s+([\w\-.=]+)\s+-+END NATS USER JWT-+")
_SEED_ALONE = re.compile(r"S[A-Z2-7]{20,}")
_SEED = re.compile(r"\b(SU[A-Z2-7]{56})\b")


def require_nkeys(what: str) -> None:
    """Check that the package `nkeys` is installed, without importing it.

    Args:
        what: the feature that needs it, for the error.

    Raises:
        MissingExtraError: if it is not installed.
    """
    if importlib.util.find_spec("nkeys") is None:
        raise MissingExtraError("nkeys", what)


def is_credentials_text(text: str) -> bool:
    """Return whether a text is the content of a credentials file, and not its path."""
    return "-----BEGIN" in text


def is_seed_text(text: str) -> bool:
    """Return whether a text is a seed, even a damaged one, or the content of a file with a seed."""
    return _SEED_ALONE.fullmatch(text.strip()) is not None or is_credentials_text(text)


def split_credentials(text: str) -> tuple[str, str]:
    """Return the JWT and the seed in the content of a credentials file.

    Raises:
        ValueError: if one of them is missing.
    """
    jwt = _JWT.search(text)
    if jwt is None:
        raise ValueError("they contain no complete NATS USER JWT")
    return jwt[1], find_seed(text)


def find_seed(text: str) -> str:
    """Return the user's seed in a text. The text is the seed itself or the content of a file.

    Raises:
        ValueError: if there is no seed.
    """
    seed = _SEED.search(text)
    if seed is None:
        raise ValueError("they contain no user seed (SU and 56 more letters and digits)")
    return seed[1]


def public_key(seed: str) -> str:
    """Return the public key of a seed.

    Raises:
        ValueError: if the seed is damaged.
    """
    key: bytes = _key_pair(seed).public_key
    return key.decode()


def sign(seed: str, nonce: str) -> str:
    """Return the signature of the server's nonce, in the form for CONNECT.

    Raises:
        ValueError: if the seed is damaged.
    """
    signature = _key_pair(seed).sign(nonce.encode())
    return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()


def _key_pair(seed: str) -> Any:
    try:
        import nkeys
    except ImportError:
        raise MissingExtraError("nkeys", "authentication with an NKey or a JWT") from None
    try:
        return nkeys.from_seed(seed.encode())
    except Exception:  # nkeys and binascii raise many kinds
        raise ValueError("the seed is damaged") from None
