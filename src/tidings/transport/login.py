"""Login: the fields of CONNECT that identify the client. They are determined at each connect."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from tidings.errors import AuthError, ConnectError, MissingExtraError
from tidings.protocol.auth import (
    find_seed,
    is_credentials_text,
    is_seed_text,
    public_key,
    sign,
    split_credentials,
)
from tidings.transport.credentials import read_secret_file
from tidings.transport.options import ConnectionOptions
from tidings.transport.servers import Server


async def login_fields(
    options: ConnectionOptions, server: Server, info: dict[str, Any]
) -> dict[str, str]:
    """Return the login fields for one server.

    Args:
        options: the connection's options.
        server: the server. Its URL may contain credentials.
        info: the server's INFO.

    Raises:
        AuthError: if the credentials are invalid, or this server does not support them.
        ConnectError: if the user's function that returns the credentials raised.
        MissingExtraError: if the extra `nkeys` is needed and not installed.
    """
    try:
        if options.nkey_seed is not None:
            seed = find_seed(await _text("nkey_seed", options.nkey_seed))
            return _signed({"nkey": public_key(seed)}, seed, server, info)
        if options.credentials is not None:
            jwt, seed = split_credentials(await _text("credentials", options.credentials))
            return _signed({"jwt": jwt}, seed, server, info)
        if options.user is not None:
            return {"user": options.user, "pass": await _secret("password", options.password)}
        if options.token is not None:
            return {"auth_token": await _secret("token", options.token)}
    except ValueError as error:
        if isinstance(error, MissingExtraError):
            raise
        raise AuthError((server.url,), f"the credentials cannot be used: {error}") from None
    except _AskingError as error:
        raise ConnectError((server.url,), str(error)) from error.__cause__
    return server.login


def _signed(
    fields: dict[str, str], seed: str, server: Server, info: dict[str, Any]
) -> dict[str, str]:
    nonce = info.get("nonce")
    if isinstance(nonce, str) and nonce:
        return {**fields, "sig": sign(seed, nonce)}
    if info.get("auth_required"):
        raise AuthError((server.url,), "the server supports neither NKeys nor JWTs")
    return {}  # the server requires no login


async def _text(name: str, value: object) -> str:
    is_text = is_seed_text if name == "nkey_seed" else is_credentials_text
    return read_secret_file(name, await _ask(name, value), is_text)


async def _secret(name: str, value: object) -> str:
    secret = await _ask(name, value)
    if not isinstance(secret, str):
        raise ValueError(f"{name}= must return a str, got {type(secret).__name__}")
    return secret


async def _ask(name: str, value: object) -> object:
    """Return the value, or the result if it is a function. A `def` function runs in a thread, since
    it may block."""
    if not callable(value):
        return value
    try:
        if inspect.iscoroutinefunction(value):
            return await value()
        answer = await asyncio.to_thread(value)
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        raise _AskingError(
            f"the function passed as {name}= raised {type(error).__name__}"
        ) from error


class _AskingError(Exception):
    """The user's function that returns the credentials raised."""
