"""Names of streams, buckets and consumers: for new ones, and for those of other clients."""

from __future__ import annotations

import re

from tidings.checks import check_name

# Every server, client and file system accepts these names.
_NEW = re.compile(r"[A-Za-z0-9_\-=]{1,255}")
_NEW_BUCKET = re.compile(r"[A-Za-z0-9_\-]{1,250}")
# A name is one word of a subject, and the name of a folder on the server.
_EXISTING = re.compile(r"[^\s\x00-\x1f\x7f.*>/\\]{1,255}")


def check_new_name(name: object, what: str) -> None:
    """Check the name of something new.

    Raises:
        ConfigError: it has characters that not every server and client accepts.
    """
    check_name(what, name, _NEW, "letters, digits, '_', '-' and '=' only, at most 255")


def check_new_bucket(name: object) -> None:
    """Check the name of a new bucket.

    Raises:
        ConfigError: it has characters that not every client accepts.
    """
    check_name("bucket", name, _NEW_BUCKET, "letters, digits, '_' and '-' only, at most 250")


def check_existing_name(name: object, what: str) -> None:
    """Check the name of something that exists on the server. Any client may have chosen it.

    Raises:
        ConfigError: nothing on a server can have that name.
    """
    check_name(
        what, name, _EXISTING, "letters, digits and signs other than . * > / \\, at most 255"
    )
