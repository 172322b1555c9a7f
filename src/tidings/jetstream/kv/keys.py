"""The rules for the keys and revisions of a key-value bucket. (NATS ADR-8)"""

from __future__ import annotations

import re
from itertools import combinations

from tidings.checks import check_whole
from tidings.errors import SubjectError
from tidings.jetstream.kv.codecs import KeyCodec, stored_patterns
from tidings.subject import as_subjects, check_pattern, check_subject, overlaps

# A key that every NATS client accepts.
_NEW_KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")


def check_keys(keys: object, codec: KeyCodec | None = None) -> tuple[str, ...]:
    """Check a pattern of keys, such as "user.*", or several. Returns them as they are stored.

    The pattern may contain any characters, because other clients may write keys with them.

    Raises:
        ConfigError: if the codec allows no patterns.
        SubjectError: if no key can match a pattern, or if two patterns match the same key.
    """
    patterns = as_subjects(keys)
    if not patterns:
        raise SubjectError(keys, "there must be at least one pattern of keys")
    if codec is not None:
        patterns = stored_patterns(codec, patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise SubjectError(pattern, "a pattern of keys must be a str")
        check_pattern(pattern)
    for first, second in combinations(patterns, 2):
        if overlaps(first, second):
            raise SubjectError(first, f"it matches the same keys as {second!r}: leave one out")
    return patterns


def check_key(key: object, *, new: bool) -> None:
    """Check a key, as it is stored.

    Args:
        key: the key.
        new: whether it may be written for the first time, so that every client must accept it.

    Raises:
        SubjectError: if it is no key.
    """
    if not isinstance(key, str) or (new and not _NEW_KEY.fullmatch(key)):
        raise SubjectError(key, "a key may contain only letters, digits and the signs - / _ = .")
    check_subject(key)


def check_revision(revision: object) -> None:
    """Check the revision of a key; 0 stands for a key that was never set.

    Raises:
        ConfigError: if it is no revision.
    """
    check_whole(
        "revision",
        revision,
        least=0,
        hint="as `entry.revision` has it; to set a key whatever it was, use put",
    )
