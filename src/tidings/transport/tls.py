"""TLS: the context that a connection uses."""

from __future__ import annotations

import ssl
from pathlib import Path

from tidings.errors import ConfigError
from tidings.transport.credentials import shown_path


def load_context(
    cert: str | Path | None, key: str | Path | None, ca: str | Path | None
) -> ssl.SSLContext:
    """Create a context from files.

    Args:
        cert: the path of the client's certificate chain, or None.
        key: the path of the certificate's key, or None.
        ca: the path of the CA certificates for the server's certificate; None for the system's.

    Raises:
        ConfigError: if a file cannot be read or does not have the right content.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"tls_ca={shown_path(ca)}: {_reason(error)}") from None
    if cert is not None:
        try:
            # Without this function, OpenSSL would ask for a passphrase on the terminal.
            context.load_cert_chain(cert, key, password=lambda: "")
        except (OSError, ValueError, TypeError) as error:
            files = f"tls_cert={shown_path(cert)}, tls_key={shown_path(key)}"
            raise ConfigError(f"{files}: {_reason(error)}") from None
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):  # a subclass of OSError
        return f"not a certificate and key in PEM that match ({error.reason or error})"
    return getattr(error, "strerror", None) or str(error)
