"""Authentication: NKeys, JWTs and the signature of the server's nonce.

The texts of the errors raised here never contain a part of what was given: it may be a secret.
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
    """Check that the `nkeys` package is there, without importing it.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("nkeys") is None:
        raise MissingExtraError("nkeys", what)


def is_credentials_text(text: str) -> bool:
    """Whether this is the content of a credentials file, and not its path."""
    return "-----BEGIN" in text


def is_seed_text(text: str) -> bool:
    """Whether this is a seed, be it damaged, or the content of a file with one."""
    return _SEED_ALONE.fullmatch(text.strip()) is not None or is_credentials_text(text)


def split_credentials(text: str) -> tuple[str, str]:
    """The JWT and the seed in the content of a credentials file.

    Raises:
        ValueError: one of them is missing.
    """
    jwt = _JWT.search(text)
    if jwt is None:
        raise ValueError("there is no complete NATS USER JWT in them")
    return jwt[1], find_seed(text)


def find_seed(text: str) -> str:
    """The user's seed in a text: the seed itself, or the content of a file that holds it.

    Raises:
        ValueError: there is none.
    """
    seed = _SEED.search(text)
    if seed is None:
        raise ValueError("there is no user seed in them: SU, then 56 letters and digits")
    return seed[1]


def public_key(seed: str) -> str:
    """The public key that belongs to a seed.

    Raises:
        ValueError: the seed is damaged.
    """
    key: bytes = _key_pair(seed).public_key
    return key.decode()


def sign(seed: str, nonce: str) -> str:
    """The signature of the server's nonce, as CONNECT carries it.

    Raises:
        ValueError: the seed is damaged.
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
    except Exception:  # nkeys has an error for each fault, and binascii some more
        raise ValueError("the seed is damaged") from None
