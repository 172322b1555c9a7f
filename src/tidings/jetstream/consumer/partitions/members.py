"""GroupConfig: the configuration of a group in its bucket, and who has which partitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tidings.errors import ConfigError
from tidings.jetstream.consumer.layout import BUCKET, Layout
from tidings.text import printable

# What the names of members begin with that tidings adds and removes. All others are an operator's.
OWN = "tidings-"


class Mapping(msgspec.Struct, frozen=True):
    """The partitions that an operator has given to a member."""

    member: str
    partitions: tuple[int, ...] = ()


class Filter(msgspec.Struct, frozen=True):
    """Subjects of a group, and the numbers of the `*` that are the key."""

    filter: str = ">"
    partitioning_wildcards: tuple[int, ...] | None = None


class Stored(msgspec.Struct, frozen=True):
    """The fields of a group's configuration that tidings reads."""

    max_members: int
    partitioning_filters: tuple[Filter, ...] | None = None
    members: tuple[str, ...] | None = None
    member_mappings: tuple[Mapping, ...] | None = None


class GroupConfig(msgspec.Struct, frozen=True):
    """The configuration of a group, as it is in the bucket.

    Attributes:
        raw: all of it, with the fields that only others know.
        stored: the fields that tidings reads.
        revision: the revision of the key.
    """

    raw: dict[str, Any]
    stored: Stored
    revision: int = 0

    @classmethod
    def read(cls, body: bytes, revision: int, layout: Layout) -> GroupConfig:
        """Read the value of the key.

        Raises:
            ConfigError: it is not the configuration of a group.
        """
        try:
            raw = msgspec.json.decode(body, type=dict[str, Any])
            stored = msgspec.convert(raw, Stored)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"the key {layout.config_key!r} of the bucket {BUCKET} is not the configuration "
                f"of a consumer group ({printable(str(error))}): delete the key, and the app "
                f"writes it again"
            ) from None
        return cls(raw, stored, revision)

    @classmethod
    def new(cls, layout: Layout) -> GroupConfig:
        """Return the configuration of a group without members."""
        raw: dict[str, Any] = {
            "max_members": layout.partitions,
            "partitioning_filters": layout.partitioning_filters(),
        }
        return cls(raw, msgspec.convert(raw, Stored))

    def encode(self) -> bytes:
        """Return the value of the key."""
        return msgspec.json.encode(self.raw)

    def check(self, layout: Layout) -> None:
        """Check that it is the group that the app declares.

        Raises:
            ConfigError: partitions, subjects or key are others.
        """
        there, here = _described(self), _described(GroupConfig.new(layout))
        if there != here:
            raise ConfigError(
                f"the consumer group {layout.group!r} of {layout.stream} has {printable(there)} on "
                f"the server, and the app declares {here}. These cannot change while messages wait "
                f"in the group, because a key would be in two partitions at once. Declare what is "
                f"there; or use another durable= with start=; or stop all instances, delete the "
                f"stream {layout.work_queue} and the key {layout.config_key!r} of the bucket "
                f"{BUCKET}, and start again with start="
            )

    @property
    def is_mapped(self) -> bool:
        """Whether an operator has given each member its partitions."""
        return bool(self.stored.member_mappings)

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the members, each once, in their order."""
        if self.is_mapped:
            return tuple(each.member for each in self.stored.member_mappings or ())
        return tuple(sorted(set(self.stored.members or ())))

    def partitions_of(self, member: str) -> tuple[int, ...]:
        """Return the partitions of a member; none if there are more members than partitions.

        The tool and the libraries of the layout calculate the same.
        """
        count = self.stored.max_members
        for each in self.stored.member_mappings or ():
            if each.member == member:
                return tuple(sorted({part for part in each.partitions if 0 <= part < count}))
        members = () if self.is_mapped else self.members[:count]
        if member not in members:
            return ()
        place, size = members.index(member), count // len(members)
        block = range(place * size, (place + 1) * size)
        rest = range(len(members) * size + place, count, len(members))
        return (*block, *rest)

    def changed(self, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> GroupConfig | None:
        """Return the configuration with other members; None if nothing changes."""
        if self.is_mapped:
            return None
        wanted = sorted((set(self.members) | set(add)) - set(remove))
        if wanted == list(self.members):
            return None
        raw = {**self.raw, "members": wanted}
        return GroupConfig(raw, msgspec.convert(raw, Stored), self.revision)


def _described(config: GroupConfig) -> str:
    filters = config.stored.partitioning_filters or ()
    parts = [f"partitions={config.stored.max_members}"]
    for each in filters:
        numbers = ", ".join(map(str, each.partitioning_wildcards or ())) or "the whole subject"
        parts.append(f"key {numbers} of {each.filter!r}")
    return ", ".join(parts)
