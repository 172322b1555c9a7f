"""JWTs of an operator, an account and users, and the server configuration that knows them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from typing import Any

import nkeys

UNLIMITED = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "conn": -1,
    "leaf": -1,
    "wildcards": True,
}


def new_pair(prefix: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def new_user() -> tuple[str, str]:
    """The seed and the public key of a new user."""
    pair = new_pair(nkeys.PREFIX_BYTE_USER)
    return pair.seed.decode(), pair.public_key.decode()


class Authority:
    """An operator with one account."""

    def __init__(self) -> None:
        self._operator = new_pair(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = new_pair(nkeys.PREFIX_BYTE_ACCOUNT)

    def config(self) -> str:
        """A server's configuration."""
        operator = _jwt(self._operator, self._operator, {"type": "operator"})
        account = _jwt(self._operator, self._account, {"type": "account", "limits": UNLIMITED})
        name = self._account.public_key.decode()
        return (
            f'operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {name}: "{account}" }}\n'
        )

    def credentials(self) -> str:
        """The content of a credentials file for a new user."""
        user = new_pair(nkeys.PREFIX_BYTE_USER)
        jwt = _jwt(self._account, user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            f"------END USER NKEY SEED------\n"
        )


def _jwt(issuer: Any, subject: Any, nats: dict[str, Any]) -> str:
    claims = {
        "iat": int(time.time()) - 5,
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": nats["type"],
        "nats": {**nats, "version": 2},
    }
    digest = hashlib.sha256(json.dumps(claims).encode()).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, claims]
    text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
