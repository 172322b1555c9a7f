"""Queue groups: which one each declared listener joins, whatever the number of processes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import combinations, count

from tidings.handlers.listener import ListenerSpec
from tidings.subject import overlaps

# What a derived name must not hold: white space and control characters, which NATS refuses, and
# what only makes a name harder to read (`<lambda>`, the wildcards of a group's prefix).
_UNFIT = re.compile(r"[\s\x00-\x1f\x7f<>*]+")
SUFFIX_LENGTH = 8  # hexadecimal digits
LONGEST = 200  # characters of one part of a derived name


def queue_groups(service: str, queue: str | None, specs: Sequence[ListenerSpec]) -> list[str]:
    """The queue group of each listener of an app, "" for none.

    A listener that names a queue group joins exactly that one. One that names none joins a group of
    its own, so that several processes share its messages and no other handler loses any. The name
    depends on the service, the handler and the group's prefix only, so that two releases of a
    service agree on it.

    Args:
        service: the service's name.
        queue: the app's queue group; None where it names none, "" for none.
        specs: the listeners, in the order of their declaration.
    """
    taken = {spec.queue for spec in specs if spec.queue}
    groups = []
    for spec in specs:
        base = queue if spec.group_queue is None else spec.group_queue
        if spec.queue is not None:
            group = spec.queue
        elif base == "":
            group = ""
        else:
            group = next(name for name in _names(service, base, spec) if name not in taken)
            taken.add(group)
        groups.append(group)
    return groups


def competing(specs: Sequence[ListenerSpec]) -> Iterator[tuple[ListenerSpec, ListenerSpec]]:
    """The pairs of listeners that name one queue group and share subjects.

    Each message that both could handle reaches only one of them.
    """
    named = [spec for spec in specs if spec.queue]
    for first, second in combinations(named, 2):
        if first.queue == second.queue and any(
            overlaps(one, other) for one in first.subjects for other in second.subjects
        ):
            yield first, second


def _names(service: str, base: str | None, spec: ListenerSpec) -> Iterator[str]:
    """The names that a listener's own group may have, the preferred one first."""
    begin = _fit(service).replace(".", "-") if base is None else base
    parts = [begin, _fit(spec.prefix), _fit(spec.name)]
    name = ".".join(part for part in parts if part)
    yield name
    subjects = "\n".join(sorted(spec.subjects)).encode()
    name = f"{name}-{hashlib.sha256(subjects).hexdigest()[:SUFFIX_LENGTH]}"
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def _fit(text: str) -> str:
    return _UNFIT.sub("-", text).strip("-.")[:LONGEST]
