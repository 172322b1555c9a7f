"""Names of consumers without durable=, which all instances of an app share."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence

from tidings.jetstream.consumer.spec import ConsumerSpec

# Characters of a name before its digest. The server allows 255 in all.
LONGEST = 200

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def consumer_names(service: str, specs: Sequence[ConsumerSpec]) -> list[str | None]:
    """Return the name of each consumer on the server; None for an ordered one, which is not shared.

    A name consists of the service and the handler, so that every instance and every release gets
    the same one. If two handlers have the same name, the second name also has a digest of stream
    and subject.
    """
    used = {spec.durable for spec in specs if spec.durable is not None}
    names: list[str | None] = []
    for spec in specs:
        if spec.ordered or spec.durable is not None:
            names.append(spec.durable)
            continue
        plain = fitted(f"tidings-{service}-{spec.name}")
        name = next(name for name in _candidates(plain, spec) if name not in used)
        used.add(name)
        names.append(name)
    return names


def fitted(text: str) -> str:
    """Turn a text into the name of a consumer. Different texts give different names."""
    fit = _UNFIT.sub("-", text)[:LONGEST]
    return text if fit == text else f"{fit}-{_digest(text)}"


def _candidates(plain: str, spec: ConsumerSpec) -> Iterator[str]:
    yield plain
    special = f"{plain}-{_digest(f'{spec.stream} {spec.subject}')}"
    yield special
    for number in itertools.count(2):
        yield f"{special}-{number}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
