"""Layout: how a partitioned consumer group lies on the server.

It is the layout of the elastic consumer groups of Synadia's orbit libraries and their tool `cg`: a
work queue that sources the stream and puts the number of the partition before each subject.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from tidings.checks import check_whole
from tidings.errors import ConfigError
from tidings.jetstream.start import Start, server_stamp

# The bucket that has the configuration of each group.
BUCKET = "elastic-consumer-groups"
# The priority group of the members' consumers.
PRIORITY_GROUP = "PCG"

# The largest number of partitions. Each is a filter of a consumer.
MOST_PARTITIONS = 1024

ANY = "*"  # the wildcard for one token

# What both a part of a stream's name and a key of a bucket may contain.
_FIT = re.compile(r"[A-Za-z0-9_=\-]{1,200}")


class Layout(msgspec.Struct, frozen=True):
    """The names, filters and subjects of a group.

    Attributes:
        stream: the stream whose messages are partitioned.
        group: the name of the group.
        subjects: the subjects of the messages; empty for all of the stream.
        key: the numbers of the `*` whose tokens are the key, from 1; empty for the whole subject.
        partitions: the number of partitions.

    Raises:
        ConfigError: a name or a subject does not fit, or a number of a `*` is wrong.
    """

    stream: str
    group: str
    subjects: tuple[str, ...]
    key: tuple[int, ...]
    partitions: int

    @classmethod
    def of(
        cls, stream: str, group: str, subjects: tuple[str, ...], key: Any, partitions: int
    ) -> Layout:
        """Return the layout of a declared consumer.

        Args:
            stream, group, subjects, partitions: the attributes.
            key: the number of a `*`, several, or None for the whole subject.

        Raises:
            ConfigError: they do not fit.
        """
        numbers = () if key is None else key if isinstance(key, tuple) else (key,)
        for number in numbers:
            check_whole("key", number, hint="the number of a * in the subject, from 1")
        if key == () or len(set(numbers)) < len(numbers):
            raise ConfigError(
                f"key must be the number of a * in the subject, or a list of different ones, got "
                f"{list(numbers)}"
            )
        return cls(stream, group, subjects, numbers, partitions)

    def __post_init__(self) -> None:
        for what, name in (("stream", self.stream), ("durable", self.group)):
            if not _FIT.fullmatch(name):
                raise ConfigError(
                    f"{what}={name!r} cannot be combined with partitions=: the group is a key of a "
                    f"bucket, of letters, digits and the signs _ - ="
                )
        if self.key and not self.subjects:
            raise ConfigError(
                "key= requires subject= with a * for each part of the key, such as "
                'subject="orders.*", key=1'
            )
        for subject in self.subjects:
            self._check_subject(subject)

    def _check_subject(self, subject: str) -> None:
        wildcards = subject.split(".").count(ANY)
        if not wildcards and not subject.endswith(">"):
            raise ConfigError(
                f"subject={subject!r} cannot be combined with partitions=: all of its messages "
                f"have one key. Write a * in the place of the key"
            )
        if self.key and max(self.key) > wildcards:
            raise ConfigError(
                f"key={max(self.key)} is the number of a * in the subject, and {subject!r} has "
                f"{wildcards}: write a number from 1 to {wildcards}"
                if wildcards
                else f"key={max(self.key)} is the number of a * in the subject, and {subject!r} "
                f"has none: write a * in the place of the key"
            )

    @property
    def work_queue(self) -> str:
        """The name of the work queue."""
        return f"{self.stream}-{self.group}"

    @property
    def config_key(self) -> str:
        """The key of the group's configuration in the bucket."""
        return f"{self.stream}.{self.group}"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The subjects of the messages before they are partitioned."""
        return self.subjects or (">",)

    def filters_of(self, partitions: tuple[int, ...]) -> list[str]:
        """Return the filters of a consumer that has these partitions."""
        return [f"{number}.{each}" for each in self.patterns for number in partitions]

    def partitioning_filters(self) -> list[dict[str, Any]]:
        """Return what the group's configuration says of the subjects and the key."""
        return [
            {"filter": subject, "partitioning_wildcards": list(self.key)}
            for subject in self.subjects
        ]

    def source(self, start: Start | None) -> dict[str, Any]:
        """Return the source of the work queue.

        Args:
            start: the first message of the stream that the group gets.
        """
        transforms = [{"src": each, "dest": self._destination(each)} for each in self.patterns]
        source: dict[str, Any] = {"name": self.stream, "subject_transforms": transforms}
        if start == "new":
            start = datetime.now(UTC)
        if isinstance(start, datetime):
            source["opt_start_time"] = server_stamp(start)
        elif isinstance(start, int):
            source["opt_start_seq"] = start
        return source

    def has_queue(self, config: dict[str, Any]) -> bool:
        """Return whether the stream with this configuration is the work queue of the group."""
        wanted = {(each["src"], each["dest"]) for each in self.source(None)["subject_transforms"]}
        sources = [each for each in config.get("sources") or () if each["name"] == self.stream]
        transforms = [each for one in sources for each in one.get("subject_transforms") or ()]
        has = {(each.get("src") or ">", each.get("dest")) for each in transforms}
        return config.get("retention") == "workqueue" and has == wanted

    def _destination(self, pattern: str) -> str:
        numbers = ",".join(map(str, (self.partitions, *self.key)))
        tokens, wildcards = [f"{{{{Partition({numbers})}}}}"], 0
        for token in pattern.split("."):
            wildcards += token == ANY
            tokens.append(f"{{{{Wildcard({wildcards})}}}}" if token == ANY else token)
        return ".".join(tokens)


class Keys:
    """Reads partition, subject and key from a subject of the work queue.

    Args:
        layout: the layout.
    """

    def __init__(self, layout: Layout) -> None:
        self._key = layout.key
        self._patterns = [each.split(".") for each in layout.patterns]
        self._places = [_places(each, layout.key) for each in self._patterns]

    def of(self, subject: str) -> str:
        """Return the key of a message, by its subject without the number of the partition."""
        if not self._key:
            return subject
        tokens = subject.split(".")
        places = self._places[0]
        if len(self._places) > 1:
            places = self._places_for(tokens)
        return ".".join(tokens[place] for place in places if place < len(tokens))

    def _places_for(self, tokens: list[str]) -> list[int]:
        for pattern, places in zip(self._patterns, self._places, strict=True):
            if _matches(pattern, tokens):
                return places
        return list(range(len(tokens)))  # an operator has changed the stream's transforms


def split_partition(subject: str) -> tuple[str, str]:
    """Return the number of the partition and the subject before the partitioning."""
    partition, _, plain = subject.partition(".")
    return partition, plain


def _places(pattern: list[str], key: tuple[int, ...]) -> list[int]:
    wildcards = [place for place, token in enumerate(pattern) if token == ANY]
    return [wildcards[number - 1] for number in key]


def _matches(pattern: list[str], tokens: list[str]) -> bool:
    if pattern[-1] == ">":
        pattern, tokens = pattern[:-1], tokens[: len(pattern) - 1]
    return len(pattern) == len(tokens) and all(
        mine in (ANY, token) for mine, token in zip(pattern, tokens, strict=True)
    )
