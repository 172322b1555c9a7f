"""Certificates for servers and clients, made with openssl."""

import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

LOCAL = "IP:127.0.0.1,DNS:localhost"


class Certificates(NamedTuple):
    """The files of a certificate, and of an authority that signed this certificate only."""

    ca: Path
    cert: Path
    key: Path

    def config(self, more: str = "") -> str:
        """Return the block of a nats-server's configuration that uses them."""
        return f'tls {{ cert_file: "{self.cert}", key_file: "{self.key}"\n{more} }}\n'

    def context(self) -> ssl.SSLContext:
        """Return a client's context that trusts the authority, and no other."""
        return ssl.create_default_context(cafile=self.ca)


def make_certificates(folder: Path, name: str, alternative: str = LOCAL) -> Certificates:
    """Make a certificate for the alternative names, in the form `IP:address,DNS:name`."""
    ca, ca_key = folder / f"{name}-ca.pem", folder / f"{name}-ca.key"
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    _make(ca, ca_key, "test CA", "keyUsage=critical,keyCertSign")
    names = f"subjectAltName={alternative}"
    _make(cert, key, name, names, "basicConstraints=critical,CA:FALSE", signed_by=(ca, ca_key))
    return Certificates(ca, cert, key)


def _make(
    cert: Path, key: Path, name: str, *extensions: str, signed_by: tuple[Path, Path] | None = None
) -> None:
    command: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]
    command += ["-nodes", "-days", "36500", "-subj", f"/CN={name}", "-keyout", key, "-out", cert]
    for extension in extensions:
        command += ["-addext", extension]
    if signed_by:
        command += ["-CA", signed_by[0], "-CAkey", signed_by[1]]
    subprocess.run(command, check=True, capture_output=True)
