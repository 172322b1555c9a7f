"""Names of streams, buckets and consumers: what tidings creates, and what others may have."""

from __future__ import annotations

import re

from tidings.checks import check_name

# Every server, client and file system accepts these.
_NEW = re.compile(r"[A-Za-z0-9_\-=]{1,255}")
_NEW_BUCKET = re.compile(r"[A-Za-z0-9_\-]{1,250}")
# A name is one word of a subject, and the name of a folder on the server.
_EXISTING = re.compile(r"[^\s\x00-\x1f\x7f.*>/\\]{1,255}")


def check_new_name(name: object, what: str) -> None:
    """Check a name that something new is to have.

    Raises:
        ConfigError: it has characters that not every server and client accepts.
    """
    check_name(what, name, _NEW, "letters, digits, '_', '-' and '=' only, at most 255")


def check_new_bucket(name: object) -> None:
    """Check a name that a new bucket is to have.

    Raises:
        ConfigError: it has characters that not every client accepts.
    """
    check_name("bucket", name, _NEW_BUCKET, "letters, digits, '_' and '-' only, at most 250")


def check_existing_name(name: object, what: str) -> None:
    """Check the name of something that is on the server already, whoever chose its name.

    Raises:
        ConfigError: no server has anything of that name.
    """
    check_name(
        what, name, _EXISTING, "letters, digits and signs other than . * > / \\, at most 255"
    )
