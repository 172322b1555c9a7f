"""TLS: the context that a connection uses."""

from __future__ import annotations

import ssl
from pathlib import Path

from tidings.errors import ConfigError
from tidings.transport.credentials import shown_path


def load_context(
    cert: str | Path | None, key: str | Path | None, ca: str | Path | None
) -> ssl.SSLContext:
    """A context from files.

    Args:
        cert: the client's certificate, with the chain that leads to its authority.
        key: the key of that certificate.
        ca: the authorities of the server's certificate; the system's where None.

    Raises:
        ConfigError: a file cannot be read, or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"tls_ca={shown_path(ca)}: {_reason(error)}") from None
    if cert is not None:
        try:
            # A key with a passphrase would be asked for on the terminal.
            context.load_cert_chain(cert, key, password=lambda: "")
        except (OSError, ValueError, TypeError) as error:
            files = f"tls_cert={shown_path(cert)}, tls_key={shown_path(key)}"
            raise ConfigError(f"{files}: {_reason(error)}") from None
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):  # an OSError, too
        return f"no certificate or key in PEM that belong together ({error.reason or error})"
    return getattr(error, "strerror", None) or str(error)
