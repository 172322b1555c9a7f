"""Queue groups: the group that each listener joins. The number of processes does not matter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import combinations, count

from tidings.handlers.listener_spec import ListenerSpec
from tidings.subject import overlaps

# Characters that a derived name must not contain. NATS refuses white space and control characters;
# the others (`<lambda>`, wildcards in a group's prefix) would make the name hard to read.
_UNWANTED = re.compile(r"[\s\x00-\x1f\x7f<>*]+")
SUFFIX_LENGTH = 8  # hexadecimal digits
LONGEST = 200  # the largest number of characters in one part of a derived name


def queue_groups(service: str, queue: str | None, specs: Sequence[ListenerSpec]) -> list[str]:
    """Return the queue group of each listener of an app; "" means no group.

    A listener that names a queue group joins exactly that group. Any other listener gets its own
    group: several processes share its messages, and no other handler loses any. The name of this
    group depends only on the service, the handler and the group's prefix, so two releases of a
    service use the same name.

    Args:
        service: the service's name.
        queue: the app's queue group; "" for no group, None if the app does not set it.
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
    """Yield the pairs of listeners that name the same queue group and have subjects in common.

    A message on a common subject reaches only one of the two.
    """
    named = [spec for spec in specs if spec.queue]
    for first, second in combinations(named, 2):
        if first.queue == second.queue and any(
            overlaps(one, other) for one in first.subjects for other in second.subjects
        ):
            yield first, second


def _names(service: str, base: str | None, spec: ListenerSpec) -> Iterator[str]:
    """Yield possible names of a listener's own group, the preferred one first."""
    begin = _cleaned(service).replace(".", "-") if base is None else base
    parts = [begin, _cleaned(spec.prefix), _cleaned(spec.name)]
    name = ".".join(part for part in parts if part)
    yield name
    subjects = "\n".join(sorted(spec.subjects)).encode()
    name = f"{name}-{hashlib.sha256(subjects).hexdigest()[:SUFFIX_LENGTH]}"
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def _cleaned(text: str) -> str:
    return _UNWANTED.sub("-", text).strip("-.")[:LONGEST]
